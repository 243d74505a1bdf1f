package redis

import (
	"errors"
	"fmt"
	"testing"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
)

// TestFoldManyRuns: a fold of more runs than one script trims, whole and cut
// short between the scripts.
func TestFoldManyRuns(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	client := server.Client(t)
	ctx := t.Context()
	for _, cut := range []bool{false, true} {
		t.Run(fmt.Sprintf("cut=%v", cut), func(t *testing.T) {
			x := open(t, server.URL)
			begin(t, x, 1)
			if err := x.SetEvents(ctx, true); err != nil {
				t.Fatal(err)
			}
			heads := writeMany(t, x, "users", 3500)
			shard, b64 := engine.Shard("users"), encodeName("users")
			k := &x.keys[shard]
			snap := engine.Snapshot{Stop: heads[2999], DocBytes: 10, PackBytes: 20}
			f := engine.Fold{Epoch: 1, Catalog: "users", Snapshot: snap}
			left := int64(3500 - 3000)
			if cut {
				// The first script ran, the process died.
				c := &call{
					script: x.scripts.Load().fold, shard: shard, keys: []string{k.heads, k.logOf(b64), k.snapOf(b64), k.refs, k.garbage, k.pending, k.outbox, k.catalogs},
					args: []any{"1", b64, "users", fixed(snap.Start), fixed(snap.Stop), "10", "20", snapMember(snap), "3000", "snap|0_0|" + snap.Stop.String() + "|"},
				}
				x.run(ctx, x.work, []*call{c})
				if c.err != nil || c.text(0) != "1" {
					t.Fatalf("got %+v", c)
				}
				if n := client.LLen(ctx, k.logOf(b64)).Val(); n != 2500 {
					t.Fatalf("got %d runs, want 2500", n)
				}
			} else if err := x.Fold(ctx, f); err != nil {
				t.Fatal(err)
			}
			v, err := x.View(ctx, 1, "users", engine.Version{})
			if err != nil || v.Snapshot != snap || int64(len(v.Runs)) != left || v.Head != heads[3499] || v.Runs[0].First != heads[3000] {
				t.Fatalf("got %d runs, %+v, %v, want %d", len(v.Runs), v.Snapshot, err, left)
			}
			if err := x.Fold(ctx, engine.Fold{Epoch: 1, Catalog: "users", Snapshot: engine.Snapshot{Stop: heads[3100]}}); !errors.Is(err, engine.ErrStale) {
				t.Errorf("got %v, want %v", err, engine.ErrStale)
			}
			if cut { // the next fold finishes it
				f.Snapshot = engine.Snapshot{Start: snap.Stop, Stop: heads[3199], DocBytes: 11, PackBytes: 21}
				left = 3500 - 3200
			}
			for range 2 { // and a repetition is a success
				if err := x.Fold(ctx, f); err != nil {
					t.Fatal(err)
				}
			}
			v, err = x.View(ctx, 1, "users", engine.Version{})
			if err != nil || v.Snapshot != f.Snapshot || int64(len(v.Runs)) != left || v.Deltas != left || v.Bytes != left*180 {
				t.Errorf("got %d runs, %d deltas of %d bytes, %+v, %v, want %d", len(v.Runs), v.Deltas, v.Bytes, v.Snapshot, err, left)
			}
			if n := client.LLen(ctx, k.logOf(b64)).Val(); n != left {
				t.Errorf("got %d runs in the live log, want %d", n, left)
			}
			var counts []int64
			batches, err := x.Next(ctx, 1, []int{shard}, 10_000)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range batches[0].Events {
				if e.Kind == engine.EventSnapshotted {
					counts = append(counts, e.Count)
				}
			}
			want := "[3000]"
			if cut {
				want = "[3000 200]"
			}
			if fmt.Sprint(counts) != want {
				t.Errorf("got events of folds of %v deltas, want %s", counts, want)
			}
		})
	}
}

// writeMany commits runs of one, 500 a segment, and gives their versions.
func writeMany(t *testing.T, x *Index, catalog string, n int) (versions []engine.Version) {
	t.Helper()
	for s := uint64(1); len(versions) < n; s++ {
		seg := engine.SegmentID{Epoch: 1, Unix: 1_700_000_000, Writer: "abcdefgh", N: s}
		p := engine.PreCommit{Epoch: 1, Segment: seg}
		for range min(500, n-len(versions)) {
			p.Runs = append(p.Runs, engine.Reserve{Catalog: catalog, N: 1, Path: "/"})
		}
		res, err := x.PreCommit(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		c := engine.Commit{Epoch: 1, Segment: seg}
		for _, r := range res.Runs {
			if r.Err != nil || r.First.IsZero() {
				t.Fatalf("got %+v", r)
			}
			versions = append(versions, r.First)
			c.Runs = append(c.Runs, engine.CommitRun{Catalog: catalog, First: r.First, N: 1, Path: "/", Len: 180})
		}
		done, err := x.Commit(t.Context(), c)
		if err != nil || done[0].State != engine.RunCommitted || done[len(done)-1].State != engine.RunCommitted {
			t.Fatalf("got %+v, %v", done, err)
		}
	}
	return versions
}

// TestTooManyRuns: a call that one script should not do is refused before it is
// sent, the shards beside it are not concerned.
func TestTooManyRuns(t *testing.T) {
	t.Parallel()
	x := open(t, testenv.Redis(t).URL)
	begin(t, x, 1)
	p := engine.PreCommit{Epoch: 1, Segment: engine.SegmentID{Epoch: 1, Unix: 1, Writer: "abcdefgh", N: 1}}
	for range MaxRuns + 1 {
		p.Runs = append(p.Runs, engine.Reserve{Catalog: "users", N: 1})
	}
	p.Runs = append(p.Runs, engine.Reserve{Catalog: "中文", N: 1})
	res, err := x.PreCommit(t.Context(), p)
	if err != nil || !errors.Is(res.Runs[0].Err, engine.ErrInvalid) || res.Runs[MaxRuns+1].Err != nil {
		t.Errorf("got %+v, %+v, %v", res.Runs[0], res.Runs[MaxRuns+1], err)
	}
	p.Segment.N, p.Runs = 2, p.Runs[:MaxRuns]
	res, err = x.PreCommit(t.Context(), p)
	if err != nil || res.Runs[MaxRuns-1].Err != nil {
		t.Fatalf("got %+v, %v", res.Runs[MaxRuns-1], err)
	}
	c := engine.Commit{Epoch: 1, Segment: p.Segment}
	for _, r := range res.Runs {
		c.Runs = append(c.Runs, engine.CommitRun{Catalog: "users", First: r.First, N: 1})
	}
	done, err := x.Commit(t.Context(), c)
	if err != nil || done[MaxRuns-1].State != engine.RunCommitted {
		t.Errorf("got %+v, %v", done[MaxRuns-1], err)
	}
}
