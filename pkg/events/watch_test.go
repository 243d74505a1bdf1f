package events

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
)

// say puts events into the stream.
func say(t *testing.T, js jetstream.JetStream, events ...engine.Event) {
	t.Helper()
	for _, ev := range events {
		m, err := eventMessage(Subjects{}, ev)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.PublishMsg(contextFor(t), m.msg); err != nil {
			t.Fatal(err)
		}
	}
}

// hear watches until n events have come.
func hear(t *testing.T, js jetstream.JetStream, o WatchOptions, n int) (events []engine.Event, errs []error) {
	t.Helper()
	for ev, err := range Watch(contextFor(t), js, o) {
		if err != nil {
			errs = append(errs, err)
		}
		if events = append(events, ev); len(events) == n {
			break
		}
	}
	return events, errs
}

func TestWatch(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	said := []engine.Event{span("users", 0, 10), span("items", 0, 3), fold("users", 0, 10), span("users", 10, 12), span("USERS", 0, 1), span("users-2", 4, 5)}
	say(t, js, said...)
	for _, c := range []struct {
		name string
		o    WatchOptions
		want []engine.Event
	}{
		{"all from the start", WatchOptions{FromStart: true}, said},
		{"a catalog", WatchOptions{FromStart: true, Catalog: "users"}, []engine.Event{said[0], said[2], said[3]}},
		{"a catalog's commits", WatchOptions{FromStart: true, Catalog: "users", Kind: engine.EventCommitted}, []engine.Event{said[0], said[3]}},
		{"every fold", WatchOptions{FromStart: true, Kind: engine.EventSnapshotted}, []engine.Event{said[2]}},
		{"a prefix", WatchOptions{FromStart: true, Prefix: "users"}, []engine.Event{said[0], said[2], said[3], said[5]}},
		{"since", WatchOptions{Catalog: "users", Kind: engine.EventCommitted, Since: versionOf(10)}, []engine.Event{said[3]}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, errs := hear(t, js, c.o, len(c.want))
			if !slices.Equal(got, c.want) || errs != nil {
				t.Errorf("got  %+v, %v\nwant %+v", got, errs, c.want)
			}
		})
	}
}

func TestWatchSinceInTheMiddle(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	say(t, js, span("users", 0, 10), span("users", 10, 20))
	got, errs := hear(t, js, WatchOptions{Catalog: "users", Since: versionOf(14)}, 1)
	if len(got) != 1 || errs != nil || got[0].Prev != versionOf(14) || got[0].First != versionOf(15) || got[0].Version != versionOf(20) {
		t.Errorf("got %+v, %v", got, errs)
	}
}

// Versions of now: the watch looks for them by time.
func TestWatchSinceNow(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	v := func(n int) engine.Version { return engine.Version{Sec: time.Now().Unix(), Seq: 1}.Add(n) }
	a := engine.Event{V: 1, Catalog: "users", Kind: engine.EventCommitted, First: v(0), Version: v(9)}
	b := engine.Event{V: 1, Catalog: "users", Kind: engine.EventCommitted, First: v(10), Version: v(11), Prev: a.Version}
	say(t, js, a, b)
	got, errs := hear(t, js, WatchOptions{Catalog: "users", Since: a.Version}, 1)
	if !slices.Equal(got, []engine.Event{b}) || errs != nil {
		t.Errorf("got %+v, %v", got, errs)
	}
}

func TestWatchFromNow(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	say(t, js, span("users", 0, 10))
	w := watch(t, js, WatchOptions{})
	say(t, js, span("users", 10, 11), span("users", 5, 11), span("users", 5, 13), span("items", 0, 1))
	want := []engine.Event{span("users", 10, 11), span("users", 11, 13), span("items", 0, 1)}
	want[1].Count = 8
	testenv.WaitFor(t, patience, func() bool { return len(w.all()) == len(want) })
	if got := w.all(); !slices.Equal(got, want) || w.errors() != nil {
		t.Errorf("got  %+v, %v\nwant %+v", got, w.errors(), want)
	}
}

func TestWatchTellsGaps(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	say(t, js, span("users", 10, 20), span("users", 25, 30), span("users", 30, 31))
	got, errs := hear(t, js, WatchOptions{Catalog: "users", Since: versionOf(5)}, 3)
	if want := []engine.Event{span("users", 10, 20), span("users", 25, 30), span("users", 30, 31)}; !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for i, want := range []GapError{{"users", versionOf(5), versionOf(10)}, {"users", versionOf(20), versionOf(25)}} {
		var gap *GapError
		if len(errs) != 2 || !errors.As(errs[i], &gap) || *gap != want {
			t.Errorf("got %v, want the gap %+v", errs, want)
		}
	}
}

// Messages that are not events do not stop a watch.
func TestWatchPassesOver(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	var s Subjects
	good, err := Encode(span("users", 0, 1))
	if err != nil {
		t.Fatal(err)
	}
	for subject, data := range map[string]string{
		s.Event("items", "committed"): string(good), s.Event("users", "purged"): string(good), "lake.v1.event.x.y": "{", s.Event("users", "committed"): "",
	} {
		if _, err := js.Publish(contextFor(t), subject, []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	say(t, js, span("users", 0, 1))
	var passed errorList
	got, errs := hear(t, js, WatchOptions{FromStart: true, OnError: passed.add}, 1)
	if !slices.Equal(got, []engine.Event{span("users", 0, 1)}) || errs != nil {
		t.Errorf("got %+v, %v", got, errs)
	}
	if len(passed.list) != 4 {
		t.Errorf("passed over %v, want 4", passed.list)
	}
}

func TestWatchRefuses(t *testing.T) {
	t.Parallel()
	js := connect(t, testenv.NATS(t).URL)
	for name, c := range map[string]struct {
		o  WatchOptions
		is error
	}{
		"no stream":            {WatchOptions{}, ErrNotApplied},
		"prefix":               {WatchOptions{Subjects: Subjects{Prefix: "a.b"}}, engine.ErrInvalid},
		"catalog":              {WatchOptions{Catalog: "a\x00"}, engine.ErrInvalid},
		"catalog and prefix":   {WatchOptions{Catalog: "a", Prefix: "b"}, engine.ErrInvalid},
		"since of all":         {WatchOptions{Since: versionOf(1)}, engine.ErrInvalid},
		"since and from start": {WatchOptions{Catalog: "a", Since: versionOf(1), FromStart: true}, engine.ErrInvalid},
		"no version":           {WatchOptions{Catalog: "a", Since: engine.Version{Sec: -1}}, engine.ErrInvalid},
		"kind":                 {WatchOptions{Kind: "a.>"}, engine.ErrInvalid},
	} {
		n := 0
		for ev, err := range Watch(contextFor(t), js, c.o) {
			if n++; !errors.Is(err, c.is) || ev != (engine.Event{}) {
				t.Errorf("%s: got %+v, %v, want %v", name, ev, err, c.is)
			}
		}
		if n != 1 {
			t.Errorf("%s: %d answers, want one", name, n)
		}
	}
}

// A watch ends at once when its context does, even while NATS is away.
func TestWatchEnds(t *testing.T) {
	t.Parallel()
	srv := testenv.NATS(t)
	js := natsOf(t, srv, Config{})
	ctx, cancel := context.WithCancel(contextFor(t))
	ended := make(chan struct{})
	var mended errorList
	go func() {
		defer close(ended)
		for _, err := range Watch(ctx, js, WatchOptions{FromStart: true, OnError: mended.add}) {
			if err != nil {
				t.Errorf("watch: %v", err)
			}
		}
	}()
	srv.Stop()
	testenv.WaitFor(t, patience, func() bool { return !js.Conn().IsConnected() })
	cancel()
	select {
	case <-ended:
	case <-time.After(3 * time.Second):
		t.Error("the watch goes on")
	}

}

// A watch that begins while NATS is away begins when it is back.
func TestWatchBeginsLater(t *testing.T) {
	t.Parallel()
	srv := testenv.NATS(t)
	js := natsOf(t, srv, Config{})
	say(t, js, span("users", 0, 1))
	srv.Stop()
	testenv.WaitFor(t, patience, func() bool { return !js.Conn().IsConnected() })
	var heard []engine.Event
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ev, err := range Watch(contextFor(t), js, WatchOptions{FromStart: true}) {
			if err != nil {
				t.Errorf("watch: %v", err)
			}
			heard = append(heard, ev)
			return
		}
	}()
	srv.Start()
	<-ended
	if !slices.Equal(heard, []engine.Event{span("users", 0, 1)}) {
		t.Errorf("got %+v", heard)
	}
}

func TestWatchConnectionClosed(t *testing.T) {
	t.Parallel()
	srv := testenv.NATS(t)
	js := natsOf(t, srv, Config{})
	say(t, js, span("users", 0, 1))
	var last error
	for ev, err := range Watch(contextFor(t), js, WatchOptions{FromStart: true}) {
		if last = err; err == nil && ev.Catalog == "users" {
			js.Conn().Close()
		}
	}
	if !errors.Is(last, jetstream.ErrConnectionClosed) {
		t.Errorf("got %v, want a closed connection", last)
	}
}

// A connection that breaks while it delivers loses messages on the way; the
// watch asks for them again, even if nothing comes after them.
func TestWatchSurvivesCuts(t *testing.T) {
	t.Parallel()
	srv := testenv.NATS(t)
	js := natsOf(t, srv, Config{})
	line := newWire(t, strings.TrimPrefix(srv.URL, "nats://"))
	o := newOutbox()
	w := watch(t, connect(t, line.url()), WatchOptions{})
	start(t, o.relay(js).Run)
	for range 5 {
		commits(t, o, 100, 10, nil)
		line.mute.Store(true) // what is delivered now is lost
		commits(t, o, 100, 10, nil)
		testenv.WaitFor(t, patience, func() bool { return o.len() == 0 })
		line.mute.Store(false)
		line.cut()
		testenv.WaitFor(t, patience, func() bool { return w.reached(o) })
	}
	tiles(t, w.all(), o.heads)
	if errs := w.errors(); errs != nil {
		t.Errorf("watch: %v", errs)
	}
}

// A message that was delivered but did not arrive leaves a hole in the
// consumer's numbering.
func TestWatchMendsHoles(t *testing.T) {
	t.Parallel()
	ctx := contextFor(t)
	js := natsOf(t, testenv.NATS(t), Config{})
	stream, err := js.Stream(ctx, "LAKE_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	var mended errorList
	w := watch(t, js, WatchOptions{OnError: mended.add})
	n := 0
	for range 3 {
		// Somebody else takes what is for the watch's consumer; its own
		// request waits longer, so that it takes turns.
		for name := range stream.ConsumerNames(ctx).Name() {
			thief, err := stream.Consumer(ctx, name)
			if err != nil {
				continue // it was replaced meanwhile
			}
			stolen, err := thief.Fetch(1, jetstream.FetchMaxWait(time.Second))
			if err != nil {
				continue
			}
			speak := func() {
				say(t, js, span("users", n, n+1))
				n++
			}
			speak()
			speak()
			for range stolen.Messages() {
			}
			speak() // what comes after the hole shows it
		}
		testenv.WaitFor(t, patience, func() bool { return len(w.all()) == n })
	}
	tiles(t, w.all(), map[string]engine.Version{"users": versionOf(n)})
	if errs := w.errors(); errs != nil {
		t.Errorf("watch: %v", errs)
	}
	if !mended.has(func(err error) bool { return strings.Contains(err.Error(), "was due") }) {
		t.Errorf("there was no hole: %v", mended.list)
	}
}

// A caller that takes very long to handle an event finds the rest afterwards:
// heartbeats that came meanwhile displace the last messages in the client's
// buffer.
func TestWatchSlowCaller(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	const n = jetstream.DefaultMaxMessages // as many as the buffer holds
	said := make([]engine.Event, n)
	for i := range said {
		said[i] = span("users", i, i+1)
	}
	say(t, js, said[0])
	heard := 0
	const heartbeat = 500 * time.Millisecond // the least that the client allows
	var mended errorList
	for ev, err := range Watch(contextFor(t), js, WatchOptions{FromStart: true, OnError: mended.add, heartbeat: heartbeat}) {
		if err != nil || ev != said[heard] {
			t.Fatalf("event %d: got %+v, %v", heard, ev, err)
		}
		if heard++; heard == 1 {
			time.Sleep(6 * heartbeat) // several are in the buffer
			say(t, js, said[1:]...)
			testenv.WaitFor(t, patience, func() bool { // until all has been sent to the client
				stream, err := js.Stream(contextFor(t), "LAKE_EVENTS")
				if err != nil {
					t.Fatal(err)
				}
				for info := range stream.ListConsumers(contextFor(t)).Info() {
					return info.Delivered.Consumer == n
				}
				return false
			})
			if err := js.Conn().Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if heard == n {
			break
		}
	}
	if mended.len() == 0 {
		t.Error("no message was displaced: the test tests nothing")
	}
}

// A watch leaves no consumer behind.
func TestWatchCleansUp(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	say(t, js, span("users", 0, 1))
	hear(t, js, WatchOptions{FromStart: true}, 1)
	s, err := js.Stream(contextFor(t), "LAKE_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().State.Consumers; n != 0 {
		t.Errorf("%d consumers are left", n)
	}
}
