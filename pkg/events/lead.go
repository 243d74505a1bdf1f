package events

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// lead keeps the leases by which one relay at a time reads a shard's outbox.
type lead struct {
	leases  engine.Leases
	shards  []int
	token   string
	ttl     time.Duration
	changed func() // a shard was won
	failed  func(error)

	mu    sync.Mutex
	until map[int]time.Time // by the monotonic clock, from before the lease was asked for
}

// leaseName of the relay, in each shard.
const leaseName = "relay"

// run renews the leases until ctx ends.
func (l *lead) run(ctx context.Context) {
	tick := time.NewTicker(l.ttl / 3)
	defer tick.Stop()
	for {
		l.renew(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (l *lead) renew(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, l.ttl/3)
	defer cancel()
	var wg sync.WaitGroup
	var failed []error // by the mutex
	for _, shard := range l.shards {
		wg.Go(func() {
			asked := time.Now()
			ok, err := l.leases.Acquire(ctx, shard, leaseName, l.token, l.ttl)
			l.mu.Lock()
			if err != nil { // what we hold runs out by itself
				failed = append(failed, err)
				l.mu.Unlock()
				return
			}
			_, had := l.until[shard]
			if ok {
				l.until[shard] = asked.Add(l.ttl)
			} else {
				delete(l.until, shard)
			}
			l.mu.Unlock()
			if ok && !had {
				l.changed()
			}
		})
	}
	wg.Wait()
	if len(failed) > 0 && !errors.Is(ctx.Err(), context.Canceled) {
		l.failed(fmt.Errorf("renew the relay's lease of %d shards: %w", len(failed), failed[0]))
	}
}

// held are the shards whose lease is valid now, ascending.
func (l *lead) held() []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	var held []int
	for _, shard := range l.shards {
		if until, ok := l.until[shard]; ok {
			if now.Before(until) {
				held = append(held, shard)
			} else {
				delete(l.until, shard)
			}
		}
	}
	return held
}

// release gives every lease up, so that another relay need not wait for them.
func (l *lead) release(ctx context.Context) {
	var wg sync.WaitGroup
	for _, shard := range l.held() {
		wg.Go(func() {
			if err := l.leases.Release(ctx, shard, leaseName, l.token); err != nil {
				l.failed(fmt.Errorf("release the relay's lease of shard %d: %w", shard, err))
			}
		})
	}
	wg.Wait()
}
