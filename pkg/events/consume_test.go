package events

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
)

func job(t *testing.T, js jetstream.JetStream, ev engine.Event) {
	t.Helper()
	if err := PublishJob(contextFor(t), js, Subjects{}, ev); err != nil {
		t.Fatal(err)
	}
}

// queue is what the stream still has: jobs waiting and jobs given out.
func queue(t *testing.T, js jetstream.JetStream) (waiting, given int) {
	t.Helper()
	c, err := js.Consumer(contextFor(t), "LAKE_JOBS", ConsumerSnapshotter)
	if err != nil {
		t.Fatal(err)
	}
	return int(c.CachedInfo().NumPending), c.CachedInfo().NumAckPending
}

func left(t *testing.T, js jetstream.JetStream) int {
	t.Helper()
	s, err := js.Stream(contextFor(t), "LAKE_JOBS")
	if err != nil {
		t.Fatal(err)
	}
	return int(s.CachedInfo().State.Msgs)
}

// handled records which events a handler saw.
type handled struct {
	mu     sync.Mutex
	events []engine.Event
	at     []time.Time
}

func (h *handled) add(ev engine.Event) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, ev)
	h.at = append(h.at, time.Now())
	return len(h.events)
}

func (h *handled) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.events)
}

func TestJobs(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	const catalogs = 100
	for i := range catalogs {
		job(t, js, span(catalogName(i), 0, 5))
		job(t, js, span(catalogName(i), 5, 9)) // replaces the one before
	}
	if n := left(t, js); n != catalogs {
		t.Fatalf("%d jobs are queued, want one a catalog, %d", n, catalogs)
	}
	var seen handled
	var running, most atomic.Int64
	j := &Jobs{JS: js, Workers: 3, OnError: func(err error) { t.Errorf("jobs: %v", err) },
		Handle: func(_ context.Context, catalog string, ev engine.Event) error {
			now := running.Add(1)
			defer running.Add(-1)
			for {
				old := most.Load()
				if now <= old || most.CompareAndSwap(old, now) {
					break
				}
			}
			if ev.Catalog != catalog || ev.Version != versionOf(9) {
				t.Errorf("job of %q has %+v", catalog, ev)
			}
			seen.add(ev)
			time.Sleep(time.Millisecond) // work, so that workers overlap
			return nil
		}}
	stop := start(t, j.Run)
	testenv.WaitFor(t, patience, func() bool { return left(t, js) == 0 })
	stop()
	if seen.len() != catalogs {
		t.Errorf("handled %d jobs, want %d", seen.len(), catalogs)
	}
	if m := most.Load(); m != 3 {
		t.Errorf("at most %d at once, want 3", m)
	}
}

// What no free worker asks for stays in the stream.
func TestJobsAreNotPrefetched(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	for i := range 10 {
		job(t, js, span(catalogName(i), 0, 5))
	}
	release := make(chan struct{})
	var started atomic.Int64
	j := &Jobs{JS: js, Workers: 2, Handle: func(context.Context, string, engine.Event) error {
		started.Add(1)
		<-release
		return nil
	}}
	stop := start(t, j.Run)
	testenv.WaitFor(t, patience, func() bool { return started.Load() == 2 })
	if waiting, given := queue(t, js); waiting != 8 || given != 2 {
		t.Errorf("got %d waiting and %d given out, want 8 and 2", waiting, given)
	}
	close(release)
	testenv.WaitFor(t, patience, func() bool { return left(t, js) == 0 })
	stop()
}

// A job may take much longer than AckWait.
func TestJobsLong(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{AckWait: 1500 * time.Millisecond})
	job(t, js, span("users", 0, 5))
	var seen handled
	for range 2 { // the other one would get it
		j := &Jobs{JS: js, OnError: func(err error) { t.Errorf("jobs: %v", err) }, Handle: func(_ context.Context, _ string, ev engine.Event) error {
			seen.add(ev)
			time.Sleep(4 * time.Second) // well over twice AckWait: there is no condition to wait for
			return nil
		}}
		start(t, j.Run)
	}
	testenv.WaitFor(t, patience, func() bool { return left(t, js) == 0 })
	if seen.len() != 1 {
		t.Errorf("handled %d times, want once", seen.len())
	}
}

// A job whose worker vanished comes again after AckWait.
func TestJobsWorkerVanishes(t *testing.T) {
	t.Parallel()
	srv := testenv.NATS(t)
	js := natsOf(t, srv, Config{AckWait: 300 * time.Millisecond})
	line := newWire(t, strings.TrimPrefix(srv.URL, "nats://"))
	gone := connect(t, line.url())
	block := make(chan struct{})
	got := make(chan struct{})
	stopFirst := start(t, (&Jobs{JS: gone, Workers: 1, Handle: func(context.Context, string, engine.Event) error {
		close(got)
		<-block
		return nil
	}}).Run)
	job(t, js, span("users", 0, 5))
	<-got
	line.Close()
	line.cut()
	var seen handled
	start(t, (&Jobs{JS: js, Handle: func(_ context.Context, _ string, ev engine.Event) error { seen.add(ev); return nil }}).Run)
	testenv.WaitFor(t, patience, func() bool { return seen.len() >= 1 && left(t, js) == 0 })
	close(block)
	stopFirst()
}

func TestJobsBackOff(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	var seen handled
	var errs errorList
	j := &Jobs{JS: js, MinBackoff: 100 * time.Millisecond, MaxBackoff: 400 * time.Millisecond, OnError: errs.add,
		Handle: func(_ context.Context, _ string, ev engine.Event) error {
			switch seen.add(ev) {
			case 1:
				return errors.New("the bucket is away")
			case 2:
				panic("a bug")
			case 3:
				return errors.New("still away")
			}
			return nil
		}}
	start(t, j.Run)
	job(t, js, span("users", 0, 5))
	testenv.WaitFor(t, patience, func() bool { return seen.len() == 1 })
	// A newer job does not shorten the wait.
	for i := range 20 {
		job(t, js, span("users", 5+i, 6+i))
	}
	testenv.WaitFor(t, patience, func() bool { return left(t, js) == 0 })
	if seen.len() != 4 {
		t.Fatalf("handled %d times, want 4", seen.len())
	}
	for i, want := range []time.Duration{75, 150, 300} { // milliseconds, the least
		if got := seen.at[i+1].Sub(seen.at[i]); got < want*time.Millisecond-5*time.Millisecond {
			t.Errorf("wait %d: got %v, want at least %vms", i, got, int(want))
		}
	}
	for _, text := range []string{"the bucket is away", "panicked: a bug", "still away"} {
		if !errs.has(func(err error) bool {
			return strings.Contains(err.Error(), text) && strings.Contains(err.Error(), `"users"`)
		}) {
			t.Errorf("%q was not reported", text)
		}
	}
}

func TestJobsLater(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	var seen handled
	j := &Jobs{JS: js, OnError: func(err error) { t.Errorf("not an error: %v", err) }, Handle: func(_ context.Context, _ string, ev engine.Event) error {
		if seen.add(ev) == 1 {
			return fmt.Errorf("fold: %w", ErrLater)
		}
		return nil
	}}
	start(t, j.Run)
	job(t, js, span("users", 0, 5))
	testenv.WaitFor(t, patience, func() bool { return left(t, js) == 0 })
	if seen.len() != 2 {
		t.Fatalf("handled %d times, want 2", seen.len())
	}
	if d := seen.at[1].Sub(seen.at[0]); d < 900*time.Millisecond || d > 5*time.Second {
		t.Errorf("came again after %v, want a second", d)
	}
}

func TestJobsThatCannotBeHandled(t *testing.T) {
	t.Parallel()
	ctx := contextFor(t)
	js := natsOf(t, testenv.NATS(t), Config{})
	advisories, err := js.Conn().SubscribeSync("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.LAKE_JOBS.snapshotter")
	if err != nil {
		t.Fatal(err)
	}
	good, err := Encode(span("users", 0, 5))
	if err != nil {
		t.Fatal(err)
	}
	later := strings.Replace(string(good), `"v":1`, `"v":2`, 1)
	for _, m := range []struct{ subject, data, reason string }{
		{"lake.v1.job.snapshot.us1", "", "not an encoded catalog name"},
		{"lake.v1.job.snapshot.(items", "{", "not an event"},
		{"lake.v1.job.snapshot.(users", later, "its schema is 2"},
		{"lake.v1.job.snapshot.(goods", string(good), `of catalog "users", but its subject names "goods"`},
	} {
		var errs errorList
		stop := start(t, (&Jobs{JS: js, OnError: errs.add, Handle: func(_ context.Context, catalog string, _ engine.Event) error {
			t.Errorf("job of %q was handled", catalog)
			return nil
		}}).Run)
		if _, err := js.Publish(ctx, m.subject, []byte(m.data)); err != nil {
			t.Fatal(err)
		}
		adv, err := advisories.NextMsg(patience)
		if err != nil || !strings.Contains(string(adv.Data), strings.ReplaceAll(m.reason, `"`, `\"`)) {
			t.Errorf("%s: got %v, %v, want the reason %q", m.subject, adv, err, m.reason)
		}
		testenv.WaitFor(t, patience, func() bool { return left(t, js) == 0 })
		stop()
		if !errs.has(func(err error) bool { return strings.Contains(err.Error(), m.reason) }) {
			t.Errorf("%s: not reported", m.subject)
		}
	}

	// By hand, without a body.
	got := make(chan engine.Event, 1)
	start(t, (&Jobs{JS: js, Handle: func(_ context.Context, _ string, ev engine.Event) error { got <- ev; return nil }}).Run)
	if _, err := js.Publish(ctx, "lake.v1.job.snapshot.(users", nil); err != nil {
		t.Fatal(err)
	}
	if ev := <-got; ev != (engine.Event{Catalog: "users"}) {
		t.Errorf("got %+v", ev)
	}
	job(t, js, engine.Event{Catalog: "Items.1"}) // as the requeue task does
	if ev := <-got; ev != (engine.Event{Catalog: "Items.1"}) {
		t.Errorf("got %+v", ev)
	}
	if err := PublishJob(ctx, js, Subjects{}, engine.Event{Catalog: "a\x00"}); !errors.Is(err, engine.ErrInvalid) {
		t.Errorf("got %v, want ErrInvalid", err)
	}
}

// When told to stop, running jobs finish and what waits goes to others.
func TestJobsDrain(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	for i := range 5 {
		job(t, js, span(catalogName(i), 0, 5))
	}
	release := make(chan struct{})
	var started, finished atomic.Int64
	j := &Jobs{JS: js, Workers: 2, Handle: func(ctx context.Context, _ string, _ engine.Event) error {
		started.Add(1)
		select {
		case <-release:
		case <-ctx.Done():
			return ctx.Err()
		}
		finished.Add(1)
		return nil
	}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- j.Run(ctx) }()
	testenv.WaitFor(t, patience, func() bool { return started.Load() == 2 })
	cancel()
	select {
	case <-done:
		t.Fatal("it did not wait")
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if err := <-done; err != nil {
		t.Errorf("run: %v", err)
	}
	if started.Load() != 2 || finished.Load() != 2 {
		t.Errorf("started %d, finished %d, want 2 and 2", started.Load(), finished.Load())
	}
	testenv.WaitFor(t, patience, func() bool { waiting, given := queue(t, js); return waiting == 3 && given == 0 })
}

// A job that does not finish in time is given back at once.
func TestJobsDrainDeadline(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	job(t, js, span("users", 0, 5))
	got := make(chan struct{})
	j := &Jobs{JS: js, DrainTimeout: 50 * time.Millisecond, OnError: func(err error) { t.Errorf("jobs: %v", err) },
		Handle: func(ctx context.Context, _ string, _ engine.Event) error {
			close(got)
			<-ctx.Done()
			return fmt.Errorf("fold: %w", ctx.Err())
		}}
	stop := start(t, j.Run)
	<-got
	stop()
	var seen handled
	start(t, (&Jobs{JS: js, Handle: func(_ context.Context, _ string, ev engine.Event) error { seen.add(ev); return nil }}).Run)
	testenv.WaitFor(t, 5*time.Second, func() bool { return seen.len() == 1 && left(t, js) == 0 }) // AckWait is a minute
}

func TestJobsBeforeStreams(t *testing.T) {
	t.Parallel()
	ctx := contextFor(t)
	srv := testenv.NATS(t)
	js := connect(t, srv.URL)
	var errs errorList
	var seen handled
	start(t, (&Jobs{JS: js, OnError: errs.add, Handle: func(_ context.Context, _ string, ev engine.Event) error { seen.add(ev); return nil }}).Run)
	testenv.WaitFor(t, patience, func() bool { return errs.has(func(err error) bool { return errors.Is(err, ErrNotApplied) }) })
	if err := PublishJob(ctx, js, Subjects{}, span("users", 0, 5)); !errors.Is(err, ErrNotApplied) {
		t.Errorf("publish without a stream: got %v", err)
	}
	for i := range 2 { // and once more, after everything was deleted
		if err := Apply(ctx, js, Config{MaxBytes: testBytes}); err != nil {
			t.Fatal(err)
		}
		job(t, js, span("users", 0, 5))
		testenv.WaitFor(t, patience, func() bool { return seen.len() == i+1 && left(t, js) == 0 })
		if err := js.DeleteStream(ctx, "LAKE_JOBS"); err != nil {
			t.Fatal(err)
		}
	}
	if err := Apply(ctx, js, Config{MaxBytes: testBytes}); err != nil {
		t.Fatal(err)
	}
	srv.Restart()
	testenv.WaitFor(t, patience, func() bool { return PublishJob(ctx, js, Subjects{}, span("users", 0, 6)) == nil })
	testenv.WaitFor(t, 2*patience, func() bool { return seen.len() >= 3 })
}

func TestJobsRefuseHalfASetUp(t *testing.T) {
	t.Parallel()
	if err := (&Jobs{}).Run(t.Context()); err == nil {
		t.Error("no error")
	}
}

func TestStrikes(t *testing.T) {
	t.Parallel()
	s := strikes{min: time.Second, max: 10 * time.Second}
	s.setDefaults()
	for i, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
		got := s.strike("users")
		if got < want*time.Second*3/4 || got > want*time.Second*5/4 {
			t.Errorf("strike %d: got %v, want about %vs", i, got, int(want))
		}
		if w := s.wait("users"); w <= 0 || w > got {
			t.Errorf("strike %d: wait %v of %v", i, w, got)
		}
	}
	s.clear("users")
	if w := s.wait("users"); w != 0 {
		t.Errorf("cleared: wait %v", w)
	}
	for i := range 2 * maxStrikes {
		if d := s.strike(catalogName(i)); d <= 0 {
			t.Fatal(d)
		}
	}
	if len(s.of) > maxStrikes {
		t.Errorf("%d catalogs are remembered", len(s.of))
	}
}
