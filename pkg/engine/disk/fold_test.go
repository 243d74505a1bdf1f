package disk_test

import (
	"context"
	"testing"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/disk"
)

// meanwhile is a context that does something when it is asked for its error for
// the nth time: work that looks at it between two steps is interrupted there.
type meanwhile struct {
	context.Context
	n  int
	do func()
}

func (c *meanwhile) Err() error {
	if c.n--; c.n == 0 {
		c.do()
	}
	return c.Context.Err()
}

// A run that moves to another segment while a fold counts it leaves the segment
// in which it stands when it is folded. Else the one would be garbage although
// another catalog's run lives in it, and the other would stay for ever.
func TestFoldWhileRunsMove(t *testing.T) {
	t.Parallel()
	x := openIndex(t, t.TempDir(), disk.Options{})
	for shard := range engine.Shards {
		if err := x.Fence(t.Context(), shard, 1); err != nil {
			t.Fatal(err)
		}
		if err := x.Open(t.Context(), shard, 1, 0); err != nil {
			t.Fatal(err)
		}
	}
	segment := func(n uint64) engine.SegmentID {
		return engine.SegmentID{Epoch: 1, Unix: 1_700_000_000, Writer: "aaaaaaaa", N: n}
	}
	folded, cold := "users", "" // of one shard
	for i := 0; cold == ""; i++ {
		if c := string(rune('a' + i)); engine.Shard(c) == engine.Shard(folded) {
			cold = c
		}
	}
	commit := func(s engine.SegmentID, catalogs ...string) (firsts []engine.Version) {
		t.Helper()
		p := engine.PreCommit{Epoch: 1, Segment: s}
		for _, c := range catalogs {
			p.Runs = append(p.Runs, engine.Reserve{Catalog: c, N: 1})
		}
		r, err := x.PreCommit(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		var runs []engine.CommitRun
		for i, c := range catalogs {
			firsts = append(firsts, r.Runs[i].First)
			runs = append(runs, engine.CommitRun{Catalog: c, First: r.Runs[i].First, N: 1, Off: int64(i), Len: 1})
		}
		done, err := x.Commit(t.Context(), engine.Commit{Epoch: 1, Segment: s, Runs: runs})
		if err != nil {
			t.Fatal(err)
		}
		for i, d := range done {
			if d.Err != nil || d.State != engine.RunCommitted {
				t.Fatalf("run %d: got %+v", i, d)
			}
		}
		return firsts
	}
	both, to := segment(1), segment(3)
	first := commit(both, folded, cold)[0]
	many := make([]string, 1023) // a count looks at its context every 1,024 runs
	for i := range many {
		many[i] = folded
	}
	stop := commit(segment(2), many...)[1022]

	moved := false
	ctx := &meanwhile{Context: t.Context(), n: 2, do: func() {
		stands, err := x.Relocate(t.Context(), engine.Relocate{Epoch: 1, To: to, Runs: []engine.Relocation{{Catalog: folded, First: first, From: both, Len: 1}}})
		if err != nil {
			t.Error(err)
		}
		moved = len(stands) == 1 && stands[0]
	}}
	if err := x.Fold(ctx, engine.Fold{Epoch: 1, Catalog: folded, Snapshot: engine.Snapshot{Stop: stop, DocBytes: 1}}); err != nil {
		t.Fatal(err)
	}
	if !moved {
		t.Fatal("the run did not move while the fold was under way")
	}
	live, err := x.Live(t.Context(), 1, engine.Shard(folded), 1_800_000_000, 10)
	if err != nil || len(live) != 1 || live[0] != both {
		t.Errorf("live are %v, %v, want %v, in which %q has a run", live, err, both, cold)
	}
	since, err := x.Unused(t.Context(), 1, []engine.SegmentID{both, to})
	if err != nil || !since[0].Needed || since[1].Needed || since[1].Since.IsZero() {
		t.Errorf("got usage %+v, %v, want the second alone unused", since, err)
	}
}
