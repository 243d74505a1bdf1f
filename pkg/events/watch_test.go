package events

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
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

// hear watches until n items, or errors beside them, have come.
func hear(t *testing.T, js jetstream.JetStream, h History, o WatchOptions, n int) (items []Item, errs []error) {
	t.Helper()
	for item, err := range Watch(contextFor(t), js, h, Subjects{}, o) {
		if err != nil {
			errs = append(errs, err)
		}
		if items = append(items, item); len(items) == n {
			break
		}
	}
	return items, errs
}

// ranges is what items cover, for short: catalog(prev,version]
func ranges(items []Item) (out []string) {
	n := func(v engine.Version) int64 { return v.Sub(engine.Version{}) }
	for i := range items {
		ev := &items[i].Event
		out = append(out, fmt.Sprintf("%s(%d,%d]", ev.Catalog, n(ev.Prev), n(ev.Version)))
	}
	return out
}

func TestWatchBegins(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	said := []engine.Event{span("users", 0, 3), span("items", 0, 2), fold("users", 0, 3), span("users", 3, 5), span("USERS", 0, 1), span("users-2", 0, 2)}
	var b book
	b.wrote(said...)
	say(t, js, said...)
	for _, c := range []struct {
		name string
		o    WatchOptions
		want []string
	}{
		{"everything from the start", WatchOptions{FromStart: true}, []string{"USERS(0,1]", "items(0,1]", "items(1,2]", "users(0,1]", "users(1,2]", "users(2,3]", "users(3,4]", "users(4,5]", "users-2(0,1]", "users-2(1,2]"}},
		{"a prefix from the start", WatchOptions{FromStart: true, Prefix: "users-"}, []string{"users-2(0,1]", "users-2(1,2]"}},
		{"a catalog from the start", WatchOptions{FromStart: true, Catalog: "items"}, []string{"items(0,1]", "items(1,2]"}},
		{"since", WatchOptions{Catalog: "users", Since: versionOf(3)}, []string{"users(3,4]", "users(4,5]"}},
		{"a catalog's cursor", WatchOptions{Catalog: "users", Cursor: versionOf(4).String()}, []string{"users(4,5]"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, errs := hear(t, js, &b, c.o, len(c.want))
			if got := ranges(got); !slices.Equal(got, c.want) || errs != nil {
				t.Errorf("got  %v, %v\nwant %v", got, errs, c.want)
			}
		})
	}
}

func TestWatchFromNow(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	say(t, js, span("users", 0, 10))
	w := watch(t, js, WatchOptions{})
	say(t, js, span("users", 10, 11), span("users", 5, 11), fold("users", 0, 11), span("users", 5, 13), span("items", 0, 1))
	want := []engine.Event{span("users", 10, 11), fold("users", 0, 11), span("users", 11, 13), span("items", 0, 1)}
	want[2].Count = 8
	testenv.WaitFor(t, patience, func() bool { return len(w.all()) == len(want) })
	if got := w.all(); !slices.Equal(got, want) || w.errors() != nil {
		t.Errorf("got  %+v, %v\nwant %+v", got, w.errors(), want)
	}
}

// A watch from now knows what was published before it, of every catalog: an
// event that a relay repeats is not told.
func TestWatchFromNowKnowsRepeated(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	var b book
	all := []engine.Event{span("users", 0, 10), span("items", 0, 4)}
	say(t, js, all...)
	b.wrote(all...)
	many := watchOf(t, js, &b, WatchOptions{})
	one := watchOf(t, js, &b, WatchOptions{Catalog: "users"})
	next := []engine.Event{span("users", 3, 10), span("items", 1, 4), span("users", 0, 10), span("users", 10, 12), span("items", 3, 5)}
	b.wrote(next...)
	say(t, js, next...)
	testenv.WaitFor(t, patience, func() bool { return len(many.all()) == 2 && len(one.all()) == 1 })
	many.mu.Lock()
	defer many.mu.Unlock()
	if got, want := ranges(many.items), []string{"users(10,12]", "items(4,5]"}; !slices.Equal(got, want) {
		t.Errorf("all: got %v, want %v", got, want)
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	if got, want := ranges(one.items), []string{"users(10,12]"}; !slices.Equal(got, want) {
		t.Errorf("users: got %v, want %v", got, want)
	}
}

// What the stream has not comes from the log, between what it has.
func TestWatchFillsGaps(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	var b book
	b.wrote(span("users", 0, 2))
	for _, o := range []WatchOptions{{Catalog: "users"}, {}} {
		w := watchOf(t, js, &b, o)
		n := b.heads["users"]
		b.wrote(span("users", 0, n+9))
		say(t, js, span("users", n, n+2), span("users", n+5, n+9))
		testenv.WaitFor(t, patience, func() bool { return len(w.all()) == 5 })
		tilesFrom(t, w.all(), n, n+9)
		if errs := w.errors(); errs != nil {
			t.Errorf("watch: %v", errs)
		}
	}
}

// tilesFrom fails unless events follow one another from a version to another.
func tilesFrom(t *testing.T, evs []engine.Event, from, to int) {
	t.Helper()
	at := versionOf(from)
	for _, ev := range evs {
		if ev.Prev != at {
			t.Fatalf("(%s, %s] came at %s", ev.Prev, ev.Version, at)
		}
		at = ev.Version
	}
	if at != versionOf(to) {
		t.Fatalf("got up to %s, want %s", at, versionOf(to))
	}
}

// History that is given up is told, with where it goes on.
func TestWatchTellsWhatIsGone(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	var b book
	b.wrote(span("users", 0, 9))
	b.forget("users", 7)
	for name, o := range map[string]WatchOptions{
		"since": {Catalog: "users", Since: versionOf(2)}, "from start": {Catalog: "users", FromStart: true}, "all from start": {FromStart: true},
	} {
		items, errs := hear(t, js, &b, o, 4)
		var gone *GoneError
		if len(errs) != 1 || !errors.As(errs[0], &gone) || !errors.Is(errs[0], engine.ErrHistoryGone) {
			t.Fatalf("%s: got %v, want a notice", name, errs)
		}
		if want := (GoneError{"users", o.Since, versionOf(6), versionOf(7)}); *gone != want {
			t.Errorf("%s: got %+v, want %+v", name, *gone, want)
		}
		if items[0].Catalog != "users" || items[0].Cursor == "" || !items[0].Version.IsZero() {
			t.Errorf("%s: with the notice came %+v", name, items[0])
		}
		if got, want := ranges(items[1:]), []string{"users(6,7]", "users(7,8]", "users(8,9]"}; !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}

func TestWatchIncludes(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	var b book
	b.wrote(span("users", 0, 2))
	patches := watchOf(t, js, &b, WatchOptions{Catalog: "users", Include: IncludePatch})
	docs := watchOf(t, js, &b, WatchOptions{Catalog: "users", Include: IncludeDocument})
	path := watchOf(t, js, &b, WatchOptions{Catalog: "users", Include: IncludePatch, Path: "/p0/x"})
	ev := span("users", 2, 250) // more than an item holds
	b.wrote(ev)
	say(t, js, ev)
	testenv.WaitFor(t, patience, func() bool { return len(patches.all()) == 3 && len(docs.all()) == 1 && len(path.all()) == 3 })
	n, touched := 2, 0
	patches.mu.Lock()
	defer patches.mu.Unlock()
	for _, item := range patches.items {
		for _, e := range item.Entries {
			if n++; e.Version != versionOf(n) {
				t.Fatalf("got the delta of %s, want %s", e.Version, versionOf(n))
			}
		}
		if item.Count != int64(len(item.Entries)) || item.Version != versionOf(n) || item.Cursor != versionOf(n).String() {
			t.Errorf("got %+v", item.Event)
		}
	}
	path.mu.Lock()
	defer path.mu.Unlock()
	for _, item := range path.items {
		for _, e := range item.Entries {
			if touched++; e.Path != "/p0" {
				t.Errorf("a delta at %s was told", e.Path)
			}
		}
	}
	docs.mu.Lock()
	defer docs.mu.Unlock()
	if d := string(docs.items[0].Document); d != "250" || n != 250 || touched != 83 {
		t.Errorf("got document %s, %d deltas, %d of them at /p0; want 250, 250, 83", d, n, touched)
	}
	tilesFrom(t, eventsOf(docs.items), 2, 250)
}

func eventsOf(items []Item) (out []engine.Event) {
	for i := range items {
		out = append(out, items[i].Event)
	}
	return out
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
	var passed errorList
	w := watch(t, js, WatchOptions{OnError: passed.add})
	for subject, data := range map[string]string{
		s.Event("items", "committed"): string(good), s.Event("users", "purged"): string(good), "lake.v1.event.x.y": "{", s.Event("users", "committed"): "",
	} {
		if _, err := js.Publish(contextFor(t), subject, []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	say(t, js, span("users", 0, 1))
	testenv.WaitFor(t, patience, func() bool { return len(w.all()) == 1 })
	if got := w.all(); got[0] != span("users", 0, 1) || w.errors() != nil {
		t.Errorf("got %+v, %v", got, w.errors())
	}
	if n := passed.len(); n != 5 { // one of them when it was asked what went before
		t.Errorf("passed over %v, want 5", passed.list)
	}
}

func TestWatchRefuses(t *testing.T) {
	t.Parallel()
	js := connect(t, testenv.NATS(t).URL)
	token := (&bookmark{}).encode("b")
	for name, c := range map[string]struct {
		o  WatchOptions
		is error
	}{
		"no stream":             {WatchOptions{}, ErrNotApplied},
		"catalog":               {WatchOptions{Catalog: "a\x00"}, engine.ErrInvalid},
		"catalog and prefix":    {WatchOptions{Catalog: "a", Prefix: "b"}, engine.ErrInvalid},
		"since of all":          {WatchOptions{Since: versionOf(1)}, engine.ErrInvalid},
		"since and from start":  {WatchOptions{Catalog: "a", Since: versionOf(1), FromStart: true}, engine.ErrInvalid},
		"cursor and from start": {WatchOptions{Catalog: "a", Cursor: "1_1", FromStart: true}, engine.ErrInvalid},
		"no version":            {WatchOptions{Catalog: "a", Since: engine.Version{Sec: -1}}, engine.ErrInvalid},
		"kind":                  {WatchOptions{Kind: "a.>"}, engine.ErrInvalid},
		"include":               {WatchOptions{Include: "all"}, engine.ErrInvalid},
		"path":                  {WatchOptions{Path: "a"}, engine.ErrInvalid},
		"buffer":                {WatchOptions{Buffer: -1}, engine.ErrInvalid},
		"a version for all":     {WatchOptions{Cursor: "1_1"}, engine.ErrInvalid},
		"a token for one":       {WatchOptions{Catalog: "a", Cursor: token}, engine.ErrInvalid},
		"another prefix":        {WatchOptions{Cursor: token}, engine.ErrInvalid},
	} {
		n := 0
		for item, err := range Watch(contextFor(t), js, &book{}, Subjects{}, c.o) {
			if n++; !errors.Is(err, c.is) || item.Catalog != "" || c.is == engine.ErrInvalid && engine.Code(err).HTTP != 400 {
				t.Errorf("%s: got %+v, %v, want %v", name, item, err, c.is)
			}
		}
		if n != 1 {
			t.Errorf("%s: %d answers, want one", name, n)
		}
	}
	for _, err := range Watch(contextFor(t), js, &book{}, Subjects{Prefix: "a.b"}, WatchOptions{}) {
		if !errors.Is(err, engine.ErrInvalid) {
			t.Errorf("prefix of subjects: got %v", err)
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
		for _, err := range Watch(ctx, js, &book{}, Subjects{}, WatchOptions{FromStart: true, OnError: mended.add}) {
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
	var b book
	b.wrote(span("users", 0, 1))
	srv.Stop()
	testenv.WaitFor(t, patience, func() bool { return !js.Conn().IsConnected() })
	var heard []Item
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for item, err := range Watch(contextFor(t), js, &b, Subjects{}, WatchOptions{FromStart: true}) {
			if err != nil {
				t.Errorf("watch: %v", err)
			}
			heard = append(heard, item)
			return
		}
	}()
	srv.Start()
	<-ended
	if got := ranges(heard); !slices.Equal(got, []string{"users(0,1]"}) {
		t.Errorf("got %v", got)
	}
}

func TestWatchConnectionClosed(t *testing.T) {
	t.Parallel()
	srv := testenv.NATS(t)
	js := natsOf(t, srv, Config{})
	var b book
	b.wrote(span("users", 0, 1))
	var last error
	for item, err := range Watch(contextFor(t), js, &b, Subjects{}, WatchOptions{FromStart: true}) {
		if last = err; err == nil && item.Catalog == "users" {
			js.Conn().Close()
		}
	}
	if !errors.Is(last, jetstream.ErrConnectionClosed) && !errors.Is(last, nats.ErrConnectionClosed) {
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
		line.renew()
		testenv.WaitFor(t, patience, func() bool { return w.reached(o) })
	}
	w.complete(t, o)
}

// A watch begins with what is committed after its place was taken, though the answer
// to its request for a consumer does not arrive.
func TestWatchKeepsItsPlace(t *testing.T) {
	t.Parallel()
	srv := testenv.NATS(t)
	js := natsOf(t, srv, Config{})
	line := newWire(t, strings.TrimPrefix(srv.URL, "nats://"))
	line.muteAt = ".CONSUMER.CREATE."
	o := newOutbox()
	attached := consumerOf(t, js)
	w := startWatch(t, connect(t, line.url()), &book{}, WatchOptions{})
	testenv.WaitFor(t, patience, attached)
	start(t, o.relay(js).Run)
	commits(t, o, 100, 10, nil)
	testenv.WaitFor(t, patience, func() bool { return o.len() == 0 })
	line.renew()
	testenv.WaitFor(t, patience, func() bool { return w.reached(o) })
	w.complete(t, o)
}

// What was purged before a tail began is told, though the answer to its request for a
// consumer does not arrive: the second consumer finds nothing missing.
func TestTailTellsLossLater(t *testing.T) {
	t.Parallel()
	srv := testenv.NATS(t)
	js := natsOf(t, srv, Config{})
	say(t, js, span("users", 0, 1), span("users", 1, 2), span("users", 2, 3))
	stream, err := js.Stream(contextFor(t), Subjects{}.EventsStream())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(contextFor(t), jetstream.WithPurgeSequence(3)); err != nil {
		t.Fatal(err)
	}
	line := newWire(t, strings.TrimPrefix(srv.URL, "nats://"))
	line.muteAt = ".CONSUMER.CREATE."
	attached := consumerOf(t, js)
	var said []string
	tl := &tail{js: connect(t, line.url()), filter: Subjects{}.EveryEvent(""), from: 1, heartbeat: pullHeartbeat, check: time.Minute, report: func(error) {},
		attached: func(at place) { said = append(said, fmt.Sprint("attached ", at.seq)) },
		lost:     func(at place) bool { said = append(said, fmt.Sprint("lost ", at.seq)); return true },
		take:     func(seq uint64, _ engine.Event) bool { said = append(said, fmt.Sprint("take ", seq)); return false },
	}
	ended := make(chan error, 1)
	go func() { ended <- tl.run(contextFor(t)) }()
	testenv.WaitFor(t, patience, attached)
	line.renew()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
	if want := []string{"attached 2", "lost 2", "take 3"}; !slices.Equal(said, want) {
		t.Errorf("got %v, want %v", said, want)
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

// A tail that is held up very long by who takes its events finds the rest
// afterwards: heartbeats that came meanwhile displace the last messages in the
// client's buffer.
func TestTailSlowTaker(t *testing.T) {
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
	take := func(_ uint64, ev engine.Event) bool {
		if ev != said[heard] {
			t.Errorf("event %d: got %+v", heard, ev)
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
		return heard < n
	}
	tl := &tail{js: js, filter: Subjects{}.EveryEvent(""), from: 1, heartbeat: heartbeat, check: time.Minute, report: mended.add,
		attached: func(place) {}, take: take, lost: func(at place) bool { t.Errorf("lost up to %d", at.seq); return true }}
	if err := tl.run(contextFor(t)); err != nil || heard != n {
		t.Errorf("got %d events, %v", heard, err)
	}
	if mended.len() == 0 {
		t.Error("no message was displaced: the test tests nothing")
	}
}

// A watch leaves no consumer behind.
func TestWatchCleansUp(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	var b book
	b.wrote(span("users", 0, 1))
	hear(t, js, &b, WatchOptions{FromStart: true}, 1)
	hear(t, js, &b, WatchOptions{FromStart: true, Catalog: "users"}, 1)
	s, err := js.Stream(contextFor(t), "LAKE_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().State.Consumers; n != 0 {
		t.Errorf("%d consumers are left", n)
	}
}
