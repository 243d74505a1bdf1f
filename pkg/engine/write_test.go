package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

func writeWith(t *testing.T, e *engine.Engine, catalog, body string, o engine.WriteOptions) (engine.WriteResult, error) {
	t.Helper()
	return e.Write(t.Context(), engine.WriteRequest{Catalog: catalog, Body: []byte(body), WriteOptions: o})
}

// I4: the same id has one effect, also after a fold, in a new epoch, and after
// the index was lost.
func TestIdempotencyID(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(engine.Options{})
		id := engine.WriteOptions{ID: "order-7"}
		first, err := writeWith(t, e, "c", `{"a":1}`, id)
		if err != nil || first.Duplicate {
			t.Fatal(first, err)
		}
		check := func(when string) {
			t.Helper()
			again, err := writeWith(t, e, "c", `{"a":1}`, id)
			if err != nil || !again.Duplicate || again.Version != first.Version || again.Count != 1 {
				t.Errorf("%s: got %+v %v, want the duplicate of %s", when, again, err, first.Version)
			}
			if _, err := writeWith(t, e, "c", `{"a":2}`, id); !errors.Is(err, engine.ErrIDReused) {
				t.Errorf("%s, other content: got %v, want reused", when, err)
			}
			out, err := e.Outcome(t.Context(), engine.OutcomeRequest{Catalog: "c", ID: "order-7"})
			if err != nil || out.State != "committed" || out.Version != first.Version {
				t.Errorf("%s: outcome %+v %v, want committed at %s", when, out, err, first.Version)
			}
			if n := len(wholeLog(t, e, "c", 100)); n != 1 {
				t.Errorf("%s: %d entries in the log, want 1", when, n)
			}
		}
		check("at once")
		if r, err := writeWith(t, e, "other", `{"a":1}`, id); err != nil || r.Duplicate {
			t.Errorf("another catalog: got %+v %v, want a write of its own", r, err)
		}
		if _, err := e.Fold(t.Context(), "c"); err != nil {
			t.Fatal(err)
		}
		check("folded")
		h.close(e)
		e = h.open(engine.Options{NewEpoch: true})
		check("in a new epoch")
		h.close(e)
		h.index = memory.NewIndex(memory.Options{})
		e = h.open(engine.Options{})
		check("index lost")
		h.close(e)
		// And when the segment is gone too, from the pack.
		for o := range h.objects.List(t.Context(), "wal/", "") {
			if err := h.objects.Delete(t.Context(), o.Key); err != nil {
				t.Fatal(err)
			}
		}
		h.index = memory.NewIndex(memory.Options{})
		e = h.open(engine.Options{})
		check("index and segments lost")
	})
}

// Two writes with one id at the same time: one effect, both answered.
func TestSameIDAtOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	e := h.open(engine.Options{})
	var wg sync.WaitGroup
	var duplicates atomic.Int64
	for range 20 {
		wg.Go(func() {
			r, err := writeWith(t, e, "c", `{"a":1}`, engine.WriteOptions{ID: "x"})
			if err != nil {
				t.Error(err)
			}
			if r.Duplicate {
				duplicates.Add(1)
			}
		})
	}
	wg.Wait()
	if n := len(wholeLog(t, e, "c", 100)); n != 1 || duplicates.Load() != 19 {
		t.Errorf("got %d entries and %d duplicates, want 1 and 19", n, duplicates.Load())
	}
}

// An unknown write, asked again with its id, gives the one true answer.
func TestUnknownThenAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(engine.Options{Sweep: true})
		h.objects.script(func(ctx context.Context, key string, data []byte) (bool, error) {
			if strings.HasPrefix(key, "wal/") {
				time.Sleep(3 * time.Second)
			}
			return false, nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := e.Write(ctx, engine.WriteRequest{Catalog: "c", Body: []byte(`{"a":1}`), WriteOptions: engine.WriteOptions{ID: "x"}})
		if !errors.Is(err, engine.ErrUnknown) {
			t.Fatalf("got %v, want unknown", err)
		}
		if out, err := e.Outcome(t.Context(), engine.OutcomeRequest{Catalog: "c", ID: "x"}); err != nil || out.State != "pending" {
			t.Errorf("outcome: got %+v %v, want pending", out, err)
		}
		short, cancel2 := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel2()
		if _, err := e.Write(short, engine.WriteRequest{Catalog: "c", Body: []byte(`{"a":1}`), WriteOptions: engine.WriteOptions{ID: "x"}}); !errors.Is(err, engine.ErrInFlight) {
			t.Errorf("while in flight: got %v, want in flight", err)
		}
		r, err := writeWith(t, e, "c", `{"a":1}`, engine.WriteOptions{ID: "x"})
		if err != nil || !r.Duplicate {
			t.Errorf("got %+v %v, want the duplicate", r, err)
		}
		// An id that Lake minted is found in the log.
		h.objects.script(nil)
		write(t, e, "c", "/b", engine.MergeTypeReplace, `2`)
		minted := wholeLog(t, e, "c", 10)[1]
		if out, err := e.Outcome(t.Context(), engine.OutcomeRequest{Catalog: "c", ID: minted.ID}); err != nil || out.Version != minted.Version {
			t.Errorf("minted id: got %+v %v, want %s", out, err, minted.Version)
		}
		if _, err := e.Outcome(t.Context(), engine.OutcomeRequest{Catalog: "c", ID: "never"}); !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("never written: got %v, want not found", err)
		}
	})
}

func TestConditionalWrites(t *testing.T) {
	t.Parallel()
	e := newHouse(t).open(engine.Options{})
	zero := engine.Version{}
	v1, err := writeWith(t, e, "c", `{"n":1}`, engine.WriteOptions{IfVersion: &zero})
	if err != nil {
		t.Fatal(err)
	}
	var mismatch *engine.VersionError
	if _, err := writeWith(t, e, "c", `{"n":9}`, engine.WriteOptions{IfVersion: &zero}); !errors.As(err, &mismatch) || mismatch.Current != v1.Version {
		t.Errorf("got %v, want a mismatch with %s", err, v1.Version)
	}
	if _, err := writeWith(t, e, "c", `{"n":9}`, engine.WriteOptions{IfAbsent: true}); !errors.Is(err, engine.ErrVersionMismatch) {
		t.Errorf("if absent: got %v, want a mismatch", err)
	}
	if _, err := writeWith(t, e, "c", `{"n":2}`, engine.WriteOptions{IfVersion: &v1.Version}); err != nil {
		t.Error(err)
	}
	write(t, e, "c", "/", engine.MergeTypeDelete, "")
	if r, err := writeWith(t, e, "c", `{"n":3}`, engine.WriteOptions{IfAbsent: true, ID: "create"}); err != nil || r.Duplicate {
		t.Errorf("if absent after a delete: got %+v %v", r, err)
	}
	if r, err := writeWith(t, e, "c", `{"n":3}`, engine.WriteOptions{IfAbsent: true, ID: "create"}); err != nil || !r.Duplicate {
		t.Errorf("repeated: got %+v %v, want the duplicate", r, err)
	}
	if got := read(t, e, "c"); got != `{"n":3}` {
		t.Errorf("got %s", got)
	}
	if _, err := writeWith(t, e, "c", `{}`, engine.WriteOptions{IfAbsent: true, IfVersion: &zero}); !errors.Is(err, engine.ErrInvalid) {
		t.Errorf("both conditions: got %v, want invalid", err)
	}
	if _, err := writeWith(t, e, "c", `{}`, engine.WriteOptions{ID: strings.Repeat("x", 129)}); !errors.Is(err, engine.ErrInvalid) {
		t.Errorf("long id: got %v, want invalid", err)
	}
}

// A counter by compare-and-set from many goroutines, on two engines, beside a
// stream of unconditional writes: no increment is lost, none is starved.
// Conditional writes do not wait for the sweeper: what a dead writer has reserved in
// their catalog they decide as soon as others would that wait for their turn.
func TestConditionBehindDeadWriter(t *testing.T) {
	t.Parallel()
	for _, stored := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			h := newHouse(t)
			e := h.open(engine.Options{Patience: time.Second})
			v1, err := writeWith(t, e, "c", `{"n":1}`, engine.WriteOptions{})
			if err != nil {
				t.Fatal(err)
			}
			dead := engine.SegmentID{Epoch: e.Epoch(), Unix: time.Now().Unix(), Writer: "dead0000", N: 1}
			res, err := h.index.PreCommit(t.Context(), engine.PreCommit{Epoch: dead.Epoch, Segment: dead, Runs: []engine.Reserve{{Catalog: "c", N: 1}}})
			if err != nil || res.Runs[0].Err != nil || res.Runs[0].State != engine.ReserveOK {
				t.Fatal(res, err)
			}
			if stored {
				h.putRun(dead, "c", res.Runs[0].First, `{"n":2}`)
			}
			var wg sync.WaitGroup
			begin := time.Now()
			for range 3 {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
					defer cancel()
					_, err := e.Write(ctx, engine.WriteRequest{Catalog: "c", Body: []byte(`{"n":3}`), WriteOptions: engine.WriteOptions{IfVersion: &v1.Version}})
					if took := time.Since(begin); took < time.Second || took > 2*time.Second {
						t.Errorf("answered after %v, want it soon after the patience of 1s", took)
					}
					var conflict *engine.VersionError
					switch {
					case err == nil && stored:
						t.Error("a condition held that the dead writer's write had broken")
					case err != nil && !errors.As(err, &conflict):
						t.Error(err)
					}
				})
			}
			wg.Wait()
			want := `{"n":3}`
			if stored {
				want = `{"n":2}`
			}
			if doc := read(t, e, "c"); doc != want {
				t.Errorf("got %s, want %s", doc, want)
			}
		})
	}
}

func TestCompareAndSetCounter(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	engines := []*engine.Engine{h.open(engine.Options{}), h.open(engine.Options{})}
	const workers, each = 8, 10
	stop := make(chan struct{})
	var noise, wg sync.WaitGroup
	noise.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			write(t, engines[i%2], "c", "/noise", engine.MergeTypeReplace, fmt.Sprint(i))
		}
	})
	for w := range workers {
		e := engines[w%2]
		wg.Go(func() {
			for range each {
				for {
					l := e.List(t.Context(), "c")
					doc, err := engine.Read[struct{ N int }](t.Context(), l)
					if err != nil && !errors.Is(err, engine.ErrNotFound) {
						t.Error(err)
						return
					}
					_, err = e.Write(t.Context(), engine.WriteRequest{
						Catalog: "c", Path: "/N", MergeType: engine.MergeTypeReplace, Body: fmt.Append(nil, doc.N+1),
						WriteOptions: engine.WriteOptions{IfVersion: &l.Version},
					})
					if err == nil {
						break
					}
					if !errors.Is(err, engine.ErrVersionMismatch) && !errors.Is(err, engine.ErrContended) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	noise.Wait()
	doc, err := engine.Read[struct{ N int }](t.Context(), engines[0].List(t.Context(), "c"))
	if err != nil || doc.N != workers*each {
		t.Errorf("got %d (%v), want %d", doc.N, err, workers*each)
	}
}

// Who writes faster than is folded waits for the fold; where nobody folds, writes are
// refused and nothing of them is stored. Other catalogs are not held up, and a purge
// is not either.
func TestUnfoldedBound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(engine.Options{MaxUnfolded: 10})
		batch := engine.BatchRequest{Catalog: "c"}
		for i := range 6 {
			batch.Deltas = append(batch.Deltas, engine.WriteRequest{Body: fmt.Appendf(nil, `{"a%d":1}`, i)})
		}
		for range 2 {
			if _, err := e.WriteBatch(t.Context(), batch); err != nil {
				t.Fatal(err)
			}
		}

		began := time.Now()
		var refused sync.WaitGroup
		for range 3 {
			refused.Go(func() {
				_, err := e.WriteBatch(t.Context(), batch)
				if waited := time.Since(began); engine.Code(err).HTTP != 429 || waited < 5*time.Second || waited > 6*time.Second {
					t.Errorf("over the bound: got %v after %v, want it refused as busy after 5 s", err, waited)
				}
			})
		}
		if _, err := writeWith(t, e, "other", `{}`, engine.WriteOptions{}); err != nil || time.Since(began) > time.Second {
			t.Errorf("another catalog: %v after %v", err, time.Since(began))
		}
		refused.Wait()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := e.WriteBatch(short, batch); !errors.Is(err, engine.ErrBusy) {
			t.Errorf("with a deadline of a second: got %v, want busy", err)
		}
		if n := len(wholeLog(t, e, "c", 100)); n != 12 {
			t.Fatalf("%d deltas, want the 12 that were acknowledged", n)
		}

		var waiting sync.WaitGroup
		began = time.Now()
		waiting.Go(func() {
			r, err := e.WriteBatch(t.Context(), batch)
			if waited := time.Since(began); err != nil || r.Count != 6 || waited < time.Second || waited > 2*time.Second {
				t.Errorf("folded after a second: got %+v, %v after %v, want it committed then", r, err, waited)
			}
		})
		time.Sleep(time.Second)
		if _, err := e.Fold(t.Context(), "c"); err != nil {
			t.Fatal(err)
		}
		waiting.Wait()
		if _, err := e.WriteBatch(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Purge(t.Context(), engine.PurgeRequest{Catalog: "c"}); err != nil {
			t.Errorf("a purge of a catalog over the bound: %v", err)
		}
	})
}
