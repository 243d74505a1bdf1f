package events

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

// A whole lake on the memory adapters: two writing processes, each with a
// relay, two snapshotters, and a watcher who must hear of every version that
// the log has, in order (I9).
func TestLakeTellsEveryVersion(t *testing.T) {
	t.Parallel()
	ctx := contextFor(t)
	srv := testenv.NATS(t)
	js := natsOf(t, srv, Config{})
	index, objects := memory.NewIndex(memory.Options{}), memory.NewObjects()
	if err := index.SetEvents(ctx, true); err != nil {
		t.Fatal(err)
	}
	policy := engine.Policy{MinDeltas: 20}
	open := func(o engine.Options) *engine.Engine {
		o.Policy = policy
		e, err := engine.New(ctx, index, objects, o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := e.Close(context.Background()); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		return e
	}
	var writers []*engine.Engine
	for range 2 {
		var poke atomic.Pointer[Relay]
		e := open(engine.Options{Hooks: engine.Hooks{Committed: func(string, engine.Version, int) {
			if r := poke.Load(); r != nil {
				r.Poke()
			}
		}}})
		r := &Relay{Outbox: index, Leases: index, JS: connect(t, srv.URL), Epoch: e.Epoch, Valid: e.Valid, Due: policy.DueEvent,
			OnError: func(err error) { t.Errorf("relay: %v", err) }}
		poke.Store(r)
		start(t, r.Run)
		writers = append(writers, e)
	}
	folder := open(engine.Options{})
	var folds atomic.Int64
	for range 2 {
		start(t, (&Jobs{JS: js, OnError: func(err error) { t.Errorf("jobs: %v", err) },
			Handle: func(ctx context.Context, catalog string, _ engine.Event) error {
				if due, err := folder.Due(ctx, catalog); err != nil || !due {
					return err
				}
				_, err := folder.Fold(ctx, catalog)
				if errors.Is(err, engine.ErrStale) {
					return nil // another was faster
				}
				folds.Add(1)
				return err
			}}).Run)
	}
	w := watch(t, js, WatchOptions{})

	const catalogs, writes = 5, 400
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for n := i; n < writes; n += 16 {
				if _, err := writers[n%2].Write(ctx, engine.WriteRequest{Catalog: catalogName(n % catalogs), Path: "/n",
					Body: fmt.Appendf(nil, `{"v%d":%d}`, n%7, n), Author: "alice"}); err != nil {
					t.Errorf("write: %v", err)
				}
			}
		})
	}
	wg.Wait()

	heads := make(map[string]engine.Version)
	var deltas int64
	for i := range catalogs {
		catalog := catalogName(i)
		for after := (engine.Version{}); ; {
			page, err := folder.Log(ctx, engine.LogRequest{Catalog: catalog, After: after, Limit: 1000})
			if err != nil {
				t.Fatal(err)
			}
			for _, entry := range page.Items {
				heads[catalog] = entry.Version
				deltas++
			}
			if page.Next == nil {
				break
			}
			after = *page.Next
		}
	}
	if deltas != writes {
		t.Fatalf("the log has %d deltas, want %d", deltas, writes)
	}
	testenv.WaitFor(t, patience, func() bool {
		var n int64
		for _, ev := range w.all() {
			if ev.Kind == engine.EventCommitted {
				n += ev.Count
			}
		}
		return n >= deltas
	})
	tiles(t, w.all(), heads)
	if errs := w.errors(); errs != nil {
		t.Errorf("watch: %v", errs)
	}
	testenv.WaitFor(t, patience, func() bool { return folds.Load() > 0 && left(t, js) == 0 })
	testenv.WaitFor(t, patience, func() bool {
		for _, ev := range w.all() {
			if ev.Kind == engine.EventSnapshotted {
				return true
			}
		}
		return false
	})
}

// A new epoch in the middle: the relay waits for it, and nothing is missing.
func TestLakeNewEpoch(t *testing.T) {
	t.Parallel()
	ctx := contextFor(t)
	js := natsOf(t, testenv.NATS(t), Config{})
	index, objects := memory.NewIndex(memory.Options{Exclusive: true}), memory.NewObjects()
	if err := index.SetEvents(ctx, true); err != nil {
		t.Fatal(err)
	}
	var current atomic.Pointer[engine.Engine]
	r := &Relay{Outbox: index, Leases: index, JS: js, Poll: 5 * time.Millisecond,
		Epoch: func() uint64 { return current.Load().Epoch() },
		Valid: func() bool { return current.Load().Valid() }}
	w := watch(t, js, WatchOptions{})
	heads := make(map[string]engine.Version)
	for round := range 3 {
		e, err := engine.New(ctx, index, objects, engine.Options{NewEpoch: round > 0})
		if err != nil {
			t.Fatal(err)
		}
		if current.Swap(e) == nil {
			start(t, r.Run)
		}
		for n := range 20 {
			res, err := e.Write(ctx, engine.WriteRequest{Catalog: catalogName(n % 3), Body: []byte(`{"a":1}`)})
			if err != nil {
				t.Fatal(err)
			}
			heads[catalogName(n%3)] = res.Version
		}
		// The last one stays open: the relay needs its lease.
		end := func() {
			if err := e.Close(context.Background()); err != nil {
				t.Errorf("close: %v", err)
			}
		}
		if round == 2 {
			t.Cleanup(end)
		} else {
			end()
		}
	}
	testenv.WaitFor(t, patience, func() bool {
		at := make(map[string]engine.Version)
		for _, ev := range w.all() {
			at[ev.Catalog] = ev.Version
		}
		return fmt.Sprint(at) == fmt.Sprint(heads)
	})
	tiles(t, w.all(), heads)
}
