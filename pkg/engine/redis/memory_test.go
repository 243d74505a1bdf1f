package redis

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

// TestMemory holds what the index costs in bytes of Redis, all keys
// together but for receipts.
func TestMemory(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	client := server.Client(t)
	for _, c := range []struct {
		what             string
		catalogs, runs   int // runs a catalog
		deltas           int // a run
		fold             bool
		perRun, perDelta float64 // at most, bytes; 0: not held
		perCatalog       float64
	}{
		{what: "live runs in compact logs", catalogs: 40, runs: 400, deltas: 1, perRun: 120},
		{what: "live runs in long logs", catalogs: 8, runs: 3000, deltas: 1, perRun: 200},
		{what: "runs of a thousand", catalogs: 10, runs: 200, deltas: 1000, perDelta: 0.2},
		{what: "idle catalogs", catalogs: 2000, runs: 1, deltas: 1, fold: true, perCatalog: 700},
	} {
		t.Run(c.what, func(t *testing.T) {
			ctx := t.Context()
			x := open(t, server.URL)
			begin(t, x, 1)
			before := usedMemory(t, x, client)
			const inSegment = 400
			for from, segment := 0, uint64(1); from < c.catalogs*c.runs; from, segment = from+inSegment, segment+1 {
				seg := engine.SegmentID{Epoch: 1, Unix: 1_700_000_000, Writer: "abcdefgh", N: segment}
				p := engine.PreCommit{Epoch: 1, Segment: seg}
				for i := from; i < min(from+inSegment, c.catalogs*c.runs); i++ {
					p.Runs = append(p.Runs, engine.Reserve{Catalog: fmt.Sprintf("catalog-%d", i%c.catalogs), N: c.deltas, Type: merge.MergePatch, Path: "/profile"})
				}
				res, err := x.PreCommit(ctx, p)
				if err != nil {
					t.Fatal(err)
				}
				cm := engine.Commit{Epoch: 1, Segment: seg}
				for i, r := range res.Runs {
					if r.Err != nil || r.State != engine.ReserveOK {
						t.Fatalf("got %+v", r)
					}
					cm.Runs = append(cm.Runs, engine.CommitRun{Catalog: p.Runs[i].Catalog, First: r.First, N: c.deltas, Type: merge.MergePatch, Path: "/profile", Off: int64(i) * 200, Len: 200})
				}
				done, err := x.Commit(ctx, cm)
				if err != nil {
					t.Fatal(err)
				}
				for i, r := range done {
					if r.State != engine.RunCommitted {
						t.Fatalf("got %+v", r)
					}
					if c.fold {
						if err := x.Fold(ctx, engine.Fold{Epoch: 1, Catalog: cm.Runs[i].Catalog, Snapshot: engine.Snapshot{Stop: cm.Runs[i].First, DocBytes: 12345, PackBytes: 678}}); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			used := float64(usedMemory(t, x, client) - before)
			runs := float64(c.catalogs * c.runs)
			t.Logf("%.1f bytes a run, %.3f a delta, %.0f a catalog", used/runs, used/runs/float64(c.deltas), used/float64(c.catalogs))
			if got := used / runs; c.perRun > 0 && got > c.perRun {
				t.Errorf("got %.1f bytes a run, want at most %v", got, c.perRun)
			}
			if got := used / runs / float64(c.deltas); c.perDelta > 0 && got > c.perDelta {
				t.Errorf("got %.3f bytes a delta, want at most %v", got, c.perDelta)
			}
			if got := used / float64(c.catalogs); c.perCatalog > 0 && got > c.perCatalog {
				t.Errorf("got %.0f bytes a catalog, want at most %v", got, c.perCatalog)
			}
		})
	}
}

// usedMemory is the sum of all keys of the index (MEMORY USAGE, every entry of
// theirs), but for receipts, which live for ten minutes.
func usedMemory(t *testing.T, x *Index, c *redis.Client) (n int64) {
	t.Helper()
	it := c.Scan(t.Context(), 0, x.prefix+":*", 1000).Iterator()
	for it.Next(t.Context()) {
		if strings.Contains(it.Val(), ":plan:") {
			continue
		}
		used, err := c.MemoryUsage(t.Context(), it.Val(), 0).Result()
		if err != nil {
			t.Fatal(err)
		}
		n += used
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}
