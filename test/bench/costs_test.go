package bench

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/memory"
	"github.com/jsonlake/lake/pkg/engine/merge"
	"github.com/jsonlake/lake/pkg/engine/redis"
)

// What a lake costs where the machine has no say: PUTs, commands and scripts of
// Redis, allocations, bytes of the index. Each bound stands a little above what was
// measured, so that whoever makes a write dearer hears of it here. `-v` prints the
// figures. What an idle lake costs is held by TestIdle of pkg/engine and of
// test/e2e.

// heldStore is a bucket whose puts of segments wait until it is let go.
type heldStore struct {
	engine.Objects
	mu   sync.Mutex
	gate chan struct{} // nil: nobody waits
}

func (s *heldStore) hold() (letGo func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gate := make(chan struct{})
	s.gate = gate
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.gate = nil
		close(gate)
	}
}

func (s *heldStore) Put(ctx context.Context, key string, data []byte) error {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	if gate != nil && strings.HasPrefix(key, "wal/") {
		<-gate
	}
	return s.Objects.Put(ctx, key, data)
}

// Writes that wait together share segments: they cost the bucket one PUT for as
// many as fit, 1,000 runs a shard and 4 MiB, counted by the engine's hook.
func TestPuts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what                  string
		writes, catalogs, max int // max PUTs
		bytes                 int // of a body
	}{
		{"1,000 writes of 1,000 catalogs: one segment", 1000, 1000, 1, 100},
		{"1,000 writes of one catalog: one segment", 1000, 1, 1, 100},
		{"4,000 writes of one catalog: 1,000 runs of a shard a segment", 4000, 1, 4, 100},
		{"8,000 writes of 1,000 catalogs: 4 MiB hold them, and no shard has 1,000", 8000, 1000, 1, 100},
		{"64 writes of 256 KiB: 15 and their headers fit into 4 MiB", 64, 64, 5, 256 << 10},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := &heldStore{Objects: memory.NewObjects()}
				var mu sync.Mutex
				var puts, runs int
				const inflight = 8
				e, err := engine.New(t.Context(), memory.NewIndex(memory.Options{}), store, engine.Options{MaxInflight: inflight, Hooks: engine.Hooks{
					SegmentPut: func(n, _ int, _ time.Duration) {
						mu.Lock()
						defer mu.Unlock()
						puts++
						runs += n
					},
				}})
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := e.Close(context.WithoutCancel(t.Context())); err != nil {
						t.Error(err)
					}
				}()
				letGo := store.hold()
				body := []byte(`{"text":"` + strings.Repeat("x", c.bytes-11) + `"}`)
				var wg sync.WaitGroup
				send := func(catalog string) {
					wg.Go(func() {
						if _, err := e.Write(t.Context(), engine.WriteRequest{Catalog: catalog, Body: body}); err != nil {
							t.Error(err)
						}
					})
				}
				for i := range inflight { // each leaves alone: then all places on the way are taken
					send(fmt.Sprintf("first-%d", i))
					synctest.Wait()
				}
				for i := range c.writes {
					send(fmt.Sprintf("catalog-%d", i%c.catalogs))
				}
				synctest.Wait()
				letGo()
				wg.Wait()
				if runs != c.writes+inflight {
					t.Errorf("got %d runs put, want %d", runs, c.writes+inflight)
				}
				t.Logf("%d PUTs for %d writes", puts-inflight, c.writes)
				if got := puts - inflight; got > c.max {
					t.Errorf("got %d PUTs for %d writes that waited together, want at most %d", got, c.writes, c.max)
				}
			})
		})
	}
}

// redisCounts are commands of a redis-server by name, those within scripts too.
type redisCounts map[string]int

func countRedis(t *testing.T, c *goredis.Client) redisCounts {
	t.Helper()
	text, err := c.Info(t.Context(), "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	n := redisCounts{}
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":calls=")
		if !ok {
			continue
		}
		calls, _, _ := strings.Cut(rest, ",")
		if n[strings.TrimPrefix(name, "cmdstat_")], err = strconv.Atoi(calls); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func (n redisCounts) since(before redisCounts) (commands, scripts int) {
	for name, calls := range n {
		calls -= before[name]
		if commands += calls; strings.HasPrefix(name, "eval") {
			scripts += calls
		}
	}
	return commands, scripts
}

// openRedis is an index on a server, under a name, in epoch 1.
func openRedis(t *testing.T, url, name string) *redis.Index {
	t.Helper()
	x, err := redis.OpenIndex(t.Context(), redis.Options{URL: url, Name: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	for s := range engine.Shards {
		if err := x.Fence(t.Context(), s, 1); err != nil {
			t.Fatal(err)
		}
	}
	for s := range engine.Shards {
		if err := x.Open(t.Context(), s, 1, 0); err != nil {
			t.Fatal(err)
		}
	}
	return x
}

// commitSegment reserves and commits a segment of runs of n deltas.
func commitSegment(t *testing.T, x *redis.Index, number uint64, n int, catalogs []string) engine.Commit {
	t.Helper()
	seg := engine.SegmentID{Epoch: 1, Unix: 1_700_000_000, Writer: "abcdefgh", N: number}
	p := engine.PreCommit{Epoch: 1, Segment: seg}
	for _, c := range catalogs {
		p.Runs = append(p.Runs, engine.Reserve{Catalog: c, N: n, Type: merge.MergePatch, Path: "/profile"})
	}
	res, err := x.PreCommit(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	c := engine.Commit{Epoch: 1, Segment: seg}
	for i, r := range res.Runs {
		if r.Err != nil || r.State != engine.ReserveOK {
			t.Fatalf("run %d: %+v", i, r)
		}
		c.Runs = append(c.Runs, engine.CommitRun{Catalog: catalogs[i], First: r.First, N: n, Type: merge.MergePatch, Path: "/profile", Off: int64(i) * 200, Len: 200, Author: "somebody"})
	}
	done, err := x.Commit(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range done {
		if r.State != engine.RunCommitted {
			t.Fatalf("run %d: %+v", i, r)
		}
	}
	return c
}

func catalogNames(n, of int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("catalog-%d", i%of)
	}
	return names
}

// TestRedisCommands holds what a write costs the index in commands and scripts,
// events on: a segment is a script of reservation and one of commit for 128 runs, of whole
// shards, and a run is one RPUSH at most within them.
func TestRedisCommands(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	client := server.Client(t)
	for i, c := range []struct {
		what           string
		runs, catalogs int
		scripts        float64 // a segment, at most
		commands       float64 // a run, at most
	}{
		{"alone: two scripts, and all that is paid once a segment and shard", 1, 100, 2, 20},
		{"64 runs, one catalog: one shard has them all", 64, 1, 2, 0.32},
		{"64 runs of 1,000 catalogs: every shard has a few", 64, 1000, 2, 4.4},
		{"1,000 runs, one catalog: one RPUSH takes many runs", 1000, 1, 2, 0.021},
		{"1,000 runs of 1,000 catalogs: one RPUSH a catalog, the rest once a shard", 1000, 1000, 22, 1.3},
	} {
		t.Run(c.what, func(t *testing.T) {
			x := openRedis(t, server.URL, fmt.Sprintf("commands%d", i))
			if err := x.SetEvents(t.Context(), true); err != nil {
				t.Fatal(err)
			}
			names, next, number := catalogNames(c.catalogs, c.catalogs), 0, uint64(0)
			segment := func() {
				of := make([]string, c.runs)
				for i := range of {
					of[i] = names[next%len(names)]
					next++
				}
				number++
				commitSegment(t, x, number, 1, of)
			}
			for next < 2*len(names) {
				segment() // connections, and heads that are there
			}
			const segments = 20
			before := countRedis(t, client)
			for range segments {
				segment()
			}
			commands, scripts := countRedis(t, client).since(before)
			commands-- // the INFO that counts
			perRun, perSegment := float64(commands)/float64(segments*c.runs), float64(scripts)/segments
			t.Logf("%.3f commands a run, %.2f scripts a segment", perRun, perSegment)
			if perRun > c.commands {
				t.Errorf("got %.3f commands a run, want at most %v", perRun, c.commands)
			}
			if perSegment > c.scripts {
				t.Errorf("got %.2f scripts a segment, want at most %v", perSegment, c.scripts)
			}
		})
	}
}

// TestRedisMemory holds what the index keeps in Redis, bytes of MEMORY USAGE over
// all its keys but for receipts of segments, which live for ten minutes.
func TestRedisMemory(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	client := server.Client(t)
	for i, c := range []struct {
		what             string
		catalogs, runs   int // runs a catalog
		deltas           int // a run
		fold             bool
		perRun, perDelta float64 // at most, bytes; 0: not held
		perCatalog       float64
	}{
		{what: "a live run: an element of a list", catalogs: 40, runs: 400, deltas: 1, perRun: 80},
		{what: "a live run of a long log: no more", catalogs: 8, runs: 3000, deltas: 1, perRun: 80},
		{what: "a delta in runs of 1,000: a run is one element, however long", catalogs: 10, runs: 200, deltas: 1000, perDelta: 0.115},
		{what: "a catalog whose log is folded: head, snapshot and name", catalogs: 2000, runs: 1, deltas: 1, fold: true, perCatalog: 370},
	} {
		t.Run(c.what, func(t *testing.T) {
			name := fmt.Sprintf("memory%d", i)
			x := openRedis(t, server.URL, name)
			before := redisMemory(t, client, name)
			const inSegment = 400
			all := catalogNames(c.catalogs*c.runs, c.catalogs)
			for from, number := 0, uint64(1); from < len(all); from, number = from+inSegment, number+1 {
				done := commitSegment(t, x, number, c.deltas, all[from:min(from+inSegment, len(all))])
				for _, r := range done.Runs {
					if !c.fold {
						break
					}
					if err := x.Fold(t.Context(), engine.Fold{Epoch: 1, Catalog: r.Catalog, Snapshot: engine.Snapshot{Stop: r.First, DocBytes: 12345, PackBytes: 678}}); err != nil {
						t.Fatal(err)
					}
				}
			}
			used, runs := float64(redisMemory(t, client, name)-before), float64(len(all))
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

func redisMemory(t *testing.T, c *goredis.Client, name string) (n int64) {
	t.Helper()
	keys := 0
	it := c.Scan(t.Context(), 0, "lake:"+name+":*", 1000).Iterator()
	for ; it.Next(t.Context()); keys++ {
		if strings.Contains(it.Val(), ":plan:") {
			continue
		}
		used, err := c.MemoryUsage(t.Context(), it.Val(), 0).Result()
		if err != nil {
			t.Fatal(err)
		}
		n += used
	}
	if err := it.Err(); err != nil || keys == 0 {
		t.Fatalf("%d keys of %s: %v", keys, name, err)
	}
	return n
}

// perDelta is how many allocations one more delta costs, from 1,000 deltas to
// 3,000, so that what is paid once does not count.
func perDelta(do func(deltas int)) float64 {
	at := func(n int) float64 { return testing.AllocsPerRun(5, func() { do(n) }) }
	return (at(3000) - at(1000)) / 2000
}

// TestAllocations holds what one more delta allocates where deltas come by the
// million: parsed out of a batch, and merged into a document. Not parallel: what
// runs beside would be counted.
func TestAllocations(t *testing.T) {
	doc := document(100_000)
	lines := func(n int) []byte {
		var b []byte
		for i := range n {
			b = engine.AppendLine(b, &engine.WriteRequest{Path: fmt.Sprintf("/m%d", i%100), Body: fmt.Appendf(nil, `{"n":%d,"name":"somebody"}`, i)})
		}
		return b
	}
	batches := map[int][]byte{1000: lines(1000), 3000: lines(3000)}
	deltas := func(ds ...merge.Delta) []merge.Delta {
		all := make([]merge.Delta, 3000)
		for i := range all {
			d := ds[i%len(ds)]
			// A tenth of the records, so that 1,000 deltas have come to all of them.
			n := strconv.Itoa(i / len(ds) % 40)
			d.Path, d.Body = strings.ReplaceAll(d.Path, "#", n), []byte(strings.ReplaceAll(string(d.Body), "#", n))
			all[i] = d
		}
		return all
	}
	e, err := engine.New(t.Context(), memory.NewIndex(memory.Options{}), memory.NewObjects(), engine.Options{FrameCache: -1, DocumentCache: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	merged := func(ds []merge.Delta) func(n int) {
		return func(n int) {
			_, outcomes, err := merge.Merge(doc, ds[:n], merge.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			for i, o := range outcomes {
				if o.Status != merge.Applied {
					t.Fatalf("delta %d: %+v", i, o)
				}
			}
		}
	}
	for _, c := range []struct {
		what string
		max  float64
		do   func(n int)
	}{
		{"a line of a batch, from text to committed: nothing", 0.01, func(n int) {
			if r, err := e.WriteBatch(t.Context(), engine.BatchRequest{Catalog: "c", Lines: batches[n]}); err != nil || r.Count != n {
				t.Fatalf("%+v, %v", r, err)
			}
		}},
		{"replace: where it stands", 1.01, merged(deltas(merge.Delta{Type: merge.Replace, Path: "/record#/n", Body: []byte(`12`)}))},
		{"merge patch at a path: where it stands", 1.01, merged(deltas(merge.Delta{Type: merge.MergePatch, Path: "/record#", Body: []byte(`{"n":12,"more":{"a":true}}`)}))},
		{"merge patch at the root: where it stands", 1.01, merged(deltas(merge.Delta{Type: merge.MergePatch, Path: "/", Body: []byte(`{"record#":{"n":12,"more":{"a":true}}}`)}))},
		{"JSON Patch: where it stands", 1.01, merged(deltas(merge.Delta{Type: merge.JSONPatch, Path: "/record#", Body: []byte(`[{"op":"test","path":"/name","value":"somebody"},{"op":"replace","path":"/n","value":12}]`)}))},
		{"delete, and write again", 1.01, merged(deltas(merge.Delta{Type: merge.Delete, Path: "/record#/n"}, merge.Delta{Type: merge.Replace, Path: "/record#/n", Body: []byte(`12`)}))},
	} {
		t.Run(c.what, func(t *testing.T) {
			got := perDelta(c.do)
			t.Logf("%.4f allocations a delta", got)
			if got > c.max {
				t.Errorf("got %.4f allocations a delta, want at most %v", got, c.max)
			}
		})
	}
	t.Run("a write of one delta, alone, from request to answer", func(t *testing.T) {
		body := []byte(`{"n":12}`)
		got := testing.AllocsPerRun(200, func() {
			if _, err := e.Write(t.Context(), engine.WriteRequest{Catalog: "alone", Path: "/a", Body: body}); err != nil {
				t.Fatal(err)
			}
		})
		t.Logf("%.1f allocations", got)
		if got > 58 {
			t.Errorf("got %.1f allocations, want at most 58", got)
		}
	})
}
