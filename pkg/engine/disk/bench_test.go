//go:build linux

package disk_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/disk"
)

// A durable put of 1 KB beside the least that durability costs: append and
// fdatasync to one file. On ext4 the price of making a file rises for minutes
// after many were deleted near by (it steps over inodes freed lately): judge
// on a directory where nothing was deleted, TMPDIR says which.
func BenchmarkPut(b *testing.B) {
	data := make([]byte, 1024)
	b.Run("append+fdatasync", func(b *testing.B) {
		f, err := os.Create(filepath.Join(b.TempDir(), "log"))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		for b.Loop() {
			if _, err := f.Write(data); err != nil {
				b.Fatal(err)
			}
			if err := unix.Fdatasync(int(f.Fd())); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, writers := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("put/%d at once", writers), func(b *testing.B) {
			o := openObjects(b, b.TempDir())
			if err := o.Put(b.Context(), "wal/000001/0", data); err != nil {
				b.Fatal(err)
			}
			var n atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range writers {
				wg.Go(func() {
					for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
						if err := o.Put(b.Context(), fmt.Sprintf("wal/000001/%010d", i), data); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

func benchIndex(b *testing.B) *disk.Index {
	b.Helper()
	x := openIndex(b, b.TempDir(), disk.Options{CacheBytes: 64 << 20})
	if err := fenceAndOpen(b.Context(), x, 1); err != nil {
		b.Fatal(err)
	}
	return x
}

// One operation is a segment: PreCommit and Commit of its runs, each of another
// catalog of a thousand.
func BenchmarkCommit(b *testing.B) {
	for _, events := range []bool{false, true} {
		for _, runs := range []int{1, 64, 1000} {
			b.Run(fmt.Sprintf("%d runs, events %v", runs, events), func(b *testing.B) {
				x := benchIndex(b)
				if err := x.SetEvents(b.Context(), events); err != nil {
					b.Fatal(err)
				}
				n, catalog := uint64(0), 0
				for b.Loop() {
					n++
					catalog = commitSegment(b, x, n, runs, catalog)
				}
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*runs), "µs/run")
			})
		}
	}
}

func commitSegment(b *testing.B, x *disk.Index, n uint64, runs, catalog int) (next int) {
	s := engine.SegmentID{Epoch: 1, Unix: 1, Writer: "aaaaaaaa", N: n}
	p := engine.PreCommit{Epoch: 1, Segment: s, Runs: make([]engine.Reserve, runs)}
	for i := range p.Runs {
		p.Runs[i] = engine.Reserve{Catalog: benchNames[catalog], N: 1, Path: "/profile"}
		catalog = (catalog + 1) % len(benchNames)
	}
	res, err := x.PreCommit(b.Context(), p)
	if err != nil {
		b.Fatal(err)
	}
	c := engine.Commit{Epoch: 1, Segment: s, Runs: make([]engine.CommitRun, runs)}
	for i := range c.Runs {
		c.Runs[i] = engine.CommitRun{Catalog: p.Runs[i].Catalog, First: res.Runs[i].First, N: 1, Path: "/profile", Off: int64(i) * 200, Len: 200}
	}
	got, err := x.Commit(b.Context(), c)
	if err != nil {
		b.Fatal(err)
	}
	for _, r := range got {
		if r.State != engine.RunCommitted {
			b.Fatalf("got %+v", r)
		}
	}
	return catalog
}

var benchNames = func() (names []string) {
	for i := range 1000 {
		names = append(names, fmt.Sprintf("catalog-%04d", i))
	}
	return names
}()

func BenchmarkView(b *testing.B) {
	x := benchIndex(b)
	for n := range uint64(100) {
		commitSegment(b, x, n+1, len(benchNames), 0)
	}
	v, err := x.View(b.Context(), 1, "catalog-0500", engine.Version{})
	if err != nil || len(v.Runs) != 100 {
		b.Fatal(len(v.Runs), err)
	}
	for name, after := range map[string]engine.Version{"unchanged head": v.Head, "one new run": v.Runs[98].Last, "100 runs": {}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := x.View(b.Context(), 1, "catalog-0500", after); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A million catalogs must not make a head slower to find.
func BenchmarkHeadOfMany(b *testing.B) {
	x := benchIndex(b)
	const catalogs = 300_000
	for shard := range engine.Shards {
		if err := x.Fence(b.Context(), shard, 2); err != nil {
			b.Fatal(err)
		}
	}
	var list [engine.Shards][]engine.RestoreRun
	first := engine.Version{Sec: 1_700_000_000, Seq: 1}
	for i := range catalogs {
		name := fmt.Sprintf("catalog-%07d", i)
		s := engine.Shard(name)
		list[s] = append(list[s], engine.RestoreRun{Catalog: name, Run: engine.Run{First: first, Last: first, N: 1, Segment: engine.SegmentID{Epoch: 1, Writer: "aaaaaaaa", N: uint64(i)}}})
		if len(list[s]) == 500 {
			if err := x.Restore(b.Context(), s, 2, engine.Restore{Runs: list[s]}); err != nil {
				b.Fatal(err)
			}
			list[s] = nil
		}
	}
	for shard := range engine.Shards {
		if err := x.Open(b.Context(), shard, 2, 0); err != nil {
			b.Fatal(err)
		}
	}
	i := 0
	for b.Loop() {
		i = (i + 7919) % catalogs
		if _, err := x.View(b.Context(), 2, fmt.Sprintf("catalog-%07d", i), first); err != nil {
			b.Fatal(err)
		}
	}
}
