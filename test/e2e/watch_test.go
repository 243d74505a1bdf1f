package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/internal/testenv/mimedb"
	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/events"
)

// A watcher that was stopped for the whole replay of the mime-db history, while
// LAKE_EVENTS was purged and the server killed, resumes: every version exactly
// once, in order. So does one of all catalogs, and the command line.
func TestWatchResumesMimeDB(t *testing.T) {
	s := serve(t, t.TempDir())
	nc := connect(t, s.url)
	c, err := client.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	before, err := c.Write(ctx, engine.WriteRequest{Catalog: "mime-db", Body: []byte(`{}`)})
	if err != nil {
		t.Fatal(err)
	}
	options := map[string]events.WatchOptions{"one": {Catalog: "mime-db"}, "all": {}}
	for name, o := range options {
		o.Kind = engine.EventCommitted
		first := o
		first.FromStart = true
		for item, err := range c.Watch(ctx, first) {
			if err != nil || item.Version != before.Version {
				t.Fatalf("%s: got %+v, %v", name, item, err)
			}
			o.Cursor = item.Cursor
			break
		}
		o.Include = events.IncludePatch
		options[name] = o
	}
	versions := []engine.Version{}
	for _, rev := range mimedb.History(t, "../..") {
		w := request(t, rev)
		w.Author = strconv.Itoa(rev.N)
		r, err := c.Write(ctx, w)
		if err != nil {
			t.Fatal(err)
		}
		versions = append(versions, r.Version)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	purge := func() {
		t.Helper()
		testenv.WaitFor(t, 20*time.Second, func() bool {
			stream, err := js.Stream(ctx, "LAKE_EVENTS")
			return err == nil && stream.Purge(ctx) == nil
		})
	}
	purge()
	s.Kill()
	s.Start()
	readNow(t, s.url)
	purge()
	for name, o := range options {
		prev, n := before.Version, 0
		for item, err := range c.Watch(ctx, o) {
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, e := range item.Entries {
				if n == len(versions) || e.Version != versions[n] || e.Prev != prev || e.Author != strconv.Itoa(n+1) {
					t.Fatalf("%s: delta %d is %s by %s after %s", name, n, e.Version, e.Author, e.Prev)
				}
				prev = e.Version
				n++
			}
			if n == len(versions) {
				break
			}
		}
		t.Logf("%s: %d versions, each once, in order", name, n)
	}
	// The command line: its last cursor goes on.
	out := lake(t, "watch", "mime-db", "--cursor", options["one"].Cursor, "--count", "233", "--include", "document", "--json", "--lake", s.url)
	d, n := json.NewDecoder(strings.NewReader(out)), 0
	revs := mimedb.History(t, "../..")
	for ; d.More(); n++ {
		var item events.Item
		if err := d.Decode(&item); err != nil {
			t.Fatal(err)
		}
		if item.Version != versions[n] || item.Cursor != versions[n].String() || mimedb.Checksum(t, item.Document) != revs[n].SHA256 {
			t.Fatalf("line %d: version %s, cursor %s", n+1, item.Version, item.Cursor)
		}
	}
	if n != len(versions) {
		t.Errorf("the command line told %d versions, want %d", n, len(versions))
	}
}

// 1,000 watchers of 1,000 catalogs, while they are written: none loses a version.
// One more is stalled: the others hear everything meanwhile, and it hears all of
// it afterwards.
func TestThousandWatchers(t *testing.T) {
	const watchers, rounds = 1000, 5
	s := serve(t, t.TempDir())
	c, err := client.New(connect(t, s.url), client.WithTimeout(30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	catalog := func(i int) string { return fmt.Sprintf("w%03d", i) }
	var wg sync.WaitGroup
	var complete, items atomic.Int64
	watch := func(i int, stall <-chan struct{}, stalled chan<- struct{}) error {
		prev, deltas := engine.Version{}, 0
		for item, err := range c.Watch(ctx, events.WatchOptions{Catalog: catalog(i), FromStart: true, Kind: engine.EventCommitted, Include: events.IncludePatch}) {
			switch {
			case err != nil:
				return err
			case item.Prev != prev:
				return fmt.Errorf("(%s, %s] came at %s", item.Prev, item.Version, prev)
			}
			items.Add(1)
			prev = item.Version
			if stall != nil && deltas == 0 {
				close(stalled)
				<-stall
			}
			if deltas += len(item.Entries); deltas == rounds+1 {
				return nil
			}
		}
		return errors.New("the watch ended")
	}
	write := func(round int) {
		var writing sync.WaitGroup
		for w := range 16 {
			writing.Go(func() {
				for i := w; i < watchers; i += 16 {
					if _, err := c.Write(ctx, engine.WriteRequest{Catalog: catalog(i), Body: fmt.Appendf(nil, `{"round":%d}`, round)}); err != nil {
						t.Errorf("write %s: %v", catalog(i), err)
					}
				}
			})
		}
		writing.Wait()
	}
	write(0)
	resume, stalled := make(chan struct{}), make(chan struct{})
	late := make(chan error, 1)
	go func() { late <- watch(0, resume, stalled) }()
	<-stalled
	for i := range watchers {
		wg.Go(func() {
			if err := watch(i, nil, nil); err != nil {
				t.Errorf("watcher %d: %v", i, err)
				return
			}
			complete.Add(1)
		})
	}
	for round := range rounds {
		write(round + 1)
	}
	wg.Wait() // while one is stalled
	if got := complete.Load(); got != watchers {
		t.Errorf("%d watchers heard everything, want %d", got, watchers)
	}
	t.Logf("%d watchers heard %d versions each in %d items, while one was stalled", complete.Load(), rounds+1, items.Load())
	close(resume)
	if err := <-late; err != nil {
		t.Errorf("the stalled watcher: %v", err)
	}
}
