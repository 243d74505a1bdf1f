package memory_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

func begin(t *testing.T, x *memory.Index, n uint64) {
	t.Helper()
	for s := range engine.Shards {
		if err := errors.Join(x.Fence(t.Context(), s, n), x.Open(t.Context(), s, n, 0)); err != nil {
			t.Fatal(err)
		}
	}
}

// write commits a run of one delta and gives its version.
func write(t *testing.T, x *memory.Index, epoch, n uint64, catalog string) (engine.SegmentID, engine.CommitRun) {
	t.Helper()
	s := engine.SegmentID{Epoch: epoch, Unix: 1, Writer: "aaaaaaaa", N: n}
	res, err := x.PreCommit(t.Context(), engine.PreCommit{Epoch: epoch, Segment: s, Runs: []engine.Reserve{{Catalog: catalog, N: 1}}})
	if err != nil || res.Runs[0].Err != nil {
		t.Fatalf("precommit: got %+v and error %v", res, err)
	}
	c := engine.CommitRun{Catalog: catalog, First: res.Runs[0].First, N: 1, Len: 10}
	commit(t, x, epoch, s, c, engine.RunCommitted)
	return s, c
}

func commit(t *testing.T, x *memory.Index, epoch uint64, s engine.SegmentID, c engine.CommitRun, want engine.CommitState) {
	t.Helper()
	got, err := x.Commit(t.Context(), engine.Commit{Epoch: epoch, Segment: s, Runs: []engine.CommitRun{c}})
	if err != nil || got[0].Err != nil || got[0].State != want {
		t.Fatalf("commit: got %+v and error %v, want state %d", got, err, want)
	}
}

func runs(t *testing.T, x *memory.Index, epoch uint64, catalog string) int {
	t.Helper()
	v, err := x.View(t.Context(), epoch, catalog, engine.Version{})
	if err != nil {
		t.Fatal(err)
	}
	return len(v.Runs)
}

func TestCloneIsAnotherServer(t *testing.T) {
	t.Parallel()
	x := memory.NewIndex(memory.Options{Exclusive: true})
	if !x.Exclusive() {
		t.Fatal("got a shared index, want an exclusive one")
	}
	begin(t, x, 1)
	write(t, x, 1, 1, "users")
	y := x.Clone()
	write(t, x, 1, 2, "users") // the clone does not know of it

	if _, err := y.View(t.Context(), 1, "users", engine.Version{}); !errors.Is(err, engine.ErrEpoch) {
		t.Fatalf("view of a clone: got error %v, want %v", err, engine.ErrEpoch)
	}
	epochs, err := y.Epochs(t.Context())
	if err != nil || epochs[0].N != 1 || epochs[0].Same {
		t.Fatalf("epochs of a clone: got %+v and error %v, want epoch 1 of another server", epochs[0], err)
	}
	begin(t, y, 2)
	write(t, y, 2, 1, "users")
	write(t, y, 2, 2, "users")
	if a, b := runs(t, x, 1, "users"), runs(t, y, 2, "users"); a != 2 || b != 3 {
		t.Fatalf("got %d and %d runs, want 2 and 3", a, b)
	}
}

func TestCloneOfObjects(t *testing.T) {
	t.Parallel()
	a := memory.NewObjects()
	if err := a.Put(t.Context(), "k", []byte("x")); err != nil {
		t.Fatal(err)
	}
	b := a.Clone()
	if err := errors.Join(b.Delete(t.Context(), "k"), b.Put(t.Context(), "l", nil)); err != nil {
		t.Fatal(err)
	}
	if got, err := a.Get(t.Context(), "k"); err != nil || string(got) != "x" {
		t.Fatalf("got %q and error %v", got, err)
	}
	if _, err := a.Get(t.Context(), "l"); !errors.Is(err, engine.ErrNotExist) {
		t.Fatalf("got error %v, want %v", err, engine.ErrNotExist)
	}
}

// A plan is the receipt of its segment for ten minutes; after that, a late
// commit is told that it is gone and inserts nothing.
func TestPlansExpire(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := memory.NewIndex(memory.Options{})
		begin(t, x, 1)
		s, c := write(t, x, 1, 1, "users")
		open := engine.SegmentID{Epoch: 1, Unix: 1, Writer: "bbbbbbbb", N: 1}
		res, err := x.PreCommit(t.Context(), engine.PreCommit{Epoch: 1, Segment: open, Runs: []engine.Reserve{{Catalog: "users", N: 1}}})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10*time.Minute - time.Millisecond)
		commit(t, x, 1, s, c, engine.RunCommitted)
		time.Sleep(time.Millisecond)
		commit(t, x, 1, s, c, engine.RunGone)
		if got := runs(t, x, 1, "users"); got != 1 {
			t.Fatalf("got %d runs, want 1", got)
		}
		// What is undecided stays, however old.
		time.Sleep(24 * time.Hour)
		commit(t, x, 1, open, engine.CommitRun{Catalog: "users", First: res.Runs[0].First, N: 1}, engine.RunCommitted)
	})
}

func TestClosed(t *testing.T) {
	t.Parallel()
	x := memory.NewIndex(memory.Options{})
	if err := errors.Join(x.Close(), x.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Epochs(t.Context()); !errors.Is(err, engine.ErrClosed) {
		t.Fatalf("got error %v, want %v", err, engine.ErrClosed)
	}
}

func TestBadArguments(t *testing.T) {
	t.Parallel()
	x := memory.NewIndex(memory.Options{})
	begin(t, x, 1)
	ctx := t.Context()
	_, snapErr := x.Snapshots(ctx, 1, "users", engine.Version{}, 0)
	_, catErr := x.Catalogs(ctx, 1, "", "", 0)
	_, garbageErr := x.Garbage(ctx, 1, 0, 0)
	_, nextErr := x.Next(ctx, 1, []int{0}, 0)
	_, shardErr := x.Next(ctx, 1, []int{16}, 1)
	_, planErr := x.Plan(ctx, 1, -1, engine.SegmentID{})
	_, leaseErr := x.Acquire(ctx, 0, "l", "t", 0)
	for name, err := range map[string]error{
		"snapshots": snapErr, "catalogs": catErr, "garbage": garbageErr, "next": nextErr, "shard": shardErr, "plan": planErr, "lease": leaseErr,
		"trim": x.Trim(ctx, 1, 0, "x"), "fence": x.Fence(ctx, 16, 1), "release": x.Release(ctx, -1, "l", "t"),
		"restore": x.Restore(ctx, (engine.Shard("users")+1)%engine.Shards, 1, engine.Restore{Runs: []engine.RestoreRun{{Catalog: "users"}}}),
	} {
		if err == nil || errors.Is(err, engine.ErrEpoch) {
			t.Errorf("%s: got error %v, want one about the argument", name, err)
		}
	}
}
