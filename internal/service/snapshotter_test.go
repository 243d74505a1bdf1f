package service_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/jsonlake/lake/internal/service"
	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/events"
)

// streams makes the lake's streams and gives JetStream on a connection.
func (h *house) streams() jetstream.JetStream {
	h.t.Helper()
	js := h.jetstream(h.connect())
	if err := events.Apply(h.t.Context(), js, events.Config{Embedded: true}); err != nil {
		h.t.Fatal(err)
	}
	return js
}

func (h *house) jetstream(nc *nats.Conn) jetstream.JetStream {
	h.t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		h.t.Fatal(err)
	}
	return js
}

// snapshotter runs one, on a connection of its own.
func (h *house) snapshotter(lake service.Folder) (stop func()) {
	h.t.Helper()
	c := h.config()
	sn, err := service.NewSnapshotter(c, lake, h.index, h.jetstream(c.NATS))
	return run(h.t, sn, err)
}

// relay publishes what the index commits, until the test ends.
func (h *house) relay(js jetstream.JetStream) {
	h.t.Helper()
	if err := h.index.SetEvents(h.t.Context(), true); err != nil {
		h.t.Fatal(err)
	}
	r := &events.Relay{Outbox: h.index, Leases: h.index, JS: js, Epoch: h.engine.Epoch, Due: h.engine.Policy().DueEvent,
		OnRound: func(r events.Round) { h.metrics.RelayRound(r.Read, r.Published, r.Jobs, r.Oldest, r.Took) }}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	h.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Errorf("relay: %v", err)
		}
	})
}

func (h *house) pending(js jetstream.JetStream) uint64 {
	s, err := js.Stream(h.t.Context(), "LAKE_JOBS")
	if err != nil {
		h.t.Fatal(err)
	}
	info, err := s.Info(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return info.State.Msgs
}

// The whole background path: writes over NATS, events and jobs by the relay,
// snapshots by two snapshotters that nobody told.
func TestJobsFold(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{Policy: engine.Policy{MinDeltas: 10}}).serve()
	js := h.streams()
	h.relay(js)
	h.snapshotter(h.engine)
	h.snapshotter(h.engine)
	nc := h.connect()
	want := map[string]string{}
	for c := range 5 {
		catalog := fmt.Sprintf("c%d", c)
		for i := range 40 {
			ok(t, nc, "lake.v1.write.("+catalog, fmt.Sprint(i), "Lake-Path", fmt.Sprintf("/n%d", i))
		}
		want[catalog] = string(ok(t, nc, "lake.v1.read.("+catalog, "").Data)
	}
	testenv.WaitFor(t, patience, func() bool {
		list, err := h.engine.Catalogs(t.Context(), "", "", 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			if c.Deltas >= 10 {
				return false
			}
		}
		return len(list) == 5 && h.pending(js) == 0
	})
	if h.metric("lake_jobs_handled_total", "result=folded") < 5 || h.metric("lake_jobs_handled_total", "result=failed") != 0 {
		t.Errorf("jobs: %v folded, %v failed", h.metric("lake_jobs_handled_total", "result=folded"), h.metric("lake_jobs_handled_total", "result=failed"))
	}
	for catalog, doc := range want {
		if got := string(ok(t, nc, "lake.v1.read.("+catalog, "").Data); got != doc {
			t.Errorf("%s after folding: got %s, want %s", catalog, got, doc)
		}
	}
}

// Fold on request answers what was done; a second one has nothing to do.
func TestSnapshotRequest(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{}).serve()
	h.streams()
	h.snapshotter(h.engine)
	nc, c := h.connect(), h.client()
	for i := range 3 {
		ok(t, nc, "lake.v1.write.(users", fmt.Sprint(i), "Lake-Path", "/n")
	}
	head := ok(t, nc, "lake.v1.read.(users", "").Header.Get("Lake-Version")
	if got, want := string(ok(t, nc, "lake.v1.snapshot.(users", "").Data), fmt.Sprintf(`{"version":"%s","deltas":3,"bytes":7,"more":false}`, head); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if r, err := c.Fold(t.Context(), "users"); err != nil || r.Deltas != 0 || r.Version.String() != head {
		t.Errorf("got %+v, %v, want nothing more to fold", r, err)
	}
	if r, err := c.Fold(t.Context(), "never"); err != nil || !r.Version.IsZero() {
		t.Errorf("got %+v, %v, want 0_0", r, err)
	}
	if p := problem(t, nc, "lake.v1.snapshot.(users", `{}`); p.Code != "unexpected_body" {
		t.Errorf("got %+v, want unexpected_body", p)
	}
	if p := problem(t, nc, "lake.v1.snapshot.(users", ``, "Lake-At", "1_1"); p.Code != "unknown_header" {
		t.Errorf("got %+v, want unknown_header", p)
	}
}

// folder folds as a test says.
type folder struct {
	fold func(ctx context.Context, catalog string) (engine.FoldResult, error)
}

func (f folder) Fold(ctx context.Context, catalog string) (engine.FoldResult, error) {
	return f.fold(ctx, catalog)
}
func (folder) Ready() error { return nil }

func publishJob(t testing.TB, js jetstream.JetStream, catalog string) {
	t.Helper()
	v := engine.Version{Sec: 1_700_000_000, Seq: 1}
	if err := events.PublishJob(t.Context(), js, events.Subjects{}, engine.Event{Catalog: catalog, Kind: engine.EventCommitted, First: v, Version: v, Count: 1}); err != nil {
		t.Fatal(err)
	}
}

// A long log is folded in several steps; another one who was faster is no
// failure.
func TestJobFoldsUntilNothingIsLeft(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{})
	js := h.streams()
	var calls atomic.Int64
	h.snapshotter(folder{func(context.Context, string) (engine.FoldResult, error) {
		switch calls.Add(1) {
		case 1, 2:
			return engine.FoldResult{Deltas: 10, More: true}, nil
		default:
			return engine.FoldResult{}, fmt.Errorf("register: %w", engine.ErrStale)
		}
	}})
	publishJob(t, js, "users")
	testenv.WaitFor(t, patience, func() bool { return h.pending(js) == 0 })
	if got := calls.Load(); got != 3 {
		t.Errorf("got %d folds, want 3", got)
	}
	if h.metric("lake_jobs_handled_total", "result=folded") != 1 || h.metric("lake_jobs_handled_total", "result=failed") != 0 {
		t.Error("the job did not count as folded")
	}
}

// A job that fails comes again.
func TestJobFails(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{})
	js := h.streams()
	var calls atomic.Int64
	h.snapshotter(folder{func(context.Context, string) (engine.FoldResult, error) {
		if calls.Add(1) == 1 {
			return engine.FoldResult{}, engine.ErrUnavailable
		}
		return engine.FoldResult{}, nil
	}})
	publishJob(t, js, "users")
	testenv.WaitFor(t, patience, func() bool { return h.pending(js) == 0 && calls.Load() == 2 })
	if h.metric("lake_jobs_handled_total", "result=failed") != 1 || h.metric("lake_jobs_handled_total", "result=nothing") != 1 {
		t.Error("want one failure and one that found nothing to do")
	}
}

// One worker at a time folds a catalog, of all processes and of one: the lease
// sends the other one away, and is given up afterwards.
func TestJobLease(t *testing.T) {
	t.Parallel()
	for _, processes := range []int{1, 2} {
		t.Run(fmt.Sprint(processes), func(t *testing.T) {
			t.Parallel()
			testJobLease(t, processes)
		})
	}
}

func testJobLease(t *testing.T, processes int) {
	h := newHouse(t, engine.Options{})
	js := h.streams()
	var mu sync.Mutex
	busy, most, folds := 0, 0, 0
	enter, leave := make(chan struct{}, 10), make(chan struct{})
	lake := folder{func(ctx context.Context, _ string) (engine.FoldResult, error) {
		mu.Lock()
		busy++
		folds++
		most = max(most, busy)
		mu.Unlock()
		enter <- struct{}{}
		select {
		case <-leave:
		case <-ctx.Done():
		}
		mu.Lock()
		busy--
		mu.Unlock()
		return engine.FoldResult{}, nil
	}}
	for range processes {
		h.snapshotter(lake)
	}
	publishJob(t, js, "users")
	<-enter
	publishJob(t, js, "users") // replaces the one that is being worked on
	testenv.WaitFor(t, patience, func() bool { return h.metric("lake_jobs_handled_total", "result=later") >= 1 })
	close(leave)
	testenv.WaitFor(t, patience, func() bool { return h.pending(js) == 0 })
	mu.Lock()
	defer mu.Unlock()
	if most != 1 || folds != 2 {
		t.Errorf("got %d folds, %d at once, want 2, one at a time", folds, most)
	}
	if held, err := h.index.Acquire(t.Context(), engine.Shard("users"), "fold:(users", "another", time.Second); !held || err != nil {
		t.Errorf("the lease was kept: %v, %v", held, err)
	}
}

// A fold on request that always loses says that others are at it.
func TestSnapshotContended(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{})
	h.streams()
	h.snapshotter(folder{func(context.Context, string) (engine.FoldResult, error) {
		return engine.FoldResult{}, engine.ErrStale
	}})
	if p := problem(t, h.connect(), "lake.v1.snapshot.(users", ""); p.Status != 429 {
		t.Errorf("got %+v, want 429", p)
	}
}

func TestSnapshotterConfig(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{})
	c := h.config()
	if _, err := service.NewSnapshotter(c, h.engine, nil, nil); err == nil {
		t.Error("without leases and JetStream: no error")
	}
	if _, err := service.NewRequeue(c, h.engine, nil, nil, service.RequeueOptions{}); err == nil {
		t.Error("without leases and JetStream: no error")
	}
	if _, err := service.NewRequeue(c, h.engine, h.index, h.jetstream(c.NATS), service.RequeueOptions{Rate: -1}); err == nil {
		t.Error("a negative rate: no error")
	}
}

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

// What the services tell of themselves: names, groups, subjects, and schemas
// that their answers keep.
func TestDiscovery(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{}).serve()
	h.streams()
	h.snapshotter(h.engine)
	nc := h.connect()
	ok(t, nc, "lake.v1.write.(users", `{"a":1}`)
	ok(t, nc, "lake.v1.write.(users", `[{"op":"remove","path":"/z"}]`, "Lake-Merge", "json-patch", "Lake-Author", "me")

	validate := func(what, schema string, body []byte) {
		t.Helper()
		var doc any
		if err := json.Unmarshal([]byte(schema), &doc); err != nil {
			t.Errorf("schema of %s: %v", what, err)
			return
		}
		c := jsonschema.NewCompiler()
		if err := c.AddResource("mem:s", doc); err != nil {
			t.Errorf("schema of %s: %v", what, err)
			return
		}
		s, err := c.Compile("mem:s")
		if err != nil {
			t.Errorf("schema of %s: %v", what, err)
			return
		}
		var v any
		if err := json.Unmarshal(body, &v); err != nil {
			t.Errorf("%s: %v", what, err)
		} else if err := s.Validate(v); err != nil {
			t.Errorf("%s does not keep its schema: %v\n%s", what, err, body)
		}
	}
	ok(t, nc, "lake.v1.write.(users", `{"a":1}`, "Nats-Msg-Id", "discovered")
	requests := map[string][2]string{ // good bodies
		"write": {"lake.v1.write.(users", `{"b":2}`}, "read": {"lake.v1.read.(users", ``}, "log": {"lake.v1.log.(users", `{"after":"0_0","limit":1,"order":"asc"}`},
		"catalogs": {"lake.v1.catalogs", `{"prefix":"","after":"","limit":10}`}, "snapshot": {"lake.v1.snapshot.(users", ``},
		"outcome": {"lake.v1.outcome.(users", `{"id":"discovered"}`},
	}
	seen := 0
	for _, name := range []string{"lake-ingest", "lake-reader", "lake-snapshotter"} {
		var info micro.Info
		if err := json.Unmarshal(request(t, nc, "$SRV.INFO."+name, "").Data, &info); err != nil {
			t.Fatal(err)
		}
		if info.Version != "1.2.3" || info.Description == "" {
			t.Errorf("got %+v", info)
		}
		for _, e := range info.Endpoints {
			seen++
			if e.QueueGroup != name {
				t.Errorf("%s: group %q, want %q", e.Name, e.QueueGroup, name)
			}
			good := requests[e.Name]
			if s := e.Metadata["request_schema"]; s != "" {
				validate("request "+e.Name, s, []byte(good[1]))
			} else if good[1] != "" {
				t.Errorf("%s has no request schema", e.Name)
			}
			validate("answer to "+e.Name, e.Metadata["response_schema"], ok(t, nc, good[0], good[1]).Data)
			validate("error of "+e.Name, e.Metadata["error_schema"], request(t, nc, good[0], good[1], "Lake-At", "1_1").Data)
			if e.Metadata["headers"] == "" {
				t.Errorf("%s tells no headers", e.Name)
			}
		}
	}
	if seen != len(requests) {
		t.Errorf("got %d endpoints, want %d", seen, len(requests))
	}

	var stats micro.Stats
	if err := json.Unmarshal(request(t, nc, "$SRV.STATS.lake-ingest", "").Data, &stats); err != nil {
		t.Fatal(err)
	}
	var s struct {
		Requests, Errors, Refused int64
		InFlight                  int64 `json:"in_flight"`
		Average                   int64 `json:"average_ns"`
	}
	if err := json.Unmarshal(stats.Endpoints[0].Data, &s); err != nil {
		t.Fatal(err)
	}
	if s.Requests != 5 || s.Errors != 1 || s.Refused != 0 || s.Average <= 0 {
		t.Errorf("got %+v, want 5 requests, one of them an error", s)
	}
}
