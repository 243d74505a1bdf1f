package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/jsonlake/lake/internal/service"
	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/memory"
	"github.com/jsonlake/lake/pkg/events"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// Lake is what an engine and a client have in common.
type Lake interface {
	Write(ctx context.Context, req engine.WriteRequest) (engine.WriteResult, error)
	Read(ctx context.Context, req engine.ReadRequest) (engine.ReadResult, error)
	List(ctx context.Context, catalog string) *engine.List
	Log(ctx context.Context, req engine.LogRequest) (engine.LogPage, error)
	Catalogs(ctx context.Context, prefix, after string, limit int) ([]engine.CatalogInfo, error)
	Fold(ctx context.Context, catalog string) (engine.FoldResult, error)
}

var (
	_ events.History = (*engine.Engine)(nil)
	_ events.History = (*client.Client)(nil)
)

var (
	_ Lake = (*engine.Engine)(nil)
	_ Lake = (*client.Client)(nil)
)

func connect(t testing.TB, s *testenv.NATSServer, opts ...client.Option) *client.Client {
	t.Helper()
	c, err := client.Connect(s.URL, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// lake is an engine in memory with its services and streams.
func lake(t testing.TB, s *testenv.NATSServer, subjects events.Subjects) (*engine.Engine, *memory.Index, jetstream.JetStream) {
	t.Helper()
	x := memory.NewIndex(memory.Options{Exclusive: true})
	e, err := engine.New(t.Context(), x, memory.NewObjects(), engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close(context.WithoutCancel(t.Context())) })
	nc := s.Connect(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := events.Apply(t.Context(), js, events.Config{Subjects: subjects, Embedded: true}); err != nil {
		t.Fatal(err)
	}
	c := service.Config{NATS: nc, Subjects: subjects}
	in, err := service.NewIngest(c, e)
	start(t, in, err)
	re, err := service.NewReader(c, e)
	start(t, re, err)
	sn, err := service.NewSnapshotter(c, e, x, js)
	start(t, sn, err)
	return e, x, js
}

func start(t testing.TB, s interface {
	Run(ctx context.Context) error
	Listening() <-chan struct{}
}, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	<-s.Listening()
}

// listen hears what is sent to subjects, and may answer.
func listen(t testing.TB, s *testenv.NATSServer, subject string, f func(m *nats.Msg)) {
	t.Helper()
	nc := s.Connect(t)
	if _, err := nc.Subscribe(subject, f); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

// What is asked of the client gives what the engine gives.
func TestSameAsTheEngine(t *testing.T) {
	t.Parallel()
	s := testenv.NATS(t)
	e, _, _ := lake(t, s, events.Subjects{Prefix: "other"})
	c := connect(t, s, client.WithPrefix("other"))
	ctx := t.Context()
	for i, w := range []engine.WriteRequest{
		{Catalog: "users", Path: "/profile", Body: []byte(`{"name":"Alice","age":30}`), MergeType: engine.MergeTypeReplace},
		{Catalog: "users", Body: []byte(`{"profile":{"age":31}}`)},
		{Catalog: "users", Path: "/", Body: []byte(`[{"op":"add","path":"/x/y","value":[1,{"a/b~c":2}]}]`), MergeType: engine.MergeTypeJSONPatch, Author: "Zoë"},
		{Catalog: "users", Body: []byte(`[{"op":"add","path":"/p/q","value":1}]`), MergeType: engine.MergeTypeJSONPatch, NoAutoParents: true},
		{Catalog: "users", Path: "/profile/name", MergeType: engine.MergeTypeDelete},
		{Catalog: "中文", Body: []byte(`"<>&"`)},
		{Catalog: "gone", Body: []byte(`1`)},
		{Catalog: "gone", MergeType: engine.MergeTypeDelete},
	} {
		r, err := c.Write(ctx, w)
		if err != nil || r.Version.IsZero() || r.First != r.Version || r.Count != 1 {
			t.Fatalf("write %d: %+v, %v", i, r, err)
		}
	}
	for _, catalog := range []string{"users", "中文", "gone", "never", ""} {
		for _, pointer := range []string{"", "/", "/profile", "/x/y/1/a~1b~0c", "/nothing", "bad"} {
			same(t, fmt.Sprintf("read %s of %q", pointer, catalog), e, c, func(l Lake) (any, error) {
				return l.Read(ctx, engine.ReadRequest{Catalog: catalog, Pointer: pointer})
			})
		}
		same(t, "list", e, c, func(l Lake) (any, error) {
			list := l.List(ctx, catalog)
			doc, err := engine.ReadBytes(ctx, list)
			return []any{list.Catalog, list.Version, list.HasPending, engine.Code(list.Err), string(doc)}, err
		})
		for _, limit := range []int{1, 3, 1000, 0, 1001} {
			same(t, "log", e, c, func(l Lake) (any, error) {
				return l.Log(ctx, engine.LogRequest{Catalog: catalog, Limit: limit})
			})
		}
	}
	for _, q := range []struct {
		prefix, after string
		limit         int
	}{{"", "", 10}, {"us", "", 10}, {"", "gone", 1}, {"", "", 0}} {
		same(t, "catalogs", e, c, func(l Lake) (any, error) { return l.Catalogs(ctx, q.prefix, q.after, q.limit) })
	}
	r, err := c.Fold(ctx, "users")
	if err != nil || r.Deltas != 5 {
		t.Errorf("fold: got %+v, %v, want 5 deltas", r, err)
	}
	same(t, "fold again", e, c, func(l Lake) (any, error) { return l.Fold(ctx, "users") })
	same(t, "fold nothing", e, c, func(l Lake) (any, error) { return l.Fold(ctx, "a\nb") })
	same(t, "log of a pack", e, c, func(l Lake) (any, error) { return l.Log(ctx, engine.LogRequest{Catalog: "users", Limit: 10}) })
	m, err := engine.ReadMap(ctx, c.List(ctx, "users"))
	if err != nil || !reflect.DeepEqual(m["profile"], map[string]any{"age": 31.0}) {
		t.Errorf("got %v, %v", m, err)
	}
	// Every refusal of a write is the engine's own.
	for _, w := range []engine.WriteRequest{
		{}, {Catalog: "users"}, {Catalog: "users", Body: []byte(`{`)}, {Catalog: "users", Path: "/1", Body: []byte(`1`)}, {Catalog: "users", MergeType: 9, Body: []byte(`1`)},
		{Catalog: "users", MergeType: engine.MergeTypeDelete, Body: []byte(`1`)}, {Catalog: "users", Author: strings.Repeat("a", 300), Body: []byte(`1`)},
	} {
		same(t, fmt.Sprintf("write %+v", w), e, c, func(l Lake) (any, error) { return l.Write(ctx, w) })
	}
}

// same compares what two lakes give: results by their JSON, errors by what
// programs and people are told.
func same(t *testing.T, what string, e, c Lake, ask func(Lake) (any, error)) {
	t.Helper()
	want, wantErr := ask(e)
	got, gotErr := ask(c)
	if (wantErr == nil) != (gotErr == nil) {
		t.Errorf("%s: got %v, want %v", what, gotErr, wantErr)
		return
	}
	if wantErr != nil {
		if engine.Code(gotErr) != engine.Code(wantErr) || gotErr.Error() != wantErr.Error() {
			t.Errorf("%s: got %+v %v, want %+v %v", what, engine.Code(gotErr), gotErr, engine.Code(wantErr), wantErr)
		}
		g, w := engine.ProblemOf(gotErr, ""), engine.ProblemOf(wantErr, "")
		g.Catalog, w.Catalog = "", ""
		if !reflect.DeepEqual(g, w) {
			t.Errorf("%s: got %+v, want %+v", what, g, w)
		}
	}
	g, _ := json.Marshal(got)
	w, _ := json.Marshal(want)
	if !bytes.Equal(g, w) {
		t.Errorf("%s:\n got %s\nwant %s", what, g, w)
	}
}

// A list reads one document, whatever is written meanwhile; its bytes are the
// caller's.
func TestListIsOneView(t *testing.T) {
	t.Parallel()
	s := testenv.NATS(t)
	e, _, _ := lake(t, s, events.Subjects{})
	c := connect(t, s)
	ctx := t.Context()
	body := []byte(`{"a":1}`)
	if _, err := c.Write(ctx, engine.WriteRequest{Catalog: "users", Body: body}); err != nil {
		t.Fatal(err)
	}
	clear(body)
	l := c.List(ctx, "users")
	if _, err := e.Write(ctx, engine.WriteRequest{Catalog: "users", Body: []byte(`{"a":2}`)}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		b, err := engine.ReadBytes(ctx, l)
		if err != nil || string(b) != `{"a":1}` {
			t.Errorf("got %s, %v, want the document of the list", b, err)
		}
		clear(b)
	}
	r, err := c.Read(ctx, engine.ReadRequest{Catalog: "users"})
	if err != nil || string(r.Body) != `{"a":2}` {
		t.Errorf("got %s, %v", r.Body, err)
	}
	clear(r.Body)
	if r, err = c.Read(ctx, engine.ReadRequest{Catalog: "users"}); err != nil || string(r.Body) != `{"a":2}` {
		t.Errorf("got %s, %v", r.Body, err)
	}
	never := c.List(ctx, "never")
	if never.Err != nil || !never.Version.IsZero() {
		t.Errorf("got %v, %s, want a view of nothing", never.Err, never.Version)
	}
	if _, err := engine.ReadBytes(ctx, never); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("got %v, want not found", err)
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	s := testenv.NATS(t)
	e, x, js := lake(t, s, events.Subjects{})
	if err := x.SetEvents(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	relay := &events.Relay{Outbox: x, Leases: x, JS: js, Epoch: e.Epoch}
	rctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- relay.Run(rctx) }()
	defer func() { stop(); <-done }()

	c := connect(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var last engine.Version
	for range 5 {
		r, err := c.Write(ctx, engine.WriteRequest{Catalog: "users", Body: []byte(`{"a":1}`)})
		if err != nil {
			t.Fatal(err)
		}
		last = r.Version
	}
	var seen int64
	prev := engine.Version{}
	for ev, err := range c.Watch(ctx, events.WatchOptions{Catalog: "users", Kind: engine.EventCommitted, FromStart: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if ev.Prev != prev {
			t.Errorf("got (%s, %s] after %s", ev.Prev, ev.Version, prev)
		}
		prev = ev.Version
		seen += ev.Count
		if ev.Version == last {
			break
		}
	}
	if seen != 5 || prev != last {
		t.Errorf("got %d deltas up to %s, want 5 up to %s", seen, prev, last)
	}
}

// Nobody serves: known at once.
func TestNoService(t *testing.T) {
	t.Parallel()
	c := connect(t, testenv.NATS(t))
	start := time.Now()
	_, err := c.Write(t.Context(), engine.WriteRequest{Catalog: "users", Body: []byte(`1`)})
	if !errors.Is(err, engine.ErrUnavailable) || errors.Is(err, engine.ErrUnknown) || engine.Code(err).HTTP != 503 {
		t.Errorf("got %v, want unavailable", err)
	}
	if l := c.List(t.Context(), "users"); !errors.Is(l.Err, engine.ErrUnavailable) {
		t.Errorf("list: got %v, want unavailable", l.Err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("took %v, want at once", took)
	}
}

func TestInboxPrefix(t *testing.T) {
	t.Parallel()
	s := testenv.NATS(t)
	replies := make(chan string, 1)
	fake(t, s, func(m *nats.Msg) { replies <- m.Reply; _ = m.Respond([]byte(`1`)) })
	c := connect(t, s, client.WithInboxPrefix("_INBOX_alice"), client.WithNATS(nats.Name("mine")))
	if _, err := c.Read(t.Context(), engine.ReadRequest{Catalog: "users"}); err != nil {
		t.Fatal(err)
	}
	if got := <-replies; !strings.HasPrefix(got, "_INBOX_alice.") {
		t.Errorf("got %q", got)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	s := testenv.NATS(t)
	nc := s.Connect(t)
	if _, err := client.New(nc, client.WithInboxPrefix("a")); err == nil {
		t.Error("an inbox prefix for a connection that is there: no error")
	}
	if _, err := client.New(nc, client.WithPrefix("A.b")); !errors.Is(err, engine.ErrInvalid) {
		t.Errorf("got %v, want that the prefix is invalid", err)
	}
	if _, err := client.New(nc, client.WithTimeout(-1)); err == nil {
		t.Error("a negative timeout: no error")
	}
	c, err := client.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	c.Close()
	if nc.IsClosed() {
		t.Error("a connection that is not the client's was closed")
	}
	if _, err := c.Read(t.Context(), engine.ReadRequest{Catalog: "users"}); !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("a closed client: got %v, want unavailable", err)
	}
	own, err := client.Connect(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	own.Close()
	if _, err := own.Write(t.Context(), engine.WriteRequest{Catalog: "users", Body: []byte(`1`)}); !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("a closed client: got %v, want unavailable", err)
	}
	s.Stop()
	if _, err := client.Connect(s.URL); !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("no server: got %v, want unavailable", err)
	}
}

// What a header cannot carry, or the server does not take, is refused before
// it is sent.
func TestNotSent(t *testing.T) {
	t.Parallel()
	s := testenv.NATS(t)
	c := connect(t, s)
	for _, author := range []string{"a\nLake-Path: /b", "a\rb", " a", "a "} {
		if _, err := c.Write(t.Context(), engine.WriteRequest{Catalog: "users", Body: []byte(`1`), Author: author}); !errors.Is(err, engine.ErrInvalid) {
			t.Errorf("author %q: got %v, want invalid", author, err)
		}
	}
	if _, err := c.Read(t.Context(), engine.ReadRequest{Catalog: "users", Pointer: "/a\nb"}); !errors.Is(err, engine.ErrInvalid) {
		t.Errorf("got %v, want invalid", err)
	}
	if _, err := c.Catalogs(t.Context(), "\xff", "", 1); !errors.Is(err, engine.ErrInvalid) {
		t.Errorf("got %v, want invalid", err)
	}
	if _, err := c.Write(t.Context(), engine.WriteRequest{Catalog: "users", Body: make([]byte, 9<<20)}); !errors.Is(err, engine.ErrTooLarge) {
		t.Errorf("got %v, want too large", err)
	}
}
