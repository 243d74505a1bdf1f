package engine_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/codec"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

func TestPutFaults(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		put  func(n int, h *house, ctx context.Context, key string, data []byte) (bool, error)
		want error
	}{
		{"refused twice", func(n int, _ *house, _ context.Context, _ string, _ []byte) (bool, error) {
			return n <= 2, errors.New("503")
		}, nil},
		{"stored, answer lost", func(n int, h *house, ctx context.Context, key string, data []byte) (bool, error) {
			if n == 1 {
				_ = h.objects.Objects.Put(ctx, key, data)
				return true, errors.New("connection reset")
			}
			return false, nil
		}, nil},
		{"another's tombstone", func(n int, h *house, ctx context.Context, key string, _ []byte) (bool, error) {
			if n == 1 {
				b, _ := codec.Append(nil, &codec.Frame{Header: codec.Header{Kind: codec.KindTombstone}}, codec.Options{})
				_ = h.objects.Objects.Put(ctx, key, b)
			}
			return false, nil
		}, nil},
		{"never answered", func(n int, h *house, ctx context.Context, key string, data []byte) (bool, error) {
			if n == 1 { // the first segment's put hangs; its tombstone and all else work
				<-ctx.Done()
				return true, ctx.Err()
			}
			return false, nil
		}, nil},
		{"never", func(_ int, _ *house, ctx context.Context, _ string, _ []byte) (bool, error) {
			return true, errors.New("503")
		}, engine.ErrUnknown},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t)
				e := h.open(engine.Options{})
				n := 0
				h.objects.script(func(ctx context.Context, key string, data []byte) (bool, error) {
					if !strings.HasPrefix(key, "wal/") {
						return false, nil
					}
					n++
					return tc.put(n, h, ctx, key, data)
				})
				r, err := e.Write(t.Context(), engine.WriteRequest{Catalog: "c", Body: []byte(`{"a":1}`)})
				if !errors.Is(err, tc.want) {
					t.Fatalf("got %v, want %v", err, tc.want)
				}
				h.objects.script(nil)
				if tc.want != nil {
					return
				}
				if l := e.List(t.Context(), "c"); l.Version != r.Version || l.HasPending {
					t.Errorf("got %+v, want version %s", l, r.Version)
				}
				if log := wholeLog(t, e, "c", 10); len(log) != 1 {
					t.Errorf("got %d entries, want 1", len(log))
				}
			})
		})
	}
}

// A writer that was stopped longer than segments are certain to stay takes an
// empty place for nothing: what it put may have been committed, folded and
// collected by others. It does not try again.
func TestStoppedInItsPut(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ grace, stopped time.Duration }{{time.Hour, 6 * time.Minute}, {time.Minute, 55 * time.Second}} {
		t.Run(tc.grace.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t)
				e := h.open(engine.Options{WriteTimeout: 20 * time.Minute, Grace: tc.grace})
				segments := map[string]bool{}
				h.objects.script(func(_ context.Context, key string, _ []byte) (bool, error) {
					if !strings.HasPrefix(key, "wal/") {
						return false, nil
					}
					segments[key] = true
					if len(segments) == 1 {
						time.Sleep(tc.stopped)
						segments["stopped"] = true // the tombstone may be put
						return true, errors.New("connection reset")
					}
					return false, nil
				})
				if _, err := e.Write(t.Context(), engine.WriteRequest{Catalog: "c", Body: []byte(`{"a":1}`)}); !errors.Is(err, engine.ErrUnknown) {
					t.Errorf("got %v, want %v", err, engine.ErrUnknown)
				}
				if len(segments) != 2 {
					t.Errorf("got puts of %v, want one segment only", segments)
				}
			})
		})
	}
}

// A writer that dies between its reservation and its put holds nobody up for
// longer than the patience; one that died after its put is rolled forward.
func TestDeadWriter(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		put   bool
		sweep bool
		want  string
		limit time.Duration
	}{
		{"patience rolls back", false, false, `{"b":2}`, 3 * time.Second},
		{"patience rolls forward", true, false, `{"dead":1,"b":2}`, 3 * time.Second},
		{"sweeper rolls back", false, true, ``, 15 * time.Second},
		{"sweeper rolls forward", true, true, `{"dead":1}`, 15 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t)
				e := h.open(engine.Options{Sweep: tc.sweep})
				s := engine.SegmentID{Epoch: e.Epoch(), Unix: time.Now().Unix(), Writer: "deadbeef", N: 1}
				res, err := h.index.PreCommit(t.Context(), engine.PreCommit{Epoch: e.Epoch(), Segment: s, Runs: []engine.Reserve{{Catalog: "c", N: 1, Type: engine.MergeTypeMergePatch, Path: "/"}}})
				if err != nil || res.Runs[0].Err != nil {
					t.Fatal(err, res)
				}
				if tc.put {
					// What a writer puts is made by an engine of its own, for the right bytes.
					h.putRun(s, "c", res.Runs[0].First, `{"dead":1}`)
				}
				start := time.Now()
				if tc.sweep {
					for {
						st, err := h.index.Stuck(t.Context(), e.Epoch())
						if err != nil {
							t.Fatal(err)
						}
						if len(st) == 0 {
							break
						}
						if time.Since(start) > tc.limit {
							t.Fatalf("still stuck after %s: %+v", time.Since(start), st)
						}
						time.Sleep(100 * time.Millisecond)
					}
				} else {
					write(t, e, "c", "/b", engine.MergeTypeReplace, `2`)
				}
				if d := time.Since(start); d > tc.limit {
					t.Errorf("took %s, want at most %s", d, tc.limit)
				}
				if got := read(t, e, "c"); got != tc.want {
					t.Errorf("got %s, want %s", got, tc.want)
				}
			})
		})
	}
}

// putRun puts a segment of one merge patch at the root.
func (h *house) putRun(s engine.SegmentID, catalog string, first engine.Version, body string) {
	h.t.Helper()
	if err := h.tryPutRun(s, catalog, first, body); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) tryPutRun(s engine.SegmentID, catalog string, first engine.Version, body string) error {
	h.t.Helper()
	payload := append([]byte{byte(engine.MergeTypeMergePatch), 0, 1, '/', byte(len(body))}, body...)
	b, err := codec.Append(nil, &codec.Frame{Header: codec.Header{Kind: codec.KindRun, Catalog: catalog, First: first.Codec(), N: 1, Writer: s.Writer, Epoch: s.Epoch}, Payload: payload}, codec.Options{})
	if err != nil {
		h.t.Fatal(err)
	}
	return h.objects.Put(h.t.Context(), s.Key(), b)
}

// While the bucket is away nothing is answered definitely, and refusals come at
// once; when it is back, so is the lake.
func TestBucketAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(engine.Options{})
		write(t, e, "c", "/a", engine.MergeTypeReplace, `1`)
		down := errors.New("connection refused")
		h.objects.failGets(func(string) (bool, error) { return true, down })
		h.objects.script(func(context.Context, string, []byte) (bool, error) { return true, down })
		time.Sleep(2 * time.Second)
		start := time.Now()
		_, err := e.Write(t.Context(), engine.WriteRequest{Catalog: "c", Body: []byte(`{"b":1}`)})
		if !errors.Is(err, engine.ErrUnavailable) || time.Since(start) > 100*time.Millisecond {
			t.Errorf("write: got %v after %s, want unavailable at once", err, time.Since(start))
		}
		if _, err := e.Read(t.Context(), engine.ReadRequest{Catalog: "c"}); !errors.Is(err, engine.ErrUnavailable) {
			t.Errorf("read: got %v, want unavailable", err)
		}
		h.objects.failGets(nil)
		h.objects.script(nil)
		time.Sleep(2 * time.Second)
		write(t, e, "c", "/b", engine.MergeTypeReplace, `2`)
		if got, want := read(t, e, "c"), `{"a":1,"b":2}`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// A new epoch: an engine of the old one stops answering and joins the new one.
func TestNewEpochIsJoined(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		old := h.open(engine.Options{})
		write(t, old, "c", "/a", engine.MergeTypeReplace, `1`)
		fresh := h.open(engine.Options{NewEpoch: true})
		if fresh.Epoch() != 2 {
			t.Fatalf("got epoch %d, want 2", fresh.Epoch())
		}
		write(t, fresh, "c", "/b", engine.MergeTypeReplace, `2`)
		time.Sleep(3 * time.Second)
		if old.Epoch() != 2 {
			t.Fatalf("the old engine is in epoch %d, want 2", old.Epoch())
		}
		write(t, old, "c", "/c", engine.MergeTypeReplace, `3`)
		if got, want := read(t, fresh, "c"), `{"a":1,"b":2,"c":3}`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// I8: the index is lost whole; documents, order and versions come back.
func TestIndexLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(engine.Options{})
		catalogs := []string{"users", "USERS", "Users", "中文", "a.b", "z"}
		for i := range 30 {
			for j, c := range catalogs {
				write(t, e, c, "/", engine.MergeTypeMergePatch, fmt.Sprintf(`{"m%d":%d}`, i%7, i*j))
			}
			if i == 10 || i == 20 {
				for _, c := range catalogs[:3] {
					if _, err := e.Fold(t.Context(), c); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		docs, logs := map[string]string{}, map[string]string{}
		for _, c := range catalogs {
			docs[c], logs[c] = read(t, e, c), fmt.Sprintf("%+v", wholeLog(t, e, c, 7))
		}
		h.close(e)
		h.index = memory.NewIndex(memory.Options{})
		e = h.open(engine.Options{})
		if e.Epoch() != 2 {
			t.Errorf("got epoch %d, want 2", e.Epoch())
		}
		for _, c := range catalogs {
			if got := read(t, e, c); got != docs[c] {
				t.Errorf("%s: got %s, want %s", c, got, docs[c])
			}
			if got := fmt.Sprintf("%+v", wholeLog(t, e, c, 7)); got != logs[c] {
				t.Errorf("%s: got log\n%s\nwant\n%s", c, got, logs[c])
			}
			last := e.List(t.Context(), c).Version
			if r := write(t, e, c, "/x", engine.MergeTypeReplace, `1`); !last.Less(r.Version) {
				t.Errorf("%s: version %s given after %s", c, r.Version, last)
			}
		}
	})
}

// A damaged object is an error that names it (I11).
func TestDamageIsNamed(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	e := h.open(engine.Options{DocumentCache: -1, FrameCache: -1})
	write(t, e, "c", "/a", engine.MergeTypeReplace, `"some text"`)
	var key string
	for o := range h.objects.List(t.Context(), "wal/", "") {
		key = o.Key
	}
	b, err := h.objects.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{0, 5, len(b) / 2, len(b) - 1} {
		b[i] ^= 1
		_ = h.objects.Delete(t.Context(), key)
		if err := h.objects.Put(t.Context(), key, b); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Read(t.Context(), engine.ReadRequest{Catalog: "c"}); !errors.Is(err, engine.ErrDamaged) || !strings.Contains(err.Error(), key) {
			t.Errorf("byte %d: got %v, want damage that names %s", i, err, key)
		}
		b[i] ^= 1
	}
}

// far is a bucket that answers after a while.
type far struct {
	engine.Objects
	wait time.Duration
}

func (f far) Get(ctx context.Context, key string) ([]byte, error) {
	time.Sleep(f.wait)
	return f.Objects.Get(ctx, key)
}

func (f far) List(ctx context.Context, prefix, after string) iter.Seq2[engine.ObjectInfo, error] {
	time.Sleep(f.wait)
	return f.Objects.List(ctx, prefix, after)
}

// A lost index of a lake that was restarted often, with many segments, is rebuilt
// without waiting for the bucket at each epoch and each segment in turn.
func TestRebuildAsksSideBySide(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.index = memory.NewIndex(memory.Options{Exclusive: true})
		const epochs, writes = 100, 6
		docs := 0
		for range epochs {
			e := h.open(engine.Options{NewEpoch: true})
			for range writes {
				write(t, e, fmt.Sprintf("c%d", docs), "/a", engine.MergeTypeReplace, `1`)
				docs++
			}
			h.close(e)
		}
		h.index = memory.NewIndex(memory.Options{Exclusive: true})
		begin := time.Now()
		const latency = 50 * time.Millisecond
		e, err := engine.New(t.Context(), h.index, far{h.objects, latency}, engine.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.close(e) })
		took := time.Since(begin)
		t.Logf("%d segments of %d epochs in %.1f s, %d times the latency of a request", docs, epochs, took.Seconds(), took/latency)
		// One after the other it would be 100 seals, 100 listings and 600 segments.
		if most := 60 * latency; took > most {
			t.Errorf("took %s, want at most %s", took, most)
		}
		for i := range docs {
			if got := read(t, e, fmt.Sprintf("c%d", i)); got != `{"a":1}` {
				t.Fatalf("catalog %d: got %s", i, got)
			}
		}
	})
}

// A writer dies, the clock of the index steps back, so that by it nothing is old and
// nobody dead, and then the sweeper dies that would have seen it by its own clock.
func TestDeadWriterAndDeadSweeper(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		offset := time.Duration(0)
		h := newHouse(t)
		h.index = memory.NewIndex(memory.Options{Clock: func() time.Time { return time.Now().Add(offset) }})
		e := h.open(engine.Options{})
		s := engine.SegmentID{Epoch: e.Epoch(), Unix: time.Now().Unix(), Writer: "deadbeef", N: 1}
		if _, err := h.index.Heartbeat(t.Context(), e.Epoch(), s.Writer); err != nil {
			t.Fatal(err)
		}
		res, err := h.index.PreCommit(t.Context(), engine.PreCommit{Epoch: e.Epoch(), Segment: s, Runs: []engine.Reserve{{Catalog: "c", N: 1, Type: engine.MergeTypeMergePatch, Path: "/"}}})
		if err != nil || res.Runs[0].Err != nil {
			t.Fatal(err, res)
		}
		offset = -time.Hour
		sweeps := func() {
			t.Helper()
			if mine, err := h.index.Acquire(t.Context(), 0, "sweep", "a sweeper", 4*time.Second); !mine || err != nil {
				t.Fatalf("the sweeper's lease: %v, %v", mine, err)
			}
		}
		sweeps()
		h.open(engine.Options{Sweep: true})
		for range 8 {
			time.Sleep(time.Second)
			sweeps()
		}
		time.Sleep(50 * time.Millisecond) // its lease ends just after the next has looked
		sweeps()
		died := time.Now()
		for {
			st, err := h.index.Stuck(t.Context(), e.Epoch())
			if err != nil {
				t.Fatal(err)
			}
			if len(st) == 0 {
				break
			}
			if since := time.Since(died); since > 15*time.Second {
				t.Fatalf("still stuck %s after the last fault: %+v", since, st)
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
}

// noted is a bucket that notes what is asked for, while it is on.
type noted struct {
	engine.Objects
	on   atomic.Bool
	mu   sync.Mutex
	gets []string
}

func (n *noted) note(key string) {
	if n.on.Load() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.gets = append(n.gets, key)
	}
}

func (n *noted) Get(ctx context.Context, key string) ([]byte, error) {
	n.note(key)
	return n.Objects.Get(ctx, key)
}

func (n *noted) GetRange(ctx context.Context, key string, off, length int64) ([]byte, error) {
	n.note(key)
	return n.Objects.GetRange(ctx, key, off, length)
}

// Who opens an epoch reads segments and packs while it waits for older leases to
// end; what is put during the wait counts as much.
func TestOpenerReadsAhead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		old := h.open(engine.Options{})
		const catalogs = 50
		for i := range catalogs {
			c := fmt.Sprintf("c%d", i)
			write(t, old, c, "/a", engine.MergeTypeReplace, `1`)
			if i%2 == 0 {
				fold(t, old, c)
			}
			write(t, old, c, "/b", engine.MergeTypeReplace, `2`)
		}
		bucket := &noted{Objects: h.objects}
		h.index = memory.NewIndex(memory.Options{}) // lost; the old engine does not know yet
		var late string
		var writes sync.WaitGroup
		e, err := engine.New(t.Context(), h.index, bucket, engine.Options{Hooks: engine.Hooks{Recovering: func(_ uint64, step string) {
			switch step {
			case "wait":
				writes.Go(func() {
					time.Sleep(500 * time.Millisecond) // what is there is read by then, and the lease holds
					write(t, old, "late", "/a", engine.MergeTypeReplace, `3`)
					late = "written"
					h.close(old) // else it would join with its own index, in turn
				})
			case "seal":
				bucket.on.Store(true)
			}
		}}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.close(e) })
		bucket.on.Store(false)
		writes.Wait()
		if late == "" {
			t.Fatal("nothing was written during the wait")
		}
		var segments, packs int
		for _, key := range bucket.gets {
			switch {
			case strings.HasPrefix(key, "wal/"):
				segments++
			case strings.HasSuffix(key, ".pack"):
				packs++
			}
		}
		if segments != 1 || packs != 0 {
			t.Errorf("after the wait %d segments and %d packs were read, want only the segment that came during it: %q", segments, packs, bucket.gets)
		}
		for i := range catalogs {
			if got := read(t, e, fmt.Sprintf("c%d", i)); got != `{"a":1,"b":2}` {
				t.Fatalf("catalog %d: got %s", i, got)
			}
		}
		if got := read(t, e, "late"); got != `{"a":3}` {
			t.Errorf("got %s for the write that was answered during the wait", got)
		}
	})
}
