package engine_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

// swapped is an index that is replaced under whoever uses it. The opener replaces
// it, filling one shard after the other; beside the opener only the lease is held.
type swapped struct {
	mu sync.Mutex
	engine.IndexAdapter
	before func(call string, shard int) // may replace it
}

func (x *swapped) replace(by engine.IndexAdapter) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.IndexAdapter = by
}

func (x *swapped) now() engine.IndexAdapter {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.IndexAdapter
}

func (x *swapped) Acquire(ctx context.Context, shard int, name, token string, ttl time.Duration) (bool, error) {
	return x.now().Acquire(ctx, shard, name, token, ttl)
}

func (x *swapped) Release(ctx context.Context, shard int, name, token string) error {
	return x.now().Release(ctx, shard, name, token)
}

func (x *swapped) Fence(ctx context.Context, shard int, n uint64) error {
	x.before("fence", shard)
	return x.IndexAdapter.Fence(ctx, shard, n)
}

func (x *swapped) Reservations(ctx context.Context, shard int, n uint64) ([]engine.SegmentID, error) {
	x.before("reservations", shard)
	return x.IndexAdapter.Reservations(ctx, shard, n)
}

func (x *swapped) Open(ctx context.Context, shard int, n uint64, floor int64) error {
	x.before("open", shard)
	return x.IndexAdapter.Open(ctx, shard, n, floor)
}

// The index is replaced while an epoch is opened: by an empty one, by an old
// backup, by a copy of itself. Documents stay whole, and as long as no shard was
// opened, it is the same epoch that is opened, without another wait.
func TestIndexReplacedWhileOpening(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		call  string
		shard int
		epoch uint64
		limit time.Duration
	}{
		{"fence", 0, 3, 6 * time.Second},
		{"fence", 9, 3, 6 * time.Second},
		{"reservations", 0, 3, 6 * time.Second},
		{"reservations", 9, 3, 6 * time.Second},
		{"open", 0, 4, 12 * time.Second},
		{"open", 9, 4, 12 * time.Second},
	} {
		for _, by := range []string{"empty", "old", "copy"} {
			t.Run(fmt.Sprintf("%s %d %s", tc.call, tc.shard, by), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					h := newHouse(t)
					e := h.open(engine.Options{})
					want := map[string]string{}
					load := func(e *engine.Engine, name string) {
						for i := range 40 {
							c := fmt.Sprint("c", i)
							write(t, e, c, "/"+name, engine.MergeTypeReplace, `1`)
							want[c] = read(t, e, c)
						}
					}
					load(e, "first")
					if _, err := e.Fold(t.Context(), "c1"); err != nil {
						t.Fatal(err)
					}
					old := h.index.Clone()
					h.close(e)
					e = h.open(engine.Options{NewEpoch: true})
					load(e, "second")
					h.close(e)

					first := true
					x := &swapped{IndexAdapter: h.index}
					x.before = func(call string, shard int) {
						if first && call == tc.call && shard == tc.shard {
							first = false
							x.replace(map[string]*memory.Index{"empty": memory.NewIndex(memory.Options{}), "old": old, "copy": h.index.Clone()}[by])
						}
					}
					start := time.Now()
					e, err := engine.New(t.Context(), x, h.objects, engine.Options{NewEpoch: true, RestoreShards: 1})
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { h.close(e) })
					epoch, limit := tc.epoch, tc.limit
					if by == "copy" && (tc.call != "fence" || tc.shard > 0) { // it was fenced, as another server: that is final
						epoch, limit = 4, 12*time.Second
					}
					if d := time.Since(start); e.Epoch() != epoch || d > limit {
						t.Errorf("epoch %d is open after %s, want %d within %s", e.Epoch(), d, epoch, limit)
					}
					for c, doc := range want {
						if got := read(t, e, c); got != doc {
							t.Errorf("%s: got %s, want %s", c, got, doc)
						}
					}
				})
			})
		}
	}
}
