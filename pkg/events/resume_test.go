package events

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
)

// clock is the second of an index's clock that TestResumeHorizon begins at: a
// watch from now takes its first horizon from the time.
var clock = time.Now().Unix() - 7900

// at is a committed event of n versions in a second of the index's clock.
func at(sec int64, catalog string, prev engine.Version, n int) engine.Event {
	first := engine.Version{Sec: clock + sec, Seq: 1}
	if !prev.Less(first) {
		first = prev.Add(1)
	}
	return engine.Event{V: 1, Catalog: catalog, Kind: engine.EventCommitted, First: first, Version: first.Add(n - 1), Prev: prev, Count: int64(n)}
}

// lost makes the stream forget.
func lost(t *testing.T, js jetstream.JetStream, how string) {
	t.Helper()
	ctx := contextFor(t)
	switch how {
	case "purged":
		s, err := js.Stream(ctx, "LAKE_EVENTS")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Purge(ctx); err != nil {
			t.Fatal(err)
		}
	case "made anew":
		if err := js.DeleteStream(ctx, "LAKE_EVENTS"); err != nil {
			t.Fatal(err)
		}
		if err := Apply(ctx, js, Config{MaxBytes: testBytes}); err != nil {
			t.Fatal(err)
		}
	}
}

// A cursor of many catalogs goes on where it was: while the stream is there, and
// when it was purged or made anew meanwhile. What was told is not told again.
func TestResumeMany(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"kept", "purged", "made anew"} {
		for _, prefix := range []string{"", "catalog-"} {
			t.Run(how+" "+prefix, func(t *testing.T) {
				t.Parallel()
				js := natsOf(t, testenv.NATS(t), Config{})
				var b book
				heads := map[string]int{}
				write := func(n int) {
					for i := range n {
						catalog := catalogName(i % 20)
						ev := span(catalog, heads[catalog], heads[catalog]+1+i%3)
						heads[catalog] += 1 + i%3
						b.wrote(ev)
						say(t, js, ev)
					}
				}
				at := map[string]engine.Version{}
				cursor, items, begin := "", 0, time.Now()
				// Every few items the watch is ended and taken up again.
				hearUntil := func(o WatchOptions) {
					t.Helper()
					reached := func() bool {
						for catalog, n := range heads {
							if at[catalog] != versionOf(n) {
								return false
							}
						}
						return true
					}
					for !reached() {
						o.Cursor = cursor
						if cursor != "" {
							o.FromStart = false
						}
						if t.Context().Err() != nil || time.Since(begin) > patience {
							t.Fatal("not everything was told")
						}
						n := 0
						for item, err := range Watch(contextFor(t), js, &b, Subjects{}, o) {
							if err != nil {
								t.Fatal(err)
							}
							if item.Prev != at[item.Catalog] {
								t.Fatalf("item %d: catalog %s: (%s, %s] came at %s", items, item.Catalog, item.Prev, item.Version, at[item.Catalog])
							}
							at[item.Catalog], cursor = item.Version, item.Cursor
							items++
							if n++; n == 7 || reached() {
								break
							}
						}
					}
				}
				o := WatchOptions{Prefix: prefix, Kind: engine.EventCommitted}
				write(40)
				first := o
				first.FromStart = true
				hearUntil(first)
				write(60)
				lost(t, js, how)
				write(30)
				hearUntil(o)
				t.Logf("%d items", items)
			})
		}
	}
}

// With more catalogs than a cursor remembers the horizon decides: after the
// loss of the stream versions of the last quarter of an hour may come again, but
// none is missing and what is older does not come again.
func TestResumeHorizon(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	var b clockBook
	const catalogs = 100
	var heads [catalogs]engine.Version
	write := func(sec int64, n int) {
		for i := range n {
			ev := at(sec, catalogName(i), heads[i], 1)
			heads[i] = ev.Version
			b.wrote(ev)
			say(t, js, ev)
		}
	}
	cursor := ""
	w := watchOf(t, js, &b, WatchOptions{})
	write(0, catalogs)    // long ago
	write(7200, catalogs) // just told
	write(7201, catalogs/2)
	testenv.WaitFor(t, patience, func() bool { return len(w.all()) == catalogs*5/2 })
	w.mu.Lock()
	cursor = w.items[len(w.items)-1].Cursor
	w.mu.Unlock()
	write(7300, catalogs/4)
	lost(t, js, "made anew")
	told := map[string]bool{}
	for item, err := range Watch(contextFor(t), js, &b, Subjects{}, WatchOptions{Cursor: cursor}) {
		if err != nil {
			t.Fatal(err)
		}
		if item.Version.Sec < clock+7200 {
			t.Errorf("%s at %s came again", item.Catalog, item.Version)
		}
		if item.Version.Sec == clock+7300 {
			if told[item.Catalog] {
				t.Errorf("%s came twice", item.Catalog)
			}
			told[item.Catalog] = true
		}
		if len(told) == catalogs/4 {
			break
		}
	}
}

// clockBook is a History whose versions have seconds.
type clockBook struct {
	book
	log map[string][]engine.LogEntry
}

func (b *clockBook) wrote(ev engine.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.log == nil {
		b.log = make(map[string][]engine.LogEntry)
	}
	b.log[ev.Catalog] = append(b.log[ev.Catalog], engine.LogEntry{Version: ev.Version, Prev: ev.Prev, Path: "/", Merge: engine.MergeTypeDelete})
}

func (b *clockBook) Log(_ context.Context, req engine.LogRequest) (engine.LogPage, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var page engine.LogPage
	for _, e := range b.log[req.Catalog] {
		if req.After.Less(e.Version) {
			page.Items = append(page.Items, e)
		}
	}
	return page, nil
}

func (b *clockBook) Catalogs(_ context.Context, _, after string, limit int) ([]engine.CatalogInfo, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []engine.CatalogInfo
	for _, name := range slices.Sorted(maps.Keys(b.log)) {
		if after < name && len(all) < limit {
			all = append(all, engine.CatalogInfo{Catalog: name, Version: b.log[name][len(b.log[name])-1].Version})
		}
	}
	return all, nil
}

// A watch of a catalog that goes on while its stream is purged, or deleted and made anew, and
// nothing is published afterwards, still tells everything of its catalog.
func TestWatchNoticesLoss(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"kept", "purged", "made anew"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			js := natsOf(t, testenv.NATS(t), Config{})
			var b book
			b.wrote(span("users", 0, 3))
			const soon = 50 * time.Millisecond
			one := watchOf(t, js, &b, WatchOptions{Catalog: "users", check: soon, idle: soon})
			b.wrote(span("users", 3, 8)) // and nobody publishes it
			lost(t, js, how)
			testenv.WaitFor(t, patience, func() bool { return len(one.all()) == 5 })
			tilesFrom(t, one.all(), 3, 8)
		})
	}
}

// The same of many catalogs: what the list has, and neither the watch nor the stream has
// told, is read from the logs; what a relay is only late with is not told twice. Silence
// costs a page of the list now and then, and nothing of the logs.
func TestWatchOfManyNoticesLoss(t *testing.T) {
	t.Parallel()
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprintf("known %v", known), func(t *testing.T) {
			t.Parallel()
			js := natsOf(t, testenv.NATS(t), Config{})
			var b book
			now := int(engine.Version{Sec: time.Now().Unix(), Seq: 1}.Sub(engine.Version{})) // a version of now
			b.wrote(span("old", 0, 5))
			b.begin("users", now)
			b.begin("other", now)
			const soon = 100 * time.Millisecond
			if !known { // by the watch; the stream has told before it began
				say(t, js, span("users", now-1, now))
			}
			say(t, js, span("other", now-1, now))
			w := watchOf(t, js, &b, WatchOptions{check: time.Hour, idle: soon})
			if known {
				say(t, js, span("users", now-1, now))
				testenv.WaitFor(t, patience, func() bool { return len(w.all()) == 1 })
			}
			time.Sleep(10 * soon)
			b.mu.Lock()
			asked, listed := b.asked, b.listed
			b.mu.Unlock()
			if got := len(w.all()); asked != 0 || listed == 0 || known != (got == 1) {
				t.Fatalf("got %d pages of logs, %d of the list, %d items; want the list only", asked, listed, got)
			}
			b.wrote(span("users", now, now+5)) // and nobody publishes it
			n := len(w.all())
			testenv.WaitFor(t, patience, func() bool { return len(w.all()) == n+5 })
			tilesFrom(t, w.all()[n:], now, now+5)
			say(t, js, span("users", now, now+5), span("users", now+5, now+6)) // the relay was late, very
			b.wrote(span("users", now+5, now+6))
			b.begin("new", now+1)
			testenv.WaitFor(t, patience, func() bool { return len(w.all()) >= n+7 })
			time.Sleep(5 * soon)
			w.mu.Lock()
			defer w.mu.Unlock()
			var got []string
			for _, item := range w.items[n+5:] {
				got = append(got, fmt.Sprint(item.Catalog, item.Version))
			}
			slices.Sort(got)
			if want := []string{fmt.Sprint("new", versionOf(now+1)), fmt.Sprint("users", versionOf(now+6))}; !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// Deltas of an author are passed over, alone and among others, and the cursor
// moves on over them.
func TestWatchSkipsAuthor(t *testing.T) {
	t.Parallel()
	by := func(ev engine.Event, author string) engine.Event {
		ev.Author = author
		return ev
	}
	js := natsOf(t, testenv.NATS(t), Config{})
	var b book
	b.wrote(by(span("users", 0, 1), "me"))
	plain := watchOf(t, js, &b, WatchOptions{Catalog: "users", SkipAuthor: "me"})
	patch := watchOf(t, js, &b, WatchOptions{Catalog: "users", SkipAuthor: "me", Include: IncludePatch})
	all := watchOf(t, js, &b, WatchOptions{SkipAuthor: "me"})
	b.wrote(by(span("users", 1, 2), "me"))
	b.wrote(by(span("users", 2, 4), "me"))
	b.wrote(by(span("users", 4, 5), "you"))
	b.wrote(by(span("users", 5, 7), "me")) // published with the one before
	b.wrote(by(span("users", 7, 8), "you"))
	say(t, js, by(span("users", 1, 2), "me"), by(span("users", 2, 4), "me"), by(span("users", 4, 7), "me"), by(span("users", 7, 8), "you"))
	want := []string{"users(4,7]", "users(7,8]"}
	for name, w := range map[string]*watching{"plain": plain, "patch": patch, "all": all} {
		testenv.WaitFor(t, patience, func() bool { return len(w.all()) == 2 })
		w.mu.Lock()
		if got := ranges(w.items); !slices.Equal(got, want) || w.errs != nil {
			t.Errorf("%s: got %v, %v, want %v", name, got, w.errs, want)
		}
		for _, item := range w.items {
			if name == "patch" && (len(item.Entries) != 1 || item.Entries[0].Author != "you") {
				t.Errorf("got %+v", item.Entries)
			}
		}
		w.mu.Unlock()
	}
}

// A caller that does not take what is told makes its own events conflate, and is
// told so; nothing is lost, also of the deltas. Others do not wait for it.
func TestWatchSlowCaller(t *testing.T) {
	t.Parallel()
	for _, o := range []WatchOptions{{Catalog: "users", Include: IncludePatch}, {Include: IncludePatch}, {Catalog: "users"}, {}} {
		t.Run(fmt.Sprintf("%s %s", o.Catalog, o.Include), func(t *testing.T) {
			t.Parallel()
			js := natsOf(t, testenv.NATS(t), Config{})
			var b book
			f := NewFeed(js, &b, Subjects{})
			o.Buffer = 10
			stalled, resume, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
			var got []Item
			start(t, func(ctx context.Context) error {
				defer close(ended)
				for item, err := range f.Watch(ctx, o) {
					if err != nil {
						return err
					}
					if got = append(got, item); len(got) == 1 {
						close(stalled)
						<-resume
					}
					if item.Catalog == "users" && item.Version == versionOf(200) {
						return nil
					}
				}
				return nil
			})
			var fast []Item
			heard := make(chan struct{})
			start(t, func(ctx context.Context) error {
				for item, err := range f.Watch(ctx, WatchOptions{Catalog: "users"}) {
					if err != nil {
						return err
					}
					if fast = append(fast, item); item.Version == versionOf(200) {
						close(heard)
						return nil
					}
				}
				return nil
			})
			testenv.WaitFor(t, patience, func() bool { return f.watching() == 2 })
			for i := range 200 {
				b.wrote(span("users", i, i+1))
				say(t, js, span("users", i, i+1))
				if i == 0 {
					<-stalled
				}
			}
			<-heard // while the other is stalled
			close(resume)
			testenv.WaitFor(t, patience, func() bool { return f.watching() == 0 })
			<-ended
			tilesFrom(t, eventsOf(got), 0, 200)
			tilesFrom(t, eventsOf(fast), 0, 200)
			conflated, n := 0, 0
			for _, item := range got {
				if item.Conflated > 0 {
					conflated++
				}
				for _, e := range item.Entries {
					if n++; e.Version != versionOf(n) {
						t.Fatalf("got the delta of %s, want %s", e.Version, versionOf(n))
					}
				}
			}
			if conflated == 0 || o.Include == IncludePatch && n != 200 {
				t.Errorf("%d items, %d of them conflated, %d deltas", len(got), conflated, n)
			}
		})
	}
}

// So many catalogs wait that even one event of each is too much: the watch reads
// the stream again from its own place.
func TestWatchGivesUpItsBacklog(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	const catalogs = 100
	var b book
	stalled, resume, ready := make(chan struct{}), make(chan struct{}), make(chan struct{})
	at := map[string]int{}
	done := make(chan struct{})
	f := NewFeed(js, &b, Subjects{})
	go func() {
		<-stalled
		for n := range 3 {
			for i := range catalogs {
				b.wrote(span(catalogName(i), n, n+1))
				say(t, js, span(catalogName(i), n, n+1))
			}
		}
		close(resume)
	}()
	start(t, func(ctx context.Context) error {
		defer close(done)
		go func() {
			testenv.WaitFor(t, patience, func() bool { return f.watching() == 1 })
			close(ready)
		}()
		left := 3 * catalogs
		for item, err := range f.Watch(ctx, WatchOptions{Buffer: 20}) {
			if err != nil {
				return err
			}
			if item.Catalog == "first" {
				close(stalled)
				<-resume
				continue
			}
			if item.Prev != versionOf(at[item.Catalog]) {
				return fmt.Errorf("catalog %s: (%s, %s] came at %d", item.Catalog, item.Prev, item.Version, at[item.Catalog])
			}
			n := int(item.Version.Sub(engine.Version{}))
			left -= n - at[item.Catalog]
			if at[item.Catalog] = n; left == 0 {
				return nil
			}
		}
		return nil
	})
	<-ready
	say(t, js, span("first", 0, 1))
	select {
	case <-done:
	case <-time.After(patience):
		t.Error("some were not told")
	}
}
