package service_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jsonlake/lake/internal/service"
	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
)

// gated is an engine whose writes wait at a gate first.
type gated struct {
	*engine.Engine
	gate  *gate
	calls atomic.Int64
}

func (g *gated) Write(ctx context.Context, req engine.WriteRequest) (engine.WriteResult, error) {
	g.calls.Add(1)
	if err := g.gate.pass(ctx); err != nil {
		return engine.WriteResult{}, err
	}
	return g.Engine.Write(ctx, req)
}

// WriteSoon leaves every write to a worker: it is their line that is looked at here.
func (g *gated) WriteSoon(time.Time, engine.WriteRequest, func(engine.WriteResult, error)) bool {
	return false
}

// While the head of a line as long as there are workers waits for longer than it
// should, here at all, whoever comes is refused, though the queue has room: with a
// code, a time to wait, and no effect. What was admitted is answered, and then others
// are again.
func TestRefusedByTime(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{})
	g := &gated{Engine: h.engine, gate: newGate()}
	c := h.config()
	c.Workers, c.Queue, c.MaxWait = 1, 100, time.Nanosecond
	in, err := service.NewIngest(c, g)
	run(t, in, err)
	nc := h.connect()
	first := send(t, nc, "lake.v1.write.(users", `{"first":1}`)
	enter(t, g.gate)
	second := send(t, nc, "lake.v1.write.(users", `{"second":1}`)
	testenv.WaitFor(t, patience, func() bool { return h.metric("lake_service_requests_in_flight", "endpoint=write") == 2 })
	for _, id := range []string{"a", "a", "b"} {
		p := problem(t, nc, "lake.v1.write.(users", `{"refused":1}`, "Nats-Msg-Id", id)
		if p.Status != 429 || p.Code != "busy" || p.RetryAfter < 100 || !strings.Contains(p.Detail, "1 have waited for up to") {
			t.Errorf("got %+v, want 429 with a time to wait", p)
		}
	}
	close(g.gate.leave)
	for _, w := range []<-chan *nats.Msg{first, second} {
		if m := answer(t, w); !acknowledges(m) {
			t.Errorf("an admitted write got %v %s", m.Header, m.Data)
		}
	}
	ok(t, nc, "lake.v1.write.(users", `{"third":1}`)
	doc, err := h.engine.Read(t.Context(), engine.ReadRequest{Catalog: "users"})
	if want := `{"first":1,"second":1,"third":1}`; err != nil || string(doc.Body) != want {
		t.Errorf("got %s %v, want %s", doc.Body, err, want)
	}
	if _, err := h.engine.Outcome(t.Context(), engine.OutcomeRequest{Catalog: "users", ID: "a"}); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("a refused write's outcome: got %v, want not found", err)
	}
	if got := h.metric("lake_service_requests_total", "endpoint=write", "code=429"); got != 3 {
		t.Errorf("got %v refused, want 3", got)
	}
}

// turned is an engine whose small writes wait for the test, each with its answer.
type turned struct {
	*engine.Engine
	asked chan func()
}

func (g *turned) WriteSoon(deadline time.Time, req engine.WriteRequest, answer func(engine.WriteResult, error)) bool {
	req.Body = bytes.Clone(req.Body)
	g.asked <- func() {
		if !g.Engine.WriteSoon(deadline, req, answer) {
			answer(engine.WriteResult{}, errors.New("the engine does not take a small write"))
		}
	}
	return true
}

// next is the write whose turn it is.
func (g *turned) next(t *testing.T) func() {
	t.Helper()
	select {
	case w := <-g.asked:
		return w
	case <-time.After(patience):
		t.Fatal("no write got its turn")
		return nil
	}
}

// Small writes that find no room in the group commit wait for their turn, without a
// worker and in order; when the line is too slow or too long, whoever comes is refused;
// a service that stops lets those in line have their turns.
func TestTurns(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		queue   int
		maxWait time.Duration
		says    string
	}{
		{"too slow", 100, 50 * time.Millisecond, "1 requests are being worked on and 2 have waited for up to"},
		{"too long", 2, time.Hour, "1 requests are being worked on and 2 wait"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, engine.Options{})
			g := &turned{Engine: h.engine, asked: make(chan func(), 100)}
			c := h.config()
			c.Workers, c.Queue, c.MaxWait = 1, tc.queue, tc.maxWait
			in, err := service.NewIngest(c, g)
			stop := run(t, in, err)
			nc := h.connect()
			const catalog = "lake.v1.write.(users"
			first := send(t, nc, catalog, `{"last":1}`)
			testenv.WaitFor(t, patience, func() bool { return len(g.asked) == 1 })
			second := send(t, nc, catalog, `{"last":2}`)
			third := send(t, nc, catalog, `{"last":3}`)
			testenv.WaitFor(t, patience, func() bool { return h.metric("lake_service_requests_in_flight", "endpoint=write") == 3 })
			if tc.queue > 2 {
				time.Sleep(2 * tc.maxWait)
			}
			p := problem(t, nc, catalog, `{"last":"refused"}`, "Nats-Msg-Id", "a")
			if p.Status != 429 || p.Code != "busy" || p.RetryAfter < 100 || !strings.Contains(p.Detail, tc.says) {
				t.Errorf("got %+v, want 429 that says %q", p, tc.says)
			}
			if got := len(g.asked); got != 1 {
				t.Errorf("%d writes are in the group commit, want 1", got)
			}
			g.next(t)()
			if m := answer(t, first); !acknowledges(m) {
				t.Errorf("the first write got %v %s", m.Header, m.Data)
			}
			stopped := make(chan struct{})
			go func() { stop(); close(stopped) }()
			for _, w := range []<-chan *nats.Msg{second, third} {
				g.next(t)()
				if m := answer(t, w); !acknowledges(m) {
					t.Errorf("a write in line got %v %s", m.Header, m.Data)
				}
			}
			<-stopped
			doc, err := h.engine.Read(t.Context(), engine.ReadRequest{Catalog: "users"})
			if want := `{"last":3}`; err != nil || string(doc.Body) != want {
				t.Errorf("got %s %v, want %s", doc.Body, err, want)
			}
			if _, err := h.engine.Outcome(t.Context(), engine.OutcomeRequest{Catalog: "users", ID: "a"}); !errors.Is(err, engine.ErrNotFound) {
				t.Errorf("a refused write's outcome: got %v, want not found", err)
			}
		})
	}
}

// A write whose time is over when its turn comes is not worked on.
func TestExpiredInLine(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{})
	g := &gated{Engine: h.engine, gate: newGate()}
	c := h.config()
	c.Workers, c.MaxWait = 1, time.Hour
	in, err := service.NewIngest(c, g)
	run(t, in, err)
	nc := h.connect()
	first := send(t, nc, "lake.v1.write.(users", `{"first":1}`)
	enter(t, g.gate)
	late := send(t, nc, "lake.v1.write.(users", `{"late":1}`, "Lake-Timeout", "1")
	patient := send(t, nc, "lake.v1.write.(users", `{"patient":1}`)
	testenv.WaitFor(t, patience, func() bool { return h.metric("lake_service_requests_in_flight", "endpoint=write") == 3 })
	later, cancel := context.WithTimeout(t.Context(), time.Millisecond) // as much as the late one has, and it came before
	defer cancel()
	<-later.Done()
	close(g.gate.leave)
	answer(t, first)
	var p engine.Problem
	if m := answer(t, late); json.Unmarshal(m.Data, &p) != nil || p.Status != 503 || !strings.Contains(p.Detail, "nothing was done") {
		t.Errorf("got %s, want 503 that says that nothing was done", m.Data)
	}
	answer(t, patient)
	if got := g.calls.Load(); got != 2 {
		t.Errorf("%d writes came to the lake, want 2", got)
	}
}
