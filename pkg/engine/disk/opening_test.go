package disk_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/disk"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

// cut ends a context after some restores.
type cut struct {
	*disk.Index
	left   atomic.Int64
	cancel context.CancelFunc
}

func (x *cut) Restore(ctx context.Context, shard int, n uint64, r engine.Restore) error {
	if x.left.Add(-1) < 0 {
		x.cancel()
		return ctx.Err()
	}
	return x.Index.Restore(ctx, shard, n, r)
}

// A process ends properly while it opens an epoch: shards were emptied, and some of
// them filled again in part. The index is clean, and all the same it must not be
// taken for one that knows what was before its epoch: the next opening empties these
// shards again and fills them whole.
func TestClosedWhileOpening(t *testing.T) {
	t.Parallel()
	dir, objects := t.TempDir(), memory.NewObjects()
	ctx := t.Context()
	want := map[string]string{}
	work := func(o engine.Options, f func(e *engine.Engine)) {
		t.Helper()
		x := openIndex(t, dir, disk.Options{})
		if !x.Clean() {
			t.Error("the index is not clean")
		}
		e, err := engine.New(ctx, x, objects, o)
		if err != nil {
			t.Fatal(err)
		}
		f(e)
		if err := e.Close(ctx); err != nil {
			t.Error(err)
		}
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	}
	read := func(e *engine.Engine, c string) string {
		r, err := e.Read(ctx, engine.ReadRequest{Catalog: c})
		if err != nil {
			t.Errorf("%s: %v", c, err)
		}
		return string(r.Body)
	}
	work(engine.Options{}, func(e *engine.Engine) {
		for i := range 64 {
			c := fmt.Sprint("c", i)
			for k := range 2 {
				if _, err := e.Write(ctx, engine.WriteRequest{Catalog: c, Path: fmt.Sprintf("/n%d", k), MergeType: engine.MergeTypeReplace, Body: []byte(`1`)}); err != nil {
					t.Fatal(err)
				}
				if i%3 == k {
					if _, err := e.Fold(ctx, c); err != nil {
						t.Fatal(err)
					}
				}
			}
			want[c] = read(e, c)
		}
	})
	for _, restores := range []int64{0, 3, 12, 20, 30} {
		x := &cut{Index: openIndex(t, dir, disk.Options{})}
		x.left.Store(restores)
		var opening context.Context
		opening, x.cancel = context.WithCancel(ctx)
		if _, err := engine.New(opening, x, objects, engine.Options{Rebuild: true}); err == nil {
			t.Fatalf("cut after %d restores: the epoch was opened", restores)
		}
		x.cancel()
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
		work(engine.Options{}, func(e *engine.Engine) {
			for c, doc := range want {
				if got := read(e, c); got != doc {
					t.Errorf("cut after %d restores: %s: got %s, want %s", restores, c, got, doc)
				}
			}
		})
	}
}
