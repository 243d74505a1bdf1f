package bench

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/disk"
)

// BenchmarkList is a page of 100 catalogs by prefix, from the middle of a lake of
// 10³, 10⁵ and 10⁶ catalogs: what it costs must not depend on how many there are. The index is
// filled as a new epoch fills it, with a run of each catalog; a tenth has the
// prefix.
//
//	go test -run '^$' -bench List ./test/bench             # -short: without 10⁶
//
// The pages begin at places all over the prefix; p50 and p99 are of pages.
func BenchmarkList(b *testing.B) {
	for _, n := range []int{1_000, 100_000, 1_000_000} {
		if testing.Short() && n > 100_000 {
			b.Logf("-short: not with %d catalogs", n)
			continue
		}
		for _, adapter := range []struct {
			name string
			open func(b *testing.B) engine.IndexAdapter
		}{
			{"redis", func(b *testing.B) engine.IndexAdapter { return redisIndex(b) }},
			{"disk", func(b *testing.B) engine.IndexAdapter {
				x, err := disk.OpenIndex(b.TempDir(), disk.Options{})
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { _ = x.Close() })
				return x
			}},
		} {
			b.Run(fmt.Sprintf("%s/catalogs=%d", adapter.name, n), func(b *testing.B) {
				x := adapter.open(b)
				fillIndex(b, x, n)
				list(b, x, n)
			})
		}
	}
}

// listed is the name of the i-th of n catalogs; every tenth begins with "user-".
func listed(i int) string {
	if i%10 == 0 {
		return fmt.Sprintf("user-%07d", i)
	}
	return fmt.Sprintf("order-%07d", i)
}

// fillIndex gives an index of an epoch a run of each of n catalogs.
func fillIndex(b *testing.B, x engine.IndexAdapter, n int) {
	b.Helper()
	ctx := context.Background()
	var shards [engine.Shards][]engine.RestoreRun
	v := engine.Version{Sec: 1_700_000_000, Seq: 1}
	flush := func(s int) {
		if len(shards[s]) == 0 {
			return
		}
		if err := x.Restore(ctx, s, 1, engine.Restore{Runs: shards[s]}); err != nil {
			b.Fatal(err)
		}
		shards[s] = shards[s][:0]
	}
	for s := range engine.Shards {
		if err := x.Fence(ctx, s, 1); err != nil {
			b.Fatal(err)
		}
	}
	for i := range n {
		name := listed(i)
		s := engine.Shard(name)
		run := engine.Run{First: v, Last: v, N: 1, Type: engine.MergeTypeMergePatch, Path: "/", Off: int64(i%1000) * 200, Len: 200,
			Segment: engine.SegmentID{Epoch: 1, Unix: 1_700_000_000, Writer: "abcdefgh", N: uint64(i/1000 + 1)}}
		if shards[s] = append(shards[s], engine.RestoreRun{Catalog: name, Run: run}); len(shards[s]) == 500 {
			flush(s)
		}
	}
	for s := range engine.Shards {
		flush(s)
		if err := x.Open(ctx, s, 1, 0); err != nil {
			b.Fatal(err)
		}
	}
}

func list(b *testing.B, x engine.IndexAdapter, n int) {
	b.Helper()
	const page = 100
	var took []time.Duration
	i := 0
	b.ResetTimer()
	for b.Loop() {
		after := 0
		if pages := n / 10 / page; pages > 1 {
			after = i * 37 % (pages - 1) * page * 10
		}
		i++
		begin := time.Now()
		got, err := x.Catalogs(b.Context(), 1, "user-", listed(after), page)
		took = append(took, time.Since(begin))
		if err != nil {
			b.Fatal(err)
		}
		if want := min(page, n/10-1); len(got) != want || got[0].Catalog != listed(after+10) || got[len(got)-1].Catalog != listed(after+10*want) || got[0].Version.IsZero() || got[0].Deltas != 1 {
			b.Fatalf("a page of %d catalogs after %s: %+v…", len(got), listed(after), got[:min(2, len(got))])
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-p50")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
}
