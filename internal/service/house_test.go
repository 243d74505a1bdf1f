package service_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/jsonlake/lake/internal/service"
	"github.com/jsonlake/lake/internal/telemetry"
	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/memory"
	"github.com/jsonlake/lake/pkg/events"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// index counts reservations.
type index struct {
	*memory.Index
	preCommits atomic.Int64
}

func (x *index) PreCommit(ctx context.Context, p engine.PreCommit) (engine.Reservation, error) {
	x.preCommits.Add(1)
	return x.Index.PreCommit(ctx, p)
}

// house is a lake in memory with a NATS server.
type house struct {
	t       testing.TB
	nats    *testenv.NATSServer
	index   *index
	objects engine.Objects
	engine  *engine.Engine
	reg     *prometheus.Registry
	metrics *telemetry.Metrics
	log     *logBuffer
}

func newHouse(t testing.TB, o engine.Options, opts ...func(*server.Options)) *house {
	t.Helper()
	h := &house{t: t, nats: testenv.NATS(t, opts...), index: &index{Index: memory.NewIndex(memory.Options{Exclusive: true})}, reg: prometheus.NewRegistry(), log: &logBuffer{}}
	var err error
	if h.metrics, err = telemetry.NewMetrics(h.reg, "1.2.3"); err != nil {
		t.Fatal(err)
	}
	h.objects = telemetry.Objects(memory.NewObjects(), h.metrics)
	if h.engine, err = engine.New(t.Context(), h.index, h.objects, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := h.engine.Close(ctx); err != nil {
			t.Errorf("close the engine: %v", err)
		}
	})
	return h
}

func (h *house) config() service.Config {
	return service.Config{NATS: h.connect(), Version: "1.2.3", Metrics: h.metrics, Log: h.log.logger()}
}

// connect gives a connection as a service has it.
func (h *house) connect() *nats.Conn {
	h.t.Helper()
	nc, err := nats.Connect(h.nats.URL, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectBufSize(-1))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(nc.Close)
	return nc
}

func (h *house) client(opts ...client.Option) *client.Client {
	h.t.Helper()
	c, err := client.Connect(h.nats.URL, opts...)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(c.Close)
	return c
}

// runner is a service.
type runner interface {
	Run(ctx context.Context) error
	Listening() <-chan struct{}
}

// run runs a service until the test ends, or stop is called, which waits.
func run(t testing.TB, s runner, err error) (stop func()) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	select {
	case <-s.Listening():
	case <-time.After(patience):
		t.Fatal("the service does not listen")
	}
	return stop
}

// serve runs ingest and reader on the house's engine.
func (h *house) serve() *house {
	in, err := service.NewIngest(h.config(), h.engine)
	run(h.t, in, err)
	re, err := service.NewReader(h.config(), h.engine)
	run(h.t, re, err)
	return h
}

// residue is what a request could leave behind.
type residue struct {
	preCommits int64
	puts       float64
}

func (h *house) trace() residue {
	return residue{h.index.preCommits.Load(), h.metric("lake_objects_requests_total", "op=put")}
}

// metric sums the series of a metric that have the labels ("k=v"); of a
// histogram it is the number of observations.
func (h *house) metric(name string, labels ...string) float64 {
	h.t.Helper()
	families, err := h.reg.Gather()
	if err != nil {
		h.t.Fatal(err)
	}
	var sum float64
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
			sum += s.GetCounter().GetValue() + s.GetGauge().GetValue() + float64(s.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// request asks and gives the answer, error or not.
func request(t testing.TB, nc *nats.Conn, subject, body string, headers ...string) *nats.Msg {
	t.Helper()
	m := &nats.Msg{Subject: subject, Data: []byte(body), Header: nats.Header{}}
	for i := 0; i < len(headers); i += 2 {
		m.Header[headers[i]] = append(m.Header[headers[i]], headers[i+1])
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	res, err := nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		t.Fatalf("request %s: %v", subject, err)
	}
	return res
}

// ok asks and fails the test if the answer is an error.
func ok(t testing.TB, nc *nats.Conn, subject, body string, headers ...string) *nats.Msg {
	t.Helper()
	m := request(t, nc, subject, body, headers...)
	if e := m.Header.Get(events.HeaderError); e != "" {
		t.Fatalf("request %s: %s", subject, e)
	}
	return m
}

// versionOf is the version that the answer to a write tells.
func versionOf(t *testing.T, m *nats.Msg) string {
	t.Helper()
	var res struct{ Version string }
	decode(t, m.Data, &res)
	return res.Version
}

// acknowledges tells whether a message is an answer that tells a version, and no error.
func acknowledges(m *nats.Msg) bool {
	var res struct{ Version engine.Version }
	return m.Header.Get(events.HeaderError) == "" && json.Unmarshal(m.Data, &res) == nil && !res.Version.IsZero()
}

// problem asks and gives the error, which all three places must tell of alike.
func problem(t testing.TB, nc *nats.Conn, subject, body string, headers ...string) engine.Problem {
	t.Helper()
	return problemOf(t, request(t, nc, subject, body, headers...))
}

func problemOf(t testing.TB, m *nats.Msg) engine.Problem {
	t.Helper()
	var p engine.Problem
	dec := json.NewDecoder(bytes.NewReader(m.Data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		t.Fatalf("the answer is no problem: %v\n%s", err, m.Data)
	}
	if got := m.Header.Get(events.HeaderErrorCode); got != strconv.Itoa(p.Status) {
		t.Errorf("%s: got %q, want %d", events.HeaderErrorCode, got, p.Status)
	}
	if m.Header.Get(events.HeaderError) == "" || p.Detail == "" || p.Title == "" || p.Type == "" {
		t.Errorf("an error says nothing: header %q, %+v", m.Header.Get(events.HeaderError), p)
	}
	if got := m.Header.Get(events.HeaderContentType); got != "application/problem+json" {
		t.Errorf("content type: got %q", got)
	}
	return p
}

// gate is a lake whose calls wait until they are let through.
type gate struct {
	entered chan struct{} // one for each call
	leave   chan struct{} // close it, or send one for each call
	err     error
	ready   atomic.Pointer[error]
}

func newGate() *gate { return &gate{entered: make(chan struct{}, 1000), leave: make(chan struct{})} }

func (g *gate) pass(ctx context.Context) error {
	g.entered <- struct{}{}
	select {
	case <-g.leave:
		return g.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *gate) Ready() error {
	if err := g.ready.Load(); err != nil {
		return *err
	}
	return nil
}

func (g *gate) Write(ctx context.Context, _ engine.WriteRequest) (engine.WriteResult, error) {
	v := engine.Version{Sec: 1_700_000_000, Seq: 1}
	return engine.WriteResult{Version: v, First: v, Count: 1}, g.pass(ctx)
}

func (g *gate) WriteSoon(time.Time, engine.WriteRequest, func(engine.WriteResult, error)) bool {
	return false
}

func (g *gate) WriteBatch(ctx context.Context, req engine.BatchRequest) (engine.WriteResult, error) {
	return g.Write(ctx, engine.WriteRequest{Catalog: req.Catalog})
}

func (g *gate) Outcome(context.Context, engine.OutcomeRequest) (engine.OutcomeResult, error) {
	return engine.OutcomeResult{}, engine.ErrNotFound
}

func (g *gate) Read(ctx context.Context, _ engine.ReadRequest) (engine.ReadResult, error) {
	return engine.ReadResult{Body: []byte(`1`), Version: engine.Version{Sec: 1_700_000_000, Seq: 1}}, g.pass(ctx)
}

func (g *gate) ReadSoon(engine.ReadRequest, func(engine.ReadResult, bool)) bool { return false }

func (g *gate) Log(context.Context, engine.LogRequest) (engine.LogPage, error) {
	panic("a fault in the lake")
}

func (g *gate) Catalogs(context.Context, string, string, int) ([]engine.CatalogInfo, error) {
	return nil, errors.New("dial tcp 10.0.0.1:6379: connection refused")
}

func (g *gate) Diff(context.Context, engine.DiffRequest) (engine.DiffResult, error) {
	return engine.DiffResult{}, engine.ErrNotFound
}

func (g *gate) Blame(context.Context, engine.BlameRequest) (engine.BlameResult, error) {
	return engine.BlameResult{}, engine.ErrNotFound
}

func (g *gate) Due(context.Context, string) (bool, error) { return false, nil }

// logBuffer keeps what was logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) logger() zerolog.Logger { return zerolog.New(l) }

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
