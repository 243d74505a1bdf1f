package redis

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

// begin opens epoch n.
func begin(tb testing.TB, x *Index, n uint64) {
	tb.Helper()
	for s := range engine.Shards {
		if err := x.Fence(tb.Context(), s, n); err != nil {
			tb.Fatal(err)
		}
	}
	for s := range engine.Shards {
		if err := x.Open(tb.Context(), s, n, 0); err != nil {
			tb.Fatal(err)
		}
	}
}

// BenchmarkWrite is PreCommit and Commit of segments: the wall time, the
// server's CPU and its commands a run. On a server of its own, with the log on
// as in production.
func BenchmarkWrite(b *testing.B) {
	for _, c := range []struct {
		runs, catalogs int
		events         bool
		live           int // runs of each catalog's log, before
	}{
		{1, 1000, false, 1}, {64, 1000, false, 1}, {64, 1000, true, 1}, {64, 1, true, 1}, {1000, 1000, false, 1}, {1000, 1000, true, 1}, {1000, 1, true, 1},
		{400, 1000, true, 1}, {400, 1000, true, 100}, {400, 1000, true, 400},
	} {
		b.Run(fmt.Sprintf("runs=%d/catalogs=%d/events=%v/live=%d", c.runs, c.catalogs, c.events, c.live), func(b *testing.B) {
			server := testenv.Redis(b)
			client := server.Client(b)
			x := open(b, server.URL)
			begin(b, x, 1)
			if err := x.SetEvents(b.Context(), c.events); err != nil {
				b.Fatal(err)
			}
			names := make([]string, c.catalogs)
			for i := range names {
				names[i] = fmt.Sprintf("catalog-%d", i)
			}
			next, n := 0, uint64(0)
			segment := func() {
				n++
				seg := engine.SegmentID{Epoch: 1, Unix: 1_700_000_000, Writer: "abcdefgh", N: n}
				p := engine.PreCommit{Epoch: 1, Segment: seg}
				for range c.runs {
					p.Runs = append(p.Runs, engine.Reserve{Catalog: names[next%len(names)], N: 1, Type: merge.MergePatch, Path: "/profile"})
					next++
				}
				res, err := x.PreCommit(b.Context(), p)
				if err != nil {
					b.Fatal(err)
				}
				cm := engine.Commit{Epoch: 1, Segment: seg}
				for i, r := range res.Runs {
					if r.Err != nil || r.State != engine.ReserveOK {
						b.Fatalf("run %d: %+v", i, r)
					}
					cm.Runs = append(cm.Runs, engine.CommitRun{Catalog: p.Runs[i].Catalog, First: r.First, N: 1, Type: merge.MergePatch, Path: "/profile", Off: int64(i) * 180, Len: 180, Author: "somebody"})
				}
				done, err := x.Commit(b.Context(), cm)
				if err != nil {
					b.Fatal(err)
				}
				for i, r := range done {
					if r.State != engine.RunCommitted {
						b.Fatalf("run %d: %+v", i, r)
					}
				}
			}
			for next < c.live*len(names) {
				segment() // heads and connections
			}
			before, cpu := commands(b, client), serverCPU(b, client)
			b.ReportAllocs()
			for b.Loop() {
				segment()
			}
			b.StopTimer()
			runs := float64(b.N * c.runs)
			b.ReportMetric(float64(b.Elapsed().Microseconds())/runs, "µs/run")
			b.ReportMetric((serverCPU(b, client)-cpu)/runs, "redis-µs/run")
			b.ReportMetric(float64(commands(b, client)-before)/runs, "commands/run")
		})
	}
}

// BenchmarkView is the view of an unchanged head.
func BenchmarkView(b *testing.B) {
	server := testenv.Redis(b)
	client := server.Client(b)
	x := open(b, server.URL)
	begin(b, x, 1)
	heads := make([]engine.Version, 1000)
	name := func(i int) string { return fmt.Sprintf("catalog-%d", i) }
	for i := range heads {
		heads[i] = write(b, x, name(i), uint64(i+1))
	}
	for _, have := range []bool{true, false} {
		b.Run(fmt.Sprintf("unchanged=%v", have), func(b *testing.B) {
			cpu := serverCPU(b, client)
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					after := engine.Version{}
					if have {
						after = heads[i%1000]
					}
					if v, err := x.View(b.Context(), 1, name(i%1000), after); err != nil || v.Head != heads[i%1000] {
						b.Errorf("got %+v, %v", v, err)
						return
					}
				}
			})
			b.ReportMetric((serverCPU(b, client)-cpu)/float64(b.N), "redis-µs/view")
		})
	}
}

// write commits a run of one in a segment of its own.
func write(tb testing.TB, x *Index, catalog string, n uint64) engine.Version {
	tb.Helper()
	seg := engine.SegmentID{Epoch: 1, Unix: 1_700_000_000, Writer: "abcdefgh", N: n}
	res, err := x.PreCommit(tb.Context(), engine.PreCommit{Epoch: 1, Segment: seg, Runs: []engine.Reserve{{Catalog: catalog, N: 1, Type: merge.Replace, Path: "/profile"}}})
	if err != nil || res.Runs[0].Err != nil || res.Runs[0].State != engine.ReserveOK {
		tb.Fatalf("precommit: %+v, %v", res, err)
	}
	first := res.Runs[0].First
	done, err := x.Commit(tb.Context(), engine.Commit{Epoch: 1, Segment: seg, Runs: []engine.CommitRun{{Catalog: catalog, First: first, N: 1, Type: merge.Replace, Path: "/profile", Len: 180}}})
	if err != nil || done[0].State != engine.RunCommitted {
		tb.Fatalf("commit: %+v, %v", done, err)
	}
	return first
}

// commands is how many commands the server has run, those inside scripts too.
func commands(tb testing.TB, c *redis.Client) (n int) {
	tb.Helper()
	for line := range strings.Lines(info(tb, c, "commandstats")) {
		if _, rest, ok := strings.Cut(line, ":calls="); ok {
			calls, _, _ := strings.Cut(rest, ",")
			i, err := strconv.Atoi(calls)
			if err != nil {
				tb.Fatal(err)
			}
			n += i
		}
	}
	return n
}

// serverCPU is the server's CPU time so far in microseconds.
func serverCPU(tb testing.TB, c *redis.Client) (us float64) {
	tb.Helper()
	text := info(tb, c, "cpu")
	for _, name := range []string{"used_cpu_sys_main_thread", "used_cpu_user_main_thread"} {
		f, err := strconv.ParseFloat(infoField(text, name), 64)
		if err != nil {
			tb.Fatal(err)
		}
		us += f * 1e6
	}
	return us
}

func info(tb testing.TB, c *redis.Client, section string) string {
	tb.Helper()
	text, err := c.Info(context.WithoutCancel(tb.Context()), section).Result()
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

// BenchmarkRestore is what a new epoch puts back: catalogs with a snapshot and a
// run each.
func BenchmarkRestore(b *testing.B) {
	server := testenv.Redis(b)
	client := server.Client(b)
	x := open(b, server.URL)
	const shard, page = 3, 500
	if err := x.Fence(b.Context(), shard, 1); err != nil {
		b.Fatal(err)
	}
	n, made := 0, 0
	cpu := serverCPU(b, client)
	for b.Loop() {
		b.StopTimer()
		var r engine.Restore
		for ; len(r.Runs) < page; n++ {
			name := fmt.Sprintf("catalog-%d", n)
			if engine.Shard(name) != shard {
				continue
			}
			stop, first := engine.Version{Sec: 1_700_000_000, Seq: 1}, engine.Version{Sec: 1_700_000_000, Seq: 2}
			r.Snapshots = append(r.Snapshots, engine.RestoreSnapshot{Catalog: name, Snapshot: engine.Snapshot{Stop: stop, DocBytes: 100}})
			r.Runs = append(r.Runs, engine.RestoreRun{Catalog: name, Run: engine.Run{First: first, Last: first, N: 1, Type: merge.Replace, Path: "/", Len: 100, Segment: engine.SegmentID{Epoch: 1, Unix: 1, Writer: "abcdefgh", N: 1}}})
		}
		b.StartTimer()
		if err := x.Restore(b.Context(), shard, 1, r); err != nil {
			b.Fatal(err)
		}
		made += page
	}
	b.ReportMetric(float64(made)/b.Elapsed().Seconds(), "catalogs/s")
	b.ReportMetric((serverCPU(b, client)-cpu)/float64(made), "redis-µs/catalog")
}
