package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/codec"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

// backend is all of an index.
type backend interface {
	engine.IndexAdapter
	engine.Outbox
}

// server is one index server: the primary, a promoted replica, a restored
// backup. Processes are connected to one each.
type server struct {
	alive bool
	mem   *memory.Index
	backend
}

// simIndex is the index as one process sees it: every call goes over the net,
// and a call that concerns several shards is a request to each.
type simIndex struct{ p *process }

var _ engine.IndexAdapter = simIndex{}

func (x simIndex) do(ctx context.Context, op, on string, land func(s *server) error) error {
	_, err := x.p.call(ctx, "index", op, on, func(s *server) (any, error) { return nil, land(s) })
	return err
}

// byShard groups places by the shard of their catalog, in order of the shards.
func byShard(n int, catalog func(int) string) [][]int {
	var shards [engine.Shards][]int
	for i := range n {
		s := engine.Shard(catalog(i))
		shards[s] = append(shards[s], i)
	}
	var groups [][]int
	for _, g := range shards {
		if len(g) > 0 {
			groups = append(groups, g)
		}
	}
	return groups
}

// eachShard does one request a group, side by side.
func eachShard(groups [][]int, do func(g int)) {
	if len(groups) == 1 {
		do(0)
		return
	}
	done := make(chan struct{}, len(groups))
	for g := range groups {
		go func() {
			do(g)
			done <- struct{}{}
		}()
	}
	for range groups {
		<-done
	}
}

func (x simIndex) PreCommit(ctx context.Context, p engine.PreCommit) (engine.Reservation, error) {
	groups := byShard(len(p.Runs), func(i int) string { return p.Runs[i].Catalog })
	answers, errs := make([]engine.Reservation, len(groups)), make([]error, len(groups))
	eachShard(groups, func(g int) {
		part := engine.PreCommit{Epoch: p.Epoch, Segment: p.Segment}
		for _, i := range groups[g] {
			part.Runs = append(part.Runs, p.Runs[i])
		}
		answers[g], errs[g] = ask(x.p, ctx, "index", "PreCommit", fmt.Sprintf("%s/%x", p.Segment, engine.Shard(part.Runs[0].Catalog)),
			func(s *server) (engine.Reservation, error) { return s.PreCommit(context.Background(), part) })
	})
	res, none := engine.Reservation{Runs: make([]engine.Reserved, len(p.Runs))}, true
	for g, places := range groups {
		none = none && errs[g] != nil
		if answers[g].Now.After(res.Now) {
			res.Now = answers[g].Now
		}
		for k, i := range places {
			if res.Runs[i].Err = errs[g]; errs[g] == nil {
				res.Runs[i] = answers[g].Runs[k]
			}
		}
	}
	if none {
		return engine.Reservation{}, errors.Join(errs...)
	}
	return res, nil
}

func (x simIndex) Commit(ctx context.Context, c engine.Commit) ([]engine.Committed, error) {
	groups := byShard(len(c.Runs), func(i int) string { return c.Runs[i].Catalog })
	res := make([]engine.Committed, len(c.Runs))
	eachShard(groups, func(g int) {
		part := engine.Commit{Epoch: c.Epoch, Segment: c.Segment}
		for _, i := range groups[g] {
			part.Runs = append(part.Runs, c.Runs[i])
		}
		a, err := ask(x.p, ctx, "index", "Commit", fmt.Sprintf("%s/%x", c.Segment, engine.Shard(part.Runs[0].Catalog)),
			func(s *server) ([]engine.Committed, error) { return s.Commit(context.Background(), part) })
		for k, i := range groups[g] {
			if res[i].Err = err; err == nil {
				res[i] = a[k]
			}
		}
	})
	return res, nil
}

func (x simIndex) Rollback(ctx context.Context, r engine.Rollback) error {
	return x.do(ctx, "Rollback", r.Segment.String(), func(s *server) error {
		if w := x.p.w; len(r.Shards) > 1 && !w.healed && w.chance(w.mix.Index.Lost) { // some shards only
			r.Shards = r.Shards[:w.rnd.IntN(len(r.Shards))]
			return errors.Join(s.Rollback(context.Background(), r), errLost)
		}
		return s.Rollback(context.Background(), r)
	})
}

func (x simIndex) View(ctx context.Context, epoch uint64, catalog string, after engine.Version) (engine.View, error) {
	return ask(x.p, ctx, "index", "View", catalog, func(s *server) (engine.View, error) {
		return s.View(context.Background(), epoch, catalog, after)
	})
}

func (x simIndex) Snapshots(ctx context.Context, epoch uint64, catalog string, after engine.Version, limit int) ([]engine.Snapshot, error) {
	return ask(x.p, ctx, "index", "Snapshots", catalog, func(s *server) ([]engine.Snapshot, error) {
		return s.Snapshots(context.Background(), epoch, catalog, after, limit)
	})
}

func (x simIndex) Fold(ctx context.Context, f engine.Fold) error {
	return x.do(ctx, "Fold", f.Catalog, func(s *server) error { return s.Fold(context.Background(), f) })
}

func (x simIndex) Outcome(ctx context.Context, epoch uint64, catalog, id string) (engine.IDState, error) {
	return ask(x.p, ctx, "index", "Outcome", catalog, func(s *server) (engine.IDState, error) {
		return s.Outcome(context.Background(), epoch, catalog, id)
	})
}

func (x simIndex) Catalogs(ctx context.Context, epoch uint64, prefix, after string, limit int) ([]engine.CatalogInfo, error) {
	return ask(x.p, ctx, "index", "Catalogs", prefix, func(s *server) ([]engine.CatalogInfo, error) {
		return s.Catalogs(context.Background(), epoch, prefix, after, limit)
	})
}

func (x simIndex) Close() error { return nil }

func (x simIndex) Heartbeat(ctx context.Context, epoch uint64, writer string) (time.Time, error) {
	x.p.named(writer)
	return ask(x.p, ctx, "index", "Heartbeat", "", func(s *server) (time.Time, error) { return s.Heartbeat(context.Background(), epoch, writer) })
}

func (x simIndex) Stuck(ctx context.Context, epoch uint64) ([]engine.Stuck, error) {
	return ask(x.p, ctx, "index", "Stuck", "", func(s *server) ([]engine.Stuck, error) { return s.Stuck(context.Background(), epoch) })
}

func (x simIndex) Plan(ctx context.Context, epoch uint64, shard int, segment engine.SegmentID) ([]engine.Planned, error) {
	return ask(x.p, ctx, "index", "Plan", segment.String(), func(s *server) ([]engine.Planned, error) {
		return s.Plan(context.Background(), epoch, shard, segment)
	})
}

func (x simIndex) Garbage(ctx context.Context, epoch uint64, shard, limit int) ([]engine.Garbage, error) {
	return ask(x.p, ctx, "index", "Garbage", fmt.Sprintf("%x", shard), func(s *server) ([]engine.Garbage, error) {
		return s.Garbage(context.Background(), epoch, shard, limit)
	})
}

func (x simIndex) Unused(ctx context.Context, epoch uint64, segments []engine.SegmentID) ([]engine.Usage, error) {
	return ask(x.p, ctx, "index", "Unused", "", func(s *server) ([]engine.Usage, error) { return s.Unused(context.Background(), epoch, segments) })
}

func (x simIndex) Abandon(ctx context.Context, epoch uint64, shard int, segments []engine.SegmentID) error {
	return x.do(ctx, "Abandon", fmt.Sprintf("%x", shard), func(s *server) error {
		return s.Abandon(context.Background(), epoch, shard, segments)
	})
}

func (x simIndex) Forget(ctx context.Context, epoch uint64, shard int, list []engine.Garbage) error {
	return x.do(ctx, "Forget", fmt.Sprintf("%x", shard), func(s *server) error { return s.Forget(context.Background(), epoch, shard, list) })
}

func (x simIndex) Live(ctx context.Context, epoch uint64, shard int, older int64, limit int) ([]engine.SegmentID, error) {
	return ask(x.p, ctx, "index", "Live", fmt.Sprintf("%x", shard), func(s *server) ([]engine.SegmentID, error) {
		return s.Live(context.Background(), epoch, shard, older, limit)
	})
}

func (x simIndex) Relocate(ctx context.Context, r engine.Relocate) ([]bool, error) {
	a, err := x.p.await(ctx, &call{side: "index", op: "Relocate", on: r.To.String(), asks: r.To.IsZero(), land: func(s *server) (any, error) {
		return s.Relocate(context.Background(), r)
	}})
	if err != nil {
		return nil, err
	}
	return a.([]bool), nil
}

func (x simIndex) Condemn(ctx context.Context, epoch uint64, shard int) error {
	return x.do(ctx, "Condemn", fmt.Sprintf("%x", shard), func(s *server) error { return s.Condemn(context.Background(), epoch, shard) })
}

func (x simIndex) Empty(ctx context.Context, shard int, n uint64) error {
	return x.do(ctx, "Empty", fmt.Sprintf("%x", shard), func(s *server) error { return s.Empty(context.Background(), shard, n) })
}

func (x simIndex) Drop(ctx context.Context, d engine.Drop) (int, error) {
	return ask(x.p, ctx, "index", "Drop", d.Catalog, func(s *server) (int, error) {
		before := registered(s, d.Epoch, d.Catalog)
		left, err := s.Drop(context.Background(), d)
		if err == nil {
			x.p.w.dropped(d, before, registered(s, d.Epoch, d.Catalog))
		}
		return left, err
	})
}

func (x simIndex) Epochs(ctx context.Context) ([]engine.ShardEpoch, error) {
	return ask(x.p, ctx, "index", "Epochs", "", func(s *server) ([]engine.ShardEpoch, error) { return s.Epochs(context.Background()) })
}

// Exclusive is false but for the ablation of the wait: then it says "nobody
// else" exactly where the engine asks whether it must wait.
func (x simIndex) Exclusive() bool {
	if x.p.w.off == "wait" && x.p.lastFence == engine.Shards-1 {
		x.p.lastFence = -1
		return true
	}
	return false
}

func (x simIndex) Fence(ctx context.Context, shard int, n uint64) error {
	x.p.lastFence = shard
	return x.do(ctx, "Fence", fmt.Sprintf("%d/%x", n, shard), func(s *server) error { return s.Fence(context.Background(), shard, n) })
}

func (x simIndex) Restore(ctx context.Context, shard int, n uint64, r engine.Restore) error {
	what := "runs"
	switch {
	case len(r.Snapshots) > 0:
		what = "snapshots"
	case len(r.IDs) > 0:
		what = "ids"
	case len(r.Segments) > 0:
		what = "segments"
	}
	return x.do(ctx, "Restore", fmt.Sprintf("%d/%x %s", n, shard, what), func(s *server) error {
		for _, a := range r.Snapshots {
			x.p.w.counters.add("adopted a snapshot")
			if a.Snapshot.Purged() {
				x.p.w.counters.add("adopted a purge")
			}
		}
		return s.Restore(context.Background(), shard, n, r)
	})
}

func (x simIndex) Reservations(ctx context.Context, shard int, n uint64) ([]engine.SegmentID, error) {
	return ask(x.p, ctx, "index", "Reservations", fmt.Sprintf("%d/%x", n, shard), func(s *server) ([]engine.SegmentID, error) {
		return s.Reservations(context.Background(), shard, n)
	})
}

func (x simIndex) Resolve(ctx context.Context, shard int, n uint64, segment engine.SegmentID, committed []engine.RunKey) error {
	return x.do(ctx, "Resolve", fmt.Sprintf("%d/%x %s", n, shard, segment), func(s *server) error {
		return s.Resolve(context.Background(), shard, n, segment, committed)
	})
}

func (x simIndex) Open(ctx context.Context, shard int, n uint64, floor int64) error {
	x.p.lastFence = -1
	return x.do(ctx, "Open", fmt.Sprintf("%d/%x", n, shard), func(s *server) error { return s.Open(context.Background(), shard, n, floor) })
}

func (x simIndex) Acquire(ctx context.Context, shard int, name, token string, ttl time.Duration) (bool, error) {
	if name != "purge" { // that lease is of one pass, not of a writer
		x.p.named(token)
	}
	return ask(x.p, ctx, "index", "Acquire", name, func(s *server) (bool, error) { return s.Acquire(context.Background(), shard, name, token, ttl) })
}

func (x simIndex) Release(ctx context.Context, shard int, name, token string) error {
	return x.do(ctx, "Release", name, func(s *server) error { return s.Release(context.Background(), shard, name, token) })
}

// simObjects is the bucket as one process sees it.
type simObjects struct{ p *process }

var _ engine.Objects = simObjects{}

func (o simObjects) Put(ctx context.Context, key string, data []byte) error {
	_, err := o.p.await(ctx, &call{side: "bucket", op: "Put", on: key, data: data, land: func(*server) (any, error) { return nil, o.p.w.put(o.p, key, data) }})
	return err
}

func (o simObjects) Get(ctx context.Context, key string) ([]byte, error) {
	return ask(o.p, ctx, "bucket", "Get", key, func(*server) ([]byte, error) { return o.p.w.get(o.p, key) })
}

func (o simObjects) GetRange(ctx context.Context, key string, off, length int64) ([]byte, error) {
	return ask(o.p, ctx, "bucket", "GetRange", fmt.Sprintf("%s %d+%d", key, off, length), func(*server) ([]byte, error) {
		return o.p.w.bucket.GetRange(context.Background(), key, off, length)
	})
}

func (o simObjects) Delete(ctx context.Context, key string) error {
	_, err := o.p.call(ctx, "bucket", "Delete", key, func(*server) (any, error) {
		ctx := context.Background()
		if b, err := o.p.w.bucket.Get(ctx, key); err == nil { // for the checker
			if o.p.w.stray(key) {
				_ = o.p.w.strays.Put(ctx, key, b)
			} else {
				_ = o.p.w.archive.Put(ctx, key, b)
			}
		}
		return nil, o.p.w.bucket.Delete(ctx, key)
	})
	return err
}

// List asks page by page, as stores do: what is put meanwhile behind the
// cursor is not seen.
func (o simObjects) List(ctx context.Context, prefix, after string) iter.Seq2[engine.ObjectInfo, error] {
	return func(yield func(engine.ObjectInfo, error) bool) {
		for {
			page, err := ask(o.p, ctx, "bucket", "List", prefix, func(*server) ([]engine.ObjectInfo, error) {
				page, off := o.p.w.list(prefix, after), o.p.w.off
				switch {
				case off == "mark" && strings.HasPrefix(prefix, "_lake/collected/"):
					return nil, nil
				case off == "purge" && len(prefix) == 1: // what a rebuild adopts of a shard
					page = slices.DeleteFunc(page, func(i engine.ObjectInfo) bool { start, stop := spanOf(i.Key); return start == stop })
				}
				return page, nil
			})
			if err != nil {
				yield(engine.ObjectInfo{}, err)
				return
			}
			for _, info := range page {
				after = info.Key
				if !yield(info, nil) {
					return
				}
			}
			if len(page) < o.p.w.mix.Page {
				return
			}
		}
	}
}

// put is a put that lands.
func (w *world) put(p *process, key string, data []byte) error {
	ctx := context.Background()
	if n, seal := epochOf(key); n > 0 && !seal && w.off == "takeover" && n > 1 && !w.opened[n-1] && len(w.opened) > 0 {
		return errServer
	}
	if strings.HasSuffix(key, ".seal.json") && w.off == "seal" || strings.HasPrefix(key, "_lake/purge/") && w.off == "purge record" {
		return nil
	}
	err := w.bucket.Put(ctx, key, data)
	p.lostPut = ""
	if errors.Is(err, engine.ErrExists) && w.off == "create-only" {
		_ = w.bucket.Delete(ctx, key)
		err = w.bucket.Put(ctx, key, data)
		return err
	}
	tombstone := strings.HasPrefix(key, "wal/") && isTombstone(data)
	switch n, seal := epochOf(key); {
	case errors.Is(err, engine.ErrExists) && tombstone:
		w.counters.add("tombstone lost")
	case errors.Is(err, engine.ErrExists) && n > 0:
		p.lostPut = key
		if there, _ := w.bucket.Get(ctx, key); !slices.Equal(there, data) {
			if seal {
				w.counters.add("another's seal counts")
			} else {
				w.counters.add("lost race for an epoch")
			}
		}
	case errors.Is(err, engine.ErrExists):
		if there, _ := w.bucket.Get(ctx, key); slices.Equal(there, data) {
			w.counters.add("exists, and is one's own")
		}
	case err != nil:
	case tombstone:
		w.counters.add("tombstone won")
	case n > 1 && !seal:
		if !w.opened[n-1] {
			w.counters.add("taken over")
		}
	case strings.HasPrefix(key, "wal/"):
		if _, gone := w.bucket.Get(ctx, "_lake/epoch/"+key[4:10]+".seal.json"); gone == nil {
			w.counters.add("zombie put after seal")
		}
	}
	if err == nil {
		// A late copy of what was collected, or a late decision about it, is no harm;
		// nor is anything under a key that its epoch's seal does not know.
		gone, there := w.archive.Get(ctx, key)
		_, stray := w.strays.Get(ctx, key)
		if w.written[key] && stray != nil && !(there == nil && (bytes.Equal(gone, data) || isTombstone(data))) {
			w.violate("I5", "%s was written twice", key)
		}
		w.written[key] = true
	}
	return err
}

func isTombstone(data []byte) bool {
	f, _, err := codec.Decode(data, codec.Options{})
	return err == nil && f.Kind == codec.KindTombstone
}

// epochOf tells the number of an epoch object or seal, 0 when key is neither.
func epochOf(key string) (n uint64, seal bool) {
	rest, ok := strings.CutPrefix(key, "_lake/epoch/")
	if !ok {
		return 0, false
	}
	_, _ = fmt.Sscanf(rest, "%d", &n)
	return n, strings.HasSuffix(rest, ".seal.json")
}

func (w *world) get(p *process, key string) ([]byte, error) {
	if n, seal := epochOf(key); n > 0 && !seal && w.off == "lease" && key != p.lostPut {
		return nil, fmt.Errorf("get %s: %w", key, engine.ErrNotExist) // the lease never ends
	}
	return w.bucket.Get(context.Background(), key)
}

func (w *world) list(prefix, after string) []engine.ObjectInfo {
	var page []engine.ObjectInfo
	newest := ""
	for info := range w.bucket.List(context.Background(), prefix, "") {
		newest = info.Key
	}
	for info := range w.bucket.List(context.Background(), prefix, after) {
		if w.off == "listing" && strings.HasPrefix(prefix, "wal/") && unixOf(newest)-unixOf(info.Key) > 5 {
			continue // only the end of the log, as a shortcut would list it
		}
		if page = append(page, info); len(page) == w.mix.Page {
			break
		}
	}
	return page
}

func unixOf(key string) (unix int64) {
	if len(key) > 21 {
		_, _ = fmt.Sscanf(key[11:21], "%d", &unix)
	}
	return unix
}

// stray tells a segment that came after the seal of its epoch.
func (w *world) stray(key string) bool {
	s, err := engine.ParseSegmentKey(key)
	if err != nil {
		return false
	}
	b, err := w.bucket.Get(context.Background(), fmt.Sprintf("_lake/epoch/%06d.seal.json", s.Epoch))
	return err == nil && !bytes.Contains(b, []byte(key))
}
