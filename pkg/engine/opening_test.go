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
	"github.com/jsonlake/lake/pkg/engine/enginetest"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

// stepwise is an index that asks before each step of an opener.
type stepwise struct {
	engine.IndexAdapter
	before func(step string, n uint64) error // an error is the step's answer
}

func (x *stepwise) Fence(ctx context.Context, shard int, n uint64) error {
	if err := x.before("fence", n); err != nil {
		return err
	}
	return x.IndexAdapter.Fence(ctx, shard, n)
}

func (x *stepwise) Empty(ctx context.Context, shard int, n uint64) error {
	if err := x.before("empty", n); err != nil {
		return err
	}
	return x.IndexAdapter.Empty(ctx, shard, n)
}

func (x *stepwise) Restore(ctx context.Context, shard int, n uint64, r engine.Restore) error {
	if err := x.before("restore", n); err != nil {
		return err
	}
	return x.IndexAdapter.Restore(ctx, shard, n, r)
}

func (x *stepwise) Reservations(ctx context.Context, shard int, n uint64) ([]engine.SegmentID, error) {
	if err := x.before("reservations", n); err != nil {
		return nil, err
	}
	return x.IndexAdapter.Reservations(ctx, shard, n)
}

func (x *stepwise) Resolve(ctx context.Context, shard int, n uint64, s engine.SegmentID, committed []engine.RunKey) error {
	if err := x.before("resolve", n); err != nil {
		return err
	}
	return x.IndexAdapter.Resolve(ctx, shard, n, s, committed)
}

func (x *stepwise) Open(ctx context.Context, shard int, n uint64, floor int64) error {
	if err := x.before("open", n); err != nil {
		return err
	}
	return x.IndexAdapter.Open(ctx, shard, n, floor)
}

// furnished writes a few catalogs, folds one and leaves a reservation open; it
// gives the documents.
func (h *house) furnished() map[string]string {
	h.t.Helper()
	e := h.open(engine.Options{})
	want := map[string]string{}
	for i := range 20 {
		c := fmt.Sprint("c", i)
		write(h.t, e, c, "/a", engine.MergeTypeReplace, `1`)
		want[c] = read(h.t, e, c)
	}
	fold(h.t, e, "c1")
	s := engine.SegmentID{Epoch: e.Epoch(), Unix: time.Now().Unix(), Writer: "deadbeef", N: 1}
	if _, err := h.index.PreCommit(h.t.Context(), engine.PreCommit{Epoch: e.Epoch(), Segment: s, Runs: []engine.Reserve{{Catalog: "c2", N: 1}}}); err != nil {
		h.t.Fatal(err)
	}
	h.close(e)
	return want
}

func wantDocuments(t *testing.T, e *engine.Engine, want map[string]string) {
	t.Helper()
	for c, doc := range want {
		if got := read(t, e, c); got != doc {
			t.Errorf("%s: got %s, want %s", c, got, doc)
		}
	}
}

// One error in any step of opening an epoch costs a repetition of that step: not
// the epoch, and not a take-over by another process.
func TestOpenerGoesOnAfterAnError(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		step string
		lost bool // the index, so that shards are emptied
	}{
		{"put epoch", false}, {"fence", false}, {"put seal", false}, {"restore", false}, {"reservations", false}, {"resolve", false}, {"open", false},
		{"empty", true}, {"restore", true}, {"get segment", true},
	} {
		t.Run(fmt.Sprintf("%s lost=%v", tc.step, tc.lost), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t)
				want := h.furnished()
				if tc.lost {
					h.index = memory.NewIndex(memory.Options{})
				}
				var mu sync.Mutex
				failed := 0
				once := func(step string) error {
					mu.Lock()
					defer mu.Unlock()
					if step != tc.step || failed > 0 {
						return nil
					}
					failed++
					return errors.New("connection reset")
				}
				h.objects.script(func(_ context.Context, key string, _ []byte) (bool, error) {
					step := ""
					switch {
					case strings.HasPrefix(key, "_lake/epoch/") && strings.Contains(key, "seal"):
						step = "put seal"
					case strings.HasPrefix(key, "_lake/epoch/"):
						step = "put epoch"
					}
					err := once(step)
					return err != nil, err
				})
				h.objects.failGets(func(key string) (bool, error) {
					if !strings.HasPrefix(key, "wal/") {
						return false, nil
					}
					err := once("get segment")
					return err != nil, err
				})
				x := &stepwise{IndexAdapter: h.index, before: func(step string, _ uint64) error { return once(step) }}
				start := time.Now()
				e, err := engine.New(t.Context(), x, h.objects, engine.Options{NewEpoch: true})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { h.close(e) })
				if d := time.Since(start); e.Epoch() != 2 || d > 6*time.Second || failed != 1 {
					t.Errorf("epoch %d is open after %s and %d errors, want 2 within 6s and one error", e.Epoch(), d, failed)
				}
				wantDocuments(t, e, want)
			})
		})
	}
}

// The answer to the put of an epoch's object was lost: the object is the opener's
// own, and no race was lost.
func TestOpenerKnowsItsOwnEpoch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		want := h.furnished()
		h.objects.script(func(ctx context.Context, key string, data []byte) (bool, error) {
			if !strings.HasPrefix(key, "_lake/epoch/") || strings.Contains(key, "seal") {
				return false, nil
			}
			h.objects.script(nil)
			return true, errors.Join(h.objects.Objects.Put(ctx, key, data), errors.New("connection reset"))
		})
		start := time.Now()
		e := h.open(engine.Options{NewEpoch: true})
		if d := time.Since(start); e.Epoch() != 2 || d > 6*time.Second {
			t.Errorf("epoch %d is open after %s, want 2 within 6s", e.Epoch(), d)
		}
		wantDocuments(t, e, want)
	})
}

// leaseless is an index that gives no answer about leases.
type leaseless struct{ engine.IndexAdapter }

func (leaseless) Acquire(context.Context, int, string, string, time.Duration) (bool, error) {
	return false, errors.New("connection reset")
}

// Two processes want the same epoch at one moment, and no lease keeps them apart:
// the create-only object does. One of them opens the epoch, the other joins it.
func TestOneOpenerOfTwo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		want := h.furnished()
		var mu sync.Mutex
		puts, both := 0, make(chan struct{})
		h.objects.script(func(_ context.Context, key string, _ []byte) (bool, error) {
			if !strings.HasPrefix(key, "_lake/epoch/") || strings.Contains(key, "seal") {
				return false, nil
			}
			mu.Lock()
			if puts++; puts == 2 {
				close(both)
			}
			mu.Unlock()
			<-both
			return false, nil
		})
		fencing := map[string]bool{}
		engines := make([]*engine.Engine, 2)
		var wg sync.WaitGroup
		for i := range engines {
			wg.Go(func() {
				e, err := engine.New(t.Context(), leaseless{h.index}, h.objects, engine.Options{NewEpoch: true, Hooks: engine.Hooks{Recovering: func(n uint64, step string) {
					if step == "fence" {
						mu.Lock()
						fencing[fmt.Sprint(i, " at ", n)] = true
						mu.Unlock()
					}
				}}})
				if err != nil {
					t.Error(err)
					return
				}
				engines[i] = e
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		if len(fencing) != 1 {
			t.Errorf("openers were %v, want one", fencing)
		}
		for _, e := range engines {
			t.Cleanup(func() { h.close(e) })
			if e.Epoch() != 2 {
				t.Errorf("got epoch %d, want 2", e.Epoch())
			}
			wantDocuments(t, e, want)
		}
	})
}

// An opener that found a shard to know nothing is stopped before it empties it.
// Another takes over and works; the first one goes on, and must not empty what is
// filled by now.
func TestLateOpenerEmptiesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		want := h.furnished()
		h.index = memory.NewIndex(memory.Options{})
		stopped, goOn := make(chan struct{}), make(chan struct{})
		var once sync.Once
		x := &stepwise{IndexAdapter: h.index, before: func(step string, _ uint64) error {
			if step == "empty" {
				once.Do(func() { close(stopped) })
				<-goOn
			}
			return nil
		}}
		late := make(chan *engine.Engine, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			e, err := engine.New(ctx, stoppedHolder{x, stopped}, h.objects, engine.Options{})
			if err != nil {
				t.Error(err)
			}
			late <- e
		}()
		<-stopped
		e := h.open(engine.Options{})
		if e.Epoch() != 3 {
			t.Fatalf("got epoch %d, want the take-over's, 3", e.Epoch())
		}
		for c := range want {
			write(t, e, c, "/b", engine.MergeTypeReplace, `2`)
			want[c] = read(t, e, c)
		}
		close(goOn)
		if l := <-late; l != nil {
			if l.Epoch() != 3 {
				t.Errorf("the late one is in epoch %d, want 3", l.Epoch())
			}
			wantDocuments(t, l, want)
			h.close(l)
		}
		wantDocuments(t, e, want)
	})
}

// stoppedHolder is the index of a process that is stopped: it renews no lease.
type stoppedHolder struct {
	engine.IndexAdapter
	stopped chan struct{}
}

func (x stoppedHolder) Acquire(ctx context.Context, shard int, name, token string, ttl time.Duration) (bool, error) {
	select {
	case <-x.stopped:
		return false, errors.New("stopped")
	default:
		return x.IndexAdapter.Acquire(ctx, shard, name, token, ttl)
	}
}

// A tombstone is named by the seal of its epoch, so it must stay for ever: if a put
// that comes very late found the place empty, the seal would count what it puts, and
// a write that was decided not to be would come back with the next rebuild.
func TestTombstoneOutlivesItsEpoch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(engine.Options{})
		write(t, e, "c", "/a", engine.MergeTypeReplace, `1`)
		s := engine.SegmentID{Epoch: e.Epoch(), Unix: time.Now().Unix(), Writer: "deadbeef", N: 1}
		res, err := h.index.PreCommit(t.Context(), engine.PreCommit{Epoch: e.Epoch(), Segment: s, Runs: []engine.Reserve{{Catalog: "c", N: 1, Type: engine.MergeTypeMergePatch, Path: "/"}}})
		if err != nil || res.Runs[0].Err != nil {
			t.Fatal(err, res)
		}
		write(t, e, "c", "/b", engine.MergeTypeReplace, `2`) // decides it
		fold(t, e, "c")
		want := read(t, e, "c")
		rebuild := func(e *engine.Engine) *engine.Engine {
			h.close(e)
			h.index = memory.NewIndex(memory.Options{})
			return h.open(soon)
		}
		e = rebuild(e)
		if got := collect(t, e); got.Segments != 2 {
			t.Errorf("got %+v, want the two folded segments collected", got)
		}
		collect(t, e)
		if left := h.keys("wal/"); len(left) != 1 || left[0] != s.Key() {
			t.Errorf("segments left are %v, want the tombstone %s", left, s.Key())
		}
		late := h.tryPutRun(s, "c", res.Runs[0].First, `{"late":1}`)
		if !errors.Is(late, engine.ErrExists) {
			t.Errorf("the late put: got %v, want %v", late, engine.ErrExists)
		}
		e = rebuild(e)
		if got := read(t, e, "c"); got != want {
			t.Errorf("rebuilt: got %s, want %s", got, want)
		}
		if log := wholeLog(t, e, "c", 10); len(log) != 2 {
			t.Errorf("got %d entries of the log, want 2", len(log))
		}
	})
}

// An index that is lost while a process joins, between its look at the epochs and its
// first heartbeat, is no reason to give up: the process joins what comes next.
func TestLostWhileJoining(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		objects := memory.NewObjects()
		first, err := engine.New(t.Context(), memory.NewIndex(memory.Options{}), objects, engine.Options{})
		if err != nil {
			t.Fatal(err)
		}
		write(t, first, "users", "/", engine.MergeTypeReplace, "1")
		if err := first.Close(t.Context()); err != nil {
			t.Fatal(err)
		}

		var beats atomic.Int32 // the engine goes on with them
		index := enginetest.NewFaultyIndex(memory.NewIndex(memory.Options{}), func(c enginetest.Call) enginetest.Fault {
			if c.Op == "Heartbeat" {
				if beats.Add(1) == 1 {
					return enginetest.Fault{Before: fmt.Errorf("heartbeat in shard f: %w", engine.ErrEpoch)}
				}
			}
			return enginetest.Fault{}
		})
		e, err := engine.New(t.Context(), index, objects, engine.Options{})
		if err != nil {
			t.Fatal(err)
		}
		write(t, e, "users", "/", engine.MergeTypeReplace, "2")
		if got := read(t, e, "users"); got != "2" || beats.Load() < 2 {
			t.Errorf("got %s after %d heartbeats", got, beats.Load())
		}
		if err := e.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
}

// A process that cannot join before its caller gives up says so, and why.
func TestJoiningEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var beats atomic.Int32
		var ended time.Time
		index := enginetest.NewFaultyIndex(memory.NewIndex(memory.Options{}), func(c enginetest.Call) enginetest.Fault {
			if c.Op != "Heartbeat" {
				return enginetest.Fault{}
			}
			if beats.Add(1) == 5 {
				time.AfterFunc(50*time.Millisecond, func() { // before it looks again
					ended = time.Now()
					cancel()
				})
			}
			return enginetest.Fault{Before: fmt.Errorf("heartbeat in shard f: %w", engine.ErrEpoch)}
		})
		_, err := engine.New(ctx, index, memory.NewObjects(), engine.Options{})
		for _, want := range []error{engine.ErrRecovering, context.Canceled, engine.ErrEpoch} {
			if !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
		}
		if late := time.Since(ended); late != 0 || beats.Load() != 5 {
			t.Errorf("ended %v after the caller gave up, after %d heartbeats, want at once, after 5", late, beats.Load())
		}
	})
}
