package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

// keys lists the bucket's keys with a prefix.
func (h *house) keys(prefix string) []string {
	h.t.Helper()
	var keys []string
	for o, err := range h.objects.List(h.t.Context(), prefix, "") {
		if err != nil {
			h.t.Fatal(err)
		}
		keys = append(keys, o.Key)
	}
	return keys
}

func fold(t *testing.T, e *engine.Engine, catalog string) engine.FoldResult {
	t.Helper()
	r, err := e.Fold(t.Context(), catalog)
	if err != nil {
		t.Fatalf("fold %s: %v", catalog, err)
	}
	return r
}

func collect(t *testing.T, e *engine.Engine) engine.Collected {
	t.Helper()
	time.Sleep(time.Second)
	if _, err := e.Collect(t.Context(), true); err != nil { // the collector's own clock begins
		t.Fatal(err)
	}
	time.Sleep(10 * time.Second) // past the grace, and marks move on
	synctest.Wait()
	dry, err := e.Collect(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	got, err := e.Collect(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if dry.Waiting = got.Waiting; dry != got { // what was compacted waits now
		t.Errorf("a dry run told %+v, then %+v was done", dry, got)
	}
	return got
}

var soon = engine.Options{Grace: 5 * time.Second, CompactAfter: time.Hour}

// What is folded for longer than the grace goes; reads and the log do not need it.
func TestCollect(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(soon)
		for i := range 5 {
			write(t, e, "users", "/", engine.MergeTypeMergePatch, fmt.Sprintf(`{"n%d":%d}`, i, i))
		}
		fold(t, e, "users")
		write(t, e, "users", "/", engine.MergeTypeMergePatch, `{"live":1}`)
		if got, err := e.Collect(t.Context(), false); err != nil || got != (engine.Collected{Waiting: 5}) {
			t.Fatalf("within the grace: got %+v, %v, want 5 waiting", got, err)
		}
		if got := collect(t, e); got != (engine.Collected{Segments: 5}) {
			t.Fatalf("got %+v, want 5 segments", got)
		}
		if got := h.keys("wal/"); len(got) != 1 {
			t.Errorf("got segments %v, want the live one", got)
		}
		if got := collect(t, e); got != (engine.Collected{}) {
			t.Errorf("again: got %+v, want nothing to do", got)
		}
		if got := wholeLog(t, e, "users", 10); len(got) != 6 {
			t.Errorf("got %d entries of the log, want 6", len(got))
		}
		want := read(t, e, "users")
		h.close(e)
		h.index = memory.NewIndex(memory.Options{})
		if got := read(t, h.open(engine.Options{}), "users"); got != want {
			t.Errorf("rebuilt: got %s, want %s", got, want)
		}
	})
}

// An index that was put back does not know that segments were collected which it
// still needs: it is filled anew. One that knows keeps what it has.
func TestOldIndexAfterCollection(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		late    bool // the copy is made after what is collected became garbage
		emptied bool
	}{{"older than the garbage", false, true}, {"knows the garbage", true, false}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t)
				e := h.open(soon)
				write(t, e, "users", "/", engine.MergeTypeMergePatch, `{"a":1}`)
				time.Sleep(2 * time.Second)
				old := h.index.Clone()
				fold(t, e, "users")
				time.Sleep(2 * time.Second) // heartbeats
				if tc.late {
					old = h.index.Clone()
				}
				if got := collect(t, e); got.Segments != 1 {
					t.Fatalf("got %+v, want one segment", got)
				}
				write(t, e, "users", "/", engine.MergeTypeMergePatch, `{"b":2}`)
				h.close(e)
				h.index = old
				emptied := false
				e2 := h.open(engine.Options{Hooks: engine.Hooks{Recovering: func(_ uint64, step string) { emptied = emptied || step == "empty" }}})
				if got := read(t, e2, "users"); got != `{"a":1,"b":2}` {
					t.Errorf("got %s", got)
				}
				if emptied != tc.emptied {
					t.Errorf("emptied: got %v, want %v", emptied, tc.emptied)
				}
			})
		})
	}
}

// Cold catalogs do not keep old segments for ever: their runs move together.
func TestCompact(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(engine.Options{Grace: 5 * time.Second, CompactAfter: 8 * time.Second})
		var want []string
		for i := range 20 {
			c := fmt.Sprintf("c%d", i)
			write(t, e, c, "/", engine.MergeTypeMergePatch, `{"a":1}`)
			_, err := e.WriteBatch(t.Context(), engine.BatchRequest{Catalog: c, Deltas: []engine.WriteRequest{
				{Path: "/", MergeType: engine.MergeTypeMergePatch, Body: []byte(`{"b":1}`)}, {Path: "/x", MergeType: engine.MergeTypeReplace, Body: []byte(`2`)},
			}})
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, read(t, e, c))
		}
		fold(t, e, "c3") // not all is live
		got := collect(t, e)
		if got.Compacted < 38 || got.Copied == 0 {
			t.Fatalf("got %+v, want what is live compacted", got)
		}
		if got := collect(t, e); got.Segments < 38 {
			t.Fatalf("got %+v, want the old segments deleted", got)
		}
		if keys := h.keys("wal/"); len(keys) != 1 {
			t.Errorf("got segments %v, want one", keys)
		}
		check := func(e *engine.Engine) {
			t.Helper()
			for i, w := range want {
				c := fmt.Sprintf("c%d", i)
				if got := read(t, e, c); got != w {
					t.Errorf("%s: got %s, want %s", c, got, w)
				}
				if got := wholeLog(t, e, c, 10); len(got) != 3 {
					t.Errorf("%s: got %d entries of the log, want 3", c, len(got))
				}
			}
		}
		check(e)
		fold(t, e, "c4")
		h.close(e)
		h.index = memory.NewIndex(memory.Options{})
		check(h.open(engine.Options{}))
	})
}

// A rebuild finds a run in the segment that was compacted and in the copy. A collector
// that was stopped may delete the former at any time after: the copy counts.
func TestCompactedDeletedLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		o := engine.Options{Grace: time.Hour, CompactAfter: 8 * time.Second, FrameCache: -1, DocumentCache: -1}
		e := h.open(o)
		for i := range 20 {
			write(t, e, fmt.Sprintf("c%d", i), "/", engine.MergeTypeMergePatch, `{"a":1}`)
		}
		old := h.keys("wal/")
		if got := collect(t, e); got.Compacted != 20 || got.Segments != 0 {
			t.Fatalf("got %+v, want everything copied and nothing deleted", got)
		}
		h.close(e)
		h.index = memory.NewIndex(memory.Options{})
		e = h.open(o)
		for _, key := range old {
			if err := h.objects.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 20 {
			if got := read(t, e, fmt.Sprintf("c%d", i)); got != `{"a":1}` {
				t.Errorf("c%d: got %s", i, got)
			}
		}
	})
}

// The retention gives up snapshots and packs that are old, but never the one that
// later versions are read from.
func TestRetention(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		o := soon
		o.Retention = []engine.Retention{{Prefix: "u", OlderThan: 48 * time.Hour}, {Prefix: "users-kept", OlderThan: 1000 * time.Hour}}
		e := h.open(o)
		began := time.Now()
		for i := range 5 {
			for _, c := range []string{"users", "users-kept", "other"} {
				write(t, e, c, "/", engine.MergeTypeMergePatch, fmt.Sprintf(`{"n%d":1}`, i))
				fold(t, e, c)
			}
			time.Sleep(24 * time.Hour)
		}
		got, err := e.Collect(t.Context(), false)
		if err != nil || got.Dropped != 2 {
			t.Fatalf("got %+v, %v, want 2 snapshots dropped", got, err)
		}
		if got := collect(t, e); got.Snapshots < 2 {
			t.Fatalf("got %+v, want 2 snapshots deleted", got)
		}
		for c, want := range map[string]int{"users": 3, "users-kept": 5, "other": 5} {
			if got := len(h.keys(engine.CatalogDir(c) + "/snap/")); got != want {
				t.Errorf("%s: got %d snapshots, want %d", c, got, want)
			}
		}
		for c, gone := range map[string]bool{"users": true, "other": false} {
			first, err := e.Read(t.Context(), engine.ReadRequest{Catalog: c, At: engine.AtTime(began)})
			if errors.Is(err, engine.ErrHistoryGone) != gone || !gone && (err != nil || string(first.Body) != `{"n0":1}`) {
				t.Errorf("%s at its first version: got %s, %v; gone: want %v", c, first.Body, err, gone)
			}
		}
		want := read(t, e, "users")
		h.close(e)
		h.index = memory.NewIndex(memory.Options{})
		if got := read(t, h.open(engine.Options{}), "users"); got != want {
			t.Errorf("rebuilt: got %s, want %s", got, want)
		}
	})
	if _, err := engine.New(t.Context(), memory.NewIndex(memory.Options{}), memory.NewObjects(), engine.Options{Retention: []engine.Retention{{OlderThan: time.Hour}}}); err == nil || !strings.Contains(err.Error(), "24h") {
		t.Errorf("a retention of an hour: got %v, want it refused", err)
	}
}

// Segments that came after the seal of their epoch go; tombstones stay, or what
// comes very late would count.
func TestCollectAfterNewEpoch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(engine.Options{Sweep: true})
		s := engine.SegmentID{Epoch: e.Epoch(), Unix: time.Now().Unix(), Writer: "deadbeef", N: 1}
		if _, err := h.index.PreCommit(t.Context(), engine.PreCommit{Epoch: e.Epoch(), Segment: s, Runs: []engine.Reserve{{Catalog: "c", N: 1, Path: "/"}}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Second) // the sweeper puts a tombstone
		write(t, e, "c", "/", engine.MergeTypeMergePatch, `{"a":1}`)
		h.close(e)
		o := soon
		o.NewEpoch = true
		e = h.open(o)
		stray := engine.SegmentID{Epoch: 1, Unix: 1, Writer: "deadbeef", N: 2}
		if err := h.objects.Put(t.Context(), stray.Key(), []byte("late")); err != nil {
			t.Fatal(err)
		}
		if got := collect(t, e); got != (engine.Collected{Strays: 1}) {
			t.Errorf("got %+v, want the stray deleted", got)
		}
		if keys := h.keys("wal/"); len(keys) != 2 || keys[0] != s.Key() && keys[1] != s.Key() {
			t.Errorf("got %v, want the tombstone %s and a segment", keys, s.Key())
		}
		if got := read(t, e, "c"); got != `{"a":1}` {
			t.Errorf("got %s", got)
		}
	})
}

// A damaged segment does not stop the collection of what came after it. What it may be a
// copy of stays: it may be all that is left of acknowledged writes.
func TestCollectBesideDamage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(engine.Options{Grace: 15 * time.Second, CompactAfter: 8 * time.Second})
		only := func() string { // the newest segment
			keys := h.keys("wal/")
			return keys[len(keys)-1]
		}
		want := map[string]string{}
		put := func(catalog string) string {
			write(t, e, catalog, "/", engine.MergeTypeMergePatch, `{"of":"`+catalog+`"}`)
			want[catalog] = `{"of":"` + catalog + `"}`
			return only()
		}
		sources := []string{put("a"), put("b")}
		time.Sleep(10 * time.Second)
		if got, err := e.Collect(t.Context(), false); err != nil || got.Compacted != 2 {
			t.Fatalf("got %+v, %v, want the two segments put together", got, err)
		}
		copied := only()
		whole, err := h.objects.Get(t.Context(), copied)
		if err != nil {
			t.Fatal(err)
		}
		h.hurt(copied, func(b []byte) []byte { b = bytes.Clone(b); b[len(b)-1] ^= 1; return b })
		time.Sleep(2 * time.Second)
		folded, live := put("folded"), []string{put("c"), put("d")}
		fold(t, e, "folded")
		there := func(keys ...string) (n int) {
			for _, key := range keys {
				if slices.Contains(h.keys("wal/"), key) {
					n++
				}
			}
			return n
		}
		var got engine.Collected
		for range 4 {
			time.Sleep(10 * time.Second)
			one, err := e.Collect(t.Context(), false)
			if !errors.Is(err, engine.ErrDamaged) || !strings.Contains(err.Error(), copied) {
				t.Fatalf("got %+v, %v, want damage that names %s", one, err, copied)
			}
			got.Compacted, got.Segments = got.Compacted+one.Compacted, got.Segments+one.Segments
		}
		if there(folded) != 0 || there(live...) != 0 || got.Compacted != 2 || got.Segments != 3 {
			t.Errorf("got %+v and %v, want what came after the damaged segment collected, and put together", got, h.keys("wal/"))
		}
		if there(sources...) != 2 {
			t.Fatalf("got %v, want what the damaged segment was copied from, %v", h.keys("wal/"), sources)
		}

		// Why they stay: the index is lost, and the damage accepted.
		other := memory.NewObjects()
		for _, key := range h.keys("") {
			b, err := h.objects.Get(t.Context(), key)
			if err == nil {
				err = other.Put(t.Context(), key, b)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		again, err := engine.New(t.Context(), memory.NewIndex(memory.Options{Exclusive: true}), other, engine.Options{AcceptLoss: []string{copied}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.close(again) })
		for catalog, doc := range want {
			if got := read(t, again, catalog); got != doc {
				t.Errorf("%s after its copy was given up: got %s, want %s", catalog, got, doc)
			}
		}

		h.hurt(copied, func([]byte) []byte { return whole })
		if got := collect(t, e); got.Segments != 2 || there(sources...) != 0 {
			t.Errorf("put back: got %+v and %v, want what it was copied from collected", got, h.keys("wal/"))
		}
	})
}

func TestRebuild(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(engine.Options{})
		write(t, e, "users", "/", engine.MergeTypeMergePatch, `{"a":1}`)
		fold(t, e, "users")
		last := write(t, e, "users", "/", engine.MergeTypeMergePatch, `{"b":2}`)
		var steps []string
		e2 := h.open(engine.Options{Rebuild: true, Hooks: engine.Hooks{Recovering: func(_ uint64, step string) { steps = append(steps, step) }}})
		if got := strings.Join(steps, " "); !strings.Contains(got, "empty") || e2.Epoch() != 2 {
			t.Errorf("got steps %q and epoch %d, want the shards emptied and epoch 2", got, e2.Epoch())
		}
		time.Sleep(3 * time.Second) // the other engine finds its epoch over and joins
		for _, e := range []*engine.Engine{e, e2} {
			if r, err := e.Read(t.Context(), engine.ReadRequest{Catalog: "users"}); err != nil || string(r.Body) != `{"a":1,"b":2}` || r.Version != last.Version {
				t.Errorf("got %s at %s, %v", r.Body, r.Version, err)
			}
		}
	})
}

// broken is an index whose views of a catalog are damaged until the shard is
// emptied.
type broken struct {
	*memory.Index
	on atomic.Bool
}

func (b *broken) View(ctx context.Context, epoch uint64, catalog string, after engine.Version) (engine.View, error) {
	if b.on.Load() && catalog == "users" {
		return engine.View{}, fmt.Errorf("%w: a key was evicted", engine.ErrDamaged)
	}
	return b.Index.View(ctx, epoch, catalog, after)
}

func (b *broken) Condemn(ctx context.Context, epoch uint64, shard int) error {
	b.on.Store(false)
	return b.Index.Condemn(ctx, epoch, shard)
}

// A shard that does not agree with itself is filled anew from the bucket, without
// a restart.
func TestDamagedIndex(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		objects := memory.NewObjects()
		x := &broken{Index: memory.NewIndex(memory.Options{})}
		e, err := engine.New(t.Context(), x, objects, engine.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = e.Close(context.Background()) }()
		write(t, e, "users", "/", engine.MergeTypeMergePatch, `{"a":1}`)
		x.on.Store(true)
		if _, err := e.Read(t.Context(), engine.ReadRequest{Catalog: "users"}); !errors.Is(err, engine.ErrRecovering) {
			t.Fatalf("got %v, want %v", err, engine.ErrRecovering)
		}
		time.Sleep(12 * time.Second)
		if got := read(t, e, "users"); got != `{"a":1}` || e.Epoch() != 2 {
			t.Errorf("got %s in epoch %d, want it back in epoch 2", got, e.Epoch())
		}
	})
}

// Events that nobody published before the index was lost are published from the
// segments, also those of runs that are folded: every version is covered.
func TestEventsOfFoldedRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(soon)
		if err := h.index.SetEvents(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			write(t, e, "users", "/", engine.MergeTypeMergePatch, fmt.Sprintf(`{"a":%d}`, i))
			time.Sleep(1500 * time.Millisecond)
			if i == 1 || i == 2 {
				fold(t, e, "users")
			}
		}
		if got := collect(t, e); got.Segments != 0 || got.Waiting != 0 {
			t.Fatalf("got %+v, want nothing collected before its events are published", got)
		}
		log := wholeLog(t, e, "users", 10)
		h.close(e)
		h.index = memory.NewIndex(memory.Options{})
		if err := h.index.SetEvents(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		e2 := h.open(engine.Options{})
		batches, err := h.index.Next(t.Context(), e2.Epoch(), []int{engine.Shard("users")}, 100)
		if err != nil {
			t.Fatal(err)
		}
		var covered engine.Version
		for _, ev := range batches[0].Events {
			if ev.Kind != engine.EventCommitted || ev.Prev != covered {
				t.Errorf("got %+v, want an event that goes on from %s", ev, covered)
			}
			covered = ev.Version
		}
		if covered != log[len(log)-1].Version {
			t.Errorf("events cover up to %s, want %s", covered, log[len(log)-1].Version)
		}
	})
}
