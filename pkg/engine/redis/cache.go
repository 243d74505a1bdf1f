package redis

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/jsonlake/lake/pkg/engine"
)

// Cache is an engine.Cache on a Redis that may forget: its keys expire, and the
// server may evict them (maxmemory-policy allkeys-lru). It should not be the
// server of the index, which must not evict.
type Cache struct {
	client redis.UniversalClient
	prefix string
}

var _ engine.Cache = (*Cache)(nil)

// OpenCache makes a cache; connections are opened when they are needed, and a
// server that does not answer is an error of each Get and Set. Options are those
// of an index.
func OpenCache(o Options) (*Cache, error) {
	if err := validateName(o.Name); err != nil {
		return nil, err
	}
	server, err := ParseURL(o.URL)
	if err != nil {
		return nil, err
	}
	// A cache that is slow is worse than none: the bucket is there.
	server.opts.ReadTimeout, server.opts.WriteTimeout, server.opts.MaxRetries = 500*time.Millisecond, 500*time.Millisecond, -1
	return &Cache{client: server.connect(o, nil), prefix: prefix(o.Name)}, nil
}

// Get reads a value; false when there is none.
func (c *Cache) Get(ctx context.Context, key string) ([]byte, bool, error) {
	value, err := c.client.Get(ctx, cacheKey(c.prefix, key)).Bytes()
	switch {
	case errors.Is(err, redis.Nil):
		return nil, false, nil
	case err != nil:
		return nil, false, unavailable("cache get", err)
	}
	return value, true, nil
}

// Set keeps a value for ttl, at least a millisecond.
func (c *Cache) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if err := c.client.Set(ctx, cacheKey(c.prefix, key), value, max(ttl, time.Millisecond)).Err(); err != nil {
		return unavailable("cache set", err)
	}
	return nil
}

// Close closes the connections. It may be repeated.
func (c *Cache) Close() error {
	if err := c.client.Close(); err != nil && !errors.Is(err, redis.ErrClosed) {
		return unavailable("close the cache", err)
	}
	return nil
}
