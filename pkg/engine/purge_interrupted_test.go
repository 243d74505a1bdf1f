package engine_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/enginetest"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

// Whatever call of the index or the bucket a purge fails at, asking again ends it, and
// so does the collector of another process after the index was lost.
func TestPurgeInterrupted(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		for _, how := range []string{"again", "rebuilt"} {
			t.Run(fmt.Sprintf("%s, done %v", how, after), func(t *testing.T) {
				t.Parallel()
				steps := 0
				for cut := 1; ; cut++ {
					calls := 0
					synctest.Test(t, func(t *testing.T) { calls = interruptPurge(t, cut, after, how == "rebuilt") })
					if t.Failed() {
						t.Fatalf("cut at call %d", cut)
					}
					if steps = cut; calls < cut {
						break
					}
				}
				t.Logf("cut at %d places", steps)
				if steps < 20 {
					t.Errorf("a purge was cut at %d places only", steps)
				}
			})
		}
	}
}

// cutter kills a process at a call: from then on none has an effect, or an answer.
type cutter struct {
	at    int
	after bool // the call itself still has its effect

	mu    sync.Mutex
	armed bool
	calls int
}

func (c *cutter) arm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = true
}

// stop kills the process if it lives, and tells how many calls it made.
func (c *cutter) stop() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	calls := c.calls
	c.calls = max(c.calls, c.at)
	return calls
}

func (c *cutter) fault(enginetest.Call) enginetest.Fault {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.armed {
		return enginetest.Fault{}
	}
	switch c.calls++; {
	case c.calls < c.at:
		return enginetest.Fault{}
	case c.calls == c.at && c.after:
		return enginetest.Fault{After: enginetest.ErrInjected}
	}
	return enginetest.Fault{Before: enginetest.ErrInjected}
}

// interruptPurge stops a purge at its nth call, and gives how many there were.
func interruptPurge(t *testing.T, cut int, after, rebuilt bool) int {
	h := newHouse(t)
	h.index = memory.NewIndex(memory.Options{Exclusive: true})
	e := h.open(engine.Options{})
	h.fill(e, "users", "orders")
	want := read(t, e, "orders")
	h.close(e)
	c := &cutter{at: cut, after: after}
	e2, err := engine.New(t.Context(), enginetest.NewFaultyIndex(h.index, c.fault), enginetest.NewFaultyObjects(h.objects, c.fault), engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c.arm()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	_, perr := e2.Purge(ctx, engine.PurgeRequest{Catalog: "users", Author: "the officer", ID: "once"})
	cancel()
	calls := c.stop()
	cctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	_ = e2.Close(cctx) // its writes may hang for ever
	cancel()
	if rebuilt {
		h.index = memory.NewIndex(memory.Options{Exclusive: true})
	}
	e = h.open(engine.Options{Sweep: true, Collect: true})
	time.Sleep(20 * time.Second) // what was stuck is decided
	v, err := e.Log(t.Context(), engine.LogRequest{Catalog: "users", Limit: 1, Order: engine.Descending})
	if err != nil {
		t.Fatal(err)
	}
	if done := v.Items[0].Merge == engine.MergeTypePurge; !done && perr == nil {
		t.Errorf("the purge was answered, and is not in the log")
	} else if done {
		fold(t, e, "users")         // if that is still to be done
		time.Sleep(3 * time.Minute) // the collector goes on with it
		if left := h.marked(); len(left) > 0 {
			t.Errorf("nobody asked again, and the marker is still in %v", left)
		}
	}
	r, err := e.Purge(t.Context(), engine.PurgeRequest{Catalog: "users", Author: "the officer", ID: "once"})
	if err != nil || !r.Complete {
		t.Fatalf("again (first: %v): got %+v, %v", perr, r, err)
	}
	if left := h.marked(); len(left) > 0 {
		t.Errorf("the marker is still in %v", left)
	}
	if left := h.keys("_lake/purge/"); len(left) > 0 {
		t.Errorf("got records %v, want none", left)
	}
	if got := read(t, e, "orders"); got != want {
		t.Errorf("orders: got %s, want %s", got, want)
	}
	e = h.rebuild(e, engine.Options{})
	if got := read(t, e, "orders"); got != want {
		t.Errorf("orders, rebuilt: got %s, want %s", got, want)
	}
	if got := wholeLog(t, e, "users", 10); len(got) != 1 || got[0].Version != r.Version {
		t.Errorf("got log %+v, want the purge at %s", got, r.Version)
	}
	h.close(e)
	return calls
}

// A rebuild that finds a purge leaves out what is below it, also while older
// snapshots and segments are still there, because nothing could be deleted yet.
func TestPurgeRebuiltBeforeErasure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.index = memory.NewIndex(memory.Options{Exclusive: true})
		e := h.open(engine.Options{})
		old := h.fill(e, "users", "orders")
		want := read(t, e, "orders")
		h.close(e)
		stuck := enginetest.NewFaultyObjects(h.objects, func(c enginetest.Call) (f enginetest.Fault) {
			if c.Op == "Delete" {
				f.Before = enginetest.ErrInjected
			}
			return f
		})
		e, err := engine.New(t.Context(), h.index, stuck, engine.Options{})
		if err != nil {
			t.Fatal(err)
		}
		r, err := e.Purge(t.Context(), engine.PurgeRequest{Catalog: "users", Author: "the officer"})
		if err == nil || r.Version.IsZero() {
			t.Fatalf("got %+v, %v, want an error of the erasure", r, err)
		}
		wantPurged(t, e, "users", old, r.Version)
		e = h.rebuild(e, engine.Options{})
		if len(h.marked()) == 0 {
			t.Fatal("nothing was left for the rebuild to find")
		}
		wantPurged(t, e, "users", old, r.Version)
		if got := read(t, e, "orders"); got != want {
			t.Errorf("orders: got %s, want %s", got, want)
		}
		if again := purge(t, e, "users"); again.Version != r.Version || !again.Complete {
			t.Errorf("again: got %+v", again)
		}
		if left := h.marked(); len(left) > 0 {
			t.Errorf("the marker is still in %v", left)
		}
	})
}

// An index from before the purge is refilled, it does not bring anything back.
func TestPurgeOldIndex(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.index = memory.NewIndex(memory.Options{Exclusive: true})
		e := h.open(engine.Options{})
		h.fill(e, "users", "orders")
		want := read(t, e, "orders")
		time.Sleep(2 * time.Second)
		before := h.index.Clone()
		old := h.fill(e, "users")
		r := purge(t, e, "users")
		h.close(e)
		h.index = before
		e = h.open(engine.Options{})
		wantPurged(t, e, "users", old, r.Version)
		if got := read(t, e, "orders"); got != want {
			t.Errorf("orders: got %s, want %s", got, want)
		}
		if left := h.marked(); len(left) > 0 {
			t.Errorf("the marker is still in %v", left)
		}
	})
}

// Nor does it where nothing could be deleted yet, because a writer may be late: the
// index does not show what was purged as a log that is not folded.
func TestPurgeOldIndexNothingErased(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.index = memory.NewIndex(memory.Options{})
		e := h.open(engine.Options{})
		old := write(t, e, "users", "/", engine.MergeTypeMergePatch, `{"a":"`+marker+`"}`).Version
		time.Sleep(2 * time.Second)
		before := h.index.Clone()
		r := purge(t, e, "users")
		if r.Complete || len(h.marked()) == 0 {
			t.Fatalf("got %+v: nothing is left for the old index to show", r)
		}
		h.close(e)
		h.index = before
		e = h.open(engine.Options{})
		wantPurged(t, e, "users", old, r.Version)
	})
}

// A process that dies between the registration of a purge and what it does next
// leaves no past that can be read for longer than until the next collection, whoever
// held the lease of erasing.
func TestPurgeBehindDeadEraser(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.index = memory.NewIndex(memory.Options{})
		e := h.open(engine.Options{})
		h.fill(e, "users")
		if mine, err := h.index.Acquire(t.Context(), 0, "purge", "somebody dead", 15*time.Second); err != nil || !mine {
			t.Fatal(mine, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		r, err := e.Purge(ctx, engine.PurgeRequest{Catalog: "users", Author: "the officer"})
		if r.Version.IsZero() || !errors.Is(err, engine.ErrUnavailable) || errors.Is(err, engine.ErrDamaged) {
			t.Errorf("got %+v, %v, want that the erasure was not done", r, err)
		}
		if log := wholeLog(t, e, "users", 1); len(log) != 1 || log[0].Version != r.Version {
			t.Errorf("got log %+v, want the purge at %s", log, r.Version)
		}
	})
}

// A fold whose catalog is purged, and erased, before it has read what it is to fold
// comes too late. Nothing is damaged.
func TestFoldOfWhatIsPurged(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	e := h.open(engine.Options{DocumentCache: -1, FrameCache: -1})
	write(t, e, "c", "/", engine.MergeTypeReplace, `{"a":1}`)
	fold(t, e, "c")
	write(t, e, "c", "/b", engine.MergeTypeReplace, `2`)
	old := append(h.keys(engine.CatalogDir("c")+"/snap/"), h.keys(engine.CatalogDir("c")+"/delta/")...)
	var asked atomic.Bool
	h.objects.failGets(func(key string) (bool, error) {
		if key == old[0] && asked.CompareAndSwap(false, true) { // the purge may ask for it, too
			if _, err := e.Purge(t.Context(), engine.PurgeRequest{Catalog: "c"}); err != nil {
				t.Error(err)
			}
			h.remove(old...)
		}
		return false, nil
	})
	if _, err := e.Fold(t.Context(), "c"); !errors.Is(err, engine.ErrStale) || errors.Is(err, engine.ErrDamaged) {
		t.Errorf("got %v, want that another was faster", err)
	}
}

// A fold that misses an object and cannot ask the index again says nothing of damage: it may be
// purged.
func TestFoldOfWhatIsMissing(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	e := h.open(engine.Options{})
	write(t, e, "c", "/", engine.MergeTypeReplace, `{"a":1}`)
	fold(t, e, "c")
	write(t, e, "c", "/b", engine.MergeTypeReplace, `2`)
	h.remove(append(h.keys(engine.CatalogDir("c")+"/snap/"), h.keys(engine.CatalogDir("c")+"/delta/")...)...)
	for _, again := range []bool{false, true} {
		x := enginetest.NewFaultyIndex(h.index, func(c enginetest.Call) (f enginetest.Fault) {
			if c.Op == "View" && c.N > 1 && !again {
				f.Before = enginetest.ErrInjected
			}
			return f
		})
		e, err := engine.New(t.Context(), x, h.objects, engine.Options{DocumentCache: -1, FrameCache: -1})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Fold(t.Context(), "c"); errors.Is(err, engine.ErrDamaged) != again || errors.Is(err, engine.ErrUnavailable) == again {
			t.Errorf("the index can be asked again: %v: got %v", again, err)
		}
		h.close(e)
	}
}

// A compacted copy of what is purged that nothing was moved to, because its collector
// failed or came too late, is known to no index, and goes all the same.
func TestPurgeOfCopyThatNobodyKnows(t *testing.T) {
	t.Parallel()
	for _, exclusive := range []bool{true, false} {
		for _, how := range []string{"lost", "overtaken"} {
			t.Run(fmt.Sprintf("%s, exclusive %v", how, exclusive), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { purgeCopy(t, how == "overtaken", exclusive) })
			})
		}
	}
}

func purgeCopy(t *testing.T, overtaken, exclusive bool) {
	h := newHouse(t)
	h.index = memory.NewIndex(memory.Options{Exclusive: exclusive})
	var e *engine.Engine
	var r engine.PurgeReceipt
	var moves atomic.Int64
	x := enginetest.NewFaultyIndex(h.index, func(c enginetest.Call) (f enginetest.Fault) {
		if c.Op != "Relocate" || c.On == (engine.SegmentID{}).String() || moves.Add(1) > 1 {
			return f
		}
		if overtaken {
			r = purge(t, e, "users")
		} else {
			f.Before = enginetest.ErrInjected
		}
		return f
	})
	e, err := engine.New(t.Context(), x, h.objects, engine.Options{Grace: 5 * time.Second, CompactAfter: 8 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if overtaken { // all that is copied is purged
		h.fill(e, "users")
		write(t, e, "orders", "/", engine.MergeTypeReplace, `1`)
		fold(t, e, "orders")
	} else {
		h.fill(e, "users", "orders")
	}
	want := read(t, e, "orders")
	before := len(h.keys("wal/"))
	time.Sleep(10 * time.Second)
	if _, err := e.Collect(t.Context(), false); (err == nil) != overtaken {
		t.Errorf("collect: got %v", err)
	}
	if got := len(h.keys("wal/")); !overtaken && got != before+1 {
		t.Fatalf("got %d segments after %d, want a copy beside them", got, before)
	}
	if !overtaken {
		r = purge(t, e, "users")
	}
	if r.Complete != exclusive {
		t.Errorf("got receipt %+v", r)
	}
	for range 4 {
		time.Sleep(10 * time.Second)
		if _, err := e.Collect(t.Context(), false); err != nil {
			t.Fatal(err)
		}
	}
	if left := h.marked(); len(left) > 0 {
		t.Errorf("the marker is still in %v", left)
	}
	if left := h.keys("_lake/purge/"); len(left) > 0 {
		t.Errorf("got records %v, want none", left)
	}
	for range 2 {
		if got := read(t, e, "orders"); got != want {
			t.Errorf("orders: got %s, want %s", got, want)
		}
		e = h.rebuild(e, engine.Options{})
	}
}
