package memory

import (
	"context"
	"fmt"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

type lease struct {
	token   string
	expires time.Time
}

// Acquire takes or renews a lease. Leases know nothing of epochs.
func (x *Index) Acquire(ctx context.Context, shard int, name, token string, ttl time.Duration) (bool, error) {
	if ttl < time.Millisecond {
		return false, fmt.Errorf("acquire the lease %q for %v: at least a millisecond is needed: %w", name, ttl, engine.ErrInvalid)
	}
	now, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return false, err
	}
	s, err := x.shard(shard)
	if err != nil {
		return false, err
	}
	// A lease that would last longer than a new one is from before the clock was
	// stepped back, perhaps by hours: it counts as expired.
	held, ok := s.leases[name]
	if left := held.expires.Sub(now); ok && held.token != token && left > 0 && left <= ttl {
		return false, nil
	}
	s.leases[name] = lease{token: token, expires: now.Add(ttl)}
	return true, nil
}

// Release gives a lease up if the token holds it.
func (x *Index) Release(ctx context.Context, shard int, name, token string) error {
	_, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return err
	}
	s, err := x.shard(shard)
	if err == nil && s.leases[name].token == token {
		delete(s.leases, name)
	}
	return err
}
