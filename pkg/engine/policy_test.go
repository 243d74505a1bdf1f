package engine_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// TestPolicy: catalogs that are written in turn are not due in the same moment, and
// none is later than its policy says.
func TestPolicy(t *testing.T) {
	t.Parallel()
	const catalogs, threshold = 1000, 512
	var due [threshold + 1]int
	for i := range catalogs {
		name := fmt.Sprintf("device-%d", i)
		for n := int64(1); ; n++ {
			if (engine.Policy{}).Due(name, n, 0, 0, 0) {
				due[n]++
				break
			}
			if n == threshold {
				t.Fatalf("%s is not due at %d deltas", name, n)
			}
		}
	}
	for n, count := range due {
		if n <= threshold*3/4 && count > 0 || count > catalogs/20 {
			t.Errorf("%d of %d catalogs are due at %d deltas", count, catalogs, n)
		}
	}
	for _, c := range []struct {
		what                    string
		deltas, bytes, docBytes int64
		age                     time.Duration
		due                     bool
	}{
		{what: "nothing is live", age: 48 * time.Hour},
		{what: "few", deltas: 300, bytes: 90_000, docBytes: 1000, age: time.Hour},
		{what: "old", deltas: 1, bytes: 100, age: 25 * time.Hour, due: true},
		{what: "many bytes", deltas: 2, bytes: 128 << 10, due: true},
		{what: "a large document", deltas: 10_000, bytes: 1 << 20, docBytes: 64 << 20},
		{what: "a large document, many bytes", deltas: 10_000, bytes: 16 << 20, docBytes: 64 << 20, due: true},
	} {
		if got := (engine.Policy{}).Due("users", c.deltas, c.bytes, c.docBytes, c.age); got != c.due {
			t.Errorf("%s: due %v", c.what, got)
		}
	}
	never := engine.Policy{MinDeltas: math.MaxInt64, MinBytes: math.MaxInt64}
	if never.Due("users", math.MaxInt64/2, math.MaxInt64/2, 0, 0) {
		t.Error("a policy that never folds is due")
	}
	ev := engine.Event{Kind: engine.EventCommitted, Catalog: "users", LiveDeltas: threshold}
	if !(engine.Policy{}).DueEvent(ev) {
		t.Errorf("%+v is not due", ev)
	}
	if ev.Kind = engine.EventSnapshotted; (engine.Policy{}).DueEvent(ev) {
		t.Errorf("%+v is due", ev)
	}
}
