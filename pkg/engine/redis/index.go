package redis

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/jsonlake/lake/pkg/engine"
)

// MaxRuns is how many runs of one shard a PreCommit or Commit may name: what
// one script does is bounded, so that it does not hold up the server.
const MaxRuns = 1000

// Options of an Index.
type Options struct {
	// URL names the server or servers; see ParseURL. Required.
	URL string
	// Name of the lake; its keys begin with "lake:<name>:", without a name with
	// "lake:".
	Name string
	// PoolSize is the number of connections to each server; default 10 a CPU.
	PoolSize int
	// ClientName is what the server shows in CLIENT LIST; default "lake".
	ClientName string
}

// Index is an engine.Index on Redis, with its maintenance, outbox and leases.
// It is safe for concurrent use.
type Index struct {
	// work carries the scripts of an open epoch. Its connections are refused at
	// opening unless the server is the one that was fenced.
	work redis.UniversalClient
	// admin carries what works in any state: epochs, fence, restore.
	admin redis.UniversalClient

	prefix  string
	keys    [engine.Shards]shardKeys
	scripts atomic.Pointer[scripts]
	apart   bool // a script may have the keys of one shard only
	clock   clock
	views   []viewBatcher // one; in a cluster one a shard, so that a silent node holds up its own
}

var (
	_ engine.Index        = (*Index)(nil)
	_ engine.Maintenance  = (*Index)(nil)
	_ engine.Outbox       = (*Index)(nil)
	_ engine.Leases       = (*Index)(nil)
	_ engine.IndexAdapter = (*Index)(nil)
	_ engine.HeadTeller   = (*Index)(nil)
)

// OpenIndex connects and loads the scripts. A server that does not answer is
// engine.ErrUnavailable, options that cannot be are engine.ErrInvalid.
func OpenIndex(ctx context.Context, o Options) (*Index, error) {
	if err := validateName(o.Name); err != nil {
		return nil, err
	}
	server, err := ParseURL(o.URL)
	if err != nil {
		return nil, err
	}
	x := &Index{prefix: prefix(o.Name)}
	x.keys = makeShardKeys(x.prefix)
	s, err := loadScripts(nil)
	if err != nil {
		return nil, err
	}
	x.scripts.Store(s)
	x.connect(server, o)
	err = x.load(ctx)
	if err == nil {
		err = x.askApart(ctx)
	}
	if err != nil {
		_ = x.Close() // what went wrong before counts
		return nil, fmt.Errorf("open the index on %s: %w", server, err)
	}
	return x, nil
}

// connect makes the clients; connections are opened when they are needed.
func (x *Index) connect(server *Server, o Options) {
	x.work = server.connect(o, x.onConnect)
	x.admin = server.connect(Options{PoolSize: 8, ClientName: o.ClientName}, nil)
	x.clock.past = time.Since
	x.views = make([]viewBatcher, 1)
	if x.Clustered() {
		x.views = make([]viewBatcher, engine.Shards)
	}
	for i := range x.views {
		v := &x.views[i]
		v.index, v.wake, v.done = x, make(chan struct{}, 1), make(chan struct{})
		go v.run()
	}
}

// Clustered tells whether the shards may be on servers of their own.
func (x *Index) Clustered() bool {
	_, ok := x.work.(*redis.ClusterClient)
	return ok
}

// askApart looks whether the shards are apart: in a cluster, and on a server of one that has
// all of it and is spoken to as a single server, which refuses scripts with keys of two slots.
func (x *Index) askApart(ctx context.Context) error {
	if x.apart = x.Clustered(); x.apart {
		return nil
	}
	text, err := x.admin.Info(ctx, "cluster").Result()
	if err != nil {
		return unavailable("ask whether the server is of a cluster", err)
	}
	x.apart = infoField(text, "cluster_enabled") == "1"
	return nil
}

// Close closes the connections; later calls answer engine.ErrClosed.
func (x *Index) Close() error {
	err := x.work.Close()
	if err2 := x.admin.Close(); err == nil {
		err = err2
	}
	for i := range x.views {
		x.views[i].close()
	}
	if err != nil && !errors.Is(err, redis.ErrClosed) {
		return fmt.Errorf("close the index: %w", err)
	}
	return nil
}

// Exclusive is false: any number of processes use a Redis at once.
func (x *Index) Exclusive() bool { return false }

// clock remembers when it was what time on the index.
type clock struct {
	seen atomic.Pointer[clockReading]
	past func(time.Time) time.Duration // time.Since, but in tests that stop the index's clock
}

type clockReading struct {
	index time.Time
	local time.Time
}

// saw notes TIME as a reply gave it, and gives it as a time.
func (c *clock) saw(sec, usec string) (time.Time, error) {
	p := parser{}
	now := time.Unix(p.int(sec), p.int(usec)*1000).UTC()
	if p.err != nil {
		return time.Time{}, fmt.Errorf("TIME: %w", p.err)
	}
	c.seen.Store(&clockReading{index: now, local: time.Now()})
	return now, nil
}

// now is the index's time as it must be by a reading that is not old.
func (c *clock) now() (time.Time, bool) {
	const old = 10 * time.Second
	r := c.seen.Load()
	if r == nil {
		return time.Time{}, false
	}
	past := c.past(r.local)
	return r.index.Add(past), past < old
}
