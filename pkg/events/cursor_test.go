package events

import (
	"errors"
	"testing"

	"github.com/jsonlake/lake/pkg/engine"
)

// span is a committed event of (prev, version], both counted from 0_0.
func span(catalog string, prev, version int) engine.Event {
	p, v := versionOf(prev), versionOf(version)
	return engine.Event{V: 1, Catalog: catalog, Kind: engine.EventCommitted, First: p.Add(1), Version: v, Prev: p, Count: int64(version - prev), Bytes: 1}
}

func TestCursor(t *testing.T) {
	t.Parallel()
	type step struct {
		prev, version int
		fresh         bool
		trimmed       int // prev that comes back
		gap           bool
	}
	for name, steps := range map[string][]step{
		"tiling":      {{0, 10, true, 0, false}, {10, 12, true, 10, false}, {12, 13, true, 12, false}},
		"doubled":     {{0, 10, true, 0, false}, {0, 10, false, 0, false}, {5, 10, false, 5, false}, {2, 7, false, 2, false}, {10, 11, true, 10, false}},
		"overlapping": {{0, 10, true, 0, false}, {0, 15, true, 10, false}, {5, 10, false, 5, false}, {15, 16, true, 15, false}},
		"gap":         {{0, 10, true, 0, false}, {12, 15, true, 12, true}, {15, 16, true, 15, false}, {10, 12, false, 10, false}},
		"first late":  {{100, 110, true, 100, false}, {110, 111, true, 110, false}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var c Cursor
			for i, s := range steps {
				other := span("other", 10*i, 10*i+10)
				if _, fresh, err := c.Take(other); !fresh || err != nil {
					t.Fatalf("step %d: another catalog: %v, %v", i, fresh, err)
				}
				ev, fresh, err := c.Take(span("users", s.prev, s.version))
				var gap *GapError
				if errors.As(err, &gap) != s.gap || err != nil && !s.gap {
					t.Errorf("step %d: got %v, want a gap: %v", i, err, s.gap)
				}
				if fresh != s.fresh {
					t.Errorf("step %d: got fresh %v, want %v", i, fresh, s.fresh)
				}
				want := span("users", s.trimmed, s.version)
				want.Count = int64(s.version - s.prev)
				if fresh && ev != want {
					t.Errorf("step %d: got %+v, want %+v", i, ev, want)
				}
			}
		})
	}
}

func TestCursorStartAndKinds(t *testing.T) {
	t.Parallel()
	var c Cursor
	c.Start("users", versionOf(10))
	if _, fresh, _ := c.Take(span("users", 5, 10)); fresh {
		t.Error("an event up to the start is not new")
	}
	fold := span("users", 0, 10)
	fold.Kind = engine.EventSnapshotted
	for _, want := range []bool{true, false} {
		if _, fresh, err := c.Take(fold); fresh != want || err != nil {
			t.Errorf("fold: got %v, %v, want %v", fresh, err, want)
		}
	}
	_, fresh, err := c.Take(span("users", 11, 12))
	var gap *GapError
	if !fresh || !errors.As(err, &gap) || *gap != (GapError{"users", versionOf(10), versionOf(11)}) {
		t.Errorf("got %v, %v, want the gap (10, 11]", fresh, err)
	}
}

// However relays repeat and coalesce what they read, as long as nothing is
// trimmed before it was published a cursor gives each version once, in order.
func TestCursorAgainstRelays(t *testing.T) {
	t.Parallel()
	rng := seeded(t)
	for range 2000 {
		// The history, cut into runs.
		cuts := []int{0}
		for range 1 + rng.IntN(20) {
			cuts = append(cuts, cuts[len(cuts)-1]+1+rng.IntN(5))
		}
		var c Cursor
		at, trimmed := 0, 0
		for at < cuts[len(cuts)-1] || rng.IntN(3) > 0 {
			// A relay reads from somewhere not after what is trimmed, and publishes up to somewhere.
			from := rng.IntN(trimmed + 1)
			to := from + 1 + rng.IntN(len(cuts)-from)
			if to >= len(cuts) {
				continue
			}
			ev, fresh, err := c.Take(span("users", cuts[from], cuts[to]))
			if err != nil {
				t.Fatalf("a gap without a loss: %v", err)
			}
			if fresh {
				if ev.Prev != versionOf(at) || ev.Version != versionOf(cuts[to]) {
					t.Fatalf("got (%s, %s] at %d", ev.Prev, ev.Version, at)
				}
				at = cuts[to]
			}
			trimmed = max(trimmed, rng.IntN(to+1))
		}
	}
}

func TestCursorForgets(t *testing.T) {
	t.Parallel()
	var c Cursor
	for i := range 5 * cursorGeneration {
		if _, fresh, err := c.Take(span(catalogName(i), 0, 1)); !fresh || err != nil {
			t.Fatal(fresh, err)
		}
		if n := len(c.recent) + len(c.older); n > 2*cursorGeneration {
			t.Fatalf("%d catalogs are remembered", n)
		}
	}
	if _, fresh, _ := c.Take(span(catalogName(5*cursorGeneration-cursorGeneration), 0, 1)); fresh {
		t.Error("a catalog heard of lately is forgotten")
	}
}
