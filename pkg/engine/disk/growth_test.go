package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// count tells how many keys of a table there are.
func (x *Index) count(t *testing.T, table byte) (n int) {
	t.Helper()
	if err := x.scan([]byte{table}, []byte{table + 1}, func(_, _ []byte) (bool, error) { n++; return true, nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

// What has a time goes when it has come, on the disk and in memory, whether the
// index works on or was closed in between.
func TestExpiry(t *testing.T) {
	t.Parallel()
	var now atomic.Int64
	now.Store(1_700_000_000_000)
	o := Options{CacheBytes: 1 << 20, Clock: func() time.Time { return time.UnixMilli(now.Load()) }}
	dir := t.TempDir()
	open := func() *Index {
		x, err := OpenIndex(dir, o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = x.Close() })
		return x
	}
	x, ctx := open(), t.Context()
	for shard := range engine.Shards {
		if err := errors.Join(x.Fence(ctx, shard, 1), x.Open(ctx, shard, 1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	beat := func(x *Index) {
		t.Helper()
		now.Add(1000)
		if _, err := x.Heartbeat(ctx, 1, "aaaaaaaa"); err != nil {
			t.Fatal(err)
		}
	}
	const segments = 3000
	for n := range uint64(segments) {
		writeOne(ctx, t, x, n+1, fmt.Sprintf("catalog-%d", n%7), fmt.Sprintf("id-%d", n))
		if n%100 == 99 {
			beat(x)
		}
		if n == segments/2 {
			now.Add(-20_000) // clocks are set back
		}
	}
	counts := func(x *Index) []int {
		t.Helper()
		var list []int
		for _, table := range []byte{tablePlan, tableDecided, tableUndecided, tableID, tableReceipt} {
			list = append(list, x.count(t, table))
		}
		return list
	}
	if got, want := counts(x), []int{segments, segments, 0, segments, segments}; !slices.Equal(got, want) {
		t.Fatalf("at first: got %d plans, decided, undecided, ids, receipts, want %d", got, want)
	}
	for _, s := range x.shards {
		if len(s.undecided)+len(s.gates)+len(s.leases) > 0 || len(s.writers) != 1 {
			t.Errorf("shard %d: got %d undecided, %d gates, %d leases, %d writers in memory", s.number, len(s.undecided), len(s.gates), len(s.leases), len(s.writers))
		}
	}
	now.Add(planTTL - 60_000)
	beat(x)
	if got := x.count(t, tablePlan); got != segments {
		t.Errorf("before their time: got %d plans, want %d", got, segments)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	x = open()
	now.Add(120_000)
	for range 20 {
		beat(x)
	}
	if got, want := counts(x), []int{0, 0, 0, segments, segments}; !slices.Equal(got, want) {
		t.Errorf("after the plans' time: got %d plans, decided, undecided, ids, receipts, want %d", got, want)
	}
	id, err := x.Outcome(ctx, 1, "catalog-0", "id-0")
	if err != nil || id.State != engine.IDCommitted {
		t.Errorf("id: got %+v, %v, want it committed", id, err)
	}
	now.Add(engine.IDTTL.Milliseconds())
	if id, err = x.Outcome(ctx, 1, "catalog-0", "id-0"); err != nil || id.State != engine.IDUnknown {
		t.Errorf("id: got %+v, %v, want it unknown", id, err)
	}
	writeOne(ctx, t, x, segments+1, "catalog-0", "id-0") // used again before it was swept
	for range 20 {
		beat(x)
	}
	if got, want := counts(x), []int{1, 1, 0, 1, 1}; !slices.Equal(got, want) {
		t.Errorf("after the ids' time: got %d plans, decided, undecided, ids, receipts, want %d", got, want)
	}
}

func writeOne(ctx context.Context, t testing.TB, x *Index, n uint64, catalog, id string) engine.CommitRun {
	t.Helper()
	s := engine.SegmentID{Epoch: 1, Unix: 1, Writer: "aaaaaaaa", N: n}
	res, err := x.PreCommit(ctx, engine.PreCommit{Epoch: 1, Segment: s, Runs: []engine.Reserve{{Catalog: catalog, N: 1, ID: id}}})
	if err != nil || res.Runs[0].Err != nil || res.Runs[0].State != engine.ReserveOK {
		t.Fatalf("reserve: got %+v, %v", res, err)
	}
	run := engine.CommitRun{Catalog: catalog, First: res.Runs[0].First, N: 1, Len: 100, ID: id}
	got, err := x.Commit(ctx, engine.Commit{Epoch: 1, Segment: s, Runs: []engine.CommitRun{run}})
	if err != nil || got[0].State != engine.RunCommitted {
		t.Fatalf("commit: got %+v, %v", got, err)
	}
	return run
}

// A fold of more runs than are deleted one by one, and of some beside it.
func TestFoldOfMany(t *testing.T) {
	t.Parallel()
	x, err := OpenIndex(t.TempDir(), Options{CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.Close() })
	ctx := t.Context()
	for shard := range engine.Shards {
		if err := errors.Join(x.Fence(ctx, shard, 1), x.Open(ctx, shard, 1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	const runs = 2*pointDeletes + 10
	var last [runs]engine.Version
	s := engine.SegmentID{Epoch: 1, Unix: 1, Writer: "aaaaaaaa", N: 1}
	p := engine.PreCommit{Epoch: 1, Segment: s, Runs: make([]engine.Reserve, runs)}
	for i := range p.Runs {
		p.Runs[i] = engine.Reserve{Catalog: "users", N: 1}
	}
	res, err := x.PreCommit(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	c := engine.Commit{Epoch: 1, Segment: s, Runs: make([]engine.CommitRun, runs)}
	for i, r := range res.Runs {
		c.Runs[i] = engine.CommitRun{Catalog: "users", First: r.First, N: 1, Len: 10}
		last[i] = r.First
	}
	if _, err := x.Commit(ctx, c); err != nil {
		t.Fatal(err)
	}
	var start engine.Version
	for _, at := range []int{pointDeletes + 1, pointDeletes + 2, runs - 1} {
		if err := x.Fold(ctx, engine.Fold{Epoch: 1, Catalog: "users", Snapshot: engine.Snapshot{Start: start, Stop: last[at]}}); err != nil {
			t.Fatal(err)
		}
		start = last[at]
		v, err := x.View(ctx, 1, "users", engine.Version{})
		if left := runs - 1 - at; err != nil || len(v.Runs) != left || v.Deltas != int64(left) || v.Bytes != int64(10*left) {
			t.Fatalf("folded up to %d: got %d runs, %d deltas, %d bytes, %v, want %d runs", at, len(v.Runs), v.Deltas, v.Bytes, err, left)
		}
		if got := x.count(t, tableRun); got != len(v.Runs) {
			t.Errorf("got %d runs on the disk, want %d", got, len(v.Runs))
		}
	}
	if g, err := x.Garbage(ctx, 1, engine.Shard("users"), 10); err != nil || len(g) != 1 || g[0].Segment != s {
		t.Errorf("garbage: got %v, %v, want the segment", g, err)
	}
}

// A count that does not fit what is there is damage, not a document.
func TestLostRun(t *testing.T) {
	t.Parallel()
	x, err := OpenIndex(t.TempDir(), Options{CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.Close() })
	ctx := t.Context()
	for shard := range engine.Shards {
		if err := errors.Join(x.Fence(ctx, shard, 1), x.Open(ctx, shard, 1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	first := writeOne(ctx, t, x, 1, "users", "").First
	writeOne(ctx, t, x, 2, "users", "")
	if err := x.db.Delete(keyRun("users", first), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := x.View(ctx, 1, "users", engine.Version{}); !errors.Is(err, engine.ErrDamaged) {
		t.Errorf("a lost run: got %v, want %v", err, engine.ErrDamaged)
	}
	if err := x.db.Set(keyHead("users"), []byte("nonsense"), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := x.View(ctx, 1, "users", engine.Version{}); !errors.Is(err, engine.ErrDamaged) {
		t.Errorf("a damaged head: got %v, want %v", err, engine.ErrDamaged)
	}
}

// Who waits for a sync of a directory that is under way stops when the
// context ends; the sync that was asked for is made all the same.
func TestSyncWaits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := newDirectories(dir)
	s := &dirSync{} // a round is under way
	d.syncs[dir] = s
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.sync(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	errs := make(chan error, 1)
	go func() { errs <- d.sync(context.Background(), dir) }()
	round := s.next
	d.finish(dir, s)
	<-round.done
	if err := <-errs; err != nil || round.err != nil {
		t.Errorf("got %v and %v, want no error", err, round.err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.syncs) > 1 {
		t.Errorf("got %d directories being synced", len(d.syncs))
	}
}

// After a directory could not be made durable nothing is put any more.
func TestRefusedSync(t *testing.T) {
	t.Parallel()
	o, err := OpenObjects(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.Close() })
	cause := &fs.PathError{Op: "sync", Path: "wal", Err: errors.New("input/output error")}
	var failed error = cause
	o.dirs.failed.Store(&failed)
	if err := o.Put(t.Context(), "wal/1", nil); !errors.Is(err, cause) {
		t.Errorf("got %v, want %v", err, cause)
	}
	if _, err := o.Get(t.Context(), "wal/1"); !errors.Is(err, engine.ErrNotExist) {
		t.Errorf("got %v, want %v", err, engine.ErrNotExist)
	}
}
