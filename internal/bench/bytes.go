package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	root "github.com/jsonlake/lake"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

// p11 is what small writes to a document leave behind.
func (b *bench) p11(ctx context.Context) error {
	if err := b.ownLake(); err != nil {
		return err
	}
	for _, form := range b.forms(Distributed, Embedded) {
		if err := b.p11form(ctx, form); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) p11form(ctx context.Context, form string) error {
	l, c, err := b.serving(ctx, form, labOptions{})
	if err != nil {
		return err
	}
	defer l.stop()
	catalog, body := newRun()(0), document(100<<10)
	if _, err := c.Write(ctx, engine.WriteRequest{Catalog: catalog, MergeType: engine.MergeTypeReplace, Body: body}); err != nil {
		return err
	}
	bytesBefore, filesBefore := stored(l.data)
	before, err := l.count(ctx)
	if err != nil {
		return err
	}
	b.say("%s: 1,000 writes of 4 bytes, each with a read", form)
	const writes = 1000
	for i := range writes {
		if _, err := c.Write(ctx, engine.WriteRequest{Catalog: catalog, Path: "/counter", MergeType: engine.MergeTypeReplace, Body: fmt.Appendf(nil, "%d", 1000+i)}); err != nil {
			return err
		}
		r, err := c.Read(ctx, engine.ReadRequest{Catalog: catalog})
		if err != nil {
			return err
		}
		var doc struct{ Counter int }
		if err := json.Unmarshal(r.Body, &doc); err != nil || doc.Counter != 1000+i {
			return fmt.Errorf("WRONG DOCUMENT: the counter is %d after %d was written (%w)", doc.Counter, 1000+i, err)
		}
	}
	select { // for a fold that is under way
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(2 * time.Second):
	}
	bytesAfter, filesAfter := stored(l.data)
	after, err := l.count(ctx)
	if err != nil {
		return err
	}
	v := after.per(before, writes).pick("puts_per_1000", "bytes_put_per_op", "redis_commands", "redis_us")
	v["objects"] = float64(filesAfter - filesBefore)
	if l.redis != nil {
		v["redis_kb"] = (after.redis["used_memory"] - before.redis["used_memory"]) / 1e3
	}
	row := Row{What: "bytes stored for 1,000 × (4-byte write + read) on a 100 KB document, old snapshots included", Form: form, Target: "≤ 2 MB", Unit: "MB", Rounds: 1,
		Measured: float64(bytesAfter-bytesBefore) / 1e6, Bound: 2, Checked: "every read has the value just written", Others: -1, Values: v.aside()}
	if form == Embedded {
		row.Row = "P11 embedded"
	}
	b.emit(row)
	return nil
}

// p12 is what the index costs in Redis.
func (b *bench) p12(ctx context.Context) error {
	if err := b.only(Distributed); err != nil {
		return err
	}
	for _, k := range []struct {
		row, what, target, unit string
		catalogs, runs, deltas  int
		fold                    bool
		per                     func(bytes, catalogs, runs, deltas float64) float64
		bound                   float64
	}{
		{"P12 run", "index memory a live run, 400 runs a catalog", "≤ 120 B", "B", 40, 400, 1, false, func(x, c, r, _ float64) float64 { return x / c / r }, 120},
		{"P12 run, long", "index memory a live run, 3,000 runs a catalog", "≤ 200 B", "B", 8, 3000, 1, false, func(x, c, r, _ float64) float64 { return x / c / r }, 200},
		{"P12 delta", "index memory a delta, in runs of 1,000", "≤ 0.2 B", "B", 10, 200, 1000, false, func(x, c, r, d float64) float64 { return x / c / r / d }, 0.2},
		{"P12 idle", "index memory an idle catalog, folded", "≤ 700 B", "B", 2000, 1, 1, true, func(x, c, _, _ float64) float64 { return x / c }, 700},
	} {
		bytes, receipts, err := b.indexBytes(ctx, k.catalogs, k.runs, k.deltas, k.fold)
		if err != nil {
			return fmt.Errorf("%s: %w", k.row, err)
		}
		c, r, d := float64(k.catalogs), float64(k.runs), float64(k.deltas)
		b.emit(Row{Row: k.row, What: k.what + " (MEMORY USAGE of all keys but receipts)", Form: Distributed, Target: k.target, Unit: k.unit, Rounds: 1, Measured: k.per(bytes, c, r, d), Bound: k.bound, Others: -1,
			Values: Values{"receipts_bytes_a_run_for_10_min": round(receipts / c / r)}, Checked: "every catalog's head"})
	}
	return nil
}

// indexBytes writes through an engine of this process on a new Redis, and gives
// the bytes of the index's keys, and of the receipts among them, which live for
// ten minutes.
func (b *bench) indexBytes(ctx context.Context, catalogs, runs, deltas int, fold bool) (bytes, receipts float64, err error) {
	l := &lab{form: Distributed}
	defer l.stop()
	if err := b.onlyRedis(ctx, l); err != nil {
		return 0, 0, err
	}
	in, err := root.Open(ctx, l.redisURL, root.WithStorage(memory.NewObjects()), root.WithoutBackground())
	if err != nil {
		return 0, 0, err
	}
	defer in.Close()
	empty, _, err := l.indexKeys(ctx)
	if err != nil {
		return 0, 0, err
	}
	name := newRun()
	b.say("%d catalogs × %d runs × %d deltas", catalogs, runs, deltas)
	// As many at once as P1 has, so that runs share segments as they do there.
	heads := make([]engine.Version, catalogs)
	var mu sync.Mutex
	var next atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	for range min(512, catalogs*runs) {
		g.Go(func() error {
			for {
				i := int(next.Add(1) - 1)
				if i >= catalogs*runs {
					return nil
				}
				c := i % catalogs
				batch := engine.BatchRequest{Catalog: name(c)}
				for d := range deltas {
					batch.Deltas = append(batch.Deltas, engine.WriteRequest{Path: "/profile", Body: fmt.Appendf(nil, `{"n":%d}`, i*deltas+d)})
				}
				r, err := in.WriteBatch(gctx, batch)
				if err != nil {
					return err
				}
				mu.Lock()
				if heads[c].Less(r.Version) {
					heads[c] = r.Version
				}
				mu.Unlock()
			}
		})
	}
	if err := g.Wait(); err != nil {
		return 0, 0, err
	}
	if fold {
		if err := each(ctx, catalogs, func(ctx context.Context, c int) error { return foldAll(ctx, in, name(c)) }); err != nil {
			return 0, 0, err
		}
	}
	for c, want := range heads {
		if list := in.List(ctx, name(c)); list.Err != nil || list.Version != want {
			return 0, 0, fmt.Errorf("WRONG VERSION: %s is at %s, not %s (%w)", name(c), list.Version, want, list.Err)
		}
	}
	bytes, receipts, err = l.indexKeys(ctx)
	return bytes - empty, receipts, err
}

// onlyRedis starts a Redis and nothing else.
func (b *bench) onlyRedis(ctx context.Context, l *lab) error {
	path, err := find("redis-server", "install Redis 7, or `make servers`")
	if err != nil {
		return err
	}
	dir, err := b.temp("redis")
	if err != nil {
		return err
	}
	l.redisURL, l.redis, err = b.startRedis(ctx, l, path, dir, "redis", shippedIndex...)
	return err
}

// indexKeys sums MEMORY USAGE over all keys of the lab's Redis.
func (l *lab) indexKeys(ctx context.Context) (bytes, receipts float64, err error) {
	it := l.redis.Scan(ctx, 0, "*", 1000).Iterator()
	for it.Next(ctx) {
		n, err := l.redis.MemoryUsage(ctx, it.Val(), 0).Result()
		if err != nil {
			continue // it expired meanwhile
		}
		if strings.Contains(it.Val(), ":plan:") {
			receipts += float64(n)
		} else {
			bytes += float64(n)
		}
	}
	return bytes, receipts, it.Err()
}
