package events

import (
	"fmt"
	"slices"
	"testing"

	"github.com/jsonlake/lake/pkg/engine"
)

// following is a follower of one catalog that has seen nothing, with a log to fill
// gaps from.
func following(b *book, told *[]Item) *follower {
	w := &follower{WatchOptions: WatchOptions{Catalog: "users"}, feed: &Feed{history: b}}
	w.yield = func(item Item, err error) bool {
		*told = append(*told, item)
		return err == nil
	}
	w.saw("users", engine.Version{})
	return w
}

func (w *follower) hears(t *testing.T, ev engine.Event) {
	t.Helper()
	if err := w.event(t.Context(), queued{ev: ev, first: 1, merged: 1}); err != nil {
		t.Fatal(err)
	}
}

// The three rules of the package comment.
func TestFollowerRules(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		hears [][2]int
		want  []string
	}{
		"tiling":      {[][2]int{{0, 10}, {10, 12}, {12, 13}}, []string{"users(0,10]", "users(10,12]", "users(12,13]"}},
		"doubled":     {[][2]int{{0, 10}, {0, 10}, {5, 10}, {2, 7}, {10, 11}}, []string{"users(0,10]", "users(10,11]"}},
		"overlapping": {[][2]int{{0, 10}, {0, 15}, {5, 10}, {15, 16}}, []string{"users(0,10]", "users(10,15]", "users(15,16]"}},
		"gap":         {[][2]int{{0, 10}, {12, 15}, {10, 12}, {15, 16}}, []string{"users(0,10]", "users(10,11]", "users(11,12]", "users(12,15]", "users(15,16]"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b book
			b.wrote(span("users", 0, 16))
			var told []Item
			w := following(&b, &told)
			for _, h := range tc.hears {
				w.hears(t, span("users", h[0], h[1]))
			}
			if got := ranges(told); !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// An event of another kind is told once, whatever was committed.
func TestFollowerOtherKinds(t *testing.T) {
	t.Parallel()
	var told []Item
	w := following(&book{}, &told)
	w.hears(t, span("users", 0, 10))
	for range 2 {
		w.hears(t, fold("users", 0, 10))
	}
	if len(told) != 2 || told[1].Kind != engine.EventSnapshotted {
		t.Errorf("got %v, want the fold once", ranges(told))
	}
}

// However relays repeat and coalesce what they read, as long as nothing is
// trimmed before it was published, each version is told once, in order, and
// nobody looks into the log.
func TestFollowerAgainstRelays(t *testing.T) {
	t.Parallel()
	rng := seeded(t)
	for range 2000 {
		// The history, cut into runs.
		cuts := []int{0}
		for range 1 + rng.IntN(20) {
			cuts = append(cuts, cuts[len(cuts)-1]+1+rng.IntN(5))
		}
		end := cuts[len(cuts)-1]
		var b book
		b.wrote(span("users", 0, end))
		var told []Item
		w := following(&b, &told)
		at, trimmed := 0, 0
		for at < end || rng.IntN(3) > 0 {
			// A relay reads from somewhere not after what is trimmed, and publishes up to somewhere.
			from := rng.IntN(trimmed + 1)
			to := from + 1 + rng.IntN(len(cuts)-from)
			if to >= len(cuts) {
				continue
			}
			w.hears(t, span("users", cuts[from], cuts[to]))
			at = max(at, cuts[to])
			trimmed = max(trimmed, rng.IntN(to+1))
		}
		tilesFrom(t, eventsOf(told), 0, end)
		if b.asked > 0 {
			t.Fatalf("%d looks into the log without a gap: %v", b.asked, ranges(told))
		}
	}
}

func TestLastSeenForgets(t *testing.T) {
	t.Parallel()
	var s lastSeen
	for i := range 5 * seenGeneration {
		s.put(fmt.Sprint(i), engine.EventCommitted, versionOf(1))
		if n := len(s.recent) + len(s.older); n > 2*seenGeneration {
			t.Fatalf("%d catalogs are remembered", n)
		}
	}
	if _, known := s.get(fmt.Sprint(4*seenGeneration), engine.EventCommitted); !known {
		t.Error("a catalog heard of lately is forgotten")
	}
}
