package engine_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

// folding is an index in which a fold comes between the view of a catalog and what
// is asked for after it.
type folding struct {
	engine.IndexAdapter
	mu   sync.Mutex
	fold func() // before the next list of snapshots
}

func (x *folding) next(f func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.fold = f
}

func (x *folding) Snapshots(ctx context.Context, epoch uint64, catalog string, after engine.Version, limit int) ([]engine.Snapshot, error) {
	x.mu.Lock()
	f := x.fold
	x.fold = nil
	x.mu.Unlock()
	if f != nil {
		f()
	}
	return x.IndexAdapter.Snapshots(ctx, epoch, catalog, after, limit)
}

// pages reads a log page by page; between does something before each page.
func pages(t *testing.T, e *engine.Engine, order engine.Order, limit int, between func()) (got []engine.Version) {
	t.Helper()
	var after engine.Version
	for {
		between()
		p, err := e.Log(t.Context(), engine.LogRequest{Catalog: "c", After: after, Limit: limit, Order: order})
		if err != nil {
			t.Fatalf("page after %s: %v", after, err)
		}
		for _, entry := range p.Items {
			got = append(got, entry.Version)
		}
		if p.Next == nil {
			return got
		}
		if len(got) > 1000 {
			t.Fatalf("the pages do not end: %v …", got[:100])
		}
		after = *p.Next
	}
}

// writeVersions writes n deltas and gives all versions with those of before.
func writeVersions(t *testing.T, e *engine.Engine, all []engine.Version, n int) []engine.Version {
	t.Helper()
	for range n {
		all = append(all, write(t, e, "c", "/n", engine.MergeTypeReplace, fmt.Sprint(len(all))).Version)
	}
	return all
}

// Pages in both directions have every version once, in order, whatever is folded
// between two of them, and within one: the log that a page saw alive may have
// become a pack before the packs are listed.
func TestPagesAcrossFolds(t *testing.T) {
	t.Parallel()
	for _, order := range []engine.Order{engine.Ascending, engine.Descending} {
		for _, limit := range []int{1, 4, 7, 30} {
			for _, within := range []bool{false, true} {
				t.Run(fmt.Sprint(order, " ", limit, " within=", within), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						h := newHouse(t)
						x := &folding{IndexAdapter: h.index}
						e, err := engine.New(t.Context(), x, h.objects, engine.Options{})
						if err != nil {
							t.Fatal(err)
						}
						t.Cleanup(func() { h.close(e) })
						all := writeVersions(t, e, nil, 10)
						fold(t, e, "c")
						all = writeVersions(t, e, all, 10)
						folds := 0
						got := pages(t, e, order, limit, func() {
							if folds++; folds > 3 {
								return
							}
							if order == engine.Ascending {
								all = writeVersions(t, e, all, 5) // the page ends above what it saw
							}
							if within {
								x.next(func() { fold(t, e, "c") })
							} else {
								fold(t, e, "c")
							}
						})
						want := slices.Clone(all)
						if order == engine.Descending {
							slices.Reverse(want)
						}
						if !slices.Equal(got, want) {
							t.Errorf("got %d versions %v\nwant %d versions %v", len(got), got, len(want), want)
						}
					})
				})
			}
		}
	}
}

// Two folds began at one snapshot, and only one was registered. The bucket has the
// packs of both, and an index that is made anew from it knows both: they overlap.
func TestPagesOfOverlappingPacks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(engine.Options{})
		all := writeVersions(t, e, nil, 10)
		before := h.index.Clone()
		fold(t, e, "c")
		h.close(e)
		h.index = before // the fold is forgotten, its objects are not
		e = h.open(engine.Options{})
		all = writeVersions(t, e, all, 10)
		fold(t, e, "c")
		all = writeVersions(t, e, all, 3)
		h.close(e)
		h.index = memory.NewIndex(memory.Options{})
		e = h.open(engine.Options{})
		snaps, err := h.index.Snapshots(t.Context(), e.Epoch(), "c", engine.Version{}, 10)
		if err != nil || len(snaps) != 2 || !snaps[0].Start.IsZero() || !snaps[1].Start.IsZero() {
			t.Fatalf("got snapshots %+v, %v, want two from the beginning", snaps, err)
		}
		for _, limit := range []int{1, 4, 10, 100} {
			asc := pages(t, e, engine.Ascending, limit, func() {})
			if !slices.Equal(asc, all) {
				t.Errorf("ascending, in pages of %d: got %d versions %v\nwant %d versions %v", limit, len(asc), asc, len(all), all)
			}
			desc := pages(t, e, engine.Descending, limit, func() {})
			slices.Reverse(desc)
			if !slices.Equal(desc, all) {
				t.Errorf("descending, in pages of %d: got %d versions %v\nwant %d versions %v", limit, len(desc), desc, len(all), all)
			}
		}
	})
}
