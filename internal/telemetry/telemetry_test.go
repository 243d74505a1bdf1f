package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"iter"
	"os"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/rs/zerolog"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

func newMetrics(t *testing.T) (*Metrics, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	m, err := NewMetrics(reg, "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	return m, reg
}

// value sums the series of a metric that have the labels ("k=v"). Of a
// histogram it is the number of observations.
func value(t *testing.T, reg *prometheus.Registry, name string, labels ...string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var sum float64
	found := false
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	series:
		for _, s := range f.GetMetric() {
			has := map[string]bool{}
			for _, l := range s.GetLabel() {
				has[l.GetName()+"="+l.GetValue()] = true
			}
			for _, l := range labels {
				if !has[l] {
					continue series
				}
			}
			found = true
			sum += s.GetCounter().GetValue() + s.GetGauge().GetValue() + float64(s.GetHistogram().GetSampleCount())
		}
	}
	if !found {
		t.Errorf("no series %s %v", name, labels)
	}
	return sum
}

func want(t *testing.T, reg *prometheus.Registry, v float64, name string, labels ...string) {
	t.Helper()
	if got := value(t, reg, name, labels...); got != v {
		t.Errorf("%s%v: got %v, want %v", name, labels, got, v)
	}
}

// Names, units and labels hold to the rules, and series are there before
// anything has happened.
func TestNamesAndZeroes(t *testing.T) {
	t.Parallel()
	m, reg := newMetrics(t)
	m.Endpoint("ingest", "write")
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	name := regexp.MustCompile(`^lake_[a-z]+_[a-z_]+$`)
	for _, f := range families {
		if !name.MatchString(f.GetName()) {
			t.Errorf("%s is not lake_<subsystem>_<what>_<unit>", f.GetName())
		}
		for _, s := range f.GetMetric() {
			for _, l := range s.GetLabel() {
				if l.GetName() == "catalog" {
					t.Errorf("%s has the catalog as a label", f.GetName())
				}
			}
			if h := s.GetHistogram(); h != nil && h.Schema == nil {
				t.Errorf("%s is not a native histogram", f.GetName())
			}
		}
	}
	want(t, reg, 0, "lake_objects_requests_total", "op=put", "result=ok")
	want(t, reg, 0, "lake_service_requests_total", "endpoint=write", "code=429")
	want(t, reg, 0, "lake_cache_lookups_total", "tier=document", "result=hit")
	want(t, reg, 0, "lake_sweep_decided_total", "how=tombstone")
	want(t, reg, 0, "lake_jobs_handled_total", "result=failed")
	want(t, reg, 0, "lake_background_errors_total")
	want(t, reg, 1, "lake_build_info", "version=1.2.3")
}

func TestARegistryTakesMetricsOnce(t *testing.T) {
	t.Parallel()
	_, reg := newMetrics(t)
	var already prometheus.AlreadyRegisteredError
	if _, err := NewMetrics(reg, "1.2.3"); !errors.As(err, &already) {
		t.Errorf("got %v, want that they are registered already", err)
	}
	// Two lakes in one process: the registries, or the labels, differ.
	if _, err := NewMetrics(prometheus.WrapRegistererWith(prometheus.Labels{"lake": "b"}, reg), "1.2.3"); err == nil {
		t.Error("a registry cannot hold the same names with other labels: want an error")
	}
	if _, err := NewMetrics(prometheus.NewRegistry(), "1.2.3"); err != nil {
		t.Error(err)
	}
	Unwatched().RelayError()
}

// The hooks of a real engine that writes, reads and folds.
func TestEngineHooks(t *testing.T) {
	t.Parallel()
	m, reg := newMetrics(t)
	var log bytes.Buffer
	var mu sync.Mutex
	hooks := JoinHooks(m.EngineHooks(), LogHooks(zerolog.New(&lockedWriter{w: &log, mu: &mu})), engine.Hooks{})
	objects := Objects(memory.NewObjects(), m)
	e, err := engine.New(t.Context(), memory.NewIndex(memory.Options{Exclusive: true}), objects, engine.Options{Hooks: hooks})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close(context.WithoutCancel(t.Context())) })
	for range 3 {
		if _, err := e.Write(t.Context(), engine.WriteRequest{Catalog: "users", Body: []byte(`{"a":1}`)}); err != nil {
			t.Fatal(err)
		}
	}
	puts := value(t, reg, "lake_objects_requests_total", "op=put")
	for range 5 {
		if _, err := e.Read(t.Context(), engine.ReadRequest{Catalog: "users"}); err != nil {
			t.Fatal(err)
		}
	}
	want(t, reg, puts, "lake_objects_requests_total", "op=put") // a read puts no object
	if _, err := e.Fold(t.Context(), "users"); err != nil {
		t.Fatal(err)
	}
	want(t, reg, puts+2, "lake_objects_requests_total", "op=put") // pack and snapshot

	want(t, reg, 3, "lake_commit_runs_total")
	want(t, reg, 3, "lake_commit_deltas_total")
	want(t, reg, 3, "lake_segment_put_duration_seconds")
	want(t, reg, 3, "lake_segment_size_runs")
	want(t, reg, 1, "lake_merge_duration_seconds")
	want(t, reg, 1, "lake_cache_lookups_total", "tier=document", "result=miss")
	want(t, reg, 4, "lake_cache_lookups_total", "tier=document", "result=hit")
	want(t, reg, 1, "lake_fold_duration_seconds")
	want(t, reg, 1, "lake_epoch_number")
	want(t, reg, 0, "lake_epoch_recovering")
	mu.Lock()
	defer mu.Unlock()
	if !strings.Contains(log.String(), `"message":"joined epoch"`) {
		t.Errorf("log has no epoch:\n%s", log.String())
	}
}

func TestHooksThatRarelyHappen(t *testing.T) {
	t.Parallel()
	m, reg := newMetrics(t)
	h := m.EngineHooks()
	h.Waited(time.Second)
	h.Decided(engine.SegmentID{}, "tombstone")
	h.Decided(engine.SegmentID{}, "something new")
	h.Recovering(2, "fence")
	h.Trouble("sweep", errors.New("away"))
	h.CacheLookup("shared", true)
	h.CacheLookup("something new", true)
	want(t, reg, 1, "lake_commit_wait_seconds")
	want(t, reg, 1, "lake_sweep_decided_total")
	want(t, reg, 1, "lake_epoch_recovering")
	want(t, reg, 1, "lake_background_errors_total")
	want(t, reg, 1, "lake_cache_lookups_total")
	h.Epoch(2)
	want(t, reg, 0, "lake_epoch_recovering")
	want(t, reg, 2, "lake_epoch_number")
}

// Every hook is joined: one that is added to the engine and forgotten here
// would go unheard.
func TestJoinHooksJoinsAll(t *testing.T) {
	t.Parallel()
	calls := 0
	one := func() engine.Hooks {
		var h engine.Hooks
		v := reflect.ValueOf(&h).Elem()
		for i := range v.NumField() {
			v.Field(i).Set(reflect.MakeFunc(v.Field(i).Type(), func([]reflect.Value) []reflect.Value { calls++; return nil }))
		}
		return h
	}
	v := reflect.ValueOf(JoinHooks(one(), engine.Hooks{}, one()))
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if v.Field(i).IsNil() {
			t.Errorf("%s is not joined", name)
			continue
		}
		calls = 0
		in := make([]reflect.Value, v.Field(i).Type().NumIn())
		for k := range in {
			in[k] = reflect.Zero(v.Field(i).Type().In(k))
		}
		v.Field(i).Call(in)
		if calls != 2 {
			t.Errorf("%s: got %d calls, want 2", name, calls)
		}
	}
	if !reflect.ValueOf(JoinHooks(engine.Hooks{})).IsZero() {
		t.Error("nothing joined should be nothing")
	}
}

// bucket answers what a test says.
type bucket struct {
	engine.Objects
	err error
}

func (b bucket) Put(context.Context, string, []byte) error   { return b.err }
func (b bucket) Get(context.Context, string) ([]byte, error) { return []byte("12345"), b.err }
func (b bucket) GetRange(context.Context, string, int64, int64) ([]byte, error) {
	return []byte("123"), b.err
}
func (b bucket) Delete(context.Context, string) error { return b.err }
func (b bucket) List(context.Context, string, string) iter.Seq2[engine.ObjectInfo, error] {
	return func(yield func(engine.ObjectInfo, error) bool) {
		if yield(engine.ObjectInfo{Key: "a"}, nil) {
			yield(engine.ObjectInfo{}, b.err)
		}
	}
}

func TestObjects(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err    error
		result string
	}{
		{nil, "ok"}, {engine.ErrExists, "exists"}, {engine.ErrNotExist, "not_exist"}, {context.Canceled, "canceled"}, {errors.New("no route"), "error"},
	} {
		t.Run(tc.result, func(t *testing.T) {
			t.Parallel()
			m, reg := newMetrics(t)
			o := Objects(bucket{err: tc.err}, m)
			ctx := t.Context()
			if err := o.Put(ctx, "k", []byte("1234567")); !errors.Is(err, tc.err) {
				t.Errorf("put: got %v, want %v", err, tc.err)
			}
			if b, err := o.Get(ctx, "k"); string(b) != "12345" || !errors.Is(err, tc.err) {
				t.Errorf("get: got %q, %v, want what is inside and %v", b, err, tc.err)
			}
			if b, err := o.GetRange(ctx, "k", 0, 3); string(b) != "123" || !errors.Is(err, tc.err) {
				t.Errorf("range: got %q, %v, want what is inside and %v", b, err, tc.err)
			}
			if err := o.Delete(ctx, "k"); !errors.Is(err, tc.err) {
				t.Errorf("delete: got %v, want %v", err, tc.err)
			}
			n := 0
			for _, err := range o.List(ctx, "", "") {
				if n++; n == 2 && !errors.Is(err, tc.err) {
					t.Errorf("list: got %v, want %v", err, tc.err)
				}
			}
			for op, size := range map[string]float64{"put": 7, "get": 5, "get_range": 3, "delete": 0, "list": 0} {
				want(t, reg, 1, "lake_objects_requests_total", "op="+op)
				want(t, reg, 1, "lake_objects_requests_total", "op="+op, "result="+tc.result)
				want(t, reg, 1, "lake_objects_request_duration_seconds", "op="+op)
				if tc.err != nil {
					size = 0
				}
				want(t, reg, size, "lake_objects_bytes_total", "op="+op)
			}
		})
	}
}

// Who stops listing early is counted too.
func TestObjectsListStopped(t *testing.T) {
	t.Parallel()
	m, reg := newMetrics(t)
	for range Objects(bucket{err: errors.New("never reached")}, m).List(t.Context(), "", "") {
		break
	}
	want(t, reg, 1, "lake_objects_requests_total", "op=list", "result=ok")
}

func TestEndpoint(t *testing.T) {
	t.Parallel()
	m, reg := newMetrics(t)
	e := m.Endpoint("ingest", "write")
	e.Admitted()
	want(t, reg, 1, "lake_service_requests_in_flight", "service=ingest", "endpoint=write")
	e.Left()
	e.Done(200, true, time.Millisecond, 10, 20)
	e.Done(400, false, time.Millisecond, 10, 20)
	e.Done(418, false, time.Millisecond, 0, 0) // not in the list of statuses
	e.ReplyFailed()
	want(t, reg, 0, "lake_service_requests_in_flight", "service=ingest", "endpoint=write")
	want(t, reg, 3, "lake_service_requests_total")
	want(t, reg, 1, "lake_service_requests_total", "code=200")
	want(t, reg, 1, "lake_service_requests_total", "code=418")
	want(t, reg, 1, "lake_service_unanswered_total", "code=400")
	want(t, reg, 3, "lake_service_request_duration_seconds")
	want(t, reg, 20, "lake_service_request_bytes_total")
	want(t, reg, 40, "lake_service_reply_bytes_total")
	want(t, reg, 1, "lake_service_reply_errors_total")
}

func TestBackground(t *testing.T) {
	t.Parallel()
	m, reg := newMetrics(t)
	m.Job(JobFolded, time.Second)
	m.Job(JobLater, 0)
	m.Requeued(WalkDone, 10, 3, 2, time.Second)
	m.Requeued(WalkFailed, 5, 1, 1, time.Second)
	m.RelayRound(7, 5, 2, time.Now().Add(-time.Second), time.Millisecond)
	m.RelayRound(1, 1, 0, time.Time{}, time.Millisecond)
	m.RelayError()
	want(t, reg, 1, "lake_jobs_handled_total", "result=folded")
	want(t, reg, 1, "lake_jobs_handled_total", "result=later")
	want(t, reg, 1, "lake_jobs_duration_seconds")
	want(t, reg, 15, "lake_requeue_catalogs_total")
	want(t, reg, 3, "lake_requeue_jobs_total")
	want(t, reg, 3, "lake_requeue_dirty_catalogs")
	want(t, reg, 1, "lake_requeue_walks_total", "result=failed")
	want(t, reg, 1, "lake_requeue_walk_duration_seconds")
	want(t, reg, 8, "lake_relay_events_read_total")
	want(t, reg, 6, "lake_relay_events_published_total")
	want(t, reg, 2, "lake_relay_jobs_published_total")
	want(t, reg, 1, "lake_relay_lag_seconds")
	want(t, reg, 1, "lake_relay_errors_total")
}

func TestLoggerJSON(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log, err := NewLogger(LogOptions{Out: &out, Service: "lake-reader", Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	log.Debug().Msg("not at this level")
	log.Info().Str("catalog", "users").Msg("folded")
	var line struct{ Level, Service, Version, Time, Catalog, Message string }
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%v:\n%s", err, out.String())
	}
	at, err := time.Parse(time.RFC3339Nano, line.Time)
	if err != nil || at.Location() != time.UTC || time.Since(at) > time.Minute {
		t.Errorf("time: got %q, want now, RFC 3339, UTC", line.Time)
	}
	line.Time = ""
	if got, want := line, (struct{ Level, Service, Version, Time, Catalog, Message string }{"info", "lake-reader", "1.2.3", "", "users", "folded"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if zerolog.TimeFieldFormat != time.RFC3339 {
		t.Error("zerolog's package variables were changed")
	}
}

func TestLoggerConsole(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log, err := NewLogger(LogOptions{Out: &out, Format: "console", Level: "debug", Service: "lake"})
	if err != nil {
		t.Fatal(err)
	}
	log.Debug().Str("catalog", "users").Msg("folded")
	if got := out.String(); !regexp.MustCompile(`^\d\d:\d\d:\d\d\.\d{3} DBG folded catalog=users\n$`).MatchString(got) {
		t.Errorf("got %q", got)
	}
}

// A file is no terminal: auto is JSON there.
func TestLoggerAuto(t *testing.T) {
	t.Parallel()
	f, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	log, err := NewLogger(LogOptions{Out: f, Format: "auto"})
	if err != nil {
		t.Fatal(err)
	}
	log.Info().Send()
	b, err := os.ReadFile(f.Name())
	if err != nil || !json.Valid(b) {
		t.Errorf("got %q, %v, want JSON", b, err)
	}
}

func TestLoggerOptions(t *testing.T) {
	t.Parallel()
	for _, o := range []LogOptions{{Level: "loud"}, {Format: "xml"}} {
		if _, err := NewLogger(o); err == nil || !strings.Contains(err.Error(), "use ") {
			t.Errorf("%+v: got %v, want what to use", o, err)
		}
	}
	for _, level := range []string{"debug", "info", "warn", "error"} {
		log, err := NewLogger(LogOptions{Level: level})
		if err != nil || log.GetLevel().String() != level {
			t.Errorf("got %v, %v, want %s", log.GetLevel(), err, level)
		}
	}
}

type lockedWriter struct {
	w  *bytes.Buffer
	mu *sync.Mutex
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}
