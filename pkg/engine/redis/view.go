package redis

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/jsonlake/lake/pkg/engine"
)

// View is one moment of a catalog. When the caller has a version already, the
// head is looked at first, together with those that other readers ask for: an
// unchanged head needs no script.
func (x *Index) View(ctx context.Context, epoch uint64, catalog string, after engine.Version) (engine.View, error) {
	if !after.Valid() {
		return engine.View{}, fmt.Errorf("%w: view of %q after %s", engine.ErrInvalid, catalog, after)
	}
	shard, b64, have := engine.Shard(catalog), encodeName(catalog), fixed(after)
	if now, fresh := x.clock.now(); fresh && !after.IsZero() {
		epochText, headText, err := x.views[shard%len(x.views)].ask(ctx, shard, b64)
		if err == nil {
			err = openIn(epochText, epoch, shard)
		}
		if err != nil {
			return engine.View{}, fmt.Errorf("view of %q: %w", catalog, err)
		}
		if headField(headText) == have {
			return x.view(catalog, headText, now)
		}
	}
	k := &x.keys[shard]
	c := &call{
		script: x.scripts.Load().view, shard: shard, keys: []string{k.heads, k.deltaOf(b64), k.catalogs},
		args: []any{strconv.FormatUint(epoch, 10), b64, catalog, have},
	}
	x.run(ctx, x.work, []*call{c})
	switch {
	case c.err != nil:
		return engine.View{}, fmt.Errorf("view of %q: %w", catalog, c.err)
	case c.status == "DAMAGED":
		return engine.View{}, damage(catalog, c.text(0))
	}
	now, err := x.clock.saw(c.text(0), c.text(1))
	if err != nil {
		return engine.View{}, fmt.Errorf("view of %q: %w", catalog, err)
	}
	if c.text(2) == "" {
		return engine.View{Now: now}, nil
	}
	v, err := x.view(catalog, c.text(2), now)
	if err != nil {
		return engine.View{}, err
	}
	if members := c.texts(3); len(members) > 0 {
		v.Runs = make([]engine.Run, len(members))
		for i, m := range members {
			if v.Runs[i], err = parseMember(m); err != nil {
				return engine.View{}, damage(catalog, err.Error())
			}
		}
	}
	return v, nil
}

func (x *Index) view(catalog, headText string, now time.Time) (engine.View, error) {
	h, err := parseHead(headText)
	if err != nil {
		return engine.View{}, damage(catalog, err.Error())
	}
	return engine.View{Head: h.head, Snapshot: h.snapshot, Deltas: h.deltas, Bytes: h.bytes, Pending: h.pending, PendingSince: h.since, Now: now}, nil
}

// openIn is nil when the epoch field says that the shard is open in the epoch.
func openIn(text string, epoch uint64, shard int) error {
	if !strings.HasPrefix(text, strconv.FormatUint(epoch, 10)+"|open|") {
		return fmt.Errorf("shard %x: %w", shard, engine.ErrEpoch)
	}
	return nil
}

// viewBatcher lets reads that come while others are on their way travel
// together: one HMGET a shard, all shards in one pipeline. A batch leaves when a
// flight is free; whoever joins it sees the heads as they are after he asked.
type viewBatcher struct {
	index   *Index
	mu      sync.Mutex
	forming *viewBatch
	flights int
	closed  bool
	wg      sync.WaitGroup // flights
}

const (
	maxFlights    = 4
	flightTimeout = 4 * time.Second
)

type viewBatch struct {
	fields [engine.Shards][]string // ~epoch first
	places map[string]int          // shard digit and catalog → place in fields
	done   chan struct{}
	// once done is closed:
	replies [engine.Shards]*redis.SliceCmd
}

// ask gives the epoch and the head of a catalog as they stand in heads, "" for
// what is missing.
func (b *viewBatcher) ask(ctx context.Context, shard int, b64 string) (epoch, head string, err error) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return "", "", fmt.Errorf("redis index: %w", engine.ErrClosed)
	}
	if b.forming == nil {
		b.forming = &viewBatch{places: map[string]int{}, done: make(chan struct{})}
	}
	batch := b.forming
	key := string(rune('a'+shard)) + b64
	at, ok := batch.places[key]
	if !ok {
		f := &batch.fields[shard]
		if len(*f) == 0 {
			*f = append(*f, epochField)
		}
		at = len(*f)
		*f = append(*f, b64)
		batch.places[key] = at
	}
	if b.flights < maxFlights {
		b.flights++
		b.forming = nil
		b.wg.Go(func() { b.fly(batch) })
	}
	b.mu.Unlock()
	select {
	case <-batch.done:
	case <-ctx.Done():
		return "", "", unavailable("heads", ctx.Err())
	}
	values, err := batch.replies[shard].Result()
	if err != nil {
		return "", "", unavailable("heads", err)
	}
	if len(values) <= at {
		return "", "", fmt.Errorf("heads: %d values for place %d: %w", len(values), at, engine.ErrUnavailable)
	}
	epoch, _ = values[0].(string)
	head, _ = values[at].(string)
	return epoch, head, nil
}

// fly sends a batch, then whatever has formed meanwhile, until nothing has.
func (b *viewBatcher) fly(batch *viewBatch) {
	for batch != nil {
		b.send(batch)
		close(batch.done)
		b.mu.Lock()
		batch, b.forming = b.forming, nil
		if batch == nil {
			b.flights--
		}
		b.mu.Unlock()
	}
}

// send does not take the context of any one reader: the batch belongs to all.
func (b *viewBatcher) send(batch *viewBatch) {
	ctx, cancel := context.WithTimeout(context.Background(), flightTimeout)
	defer cancel()
	pipe := b.index.work.Pipeline()
	for s, fields := range batch.fields {
		if len(fields) > 0 {
			batch.replies[s] = pipe.HMGet(ctx, b.index.keys[s].heads, fields...)
		}
	}
	_, _ = pipe.Exec(ctx) // every command keeps its own error
}

// close refuses new reads and waits for those under way; the connections are
// closed first, so that none is long.
func (b *viewBatcher) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.wg.Wait()
}
