package redis

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
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

// Get reads values in one round trip, nil where there is none.
func (c *Cache) Get(ctx context.Context, keys []string) ([][]byte, error) {
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = cacheKey(c.prefix, key)
	}
	values := make([][]byte, len(keys))
	if _, cluster := c.client.(*redis.ClusterClient); !cluster {
		got, err := c.client.MGet(ctx, names...).Result()
		if err != nil {
			return nil, unavailable("cache get", err)
		}
		for i, v := range got[:min(len(got), len(values))] {
			if s, ok := v.(string); ok {
				values[i] = []byte(s)
			}
		}
		return values, nil
	}
	// Not MGET: the keys are on many nodes.
	pipe := c.client.Pipeline()
	cmds := make([]*redis.StringCmd, len(keys))
	for i, name := range names {
		cmds[i] = pipe.Get(ctx, name)
	}
	_, _ = pipe.Exec(ctx) // every command keeps its own error
	for i, cmd := range cmds {
		value, err := cmd.Bytes()
		var refused redis.Error // not a string: not ours
		switch {
		case errors.As(err, &refused): // redis.Nil is one, too
		case err != nil:
			return nil, unavailable("cache get", err)
		default:
			values[i] = value
		}
	}
	return values, nil
}

// setBatch is the most bytes of values that are sent at once.
const setBatch = 1 << 20

// Set keeps values for ttl, at least a millisecond.
func (c *Cache) Set(ctx context.Context, entries []engine.CacheEntry, ttl time.Duration) error {
	for len(entries) > 0 {
		pipe := c.client.Pipeline()
		n := 0
		for size := 0; n < len(entries) && (n == 0 || size+len(entries[n].Value) <= setBatch); n++ {
			size += len(entries[n].Value)
			pipe.Set(ctx, cacheKey(c.prefix, entries[n].Key), entries[n].Value, max(ttl, time.Millisecond))
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return unavailable("cache set", err)
		}
		entries = entries[n:]
	}
	return nil
}

// Erase removes what is kept of objects. It walks over the whole cache, on every
// master of a cluster.
func (c *Cache) Erase(ctx context.Context, objects []string) (int, error) {
	wanted := make(map[string]bool, len(objects))
	for _, key := range objects {
		wanted[key] = true
	}
	var erased atomic.Int64
	walk := func(ctx context.Context, client redis.Cmdable) error {
		begin := cacheKey(c.prefix, "")
		for cursor := uint64(0); ; {
			page, next, err := client.Scan(ctx, cursor, begin+"*", 1000).Result()
			if err != nil {
				return err
			}
			for _, key := range page {
				object, _, _ := strings.Cut(strings.TrimPrefix(key, begin), ":") // an object key has no colon
				if !wanted[object] {
					continue
				}
				n, err := client.Unlink(ctx, key).Result()
				if err != nil {
					return err
				}
				erased.Add(n)
			}
			if cursor = next; cursor == 0 {
				return nil
			}
		}
	}
	var err error
	if cluster, ok := c.client.(*redis.ClusterClient); ok {
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, client *redis.Client) error { return walk(ctx, client) })
	} else {
		err = walk(ctx, c.client)
	}
	if err != nil {
		return int(erased.Load()), unavailable("cache erase", err)
	}
	return int(erased.Load()), nil
}

// Close closes the connections. It may be repeated.
func (c *Cache) Close() error {
	if err := c.client.Close(); err != nil && !errors.Is(err, redis.ErrClosed) {
		return unavailable("close the cache", err)
	}
	return nil
}
