package client_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
)

// fake answers requests as a test says.
func fake(t testing.TB, s *testenv.NATSServer, answer func(m *nats.Msg)) {
	t.Helper()
	listen(t, s, "lake.v1.>", answer)
}

// The deadline goes along, a little shorter, within what a service accepts.
func TestDeadlineIsSent(t *testing.T) {
	t.Parallel()
	s := testenv.NATS(t)
	got := make(chan string, 10)
	fake(t, s, func(m *nats.Msg) {
		got <- m.Header.Get("Lake-Timeout")
		_ = m.Respond([]byte(`1`))
	})
	c := connect(t, s, client.WithTimeout(7*time.Second))
	for _, tc := range []struct {
		timeout  time.Duration // 0: the client's own
		min, max int
	}{{0, 6800, 6900}, {time.Second, 800, 900}, {19 * time.Second, 18_800, 18_900}, {30 * time.Millisecond, 1, 27}} {
		ctx, cancel := t.Context(), context.CancelFunc(func() {})
		if tc.timeout > 0 {
			ctx, cancel = context.WithTimeout(ctx, tc.timeout)
		}
		_, err := c.Read(ctx, engine.ReadRequest{Catalog: "users"})
		cancel()
		if err != nil && tc.timeout > time.Second {
			t.Fatal(err)
		}
		if ms, err := strconv.Atoi(<-got); err != nil || ms < tc.min || ms > tc.max {
			t.Errorf("%v: got %d ms, %v, want %d to %d", tc.timeout, ms, err, tc.min, tc.max)
		}
	}
	// Of a read that may take twice the service's default nothing is said, either.
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if _, err := c.Read(ctx, engine.ReadRequest{Catalog: "users"}); err != nil {
		t.Fatal(err)
	}
	if ms := <-got; ms != "" {
		t.Errorf("a read with an hour: got %q, want nothing", ms)
	}
	// What is seldom answered at once is told.
	if _, err := c.Fold(ctx, "users"); err == nil {
		t.Error("a fold with an answer that is none: no error")
	}
	if ms := <-got; ms != "60000" {
		t.Errorf("a fold with an hour: got %q, want 60000", ms)
	}
	// A write that is not answered in time is not asked for once more: it is told.
	if _, err := c.Write(ctx, engine.WriteRequest{Catalog: "users", Body: []byte(`1`)}); !errors.Is(err, engine.ErrUnknown) {
		t.Errorf("a write with an answer that is none: got %v", err)
	}
	if ms := <-got; ms != "60000" {
		t.Errorf("a write with an hour: got %q, want 60000", ms)
	}
	// Where the service's default is meant nothing is said, but of what waits for
	// something.
	c = connect(t, s)
	v := engine.Version{Sec: 1, Seq: 1}
	for _, tc := range []struct {
		req  engine.ReadRequest
		want string
	}{{engine.ReadRequest{}, ""}, {engine.ReadRequest{Relaxed: true, IfNoneMatch: v}, ""}, {engine.ReadRequest{MinVersion: v}, "9900"}} {
		tc.req.Catalog = "users"
		if _, err := c.Read(t.Context(), tc.req); err != nil {
			t.Fatal(err)
		}
		if ms := <-got; ms != tc.want {
			t.Errorf("%+v: got %q, want %q", tc.req, ms, tc.want)
		}
	}
	if _, err := c.Write(t.Context(), engine.WriteRequest{Catalog: "users", Body: []byte(`1`)}); !errors.Is(err, engine.ErrUnknown) {
		t.Errorf("a write with an answer that is none: got %v", err)
	}
	if ms := <-got; ms != "" {
		t.Errorf("a write: got %q, want nothing", ms)
	}
}

// A read that needs more time than the service's default, and has it, is asked for once
// more and told so. One that has no more ends.
func TestReadNeedsMoreTime(t *testing.T) {
	t.Parallel()
	s := testenv.NATS(t)
	var asked atomic.Int64
	fake(t, s, func(m *nats.Msg) {
		asked.Add(1)
		if m.Header.Get("Lake-Timeout") != "" && strings.HasSuffix(m.Subject, "large") {
			_ = m.Respond([]byte(`1`))
			return
		}
		_ = m.RespondMsg(&nats.Msg{
			Header: nats.Header{"Nats-Service-Error-Code": {"504"}, "Nats-Service-Error": {"too late"}},
			Data:   []byte(`{"type":"about:blank","title":"Gateway Timeout","status":504,"code":"deadline","detail":"too late"}`),
		})
	})
	c := connect(t, s)
	long, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	for _, tc := range []struct {
		ctx     context.Context
		catalog string
		asked   int64
		fails   bool
	}{{long, "large", 2, false}, {long, "endless", 2, true}, {t.Context(), "large", 1, true}} {
		asked.Store(0)
		res, err := c.Read(tc.ctx, engine.ReadRequest{Catalog: tc.catalog})
		if errors.Is(err, context.DeadlineExceeded) != tc.fails || err == nil && string(res.Body) != "1" || asked.Load() != tc.asked {
			t.Errorf("%s: got %s, %v, asked %d times; want %d, failing %t", tc.catalog, res.Body, err, asked.Load(), tc.asked, tc.fails)
		}
	}
}

// Every request has its own answer: one that comes twice, or when nobody waits for
// it any more, is nobody else's.
func TestAnswers(t *testing.T) {
	t.Parallel()
	s := testenv.NATS(t)
	late := make(chan *nats.Msg, 1)
	fake(t, s, func(m *nats.Msg) {
		catalog := strings.TrimPrefix(m.Subject, "lake.v1.read.(")
		if catalog == "late" {
			late <- m
			return
		}
		for range 3 {
			_ = m.Respond([]byte(`"` + catalog + `"`))
		}
	})
	c := connect(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	var asked *nats.Msg
	go func() { asked = <-late; cancel() }()
	if _, err := c.Read(ctx, engine.ReadRequest{Catalog: "late"}); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want that it was cancelled", err)
	}
	_ = asked.Respond([]byte(`"late"`))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				name := fmt.Sprintf("c%d-%d", i, j)
				if res, err := c.Read(t.Context(), engine.ReadRequest{Catalog: name}); err != nil || string(res.Body) != `"`+name+`"` {
					t.Errorf("%s: got %s, %v", name, res.Body, err)
				}
			}
		})
	}
	wg.Wait()
}

// No answer: of a write nothing is known, of a read only that there is none.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	s := testenv.NATS(t)
	asked := make(chan struct{}, 10)
	fake(t, s, func(*nats.Msg) { asked <- struct{}{} })
	c := connect(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := c.Write(ctx, engine.WriteRequest{Catalog: "users", Body: []byte(`1`)})
	if !errors.Is(err, engine.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) || engine.Code(err).Code != "unknown" {
		t.Errorf("write: got %v, want unknown", err)
	}
	// The time was over before: nothing was sent.
	if _, err = c.Write(ctx, engine.WriteRequest{Catalog: "users", Body: []byte(`1`)}); errors.Is(err, engine.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("late write: got %v, want the deadline", err)
	}
	<-asked
	ctx, cancel = context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if _, err := c.Read(ctx, engine.ReadRequest{Catalog: "users"}); !errors.Is(err, context.Canceled) || errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("read: got %v, want that it was cancelled", err)
	}
}

// A connection that is lost under a request ends it.
func TestConnectionLost(t *testing.T) {
	t.Parallel()
	s := testenv.NATS(t)
	asked := make(chan struct{}, 10)
	fake(t, s, func(*nats.Msg) { asked <- struct{}{} })
	c := connect(t, s)
	writes, reads := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := c.Write(t.Context(), engine.WriteRequest{Catalog: "users", Body: []byte(`1`)})
		writes <- err
	}()
	go func() { reads <- c.List(t.Context(), "users").Err }()
	<-asked
	<-asked
	start := time.Now()
	s.Stop()
	if err := <-writes; !errors.Is(err, engine.ErrUnknown) {
		t.Errorf("write: got %v, want unknown", err)
	}
	if err := <-reads; !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("read: got %v, want unavailable", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v, want at once", took)
	}
	if _, err := c.Write(t.Context(), engine.WriteRequest{Catalog: "users", Body: []byte(`1`)}); !errors.Is(err, engine.ErrUnavailable) || errors.Is(err, engine.ErrUnknown) {
		t.Errorf("without a connection: got %v, want unavailable", err)
	}
}

// Every problem comes back as the error it was.
func TestProblems(t *testing.T) {
	t.Parallel()
	s := testenv.NATS(t)
	var reply nats.Msg
	fake(t, s, func(m *nats.Msg) {
		r := reply
		r.Header = nats.Header{}
		for k, v := range reply.Header {
			r.Header[k] = v
		}
		_ = m.RespondMsg(&r)
	})
	c := connect(t, s)
	read := func() error {
		_, err := c.Read(t.Context(), engine.ReadRequest{Catalog: "users"})
		return err
	}
	for _, tc := range []struct {
		err error
		is  []error
	}{
		{engine.Invalid("invalid_path", "path", "no"), []error{engine.ErrInvalid}},
		{engine.ErrNotFound, []error{engine.ErrNotFound}},
		{engine.ErrTooLarge, []error{engine.ErrTooLarge}},
		{engine.ErrBusy, []error{engine.ErrBusy}},
		{engine.ErrUnavailable, []error{engine.ErrUnavailable}},
		{engine.ErrRecovering, []error{engine.ErrRecovering}},
		{engine.ErrPendingWrites, []error{engine.ErrPendingWrites}},
		{engine.ErrDamaged, []error{engine.ErrDamaged}},
		{&engine.UnknownError{ID: "abc", Err: context.DeadlineExceeded}, []error{engine.ErrUnknown}},
		{context.DeadlineExceeded, []error{context.DeadlineExceeded}},
	} {
		p := engine.ProblemOf(tc.err, "users")
		reply = nats.Msg{Data: p.JSON(), Header: nats.Header{"Nats-Service-Error-Code": {strconv.Itoa(p.Status)}, "Nats-Service-Error": {p.Detail}}}
		got := read()
		for _, is := range tc.is {
			if !errors.Is(got, is) {
				t.Errorf("%v: got %v, want %v", tc.err, got, is)
			}
		}
		if engine.Code(got) != engine.Code(tc.err) {
			t.Errorf("%v: got %+v, want %+v", tc.err, engine.Code(got), engine.Code(tc.err))
		}
		var back *engine.Problem
		if !errors.As(got, &back) || !reflect.DeepEqual(back, p) {
			t.Errorf("got %+v, want %+v", back, p)
		}
	}
	// Not a problem of a lake.
	for _, tc := range []struct {
		code, body string
		status     int
		want       string
	}{
		{"503", "", 503, "unavailable"}, {"429", "<html>", 429, "busy"}, {"418", `{"status":418}`, 418, "http_418"}, {"abc", "", 500, "internal"}, {"200", "", 500, "internal"},
		{"404", `{"status":503,"code":"unavailable","detail":"lies"}`, 404, "not_found"},
	} {
		reply = nats.Msg{Data: []byte(tc.body), Header: nats.Header{"Nats-Service-Error-Code": {tc.code}, "Nats-Service-Error": {"out of tea"}}}
		got := read()
		if st := engine.Code(got); st.HTTP != tc.status || st.Code != tc.want || got.Error() != "out of tea" {
			t.Errorf("%s %s: got %+v %v, want %d %s", tc.code, tc.body, st, got, tc.status, tc.want)
		}
	}
	// Answers that are none.
	reply = nats.Msg{Data: []byte(`[]`)}
	if _, err := c.Log(t.Context(), engine.LogRequest{Catalog: "users", Limit: 1}); err == nil || !strings.Contains(err.Error(), "of one version") {
		t.Errorf("log: got %v", err)
	}
	if _, err := c.Write(t.Context(), engine.WriteRequest{Catalog: "users", Body: []byte(`1`)}); !errors.Is(err, engine.ErrUnknown) {
		t.Errorf("write: got %v, want unknown", err)
	}
	reply = nats.Msg{Data: []byte(`1`), Header: nats.Header{"Lake-Version": {"new"}}}
	if err := read(); err == nil || !strings.Contains(err.Error(), "Lake-Version") {
		t.Errorf("read: got %v", err)
	}
}
