package disk

import (
	"context"
	"fmt"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// lease is held by a goroutine of this process: nobody else has the index, so
// that leases live in memory. They know nothing of epochs.
type lease struct {
	token   string
	expires int64 // ms
}

// Acquire takes or renews a lease.
func (x *Index) Acquire(ctx context.Context, shard int, name, token string, ttl time.Duration) (bool, error) {
	if ttl < time.Millisecond {
		return false, fmt.Errorf("acquire the lease %q for %v: at least a millisecond is needed: %w", name, ttl, engine.ErrInvalid)
	}
	now, end, err := x.enter(ctx)
	if err != nil {
		return false, fmt.Errorf("acquire the lease %q: %w", name, err)
	}
	defer end()
	s, err := x.shard(shard)
	if err != nil {
		return false, err
	}
	s.soft.Lock()
	defer s.soft.Unlock()
	held, ok := s.leases[name]
	// What would last longer than a new lease is from before the clock was stepped
	// back: it counts as expired.
	if left := held.expires - now; ok && held.token != token && left > 0 && left <= ttl.Milliseconds() {
		return false, nil
	}
	if !ok {
		for n, l := range s.leases { // a fold has one a catalog: do not keep them
			if now >= l.expires {
				delete(s.leases, n)
			}
		}
	}
	s.leases[name] = lease{token: token, expires: now + ttl.Milliseconds()}
	return true, nil
}

// Release gives a lease up if the token holds it.
func (x *Index) Release(ctx context.Context, shard int, name, token string) error {
	_, end, err := x.enter(ctx)
	if err != nil {
		return fmt.Errorf("release the lease %q: %w", name, err)
	}
	defer end()
	s, err := x.shard(shard)
	if err != nil {
		return err
	}
	s.soft.Lock()
	defer s.soft.Unlock()
	if s.leases[name].token == token {
		delete(s.leases, name)
	}
	return nil
}
