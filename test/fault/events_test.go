package fault

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/events"
)

// witness watches the events of all catalogs and holds their order.
type witness struct {
	mu   sync.Mutex
	last map[string]engine.Version
	n    map[string]int
	gaps int
}

// watch begins with the oldest event, and ends with the test.
func watch(t *testing.T, l *client.Client) *witness {
	t.Helper()
	w := &witness{last: map[string]engine.Version{}, n: map[string]int{}}
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() {
		for ev, err := range l.Watch(ctx, events.WatchOptions{FromStart: true, Kind: engine.EventCommitted}) {
			var gap *events.GoneError
			if err != nil && !errors.As(err, &gap) {
				if ctx.Err() == nil {
					t.Errorf("the watch ended: %v", err)
				}
				return
			}
			w.take(t, ev.Event, gap)
		}
	})
	t.Cleanup(func() {
		cancel()
		ended.Wait()
	})
	return w
}

// take holds an event to what came before it: it begins where the last one
// ended, or a gap is told.
func (w *witness) take(t *testing.T, ev engine.Event, gap *events.GoneError) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := w.last[ev.Catalog]
	switch {
	case !last.Less(ev.Version):
		t.Errorf("event of %s at %s after one at %s", ev.Catalog, ev.Version, last)
	case gap != nil:
		w.gaps++
	case !last.IsZero() && ev.Prev != last:
		t.Errorf("event of %s covers (%s, %s] after %s, and no gap is told", ev.Catalog, ev.Prev, ev.Version, last)
	}
	w.last[ev.Catalog] = ev.Version
	w.n[ev.Catalog]++
}

// upTo waits until the events of a catalog have come as far as v.
func (w *witness) upTo(t *testing.T, catalog string, v engine.Version) {
	t.Helper()
	at := func() engine.Version {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.last[catalog]
	}
	if !wait(30*time.Second, func() bool { return !at().Less(v) }) {
		t.Errorf("events of %s have come to %s only, its version is %s", catalog, at(), v)
	}
}

func (w *witness) gapCount() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gaps
}
