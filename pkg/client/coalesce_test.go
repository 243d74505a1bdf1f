package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jsonlake/lake/internal/service"
	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/memory"
	"github.com/jsonlake/lake/pkg/events"
)

// appendTo is the write of a number at the end of the list /list.
func appendTo(catalog, author string, n int) engine.WriteRequest {
	return engine.WriteRequest{Catalog: catalog, MergeType: engine.MergeTypeJSONPatch, Author: author, Body: fmt.Appendf(nil, `[{"op":"add","path":"/list/-","value":%d}]`, n)}
}

func listOf(t *testing.T, l Lake, catalog string) (list []int) {
	t.Helper()
	res, err := l.Read(t.Context(), engine.ReadRequest{Catalog: catalog, Pointer: "/list"})
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(res.Body, &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// Writes that come while one is under way share requests; each has its own
// version, and every goroutine's writes keep their order.
func TestCoalescing(t *testing.T) {
	t.Parallel()
	s := testenv.NATS(t)
	e, _, _ := lake(t, s, events.Subjects{})
	c := connect(t, s)
	var requests atomic.Int64
	listen(t, s, "lake.v1.write.*", func(*nats.Msg) { requests.Add(1) })
	const writers, each = 16, 50
	var mu sync.Mutex
	versions := map[engine.Version]int{}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				n := w*each + i
				res, err := c.Write(t.Context(), appendTo("c", "", n))
				if err != nil || res.Count != 1 || res.First != res.Version {
					t.Errorf("write %d: got %+v %v", n, res, err)
					return
				}
				mu.Lock()
				versions[res.Version] = n
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	last := map[int]int{}
	list := listOf(t, e, "c")
	for _, n := range list {
		if before, seen := last[n/each]; seen && n <= before {
			t.Errorf("%d stands after %d, which was written later by the same goroutine", n, before)
		}
		last[n/each] = n
	}
	log, err := e.Log(t.Context(), engine.LogRequest{Catalog: "c", Limit: 1000})
	if err != nil || len(log.Items) != writers*each || len(list) != writers*each || len(versions) != writers*each {
		t.Fatalf("got %d log entries, %d numbers, %d versions, %v; want %d", len(log.Items), len(list), len(versions), err, writers*each)
	}
	for i, entry := range log.Items {
		if n, told := versions[entry.Version]; !told || n != list[i] {
			t.Fatalf("version %s was told to the write of %d, and holds that of %d", entry.Version, n, list[i])
		}
	}
	if n := requests.Load(); n > writers*each/2 {
		t.Errorf("%d requests for %d writes: they did not share", n, writers*each)
	}
}

// What one goroutine hands over is committed in that order, whoever the author;
// authors do not mix.
func TestWriteAsync(t *testing.T) {
	t.Parallel()
	s := testenv.NATS(t)
	e, _, _ := lake(t, s, events.Subjects{})
	c := connect(t, s)
	const n = 500
	futures := make([]*client.Future, n)
	for i := range n {
		var err error
		if futures[i], err = c.WriteAsync(t.Context(), appendTo("c", fmt.Sprint("author", i/100), i)); err != nil {
			t.Fatal(err)
		}
	}
	var before engine.Version
	for i, f := range futures {
		res, err := f.Wait(t.Context())
		if err != nil || !before.Less(res.Version) {
			t.Fatalf("write %d: got %+v %v, want a version above %s", i, res, err, before)
		}
		before = res.Version
	}
	for i, got := range listOf(t, e, "c") {
		if got != i {
			t.Fatalf("place %d holds %d", i, got)
		}
	}
	log, err := e.Log(t.Context(), engine.LogRequest{Catalog: "c", Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for i, entry := range log.Items {
		if want := fmt.Sprint("author", i/100); entry.Author != want {
			t.Fatalf("entry %d is by %q, want %q", i, entry.Author, want)
		}
	}
	if _, err := c.WriteAsync(t.Context(), engine.WriteRequest{Catalog: "c", Body: []byte(`{"a":01}`)}); engine.Code(err).Code != "invalid_json" {
		t.Errorf("a bad body: got %v, want invalid_json at once", err)
	}
	if _, err := c.WriteAsync(t.Context(), engine.WriteRequest{Catalog: "c", Body: []byte(`1`), WriteOptions: engine.WriteOptions{ID: "x"}}); !errors.Is(err, engine.ErrInvalid) {
		t.Errorf("an id: got %v, want invalid", err)
	}
}

// A batch that the service refuses does not fail writes that it would take.
func TestRefusedBatch(t *testing.T) {
	t.Parallel()
	s := testenv.NATS(t)
	e, err := engine.New(t.Context(), memory.NewIndex(memory.Options{Exclusive: true}), memory.NewObjects(), engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close(context.WithoutCancel(t.Context())) })
	in, err := service.NewIngest(service.Config{NATS: s.Connect(t), MaxBody: 2000}, e)
	start(t, in, err)
	c := connect(t, s, client.WithCompression())
	var futures []*client.Future
	for i := range 10 {
		size := 1000
		if i == 5 {
			size = 10_000
		}
		f, err := c.WriteAsync(t.Context(), engine.WriteRequest{Catalog: "c", Path: fmt.Sprintf("/m%d", i), MergeType: engine.MergeTypeReplace, Body: fmt.Appendf(nil, "%q", strings.Repeat("x", size))})
		if err != nil {
			t.Fatal(err)
		}
		futures = append(futures, f)
	}
	for i, f := range futures {
		_, err := f.Wait(t.Context())
		if i == 5 && !errors.Is(err, engine.ErrTooLarge) || i != 5 && err != nil {
			t.Errorf("write %d: got %v", i, err)
		}
	}
}

// silent is a service that takes writes and never answers.
func silent(t *testing.T, s *testenv.NATSServer) (requests <-chan *nats.Msg) {
	t.Helper()
	ch := make(chan *nats.Msg, 100)
	listen(t, s, "lake.v1.write.*", func(m *nats.Msg) { ch <- m })
	return ch
}

// Without an answer: who waits in the queue is told that nothing was sent, who
// has left that the outcome is unknown, by the id of the batch.
func TestCoalescedUnknown(t *testing.T) {
	t.Parallel()
	s := testenv.NATS(t)
	requests := silent(t, s)
	c := connect(t, s)
	req := engine.WriteRequest{Catalog: "c", Body: []byte(`{"a":1}`)}
	first := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	go func() {
		_, err := c.Write(ctx, req)
		first <- err
	}()
	<-requests // alone, and under way
	short, cancelShort := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancelShort()
	if _, err := c.Write(short, req); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, engine.ErrUnknown) {
		t.Errorf("one that did not leave: got %v, want a deadline and no unknown", err)
	}
	var futures []*client.Future
	later, cancelLater := context.WithTimeout(t.Context(), time.Second)
	defer cancelLater()
	for range 3 {
		f, err := c.WriteAsync(later, req)
		if err != nil {
			t.Fatal(err)
		}
		futures = append(futures, f)
	}
	if err := <-first; !errors.Is(err, engine.ErrUnknown) {
		t.Errorf("the first: got %v, want unknown", err)
	}
	batch := <-requests
	gone, cancelGone := context.WithCancel(t.Context())
	cancelGone()
	var left *engine.UnknownError
	if _, err := futures[0].Wait(gone); !errors.As(err, &left) || left.ID != batch.Header.Get("Nats-Msg-Id") {
		t.Errorf("who does not wait for one that has left: got %v, want unknown with the id of the batch", err)
	}
	for _, f := range futures {
		_, err := f.Wait(t.Context())
		var unknown *engine.UnknownError
		if !errors.As(err, &unknown) || unknown.ID == "" || unknown.ID != batch.Header.Get("Nats-Msg-Id") {
			t.Errorf("got %v, want unknown with the id %s", err, batch.Header.Get("Nats-Msg-Id"))
		}
	}
}

// Closing fails what waits and what is under way, and leaves nobody behind.
func TestCloseWhileCoalescing(t *testing.T) {
	t.Parallel()
	s := testenv.NATS(t)
	requests := silent(t, s)
	c, err := client.Connect(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	req := engine.WriteRequest{Catalog: "c", Body: []byte(`{"a":1}`)}
	var futures []*client.Future
	for range 100 {
		f, err := c.WriteAsync(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		futures = append(futures, f)
	}
	<-requests
	c.Close()
	for _, f := range futures {
		if _, err := f.Wait(t.Context()); !errors.Is(err, engine.ErrUnknown) && !errors.Is(err, engine.ErrUnavailable) {
			t.Fatalf("got %v, want unknown or unavailable", err)
		}
	}
	if f, err := c.WriteAsync(t.Context(), req); err == nil {
		_, err = f.Wait(t.Context())
		if !errors.Is(err, engine.ErrUnavailable) {
			t.Errorf("after Close: got %v, want unavailable", err)
		}
	}
}
