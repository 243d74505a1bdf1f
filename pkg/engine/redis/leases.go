package redis

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// Acquire takes or renews a lease. Leases know nothing of epochs.
func (x *Index) Acquire(ctx context.Context, shard int, name, token string, ttl time.Duration) (bool, error) {
	if ttl < time.Millisecond {
		return false, fmt.Errorf("%w: acquire the lease %q for %v: at least a millisecond is needed", engine.ErrInvalid, name, ttl)
	}
	return x.lease(ctx, shard, name, token, ttl.Milliseconds())
}

// Release gives a lease up if the token holds it.
func (x *Index) Release(ctx context.Context, shard int, name, token string) error {
	_, err := x.lease(ctx, shard, name, token, 0)
	return err
}

func (x *Index) lease(ctx context.Context, shard int, name, token string, ms int64) (bool, error) {
	if err := validShard(shard); err != nil {
		return false, err
	}
	c := &call{
		script: x.scripts.Load().lease, shard: shard, keys: []string{x.keys[shard].leaseOf(name)},
		args: []any{token, strconv.FormatInt(ms, 10)},
	}
	x.run(ctx, x.admin, []*call{c})
	if c.err != nil {
		return false, fmt.Errorf("lease %q in shard %x: %w", name, shard, c.err)
	}
	return len(c.reply) == 1 && c.reply[0] == int64(1), nil
}
