package service_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jsonlake/lake/internal/service"
	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
)

// requeue runs the task until the test ends.
func (h *house) requeue(lake service.Walker, js jetstream.JetStream, o service.RequeueOptions) (stop func()) {
	h.t.Helper()
	q, err := service.NewRequeue(h.config(), lake, h.index, js, o)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- q.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Errorf("requeue: %v", err)
		}
	})
	h.t.Cleanup(stop)
	return stop
}

// What no event announced is found by the walk: by number, and by age. One
// process walks, whoever is there.
func TestRequeue(t *testing.T) {
	t.Parallel()
	// Catalogs of the past: the index's clock stands still for a while.
	h := newHouse(t, engine.Options{Policy: engine.Policy{MinDeltas: 5, MaxAge: time.Hour}})
	js := h.streams()
	write := func(catalog string, n int) {
		for range n {
			if _, err := h.engine.Write(t.Context(), engine.WriteRequest{Catalog: catalog, Body: []byte(`{"a":1}`)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 510 { // more than a page
		write(fmt.Sprintf("few%03d", i), 1)
	}
	write("many1", 5)
	write("many2", 7)
	write("folded", 5)
	if _, err := h.engine.Fold(t.Context(), "folded"); err != nil {
		t.Fatal(err)
	}
	o := service.RequeueOptions{Every: 20 * time.Millisecond, Rate: 100_000}
	stop := h.requeue(h.engine, js, o)
	h.requeue(h.engine, js, o)
	testenv.WaitFor(t, patience, func() bool { return h.metric("lake_requeue_walks_total", "result=done") >= 2 })
	stop()
	if got := h.pending(js); got != 2 {
		t.Errorf("got %d jobs, want one for each catalog that is due", got)
	}
	if got := h.metric("lake_requeue_dirty_catalogs"); got != 512 {
		t.Errorf("got %v dirty catalogs, want 512", got)
	}
	if h.metric("lake_requeue_walks_total", "result=failed") != 0 {
		t.Error("a walk failed")
	}
	// The jobs are good: a snapshotter works on them.
	h.snapshotter(h.engine)
	testenv.WaitFor(t, patience, func() bool {
		c, err := h.engine.Catalogs(t.Context(), "many", "", 10)
		return err == nil && len(c) == 2 && c[0].Deltas == 0 && c[1].Deltas == 0
	})
}

// walker is a lake with one catalog.
type walker struct {
	catalogs func() ([]engine.CatalogInfo, error)
	due      func() (bool, error)
}

func (w walker) Catalogs(context.Context, string, string, int) ([]engine.CatalogInfo, error) {
	return w.catalogs()
}
func (w walker) Due(context.Context, string) (bool, error) { return w.due() }

// Age is the engine's to judge; a lake that is away is asked again.
func TestRequeueGoesOn(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{})
	js := h.streams()
	var asked atomic.Int64
	v := engine.Version{Sec: 1_600_000_000, Seq: 1}
	lake := walker{
		func() ([]engine.CatalogInfo, error) {
			if asked.Add(1) <= 2 {
				return nil, engine.ErrRecovering
			}
			return []engine.CatalogInfo{{Catalog: "old", Version: v, Deltas: 1}, {Catalog: "clean", Version: v}}, nil
		},
		func() (bool, error) { return true, nil },
	}
	h.requeue(lake, js, service.RequeueOptions{Every: 10 * time.Millisecond})
	testenv.WaitFor(t, patience, func() bool { return h.pending(js) == 1 })
	if got := h.metric("lake_requeue_walks_total", "result=failed"); got != 2 {
		t.Errorf("got %v failed walks, want 2", got)
	}
	s, err := js.Stream(t.Context(), "LAKE_JOBS")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.GetLastMsgForSubject(t.Context(), "lake.v1.job.snapshot.(old"); err != nil {
		t.Errorf("no job for the old catalog: %v", err)
	}
}

// minRequeueLease is what a requeue task asks for whose interval is short: all
// who want a lease ask for the same time.
const minRequeueLease = 30 * time.Second

// Another process that walks is left alone.
func TestRequeueIsOneProcessAtATime(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{})
	js := h.streams()
	if held, err := h.index.Acquire(t.Context(), 0, "requeue", "another", minRequeueLease); !held || err != nil {
		t.Fatal(held, err)
	}
	var asks atomic.Int64
	counted := &countingLeases{Leases: h.index, acquires: &asks}
	q, err := service.NewRequeue(h.config(), walker{catalogs: func() ([]engine.CatalogInfo, error) { return nil, errors.New("walked") }}, counted, js, service.RequeueOptions{Every: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- q.Run(ctx) }()
	testenv.WaitFor(t, patience, func() bool { return asks.Load() > 3 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := h.metric("lake_requeue_walks_total"); got != 0 {
		t.Errorf("got %v walks, want none", got)
	}
}

type countingLeases struct {
	engine.Leases
	acquires *atomic.Int64
}

func (c *countingLeases) Acquire(ctx context.Context, shard int, name, token string, ttl time.Duration) (bool, error) {
	c.acquires.Add(1)
	return c.Leases.Acquire(ctx, shard, name, token, ttl)
}
