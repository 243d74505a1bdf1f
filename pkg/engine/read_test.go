package engine_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

// A caller who has the version already gets no body, and one who waits for a
// version gets it as soon as it is committed.
func TestReadConditions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(engine.Options{})
		first := write(t, e, "users", "/a", engine.MergeTypeReplace, `1`).Version
		res, err := e.Read(t.Context(), engine.ReadRequest{Catalog: "users", IfNoneMatch: first})
		if err != nil || !res.NotModified || res.Body != nil || res.Version != first {
			t.Errorf("unchanged: %+v, %v", res, err)
		}
		var second engine.Version
		go func() {
			time.Sleep(3 * time.Second)
			second = write(t, e, "users", "/a", engine.MergeTypeReplace, `2`).Version
		}()
		res, err = e.Read(t.Context(), engine.ReadRequest{Catalog: "users", MinVersion: first.Add(1), IfNoneMatch: first})
		synctest.Wait()
		if err != nil || res.NotModified || res.Version != second || string(res.Body) != `{"a":2}` {
			t.Errorf("waited: %+v, %v, want version %s", res, err, second)
		}

		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		res, err = e.Read(ctx, engine.ReadRequest{Catalog: "users", MinVersion: second.Add(1)})
		if !errors.Is(err, engine.ErrNotReached) || res.Version != second || engine.Code(err).Code != "not_reached" {
			t.Errorf("never reached: %+v, %v", res, err)
		}
		for _, bad := range []engine.ReadRequest{{Catalog: ""}, {Catalog: "x", MinVersion: engine.Version{Sec: 1}}, {Catalog: "x", IfNoneMatch: engine.Version{Seq: 1, Sec: -1}}} {
			if _, err := e.Read(t.Context(), bad); !errors.Is(err, engine.ErrInvalid) {
				t.Errorf("%+v: got %v", bad, err)
			}
		}
	})
}

// A relaxed read goes on while the bucket is away, as long as it needs nothing
// from there.
func TestRelaxedRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(engine.Options{})
		write(t, e, "c", "/a", engine.MergeTypeReplace, `1`)
		read(t, e, "c")
		down := errors.New("connection refused")
		h.objects.failGets(func(string) (bool, error) { return true, down })
		time.Sleep(10 * time.Second)
		if _, err := e.Read(t.Context(), engine.ReadRequest{Catalog: "c"}); !errors.Is(err, engine.ErrUnavailable) {
			t.Errorf("strict: got %v, want unavailable", err)
		}
		if res, err := e.Read(t.Context(), engine.ReadRequest{Catalog: "c", Relaxed: true}); err != nil || string(res.Body) != `{"a":1}` {
			t.Errorf("relaxed: %+v, %v", res, err)
		}
		h.close(e)
		if _, err := e.Read(t.Context(), engine.ReadRequest{Catalog: "c", Relaxed: true}); !errors.Is(err, engine.ErrClosed) {
			t.Errorf("closed: got %v", err)
		}
	})
}

// A relaxed read may be answered from memory for RelaxedAge after the index was
// asked, not later, and never when it asks for a version that is not there yet.
func TestRelaxedAge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e, other := h.open(engine.Options{}), h.open(engine.Options{})
		ask := func(req engine.ReadRequest) string {
			t.Helper()
			req.Catalog, req.Relaxed = "c", true
			soon := ""
			taken := e.ReadSoon(req, func(res engine.ReadResult, done bool) {
				if done {
					soon = string(res.Body)
				}
			})
			res, err := e.Read(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if taken && soon != "" && soon != string(res.Body) {
				t.Errorf("at once %s, then %s", soon, res.Body)
			}
			return string(res.Body)
		}
		write(t, other, "c", "/a", engine.MergeTypeReplace, `1`)
		read(t, e, "c")
		second := write(t, other, "c", "/a", engine.MergeTypeReplace, `2`).Version
		time.Sleep(engine.RelaxedAge - time.Millisecond)
		if got := ask(engine.ReadRequest{}); got != `{"a":1}` {
			t.Errorf("within the age: got %s, want what was known", got)
		}
		if got := read(t, e, "c"); got != `{"a":2}` {
			t.Errorf("strict: got %s", got)
		}
		third := write(t, other, "c", "/a", engine.MergeTypeReplace, `3`).Version
		if got := ask(engine.ReadRequest{MinVersion: second}); got != `{"a":2}` {
			t.Errorf("a version that is known: got %s", got)
		}
		if got := ask(engine.ReadRequest{MinVersion: third}); got != `{"a":3}` {
			t.Errorf("a version that is not known yet: got %s", got)
		}
		write(t, other, "c", "/a", engine.MergeTypeReplace, `4`)
		time.Sleep(engine.RelaxedAge)
		if got := ask(engine.ReadRequest{}); got != `{"a":4}` {
			t.Errorf("after the age: got %s", got)
		}
		// Nobody reads what a purge has erased, also not from memory.
		if _, err := other.Purge(t.Context(), engine.PurgeRequest{Catalog: "c"}); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Read(t.Context(), engine.ReadRequest{Catalog: "c", Relaxed: true}); !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("purged: got %v, want not found", err)
		}
	})
}

// A reader whose view is folded and collected while it loads takes a new one, as
// often as that happens.
func TestViewsThatGo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(engine.Options{DocumentCache: -1, FrameCache: -1})
		other := h.open(engine.Options{})
		write(t, e, "c", "/", engine.MergeTypeReplace, `{"n":0}`)
		var n atomic.Int64
		var busy atomic.Bool
		h.objects.failGets(func(key string) (bool, error) {
			if n.Load() == 5 || !strings.HasPrefix(key, "wal/") || !busy.CompareAndSwap(false, true) {
				return false, nil
			}
			defer busy.Store(false)
			n.Add(1) // before every get of a segment everything is purged, and written again
			if _, err := other.Purge(context.Background(), engine.PurgeRequest{Catalog: "c"}); err != nil {
				t.Errorf("purge: %v", err)
			}
			write(t, other, "c", "/", engine.MergeTypeReplace, fmt.Sprintf(`{"n":%d}`, n.Load()))
			return true, engine.ErrNotExist
		})
		if got := read(t, e, "c"); got != `{"n":5}` {
			t.Errorf("got %s after %d views", got, n.Load())
		}
		n.Store(0)
		page, err := e.Log(t.Context(), engine.LogRequest{Catalog: "c", Limit: 10})
		if err != nil || n.Load() != 5 || len(page.Items) != 2 {
			t.Errorf("log: got %+v, %v after %d views", page, err, n.Load())
		}
	})
}

// What an index lacks that goes on as an older state of itself is in the bucket:
// a reader that does not find what it needs registers it again.
func TestAdoptNewer(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		lost func(key string) bool // of the bucket
		want string                // "": damaged
	}{
		{"two folds", func(key string) bool { return strings.HasPrefix(key, "wal/") }, `{"a":2,"b":1}`},
		{"the first snapshot is gone too", func(key string) bool {
			return strings.HasPrefix(key, "wal/") || strings.Contains(key, "/snap/0_0~")
		}, `{"a":2,"b":1}`},
		{"the newest snapshot is gone", func(key string) bool {
			return strings.HasPrefix(key, "wal/") || strings.Contains(key, "/snap/") && !strings.Contains(key, "/snap/0_0~")
		}, ""},
		{"all are gone", func(key string) bool { return true }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t)
				e := h.open(engine.Options{DocumentCache: -1, FrameCache: -1})
				write(t, e, "c", "/", engine.MergeTypeMergePatch, `{"a":1}`)
				write(t, e, "c", "/", engine.MergeTypeMergePatch, `{"a":2,"b":1}`)
				// Another index folds and collects, and is lost.
				other := &house{t: t, index: h.index.Clone(), objects: &scripted{Objects: memory.NewObjects()}}
				h.copyTo(other, "")
				folder := other.open(engine.Options{FoldMaxDeltas: 1})
				for range 2 {
					fold(t, folder, "c")
				}
				other.copyTo(h, engine.CatalogDir("c")+"/")
				for _, key := range h.keys("") {
					if !strings.HasPrefix(key, "_lake/") && tc.lost(key) {
						if err := h.objects.Delete(t.Context(), key); err != nil {
							t.Fatal(err)
						}
					}
				}
				var readers sync.WaitGroup // of which one is the fastest
				for range 5 {
					readers.Go(func() {
						res, err := e.Read(t.Context(), engine.ReadRequest{Catalog: "c"})
						if tc.want == "" && !errors.Is(err, engine.ErrDamaged) {
							t.Errorf("got %s, %v, want damaged", res.Body, err)
						}
						if tc.want != "" && (err != nil || string(res.Body) != tc.want) {
							t.Errorf("got %s, %v, want %s", res.Body, err, tc.want)
						}
					})
				}
				readers.Wait()
				if tc.want == "" {
					return
				}
				if got := wholeLog(t, e, "c", 10); len(got) != 2 {
					t.Errorf("got %d entries of the log, want 2", len(got))
				}
				write(t, e, "c", "/", engine.MergeTypeMergePatch, `{"b":2}`)
				fold(t, e, "c")
				if got := read(t, e, "c"); got != `{"a":2,"b":2}` {
					t.Errorf("went on: got %s", got)
				}
			})
		})
	}
}

// copyTo puts the bucket's objects with a prefix into another house's.
func (h *house) copyTo(to *house, prefix string) {
	h.t.Helper()
	for _, key := range h.keys(prefix) {
		b, err := h.objects.Get(h.t.Context(), key)
		if err == nil {
			err = to.objects.Put(h.t.Context(), key, b)
		}
		if err != nil {
			h.t.Fatal(err)
		}
	}
}

// Reading a part of a document copies that part and not the document, and what is read is
// the caller's: to write into it changes nothing for the next reader.
func TestPartIsCopiedAlone(t *testing.T) {
	h := newHouse(t)
	e := h.open(engine.Options{})
	write(t, e, "users", "/", engine.MergeTypeReplace, `{"a":{"n":1},"rest":"`+strings.Repeat("x", 1<<20)+`"}`)
	read := func(pointer string) []byte {
		t.Helper()
		res, err := e.Read(t.Context(), engine.ReadRequest{Catalog: "users", Pointer: pointer})
		if err != nil {
			t.Fatal(err)
		}
		return res.Body
	}
	whole := read("") // into the document cache
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	part := read("/a")
	runtime.ReadMemStats(&after)
	if made := after.TotalAlloc - before.TotalAlloc; made > 256<<10 {
		t.Errorf("%d bytes of memory for a part of %d", made, len(part))
	}
	clear(part)
	clear(whole)
	if got := string(read("/a")); got != `{"n":1}` {
		t.Errorf("got %q", got)
	}
}
