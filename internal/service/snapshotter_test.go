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

// A purge by request erases, answers with a receipt and is told of by an event of its
// own; the permission for one catalog does not grant it.
func TestPurgeRequest(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{}).serve()
	js := h.streams()
	h.relay(js)
	h.snapshotter(h.engine)
	nc, c := h.connect(), h.client()
	told := make(chan engine.Event, 100)
	go func() {
		for ev, err := range c.Watch(t.Context(), events.WatchOptions{FromStart: true}) {
			if err != nil {
				return
			}
			told <- ev.Event
		}
	}()
	if p := problem(t, nc, "lake.v1.admin.purge.(users", ``); p.Code != "not_found" || p.Status != 404 {
		t.Errorf("never written: got %+v, want not_found", p)
	}
	for i := range 3 {
		ok(t, nc, "lake.v1.write.(users", fmt.Sprint(i), "Lake-Path", "/n")
	}
	if p := problem(t, nc, "lake.v1.admin.purge.(users", `{}`); p.Code != "unexpected_body" {
		t.Errorf("got %+v, want unexpected_body", p)
	}
	if p := problem(t, nc, "lake.v1.admin.purge.(users", ``, "Lake-If-Absent", "1"); p.Code != "unknown_header" {
		t.Errorf("got %+v, want unknown_header", p)
	}
	if p := problem(t, nc, "lake.v1.admin.purge.(users", ``, "Lake-If-Version", "1_1"); p.Code != "version_mismatch" {
		t.Errorf("got %+v, want version_mismatch", p)
	}
	if p := problem(t, nc, "lake.v1.write.(users", ``, "Lake-Merge", "purge"); p.Code != "invalid_merge" {
		t.Errorf("a write that claims to be a purge: got %+v, want invalid_merge", p)
	}
	r, err := c.Purge(t.Context(), engine.PurgeRequest{Catalog: "users", Author: "the officer", ID: "once"})
	if err != nil || !r.Complete || r.Segments == 0 || r.Verified.Log != 1 {
		t.Fatalf("got %+v, %v, want a complete purge", r, err)
	}
	again := ok(t, nc, "lake.v1.admin.purge.(users", ``, "Nats-Msg-Id", "once")
	if v := versionOf(t, again); v != r.Version.String() {
		t.Errorf("again: got version %s, want %s", v, r.Version)
	}
	if p := problem(t, nc, "lake.v1.read.(users", ``, "Lake-At", "1_1"); p.Code != "history_gone" {
		t.Errorf("got %+v, want history_gone", p)
	}
	page, err := c.Log(t.Context(), engine.LogRequest{Catalog: "users", Limit: 10})
	if err != nil || len(page.Items) != 1 || page.Items[0].Merge != engine.MergeTypePurge || page.Items[0].Author != "the officer" {
		t.Errorf("got log %+v, %v, want the purge alone", page, err)
	}
	var covered engine.Version
	for {
		select {
		case ev := <-told:
			if ev.Kind == engine.EventCommitted {
				covered = ev.Version
			}
			if ev.Kind != engine.EventPurged {
				continue
			}
			if ev.Version != r.Version || covered != r.Version {
				t.Errorf("got event %+v after versions up to %s, want the purge at %s", ev, covered, r.Version)
			}
		case <-time.After(patience):
			t.Error("no event told of the purge")
		}
		break
	}
	if got, want := (events.Subjects{}).Purge("users"), "lake.v1.admin.purge.(users"; got != want {
		t.Errorf("got subject %s, want %s, which lake.v1.*.(users does not match", got, want)
	}
}

// folder folds as a test says.
type folder struct {
	fold func(ctx context.Context, catalog string) (engine.FoldResult, error)
}

func (f folder) Fold(ctx context.Context, catalog string) (engine.FoldResult, error) {
	return f.fold(ctx, catalog)
}
func (folder) Purge(context.Context, engine.PurgeRequest) (engine.PurgeReceipt, error) {
	return engine.PurgeReceipt{}, errors.New("nobody purges here")
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
		"purge":   {"lake.v1.admin.purge.(users", ``},
		"outcome": {"lake.v1.outcome.(users", `{"id":"discovered"}`},
		"diff":    {"lake.v1.diff.(users", `{"from":"0_0","to":"9999999999","format":"json-patch"}`},
		"blame":   {"lake.v1.blame.(users", `{"pointer":"","members":true,"limit":1,"at":"2100-01-01T00:00:00Z"}`},
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
