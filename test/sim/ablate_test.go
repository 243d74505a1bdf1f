package sim

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

// Each defence of the protocol is switched off, outside of the engine, by what
// the index and the bucket answer. The checker must notice: a checker that
// does not is no proof of anything.
var ablations = []struct {
	name, kind, what string
}{
	{"create-only", "", "a put replaces what stands under its key"},
	{"plan", "", "no plan and no receipt: a commit inserts whatever was decided before, as often as it comes"},
	{"order", "", "a commit does not wait for older reservations"},
	{"replid", "split", "a promoted replica passes for the server that was fenced"},
	{"fence", "fence", "a new epoch fences the shards last instead of first"},
	{"takeover", "", "nobody may open the next epoch while one is being opened"},
	{"listing", "", "a seal lists only the end of the log"},
	{"ids", "", "the index keeps no idempotency ids"},
	{"restored ids", "ids", "a new epoch restores no idempotency ids"},
	{"packs", "packs", "a new epoch restores no idempotency ids from packs"},
	{"mark", "collect", "an index is kept that does not know what was collected since"},
	{"purge", "purge", "a rebuild does not see the snapshots of purges"},
	{"purge record", "purge", "what was purged has no record: only who asked erases it"},
	{"seal", "split", "each recovery lists the log anew: what counts is not fixed"},
	{"wait", "split", "a new epoch does not wait for older leases to end"},
	{"lease", "split", "the epoch lease never ends"},
}

func ablate(w *world, x *memory.Index) backend {
	switch w.off {
	case "plan":
		return &forgetful{backend: x, again: map[engine.RunKey]engine.Run{}}
	case "order":
		return &forgetful{backend: x, order: true, again: map[engine.RunKey]engine.Run{}}
	case "ids":
		return &anonymous{backend: x, claim: true}
	case "restored ids":
		return &anonymous{backend: x}
	case "packs":
		return &packless{backend: x}
	case "fence":
		return &lateFence{backend: x}
	case "replid":
		return &shifted{backend: x}
	}
	return x
}

// forgetful inserts runs that the index refuses or makes wait, or has already.
type forgetful struct {
	backend
	order bool // only those that should wait
	mu    sync.Mutex
	again map[engine.RunKey]engine.Run // what is inserted
}

func (f *forgetful) Commit(ctx context.Context, c engine.Commit) ([]engine.Committed, error) {
	before := make([]engine.PlanState, len(c.Runs))
	for i, r := range c.Runs {
		plan, err := f.backend.(engine.Maintenance).Plan(ctx, c.Epoch, engine.Shard(r.Catalog), c.Segment)
		if err != nil {
			continue
		}
		for _, p := range plan {
			if p.Catalog == r.Catalog && p.First == r.First {
				before[i] = p.State
			}
		}
	}
	res, err := f.backend.Commit(ctx, c)
	if err != nil {
		return res, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, r := range c.Runs {
		insert := f.order && res[i].State == engine.RunWaiting ||
			!f.order && (res[i].State == engine.RunGone || res[i].State == engine.RunCommitted && before[i] == engine.PlanCommitted)
		if res[i].Err == nil && insert {
			f.again[engine.RunKey{Catalog: r.Catalog, First: r.First}] = engine.Run{
				First: r.First, Last: r.First.Add(r.N - 1), N: r.N, Type: r.Type, Path: r.Path, Segment: c.Segment, Off: r.Off, Len: r.Len,
			}
			res[i] = engine.Committed{State: engine.RunCommitted}
		}
	}
	return res, nil
}

func (f *forgetful) View(ctx context.Context, epoch uint64, catalog string, after engine.Version) (engine.View, error) {
	v, err := f.backend.View(ctx, epoch, catalog, after)
	if err != nil {
		return v, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, run := range f.again {
		low := engine.MaxVersion(after, v.Snapshot.Stop)
		if k.Catalog != catalog || !low.Less(run.First) || f.order && slices.ContainsFunc(v.Runs, func(r engine.Run) bool { return r.First == run.First }) {
			continue
		}
		v.Runs = append(v.Runs, run)
		v.Head = engine.MaxVersion(v.Head, run.Last)
	}
	slices.SortStableFunc(v.Runs, func(a, b engine.Run) int { return a.First.Compare(b.First) })
	return v, nil
}

// anonymous forgets ids: at once, or when they are restored.
type anonymous struct {
	backend
	claim bool
}

func (a *anonymous) PreCommit(ctx context.Context, p engine.PreCommit) (engine.Reservation, error) {
	if a.claim {
		p.Runs = slices.Clone(p.Runs)
		for i := range p.Runs {
			p.Runs[i].ID = ""
		}
	}
	return a.backend.PreCommit(ctx, p)
}

func (a *anonymous) Restore(ctx context.Context, shard int, n uint64, r engine.Restore) error {
	r.IDs, r.Runs = nil, slices.Clone(r.Runs)
	for i := range r.Runs {
		r.Runs[i].ID = engine.RestoreID{}
	}
	return a.backend.Restore(ctx, shard, n, r)
}

// packless restores no ids but those of runs.
type packless struct{ backend }

func (p *packless) Restore(ctx context.Context, shard int, n uint64, r engine.Restore) error {
	r.IDs = nil
	return p.backend.Restore(ctx, shard, n, r)
}

// lateFence keeps what a new epoch restores to itself until it is opened, and
// the shards at work until then.
type lateFence struct {
	backend
	mu     sync.Mutex
	shards [engine.Shards]struct {
		n    uint64
		todo []func() error
	}
}

func (f *lateFence) working(shard int) (engine.ShardEpoch, bool) {
	all, err := f.backend.Epochs(context.Background())
	if err != nil {
		return engine.ShardEpoch{}, false
	}
	return all[shard], all[shard].Open && all[shard].Same
}

func (f *lateFence) Epochs(ctx context.Context) ([]engine.ShardEpoch, error) {
	all, err := f.backend.Epochs(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range all {
		if s := &f.shards[i]; s.n > all[i].N { // it says that it is fenced
			all[i].N, all[i].Open, all[i].Same = s.n, false, true
		}
	}
	return all, err
}

func (f *lateFence) Fence(ctx context.Context, shard int, n uint64) error {
	if e, works := f.working(shard); !works || e.N >= n {
		return f.backend.Fence(ctx, shard, n)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &f.shards[shard]
	switch {
	case s.n > n:
		return engine.ErrEpoch
	case s.n < n:
		s.n, s.todo = n, nil
	}
	return nil
}

// later puts a step off until Open, if the shard is still at work.
func (f *lateFence) later(shard int, n uint64, do func() error) error {
	e, works := f.working(shard)
	f.mu.Lock()
	s := &f.shards[shard]
	if works && e.N < n && s.n == n {
		s.todo = append(s.todo, do)
		f.mu.Unlock()
		return nil
	}
	f.mu.Unlock()
	return do()
}

func (f *lateFence) Restore(ctx context.Context, shard int, n uint64, r engine.Restore) error {
	return f.later(shard, n, func() error { return f.backend.Restore(ctx, shard, n, r) })
}

func (f *lateFence) Resolve(ctx context.Context, shard int, n uint64, segment engine.SegmentID, committed []engine.RunKey) error {
	return f.later(shard, n, func() error { return f.backend.Resolve(ctx, shard, n, segment, committed) })
}

func (f *lateFence) Reservations(ctx context.Context, shard int, n uint64) ([]engine.SegmentID, error) {
	e, works := f.working(shard)
	if !works || e.N >= n {
		return f.backend.Reservations(ctx, shard, n)
	}
	stuck, err := f.backend.Stuck(ctx, e.N)
	if err != nil { // other shards are in the new epoch already
		if err := f.now(ctx, shard, n); err != nil {
			return nil, err
		}
		return f.backend.Reservations(ctx, shard, n)
	}
	var list []engine.SegmentID
	for _, s := range stuck {
		if slices.Contains(s.Shards, shard) {
			list = append(list, s.Segment)
		}
	}
	return list, nil
}

func (f *lateFence) Open(ctx context.Context, shard int, n uint64, floor int64) error {
	e, works := f.working(shard)
	f.mu.Lock()
	s := &f.shards[shard]
	if !works || e.N >= n || s.n != n {
		f.mu.Unlock()
		return f.backend.Open(ctx, shard, n, floor)
	}
	f.mu.Unlock()
	return errors.Join(f.now(ctx, shard, n), f.backend.Open(ctx, shard, n, floor))
}

// now fences a shard and does what was put off.
func (f *lateFence) now(ctx context.Context, shard int, n uint64) error {
	f.mu.Lock()
	s := &f.shards[shard]
	todo := s.todo
	s.n, s.todo = 0, nil
	f.mu.Unlock()
	err := f.backend.Fence(ctx, shard, n)
	for _, do := range todo {
		err = errors.Join(err, do())
	}
	return err
}

// shifted is a copy of a server that passes for it: the copy was opened one
// epoch higher, and says one less.
type shifted struct {
	backend
	by uint64
}

// sameServer makes a copied index answer as the one it was copied from.
func sameServer(s *server) {
	x, ctx := s.backend.(*shifted), context.Background()
	all, _ := x.backend.Epochs(ctx)
	for _, e := range all {
		if e.N == 0 || !e.Open {
			return // nothing to pass for
		}
	}
	for i, e := range all {
		_ = x.backend.Fence(ctx, i, e.N+1)
		_ = x.backend.Open(ctx, i, e.N+1, 0)
	}
	x.by = 1
}

func (x *shifted) PreCommit(ctx context.Context, p engine.PreCommit) (engine.Reservation, error) {
	p.Epoch += x.by
	return x.backend.PreCommit(ctx, p)
}

func (x *shifted) Commit(ctx context.Context, c engine.Commit) ([]engine.Committed, error) {
	c.Epoch += x.by
	return x.backend.Commit(ctx, c)
}

func (x *shifted) Rollback(ctx context.Context, r engine.Rollback) error {
	r.Epoch += x.by
	return x.backend.Rollback(ctx, r)
}

func (x *shifted) View(ctx context.Context, epoch uint64, catalog string, after engine.Version) (engine.View, error) {
	return x.backend.View(ctx, epoch+x.by, catalog, after)
}

func (x *shifted) Snapshots(ctx context.Context, epoch uint64, catalog string, after engine.Version, limit int) ([]engine.Snapshot, error) {
	return x.backend.Snapshots(ctx, epoch+x.by, catalog, after, limit)
}

func (x *shifted) Fold(ctx context.Context, f engine.Fold) error {
	f.Epoch += x.by
	return x.backend.Fold(ctx, f)
}

func (x *shifted) Heartbeat(ctx context.Context, epoch uint64, writer string) (time.Time, error) {
	return x.backend.Heartbeat(ctx, epoch+x.by, writer)
}

func (x *shifted) Stuck(ctx context.Context, epoch uint64) ([]engine.Stuck, error) {
	return x.backend.Stuck(ctx, epoch+x.by)
}

func (x *shifted) Epochs(ctx context.Context) ([]engine.ShardEpoch, error) {
	all, err := x.backend.Epochs(ctx)
	for i := range all {
		all[i].N -= min(x.by, all[i].N)
	}
	return all, err
}

func (x *shifted) Fence(ctx context.Context, shard int, n uint64) error {
	return x.backend.Fence(ctx, shard, n+x.by)
}

func (x *shifted) Restore(ctx context.Context, shard int, n uint64, r engine.Restore) error {
	return x.backend.Restore(ctx, shard, n+x.by, r)
}

func (x *shifted) Reservations(ctx context.Context, shard int, n uint64) ([]engine.SegmentID, error) {
	return x.backend.Reservations(ctx, shard, n+x.by)
}

func (x *shifted) Resolve(ctx context.Context, shard int, n uint64, segment engine.SegmentID, committed []engine.RunKey) error {
	return x.backend.Resolve(ctx, shard, n+x.by, segment, committed)
}

func (x *shifted) Open(ctx context.Context, shard int, n uint64, floor int64) error {
	return x.backend.Open(ctx, shard, n+x.by, floor)
}

func (x *shifted) Next(ctx context.Context, epoch uint64, shards []int, limit int) ([]engine.OutboxBatch, error) {
	return x.backend.Next(ctx, epoch+x.by, shards, limit)
}

func (x *shifted) Trim(ctx context.Context, epoch uint64, shard int, upTo string) error {
	return x.backend.Trim(ctx, epoch+x.by, shard, upTo)
}

// TestAblations switches each defence off and demands that the checker fails
// soon.
func TestAblations(t *testing.T) {
	within := *ablateSeeds
	if testing.Short() {
		t.Skip("ablations take minutes: run make ablate")
	}
	for _, a := range ablations {
		if *ablateOnly != "" && *ablateOnly != a.name {
			continue
		}
		t.Run(a.name, func(t *testing.T) {
			// How many histories show what: all of them, to see that it is harm that is
			// noticed, with -sim.all.
			kinds, noticed := map[string]int{}, 0
			for i := range within {
				seed := *first + uint64(i)
				w := history(t, seed, a.kind, a.name, nil)
				seen := map[string]bool{}
				for _, v := range w.violations {
					if !seen[v.what] {
						kinds[v.what]++
					}
					seen[v.what] = true
				}
				if len(w.violations) > 0 {
					if noticed++; noticed == 1 {
						v := w.violations[0]
						t.Logf("%s: %s: noticed with seed %d, the %d. history: %s: %s", a.name, a.what, seed, i+1, v.what, clip(v.text))
					}
					if !*ablateAll {
						return
					}
				}
			}
			t.Logf("%s: noticed by %d of %d histories: %v", a.name, noticed, within, kinds)
			if noticed == 0 {
				t.Errorf("%s: %s: the checker did not notice within %d histories", a.name, a.what, within)
			}
		})
	}
}
