package service_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/jsonlake/lake/internal/service"
	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
)

// send sends a request without waiting for its answer, which comes on the
// channel.
func send(t testing.TB, nc *nats.Conn, subject, body string, headers ...string) <-chan *nats.Msg {
	t.Helper()
	m := nats.NewMsg(subject)
	m.Data, m.Reply = []byte(body), nats.NewInbox()
	for i := 0; i < len(headers); i += 2 {
		m.Header[headers[i]] = []string{headers[i+1]}
	}
	answers := make(chan *nats.Msg, 1)
	sub, err := nc.Subscribe(m.Reply, func(m *nats.Msg) { answers <- m })
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.AutoUnsubscribe(1); err != nil {
		t.Fatal(err)
	}
	if err := nc.PublishMsg(m); err != nil {
		t.Fatal(err)
	}
	return answers
}

func answer(t testing.TB, answers <-chan *nats.Msg) *nats.Msg {
	t.Helper()
	select {
	case m := <-answers:
		return m
	case <-time.After(patience):
		t.Fatal("no answer")
		return nil
	}
}

func enter(t testing.TB, g *gate) {
	t.Helper()
	select {
	case <-g.entered:
	case <-time.After(patience):
		t.Fatal("the request did not get to the lake")
	}
}

// A full pool says so at once, and goes on when there is room.
func TestBusy(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{})
	g := newGate()
	c := h.config()
	c.Workers, c.Queue, c.MaxWait = 2, 3, time.Hour
	in, err := service.NewIngest(c, g)
	run(t, in, err)
	nc := h.connect()

	var waiting []<-chan *nats.Msg
	for range 5 {
		waiting = append(waiting, send(t, nc, "lake.v1.write.(users", `1`))
	}
	enter(t, g)
	enter(t, g)
	testenv.WaitFor(t, patience, func() bool { return h.metric("lake_service_requests_in_flight", "endpoint=write") == 5 })
	start := time.Now()
	p := problem(t, nc, "lake.v1.write.(users", `1`)
	if p.Status != 429 || p.Code != "busy" || !strings.Contains(p.Detail, "2 requests are being worked on and 3 wait") {
		t.Errorf("got %+v, want 429 busy", p)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("refused after %v, want at once", took)
	}
	close(g.leave)
	for _, w := range waiting {
		if m := answer(t, w); !acknowledges(m) {
			t.Errorf("an admitted write got %v %s", m.Header, m.Data)
		}
	}
	ok(t, nc, "lake.v1.write.(users", `1`)
	if got := h.metric("lake_service_requests_total", "endpoint=write", "code=429"); got != 1 {
		t.Errorf("got %v refused, want 1", got)
	}
	testenv.WaitFor(t, patience, func() bool { return h.metric("lake_service_requests_in_flight", "endpoint=write") == 0 })
}

// Admission counts bytes too.
func TestBusyBytes(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{})
	g := newGate()
	c := h.config()
	c.MaxPendingBytes = 1000
	in, err := service.NewIngest(c, g)
	run(t, in, err)
	nc := h.connect()
	first := send(t, nc, "lake.v1.write.(users", `"`+strings.Repeat("a", 600)+`"`)
	enter(t, g)
	if p := problem(t, nc, "lake.v1.write.(users", `"`+strings.Repeat("a", 600)+`"`); p.Status != 429 || !strings.Contains(p.Detail, "602 bytes") {
		t.Errorf("got %+v, want 429 for the bytes", p)
	}
	small := send(t, nc, "lake.v1.write.(users", `1`)
	enter(t, g)
	close(g.leave)
	answer(t, first)
	answer(t, small)
	// One that is larger than all that may wait is let in when nothing waits.
	ok(t, nc, "lake.v1.write.(users", `"`+strings.Repeat("a", 2000)+`"`)
}

func TestDeadline(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{})
	g := newGate()
	c := h.config()
	c.Workers = 1
	re, err := service.NewReader(c, g)
	run(t, re, err)
	nc := h.connect()

	// In the lake: its own deadline error.
	start := time.Now()
	p := problem(t, nc, "lake.v1.read.(users", "", "Lake-Timeout", "80")
	if took := time.Since(start); p.Status != 504 || p.Code != "deadline" || took < 80*time.Millisecond || took > 5*time.Second {
		t.Errorf("got %+v after %v, want 504 after 80 ms", p, took)
	}
	enter(t, g)
	// Behind another one: the wait for a worker counts. Nothing was done.
	first := send(t, nc, "lake.v1.read.(users", "", "Lake-Timeout", "300")
	enter(t, g)
	if p := problem(t, nc, "lake.v1.read.(users", "", "Lake-Timeout", "50"); p.Status != 503 || p.Code != "unavailable" || !strings.Contains(p.Detail, "nothing was done") {
		t.Errorf("got %+v, want 503: it did not get its turn", p)
	}
	if p := problemOf(t, answer(t, first)); p.Status != 504 {
		t.Errorf("got %+v, want 504", p)
	}
	if len(g.entered) != 0 {
		t.Error("a request got to the lake after its deadline")
	}
}

// A deadline of something below is not the request's: 503, not 504.
func TestDeadlineBelow(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{})
	g := newGate()
	g.err = fmt.Errorf("view of catalog: %w", context.DeadlineExceeded)
	close(g.leave)
	re, err := service.NewReader(h.config(), g)
	run(t, re, err)
	if p := problem(t, h.connect(), "lake.v1.read.(users", ""); p.Status != 503 || p.Code != "unavailable" {
		t.Errorf("got %+v, want 503 unavailable", p)
	}
}

// While the lake cannot answer, the service says so at once.
func TestNotReady(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{})
	g := newGate()
	re, err := service.NewReader(h.config(), g)
	run(t, re, err)
	in, err := service.NewIngest(h.config(), g)
	run(t, in, err)
	nc := h.connect()
	for _, tc := range []struct {
		err  error
		code string
	}{
		{fmt.Errorf("%w: the index's epoch is being opened", engine.ErrRecovering), "recovering"},
		{fmt.Errorf("%w: the bucket does not answer", engine.ErrUnavailable), "unavailable"},
		{engine.ErrClosed, "unavailable"},
	} {
		g.ready.Store(&tc.err)
		for _, subject := range []string{"lake.v1.read.(users", "lake.v1.write.(users", "lake.v1.catalogs"} {
			if p := problem(t, nc, subject, ""); p.Status != 503 || p.Code != tc.code {
				t.Errorf("%s: got %+v, want 503 %s", subject, p, tc.code)
			}
		}
	}
	if len(g.entered) != 0 {
		t.Error("a request got to a lake that was not ready")
	}
}

// A fault of ours is a 500 that keeps its text to itself, and one line in the log.
func TestInternalErrors(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{})
	re, err := service.NewReader(h.config(), newGate())
	run(t, re, err)
	nc := h.connect()
	for _, tc := range []struct{ subject, logged string }{
		{"lake.v1.log.(users", "a fault in the lake"}, {"lake.v1.catalogs", "10.0.0.1"},
	} {
		p := problem(t, nc, tc.subject, "")
		if p.Status != 500 || p.Code != "internal" || strings.Contains(p.Detail, tc.logged) {
			t.Errorf("%s: got %+v, want 500 without its cause", tc.subject, p)
		}
		testenv.WaitFor(t, patience, func() bool {
			return strings.Contains(h.log.String(), `"level":"error"`) && strings.Contains(h.log.String(), tc.logged)
		})
	}
}

// When the service stops it answers what it has admitted: what is in the lake,
// what waits for a worker.
func TestDrain(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{})
	g := newGate()
	c := h.config()
	c.Workers = 2
	in, err := service.NewIngest(c, g)
	stop := run(t, in, err)
	nc := h.connect()
	var waiting []<-chan *nats.Msg
	for range 10 {
		waiting = append(waiting, send(t, nc, "lake.v1.write.(users", `1`))
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	enter(t, g)
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	// From now on nobody listens; what was sent before is kept.
	testenv.WaitFor(t, patience, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := nc.RequestWithContext(ctx, "lake.v1.write.(users", nil)
		return errors.Is(err, nats.ErrNoResponders)
	})
	select {
	case <-stopped:
		t.Fatal("the service stopped with requests under way")
	default:
	}
	close(g.leave)
	for i, w := range waiting {
		if m := answer(t, w); !acknowledges(m) {
			t.Errorf("write %d got %v %s", i, m.Header, m.Data)
		}
	}
	select {
	case <-stopped:
	case <-time.After(patience):
		t.Fatal("the service does not stop")
	}
}

// Draining has an end: what takes too long is cut short, and answered.
func TestDrainTimeout(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{})
	g := newGate()
	c := h.config()
	c.DrainTimeout = 50 * time.Millisecond
	in, err := service.NewIngest(c, g)
	stop := run(t, in, err)
	nc := h.connect()
	w := send(t, nc, "lake.v1.write.(users", `1`)
	enter(t, g)
	stop()
	if p := problemOf(t, answer(t, w)); p.Status != 503 {
		t.Errorf("got %+v, want 503", p)
	}
}

// Services come and go under load: every request is answered, or nobody was
// there; every acknowledged write is in the document.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{})
	start := func() func() {
		in, err := service.NewIngest(h.config(), h.engine)
		return run(t, in, err)
	}
	stop := start()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var acked, refused atomic.Int64
	var wg sync.WaitGroup
	for w := range 8 {
		c := h.client()
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				// Not cancelled: a request that is under way must end in an answer.
				_, err := c.Write(context.WithoutCancel(ctx), engine.WriteRequest{Catalog: "users", Path: fmt.Sprintf("/w%d_%d", w, i), Body: []byte(`1`)})
				switch {
				case err == nil:
					acked.Add(1)
				case errors.Is(err, engine.ErrUnavailable):
					refused.Add(1)
				default:
					t.Errorf("write: %v", err)
					return
				}
			}
		})
	}
	for range 5 {
		before := acked.Load()
		testenv.WaitFor(t, patience, func() bool { return acked.Load() > before+50 })
		stop()
		stop = start()
	}
	cancel()
	wg.Wait()
	doc, err := engine.ReadMap(t.Context(), h.engine.List(t.Context(), "users"))
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(doc)) != acked.Load() {
		t.Errorf("%d writes were acknowledged, the document has %d", acked.Load(), len(doc))
	}
	t.Logf("%d acknowledged, %d refused", acked.Load(), refused.Load())
}

// The service outlives its server.
func TestServerRestart(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{}).serve()
	c := h.client(client.WithNATS(nats.ReconnectWait(20 * time.Millisecond)))
	if _, err := c.Write(t.Context(), engine.WriteRequest{Catalog: "users", Body: []byte(`{"a":1}`)}); err != nil {
		t.Fatal(err)
	}
	h.nats.Stop()
	testenv.WaitFor(t, patience, func() bool {
		start := time.Now()
		_, err := c.Read(t.Context(), engine.ReadRequest{Catalog: "users"})
		return errors.Is(err, engine.ErrUnavailable) && time.Since(start) < time.Second
	})
	h.nats.Start()
	testenv.WaitFor(t, patience, func() bool {
		r, err := c.Read(t.Context(), engine.ReadRequest{Catalog: "users"})
		return err == nil && string(r.Body) == `{"a":1}`
	})
}

func TestClosedConnection(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{})
	c := h.config()
	in, err := service.NewIngest(c, h.engine)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- in.Run(t.Context()) }()
	<-in.Listening()
	c.NATS.Close()
	select {
	case err := <-done:
		if !errors.Is(err, nats.ErrConnectionClosed) {
			t.Errorf("got %v, want that the connection is closed", err)
		}
	case <-time.After(patience):
		t.Fatal("run goes on without a connection")
	}
	if err := in.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "run before") {
		t.Errorf("a second run: got %v", err)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{}, func(o *server.Options) { o.MaxPayload = 1 << 20 })
	nc := h.connect()
	for name, c := range map[string]service.Config{
		"no connection": {},
		"negative":      {NATS: nc, Workers: -1},
		"timeout":       {NATS: nc, Timeout: time.Hour},
	} {
		if _, err := service.NewIngest(c, h.engine); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := service.NewReader(c, h.engine); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	// The version must be a semantic one; micro says so when the service is run.
	in, err := service.NewIngest(service.Config{NATS: nc, Version: "new"}, h.engine)
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Run(t.Context()); err == nil {
		t.Error("a version that is none: no error")
	}
}
