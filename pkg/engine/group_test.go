package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/enginetest"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

// slowed is an engine whose puts take put, and each call of its index script.
func slowed(t *testing.T, put, script time.Duration) (*engine.Engine, *enginetest.FaultyObjects) {
	t.Helper()
	index := enginetest.NewFaultyIndex(memory.NewIndex(memory.Options{}), func(c enginetest.Call) enginetest.Fault {
		if c.Op == "PreCommit" || c.Op == "Commit" {
			return enginetest.Fault{Delay: script}
		}
		return enginetest.Fault{}
	})
	return slowPuts(t, index, put, engine.Options{})
}

// slowPuts is an engine on an index whose puts take so long.
func slowPuts(t *testing.T, index engine.IndexAdapter, put time.Duration, o engine.Options) (*engine.Engine, *enginetest.FaultyObjects) {
	t.Helper()
	objects := enginetest.NewFaultyObjects(memory.NewObjects(), func(c enginetest.Call) enginetest.Fault {
		if c.Op == "Put" {
			return enginetest.Fault{Delay: put}
		}
		return enginetest.Fault{}
	})
	e, err := engine.New(t.Context(), index, objects, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return e, objects
}

// How groups form is a matter of waiting alone: with time that only passes while
// everybody waits, it does not depend on the machine.
func TestGroupsForm(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		writers     int
		put, script time.Duration
		share       float64 // of writers ÷ (put + 10 %), at least
		puts        float64 // of 1,000 writes, at most
	}{
		{1, 50 * time.Millisecond, time.Millisecond, 1, 1000},
		{2, 50 * time.Millisecond, time.Millisecond, 1, 1000},
		{16, 50 * time.Millisecond, time.Millisecond, 0.9, 510},
		{1024, 50 * time.Millisecond, time.Millisecond, 0.9, 12}, // P2
		{1024, 180 * time.Millisecond, time.Millisecond, 0.9, 12},
		{16, 2 * time.Millisecond, 300 * time.Microsecond, 0.5, 250},
		{1024, 2 * time.Millisecond, 2 * time.Millisecond, 0.2, 4},
	} {
		t.Run(fmt.Sprintf("%d writers, %v a put", c.writers, c.put), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e, objects := slowed(t, c.put, c.script)
				before := objects.Counts.Count("Put")
				begin := time.Now()
				end := begin.Add(10 * c.put)
				writes := make([]int, c.writers)
				var longest time.Duration
				var mu sync.Mutex
				var wg sync.WaitGroup
				for w := range c.writers {
					wg.Go(func() {
						for time.Now().Before(end) {
							start := time.Now()
							if _, err := e.Write(t.Context(), engine.WriteRequest{Catalog: fmt.Sprintf("c%d", w), Body: []byte(`{"a":1}`)}); err != nil {
								t.Error(err)
								return
							}
							mu.Lock()
							longest = max(longest, time.Since(start))
							mu.Unlock()
							writes[w]++
						}
					})
				}
				wg.Wait()
				took := time.Since(begin)
				n := 0
				for _, w := range writes {
					n += w
				}
				limit := float64(c.writers) / (c.put + c.put/10).Seconds()
				share := float64(n) / took.Seconds() / limit
				puts := float64(objects.Counts.Count("Put")-before) * 1000 / float64(n)
				t.Logf("%.2f of the limit, %.1f puts of 1,000 writes, the longest %v", share, puts, longest)
				if share < c.share || puts > c.puts {
					t.Errorf("got %.2f of %d writers ÷ (put + 10 %%), want ≥ %.2f; %.1f puts of 1,000 writes, want ≤ %.1f", share, c.writers, c.share, puts, c.puts)
				}
			})
		})
	}
}

// Writes that come by chance, so many a second, share segments and hardly wait for it.
func TestGroupsOfASchedule(t *testing.T) {
	t.Parallel()
	const put, script = 50 * time.Millisecond, time.Millisecond
	for _, c := range []struct {
		perSecond float64
		wait      time.Duration // on average, beside put and scripts, at most
		puts      float64       // of 1,000 writes, at most
	}{
		{20, 1 * time.Millisecond, 1000},
		{100, 5 * time.Millisecond, 700},
		{300, 6 * time.Millisecond, 280},
		{1000, 6 * time.Millisecond, 160},
		{5000, 6 * time.Millisecond, 40},
	} {
		t.Run(fmt.Sprintf("%v a second", c.perSecond), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e, objects := slowed(t, put, script)
				before := objects.Counts.Count("Put")
				rng := rand.New(rand.NewPCG(1, 2))
				var sum atomic.Int64
				var wg sync.WaitGroup
				n := 0
				for begin := time.Now(); time.Since(begin) < 10*time.Second; n++ {
					time.Sleep(time.Duration(rng.ExpFloat64() / c.perSecond * float64(time.Second)))
					catalog := fmt.Sprintf("c%d", rng.IntN(1000))
					wg.Go(func() {
						start := time.Now()
						write(t, e, catalog, "/", engine.MergeTypeReplace, "1")
						sum.Add(int64(time.Since(start)))
					})
				}
				wg.Wait()
				wait := time.Duration(sum.Load()/int64(n)) - put - 2*script
				puts := float64(objects.Counts.Count("Put")-before) * 1000 / float64(n)
				t.Logf("a write waited %v on average; %.0f puts of 1,000 writes", wait.Round(10*time.Microsecond), puts)
				if wait > c.wait || puts > c.puts {
					t.Errorf("a write waited %v on average, want at most %v; %.0f puts of 1,000 writes, want at most %.0f", wait, c.wait, puts, c.puts)
				}
			})
		})
	}
}

// A write is not held up by segments that are, for more than a moment.
func TestGroupLeavesBesideStuckPut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, _ := slowed(t, 3*time.Second, 0)
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() { write(t, e, fmt.Sprintf("c%d", i), "/", engine.MergeTypeReplace, "1") })
		}
		time.Sleep(time.Second)
		start := time.Now()
		write(t, e, "late", "/", engine.MergeTypeReplace, "1")
		if took := time.Since(start); took > 3*time.Second+50*time.Millisecond {
			t.Errorf("a write beside five that wait for the bucket took %v, want its own put's 3s", took)
		}
		wg.Wait()
	})
}

// answers of WriteSoon.
type soonAnswer struct {
	res engine.WriteResult
	err error
}

func writeSoon(t *testing.T, e *engine.Engine, timeout time.Duration, req engine.WriteRequest) chan soonAnswer {
	t.Helper()
	got := make(chan soonAnswer, 2)
	if !e.WriteSoon(time.Now().Add(timeout), req, func(res engine.WriteResult, err error) { got <- soonAnswer{res, err} }) {
		t.Fatalf("%+v was not taken", req)
	}
	return got
}

// WriteSoon answers once what Write would: the version, a condition that does not
// hold, a duplicate.
func TestWriteSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, _ := slowed(t, 50*time.Millisecond, time.Millisecond)
		req := engine.WriteRequest{Catalog: "c", Body: []byte(`{"a":1}`), WriteOptions: engine.WriteOptions{ID: "order-7"}}
		first := <-writeSoon(t, e, time.Second, req)
		if first.err != nil || first.res.Count != 1 || first.res.Duplicate || read(t, e, "c") != `{"a":1}` {
			t.Errorf("got %+v, want a version, and the document", first)
		}
		if again := <-writeSoon(t, e, time.Second, req); again.err != nil || !again.res.Duplicate || again.res.Version != first.res.Version {
			t.Errorf("the same id: got %+v, want the duplicate of %v", again, first.res.Version)
		}
		var conflict *engine.VersionError
		if a := <-writeSoon(t, e, time.Second, engine.WriteRequest{Catalog: "c", Body: []byte(`{}`), WriteOptions: engine.WriteOptions{IfVersion: new(engine.Version)}}); !errors.As(a.err, &conflict) || conflict.Current != first.res.Version {
			t.Errorf("if never written: got %+v, want a conflict with %v", a, first.res.Version)
		}
		for what, bad := range map[string]engine.WriteRequest{
			"no JSON":         {Catalog: "c", Body: []byte(`{`)},
			"a large body":    {Catalog: "c", Body: make([]byte, 64<<10)},
			"absence":         {Catalog: "c", Body: []byte(`1`), WriteOptions: engine.WriteOptions{IfAbsent: true}},
			"a wrong catalog": {Body: []byte(`1`)},
		} {
			if e.WriteSoon(time.Now().Add(time.Second), bad, func(engine.WriteResult, error) { t.Errorf("%s: answered", what) }) {
				t.Errorf("%s: taken, want it left to Write", what)
			}
		}
		synctest.Wait()
	})
}

// By its deadline a write is answered: unknown once a segment has it.
func TestWriteSoonTooLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, _ := slowed(t, 2*time.Second, 0)
		start := time.Now()
		got := writeSoon(t, e, time.Second, engine.WriteRequest{Catalog: "c", Body: []byte(`1`)})
		if a := <-got; !errors.Is(a.err, engine.ErrUnknown) || time.Since(start) != time.Second {
			t.Errorf("got %+v after %v, want unknown after 1s", a, time.Since(start))
		}
		time.Sleep(5 * time.Second)
		if len(got) > 0 {
			t.Errorf("answered twice: %+v", <-got)
		}
		if doc := read(t, e, "c"); doc != "1" {
			t.Errorf("got document %q, want the write, which was committed later", doc)
		}
	})
}

// Close waits for writes that nobody waits for, and answers them when it is not
// given the time.
func TestWriteSoonClosed(t *testing.T) {
	t.Parallel()
	for _, patience := range []time.Duration{5 * time.Second, 10 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			e, _ := slowed(t, time.Second, 0)
			var got []chan soonAnswer
			for i := range 20 { // more than are on their way at once
				got = append(got, writeSoon(t, e, 30*time.Second, engine.WriteRequest{Catalog: fmt.Sprintf("c%d", i), Body: []byte(`1`)}))
				synctest.Wait()
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			err := e.Close(ctx)
			if (err == nil) != (patience > time.Second) {
				t.Errorf("close within %v: got %v", patience, err)
			}
			synctest.Wait()
			for i, c := range got {
				select {
				case a := <-c:
					if err == nil && a.err != nil || err != nil && a.err == nil {
						t.Errorf("close within %v, write %d: got %+v", patience, i, a)
					}
				default:
					t.Errorf("close within %v: write %d was not answered", patience, i)
				}
			}
		})
	}
}

// shardCalls is an index that notes the shards of each commit, which takes a while. The
// first of one shard fails.
type shardCalls struct {
	*memory.Index
	takes time.Duration
	fails int // shard

	mu    sync.Mutex
	calls [][]int
}

func (x *shardCalls) Commit(ctx context.Context, c engine.Commit) ([]engine.Committed, error) {
	var shards []int
	for _, r := range c.Runs {
		if s := engine.Shard(r.Catalog); !slices.Contains(shards, s) {
			shards = append(shards, s)
		}
	}
	time.Sleep(x.takes)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.calls = append(x.calls, shards)
	if slices.Contains(shards, x.fails) {
		x.fails = -1
		return nil, engine.ErrUnavailable
	}
	return x.Index.Commit(ctx, c)
}

// A segment of many runs is committed in four parts of whole shards, two at once, each
// answered as it is committed; what fails is asked for again by itself.
func TestSplitCommit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const (
			writers = 200 // each shard has some
			put     = 50 * time.Millisecond
			takes   = time.Millisecond // a part
			linger  = time.Millisecond
		)
		x := &shardCalls{Index: memory.NewIndex(memory.Options{}), takes: takes, fails: 0} // in the first part
		e, _ := slowPuts(t, x, put, engine.Options{SplitCommit: writers, Linger: linger})
		begin := time.Now()
		took := make([]time.Duration, writers)
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				if _, err := e.Write(t.Context(), engine.WriteRequest{Catalog: fmt.Sprintf("c%d", w), Body: []byte(`{"a":1}`)}); err != nil {
					t.Error(err)
				}
				took[w] = time.Since(begin)
			})
		}
		wg.Wait()
		if len(x.calls) != 5 {
			t.Fatalf("got commits of the shards %v, want four parts and the first again", x.calls)
		}
		var all []int
		for i, shards := range x.calls[:4] {
			all = append(all, shards...)
			if len(shards) < engine.Shards/4-1 || len(shards) > engine.Shards/4+1 {
				t.Errorf("part %d has %d shards, want about a quarter", i, len(shards))
			}
		}
		if slices.Sort(all); len(all) != engine.Shards || len(slices.Compact(all)) != engine.Shards {
			t.Errorf("the parts have the shards %v, want each once", x.calls[:4])
		}
		failed := slices.IndexFunc(x.calls, func(shards []int) bool { return slices.Contains(shards, 0) })
		if !slices.Equal(x.calls[4], x.calls[failed]) {
			t.Errorf("the shards %v were asked for again, want those of the part that failed, %v", x.calls[4], x.calls[failed])
		}
		// One of the first two failed. All that was committed is answered before it is
		// asked for again.
		after := map[time.Duration]int{}
		for _, d := range took {
			after[d-linger-put]++
		}
		const again = 2*takes + 2*time.Millisecond + takes // both pairs, the pause, the first part
		if len(after) != 3 || after[takes] == 0 || after[2*takes] <= after[takes] || after[again] == 0 {
			t.Errorf("got answers so long after the put: %v; want those of a part after %v, of two after %v, of the first after %v", after, takes, 2*takes, again)
		}
	})
}
