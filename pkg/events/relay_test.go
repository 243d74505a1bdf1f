package events

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
)

// commits makes n commits on catalogs, from several goroutines at once.
func commits(t testing.TB, o *outbox, n, catalogs int, poke func()) {
	t.Helper()
	var wg sync.WaitGroup
	const writers = 8
	for w := range writers {
		wg.Go(func() {
			for i := w; i < n; i += writers {
				o.commit(catalogName(i%catalogs), 1+i%3)
				if poke != nil {
					poke()
				}
			}
		})
	}
	wg.Wait()
}

func TestRelayOrderAndTiling(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	o := newOutbox()
	r := o.relay(js)
	r.OnError = func(err error) { t.Errorf("relay: %v", err) }
	var read, published atomic.Int64
	r.OnRound = func(n Round) {
		read.Add(int64(n.Read))
		published.Add(int64(n.Published))
		if n.Took <= 0 || n.Oldest.IsZero() || n.Published > n.Read {
			t.Errorf("round %+v", n)
		}
	}
	w := watch(t, js, WatchOptions{})
	stop := start(t, r.Run)
	const n = 3000
	commits(t, o, n, 20, r.Poke)
	testenv.WaitFor(t, patience, func() bool { return o.len() == 0 && w.reached(o) })
	stop()

	all := storedEvents(t, js)
	tiles(t, all, o.heads)
	if got := w.all(); !slices.Equal(got, all) {
		t.Errorf("watched %d events, the stream has %d", len(got), len(all))
	}
	if errs := w.errors(); errs != nil {
		t.Errorf("watch: %v", errs)
	}
	var count int64
	for _, ev := range all {
		count += ev.Count
	}
	if want := int64(n / 3 * 6); count != want {
		t.Errorf("got %d deltas, want %d", count, want)
	}
	if read.Load() != n || published.Load() != int64(len(all)) {
		t.Errorf("read %d of %d, published %d, stored %d", read.Load(), n, published.Load(), len(all))
	}
	if len(all) >= n {
		t.Errorf("%d commits became %d events: nothing was coalesced", n, len(all))
	}
	t.Logf("%d commits became %d events", n, len(all))
}

// One commit is told at once, not at the next look.
func TestRelayPoke(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	o := newOutbox()
	r := o.relay(js)
	r.Poll, r.MaxPoll = time.Hour, time.Hour
	w := watch(t, js, WatchOptions{})
	start(t, r.Run)
	for i := range 3 {
		o.commit("users", 1)
		r.Poke()
		testenv.WaitFor(t, patience, func() bool { return len(w.all()) == i+1 })
	}
}

// Who pokes before the relay leads anything is poking for nothing, and is not heard for
// a poll; a lease that is won meanwhile is.
func TestRelayHearsWonLeases(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	o := newOutbox()
	r := o.relay(js)
	r.Poll, r.MaxPoll, r.LeaseTTL = time.Hour, time.Hour, time.Second
	var refused atomic.Int64
	var granted atomic.Bool
	o.setFail(func(call string) error {
		if call == "acquire" && !granted.Load() {
			refused.Add(1)
			return errors.New("not yet")
		}
		return nil
	})
	o.commit("users", 1)
	start(t, r.Run)
	testenv.WaitFor(t, patience, func() bool { r.Poke(); return refused.Load() > engine.Shards })
	granted.Store(true)
	testenv.WaitFor(t, patience, func() bool { return o.len() == 0 })
}

func TestRelayNATSAway(t *testing.T) {
	t.Parallel()
	srv := testenv.NATS(t)
	js := natsOf(t, srv, Config{})
	o := newOutbox()
	r := o.relay(js)
	var errs errorList
	r.OnError = errs.add
	w := watch(t, js, WatchOptions{})
	stop := start(t, r.Run)
	commits(t, o, 500, 20, nil)
	srv.Stop()
	commits(t, o, 500, 20, r.Poke)
	testenv.WaitFor(t, patience, func() bool { return errs.has(func(err error) bool { return errors.Is(err, nats.ErrDisconnected) }) })
	if o.len() == 0 {
		t.Fatal("the outbox was trimmed without a server")
	}
	// Many attempts do not pile up in the client.
	tried := errs.len()
	testenv.WaitFor(t, patience, func() bool { return errs.len() > tried+20 })
	if n, err := js.Conn().Buffered(); err != nil || n > 20<<10 {
		t.Errorf("the client keeps %d bytes, %v", n, err)
	}
	srv.Start()
	commits(t, o, 500, 20, nil)
	testenv.WaitFor(t, patience, func() bool { return o.len() == 0 && w.reached(o) })
	stop()
	tiles(t, taken(t, storedEvents(t, js)), o.heads)
	w.complete(t, o)
}

func TestRelayStreamDeleted(t *testing.T) {
	t.Parallel()
	ctx := contextFor(t)
	js := natsOf(t, testenv.NATS(t), Config{})
	o := newOutbox()
	r := o.relay(js)
	var errs errorList
	r.OnError = errs.add
	w := watch(t, js, WatchOptions{})
	stop := start(t, r.Run)
	commits(t, o, 500, 20, nil)
	testenv.WaitFor(t, patience, func() bool { return o.len() == 0 && w.reached(o) })
	before := len(w.all())
	if err := js.DeleteStream(ctx, "LAKE_EVENTS"); err != nil {
		t.Fatal(err)
	}
	commits(t, o, 500, 20, nil)
	testenv.WaitFor(t, patience, func() bool { return errs.has(func(err error) bool { return errors.Is(err, ErrNotApplied) }) })
	if err := Apply(ctx, js, Config{MaxBytes: testBytes}); err != nil {
		t.Fatal(err)
	}
	testenv.WaitFor(t, patience, func() bool { return o.len() == 0 && w.reached(o) })
	stop()
	// The watch goes on in the new stream, whose numbers begin at one again.
	w.complete(t, o)
	tiles(t, append(w.all()[:before:before], storedEvents(t, js)...), o.heads)
}

// The server takes the events but its answers are lost.
func TestRelayPubAckLost(t *testing.T) {
	t.Parallel()
	srv := testenv.NATS(t)
	js := natsOf(t, srv, Config{})
	line := newWire(t, strings.TrimPrefix(srv.URL, "nats://"))
	o := newOutbox()
	r := o.relay(connect(t, line.url()))
	r.AckTimeout = 100 * time.Millisecond
	var errs errorList
	r.OnError = errs.add
	stop := start(t, r.Run)
	o.commit("users", 1)
	testenv.WaitFor(t, patience, func() bool { return o.len() == 0 })

	line.mute.Store(true)
	o.commit("users", 2)
	testenv.WaitFor(t, patience, func() bool { return len(storedEvents(t, js)) == 2 })
	o.commit("users", 3) // would be coalesced with the one before if that was read again
	testenv.WaitFor(t, patience, func() bool { return errs.has(func(err error) bool { return strings.Contains(err.Error(), "publish") }) })
	if o.len() != 2 {
		t.Errorf("the outbox has %d entries, want both that were not acknowledged", o.len())
	}
	line.renew()
	testenv.WaitFor(t, patience, func() bool { return o.len() == 0 })
	stop()
	all := storedEvents(t, js)
	tiles(t, all, o.heads)
	if len(all) != 3 {
		t.Errorf("got %d events, want 3: the repeated one is known by its id", len(all))
	}
}

// A round whose entries could not be trimmed is not published in another shape.
func TestRelayTrimFails(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	o := newOutbox()
	var fails atomic.Int64
	o.setFail(func(call string) error {
		if call == "trim" && fails.Add(1) <= 3 {
			return errors.New("no answer")
		}
		return nil
	})
	r := o.relay(js)
	var errs errorList
	r.OnError = errs.add
	stop := start(t, r.Run)
	commits(t, o, 200, 5, nil)
	testenv.WaitFor(t, patience, func() bool { return o.len() == 0 })
	stop()
	tiles(t, storedEvents(t, js), o.heads)
	if !errs.has(func(err error) bool { return strings.Contains(err.Error(), "trim the outbox of shard") }) {
		t.Error("the errors were not reported")
	}
}

// Folds keep their place after the commits that they hold.
func TestRelayFolds(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	o := newOutbox()
	o.mu.Lock()
	for i := range 5 {
		o.append(span("users", 10*i, 10*i+10))
		o.append(fold("users", 10*i, 10*i+10))
	}
	o.heads["users"] = versionOf(50)
	o.mu.Unlock()
	start(t, o.relay(js).Run)
	testenv.WaitFor(t, patience, func() bool { return o.len() == 0 })
	want := []engine.Event{span("users", 0, 50)}
	want[0].Bytes = 5
	for i := range 5 {
		want = append(want, fold("users", 10*i, 10*i+10))
	}
	if got := storedEvents(t, js); !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// The second event of a catalog is not sent before the first is in the stream.
func TestRelayKeepsOrderOnFailure(t *testing.T) {
	t.Parallel()
	ctx := contextFor(t)
	js := natsOf(t, testenv.NATS(t), Config{})
	limit := func(n int32) {
		s, err := js.Stream(ctx, "LAKE_EVENTS")
		if err != nil {
			t.Fatal(err)
		}
		c := s.CachedInfo().Config
		c.MaxMsgSize = n
		if _, err := js.UpdateStream(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	limit(600)
	o := newOutbox()
	big := span("users", 0, 10)
	big.Author = strings.Repeat("a", 1000)
	o.mu.Lock()
	o.append(big)
	o.append(fold("users", 0, 10))
	o.append(span("users", 12, 13)) // after a gap, which is none of the relay's business
	o.append(span("items", 0, 1))   // of the other catalog
	o.heads["items"] = versionOf(1)
	o.mu.Unlock()
	r := o.relay(js)
	var errs errorList
	r.OnError = errs.add
	start(t, r.Run)
	testenv.WaitFor(t, patience, func() bool {
		return errs.has(func(err error) bool { return errors.Is(err, jetstream.ErrStreamMessageExceedsMaximum) })
	})
	for _, ev := range storedEvents(t, js) {
		if ev.Catalog == "users" {
			t.Errorf("%+v overtook the one before", ev)
		}
	}
	limit(MaxEventBytes)
	testenv.WaitFor(t, patience, func() bool { return o.len() == 0 })
	var users []engine.Event
	for _, ev := range storedEvents(t, js) {
		if ev.Catalog == "users" {
			users = append(users, ev)
		}
	}
	if want := []engine.Event{big, fold("users", 0, 10), span("users", 12, 13)}; !slices.Equal(users, want) {
		t.Errorf("got  %+v\nwant %+v", users, want)
	}
}

func TestRelayJobs(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	o := newOutbox()
	r := o.relay(js)
	r.Due = func(ev engine.Event) bool {
		return ev.Kind == engine.EventCommitted && ev.Catalog != "catalog-0" && ev.LiveDeltas >= 100
	}
	stop := start(t, r.Run)
	commits(t, o, 1000, 5, nil)
	testenv.WaitFor(t, patience, func() bool { return o.len() == 0 })
	stop()
	got := make(map[string]engine.Version)
	jobs := stored(t, js, "LAKE_JOBS")
	for _, m := range jobs {
		ev, err := Decode(m.Data)
		if err != nil || m.Subject != (Subjects{}).Job(ev.Catalog) {
			t.Fatalf("job %s: %v", m.Subject, err)
		}
		got[ev.Catalog] = ev.Version
	}
	want := make(map[string]engine.Version)
	for catalog, head := range o.heads {
		if catalog != "catalog-0" {
			want[catalog] = head // the newest job replaced all others
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) || len(jobs) != len(want) {
		t.Errorf("got %d jobs %v, want %v", len(jobs), got, want)
	}
}

// Another stream has taken the subject: what it acknowledges is not delivered.
func TestRelayWrongStream(t *testing.T) {
	t.Parallel()
	ctx := contextFor(t)
	js := natsOf(t, testenv.NATS(t), Config{})
	if err := js.DeleteStream(ctx, "LAKE_EVENTS"); err != nil {
		t.Fatal(err)
	}
	other := Config{}.streams()[0]
	other.Name, other.Replicas, other.RePublish = "MINE", 1, nil
	if _, err := js.CreateStream(ctx, other); err != nil {
		t.Fatal(err)
	}
	o := newOutbox()
	r := o.relay(js)
	var errs errorList
	r.OnError = errs.add
	o.commit("users", 1)
	start(t, r.Run)
	testenv.WaitFor(t, patience, func() bool {
		return errs.has(func(err error) bool { return strings.Contains(err.Error(), "stream MINE, not LAKE_EVENTS") })
	})
	if o.len() != 1 {
		t.Error("the entry was trimmed")
	}
}

func TestRelayEmptiesOutboxAtItsEnd(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	o := newOutbox()
	r := o.relay(js)
	r.Poll, r.MaxPoll = time.Hour, time.Hour
	stop := start(t, r.Run)
	o.commit("users", 1)
	testenv.WaitFor(t, patience, func() bool { r.Poke(); return o.len() == 0 })
	commits(t, o, 300, 30, nil) // more than one round reads, little enough for two seconds
	stop()
	if n := o.len(); n != 0 {
		t.Errorf("%d entries are left", n)
	}
	tiles(t, storedEvents(t, js), o.heads)
}

func TestRelayRefusesHalfASetUp(t *testing.T) {
	t.Parallel()
	if err := (&Relay{}).Run(t.Context()); err == nil {
		t.Error("no error")
	}
	o := newOutbox()
	js := connect(t, testenv.NATS(t).URL)
	if err := (&Relay{Outbox: o, Leases: o, JS: js, Epoch: func() uint64 { return 1 }, Subjects: Subjects{Prefix: "*"}}).Run(t.Context()); !errors.Is(err, engine.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

// BenchmarkRelay carries commits to an embedded server as fast as it can: of as
// many catalogs as commits, where nothing can be coalesced, and of 1,000.
func BenchmarkRelay(b *testing.B) {
	for _, name := range []string{"catalogs=N", "catalogs=1000"} {
		b.Run(name, func(b *testing.B) {
			catalogs := 1000
			if name == "catalogs=N" {
				catalogs = b.N
			}
			js := natsOf(b, testenv.NATS(b), Config{Embedded: true})
			o := newOutbox()
			r := o.relay(js)
			r.OnError = func(err error) { b.Error(err) }
			names := make([]string, catalogs)
			for i := range names {
				names[i] = catalogName(i)
			}
			var published atomic.Int64
			r.OnRound = func(n Round) { published.Add(int64(n.Published)) }
			for i := range b.N {
				o.commit(names[i%catalogs], 1)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			b.ResetTimer()
			go func() { done <- r.Run(ctx) }()
			for o.len() > 0 {
				time.Sleep(time.Millisecond)
			}
			b.StopTimer()
			cancel()
			if err := <-done; err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
			b.ReportMetric(float64(published.Load())/b.Elapsed().Seconds(), "events/s")
		})
	}
}
