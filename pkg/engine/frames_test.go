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

// A process that folds many catalogs that were written together, some at a time, and
// has none of their frames, gets each segment they share once, not once a catalog; one
// that reads them twice. What is too large to be kept whole is fetched by ranges.
func TestSharedSegmentsAreFetchedOnce(t *testing.T) {
	t.Parallel()
	const catalogs, rounds = 40, 6
	for _, tc := range []struct {
		name string
		pad  int // of each body; it does not compress to nothing
		read bool
		most int // gets of a segment
	}{
		{"small", 100, false, 1},
		{"small, read", 100, true, 2},
		{"too large to keep", 60 << 10, false, catalogs},
		{"too large to keep, read", 60 << 10, true, 1 + catalogs},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			writer := h.open(engine.Options{Linger: 20 * time.Millisecond})
			want := make([]string, catalogs)
			for round := range rounds {
				var wg sync.WaitGroup
				for c := range catalogs {
					body := fmt.Sprintf(`{"n":%d,"pad":"%s"}`, round, noise(round*catalogs+c, tc.pad))
					want[c] = body
					wg.Go(func() {
						if _, err := writer.Write(t.Context(), engine.WriteRequest{Catalog: fmt.Sprintf("c%d", c), MergeType: engine.MergeTypeReplace, Body: []byte(body)}); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
			}
			segments := 0
			for _, err := range h.objects.List(t.Context(), "wal/", "") {
				if err != nil {
					t.Fatal(err)
				}
				segments++
			}
			if segments > catalogs*rounds/4 {
				t.Fatalf("%d writes are in %d segments: hardly any is shared", catalogs*rounds, segments)
			}
			h.close(writer)

			folder := h.open(engine.Options{})
			var gets atomic.Int64
			h.objects.failGets(func(key string) (bool, error) {
				if strings.HasPrefix(key, "wal/") {
					gets.Add(1)
				}
				return false, nil
			})
			var wg sync.WaitGroup
			for worker := range 4 {
				wg.Go(func() {
					for c := worker; c < catalogs; c += 4 {
						catalog := fmt.Sprintf("c%d", c)
						if !tc.read {
							if r, err := folder.Fold(t.Context(), catalog); err != nil || r.Deltas != rounds {
								t.Errorf("fold %s: %+v, %v", catalog, r, err)
								return
							}
						}
						if r, err := folder.Read(t.Context(), engine.ReadRequest{Catalog: catalog}); err != nil || string(r.Body) != want[c] {
							t.Errorf("%s is %.80s, %v, want %.80s", catalog, r.Body, err, want[c])
							return
						}
					}
				})
			}
			wg.Wait()
			if got := gets.Load(); got > int64(tc.most*segments) {
				t.Errorf("%d catalogs took %d gets of %d segments, want at most %d of each", catalogs, got, segments, tc.most)
			}
		})
	}
}

// A segment is kept whole though only some of it was looked at: what was damaged on its
// way is got again.
func TestDamagedCopyIsGotAgain(t *testing.T) {
	t.Parallel()
	index, objects := memory.NewIndex(memory.Options{}), &damaging{Objects: memory.NewObjects()}
	open := func() *engine.Engine {
		e, err := engine.New(t.Context(), index, objects, engine.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = e.Close(context.WithoutCancel(t.Context())) })
		return e
	}
	writer := open()
	const catalogs = 8
	var wg sync.WaitGroup
	for c := range catalogs {
		wg.Go(func() {
			if _, err := writer.Write(t.Context(), engine.WriteRequest{Catalog: fmt.Sprintf("c%d", c), MergeType: engine.MergeTypeReplace, Body: []byte(`"` + noise(c, 500) + `"`)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	folder := open()
	objects.damage.Store(true)
	for c := range catalogs {
		// The first of each segment may meet the damage itself; then it is told, and goes away.
		_, err := folder.Fold(t.Context(), fmt.Sprintf("c%d", c))
		if errors.Is(err, engine.ErrDamaged) {
			_, err = folder.Fold(t.Context(), fmt.Sprintf("c%d", c))
		}
		if err != nil {
			t.Errorf("fold c%d: %v", c, err)
		}
	}
	if objects.damaged.Load() == 0 {
		t.Error("nothing was damaged")
	}
}

// damaging objects damage the end of each segment the first time they are read whole.
type damaging struct {
	engine.Objects
	damage  atomic.Bool
	seen    sync.Map
	damaged atomic.Int64
}

func (d *damaging) Get(ctx context.Context, key string) ([]byte, error) {
	b, err := d.Objects.Get(ctx, key)
	if err == nil && d.damage.Load() && strings.HasPrefix(key, "wal/") {
		if _, before := d.seen.LoadOrStore(key, true); !before {
			b[len(b)-100]++
			d.damaged.Add(1)
		}
	}
	return b, err
}

// Frames are given to the shared cache before the commit makes them visible. Nothing
// waits for it, but a commit that takes a millisecond finds them there.
func TestFramesAreSharedBeforeTheCommit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cache := &setCache{}
		var early atomic.Int64
		index := enginetest.NewFaultyIndex(memory.NewIndex(memory.Options{}), func(c enginetest.Call) enginetest.Fault {
			if c.Op == "Commit" {
				time.Sleep(time.Millisecond) // what was given to the cache is there by then
				early.Store(cache.sets.Load())
			}
			return enginetest.Fault{}
		})
		e, err := engine.New(t.Context(), index, memory.NewObjects(), engine.Options{Cache: cache})
		if err != nil {
			t.Fatal(err)
		}
		write(t, e, "users", "/", engine.MergeTypeReplace, "1")
		if got := early.Load(); got != 1 {
			t.Errorf("the shared cache had %d frames when the commit began, want 1", got)
		}
		if err := e.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
}

// setCache counts what it is given, and has nothing.
type setCache struct{ sets atomic.Int64 }

func (c *setCache) Get(_ context.Context, keys []string) ([][]byte, error) {
	return make([][]byte, len(keys)), nil
}

func (c *setCache) Set(_ context.Context, entries []engine.CacheEntry, _ time.Duration) error {
	c.sets.Add(int64(len(entries)))
	return nil
}

func (c *setCache) Erase(context.Context, []string) (int, error) { return 0, nil }

// noise is text of n letters that compresses little.
func noise(seed, n int) string {
	x := uint64(seed)*2654435761 + 1
	b := make([]byte, n)
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = 'A' + byte(x%26)
	}
	return string(b)
}
