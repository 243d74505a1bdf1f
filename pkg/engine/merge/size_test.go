package merge

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestSize measures after each delta, taken back or not, and compares with
// what is written.
func TestSize(t *testing.T) {
	t.Parallel()
	s := *seedFlag
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d (run again with -seed=%d)", s, s)
	g := gen{rand.New(rand.NewPCG(s, 9))}
	for range 2_000 {
		base := []byte(g.value(4))
		if g.IntN(4) == 0 {
			base = g.wide()
		}
		n := 20
		m := &machine{lim: Limits{}.withDefaults(), root: value{text: base}, outcomes: make([]Outcome, n)}
		for i := range n {
			d := g.delta(nil)
			if g.IntN(2) == 0 {
				d = g.wideDelta(20)
			}
			before := m.size(m.root)
			m.applyDelta(i, &d, true)
			after := m.size(m.root)
			if g.IntN(3) == 0 {
				m.undo()
				after = before
			} else {
				m.settle()
			}
			if got := m.size(m.root); got != after {
				t.Fatalf("%s %s %s: got size %d, then %d", d.Type, d.Path, d.Body, after, got)
			}
			if g.IntN(3) == 0 { // writing out also resolves what measuring would
				if text := m.emitAll(m.root, 0); int64(len(text)) != after {
					t.Fatalf("%s + %s %s %s: got size %d, %d bytes: %s", base, d.Type, d.Path, d.Body, after, len(text), text)
				}
			}
		}
	}
}

// TestAtTheLimit merges many deltas into a document that has no room left:
// linear all the same.
func TestAtTheLimit(t *testing.T) {
	record := `{"name":"` + strings.Repeat("x", 200) + `","n":1}`
	var b strings.Builder
	b.WriteString(`{"users":{`)
	for i := 0; b.Len() < 8<<20; i++ {
		fmt.Fprintf(&b, `"u%d":%s,`, i, record)
	}
	base := b.String() + `"last":0},"list":[` + strings.Repeat("1,", 1<<19) + `1]}`
	lim := Limits{MaxDocument: int64(len(base)) + 10}
	var deltas []Delta
	var want []string
	for i := range 2_000 {
		deltas = append(deltas,
			d(fmt.Sprintf(`merge-patch / {"users":{"u%d":{"more":"%040d"}}}`, i, i)),                                                        // too large
			d(fmt.Sprintf(`replace /users/u%d/n %d`, i, i%10)),                                                                              // fits
			d(fmt.Sprintf(`json-patch /users [{"op":"replace","path":"/u%d/n","value":2},{"op":"copy","from":"/u1","path":"/v%d"}]`, i, i)), // too large
			d(`json-patch /list [{"op":"replace","path":"/200000","value":7}]`),                                                             // fits
			d(fmt.Sprintf(`replace /new%d "xxxxxxxx"`, i)))                                                                                  // too large
		want = append(want, "too_large", "applied", "too_large", "applied", "too_large")
	}
	start := time.Now()
	doc, out, err := Merge([]byte(base), deltas, lim)
	took := time.Since(start)
	if err != nil || len(doc) != len(base) {
		t.Fatalf("got %d bytes, %v, want %d", len(doc), err, len(base))
	}
	for i := range out {
		if out[i] != o(want[i]) {
			t.Fatalf("delta %d: got %+v, want %s", i, out[i], want[i])
		}
	}
	t.Logf("%d deltas on %d bytes: %v", len(deltas), len(base), took.Round(time.Millisecond))
	// The race detector changes times, so there the same deltas without a limit
	// are compared with (four times as long was measured); the bound of the program itself stays what it is.
	limit := 5 * time.Second
	if underRace {
		start, lim.MaxDocument = time.Now(), 10*int64(len(base))
		if _, _, err := Merge([]byte(base), deltas, lim); err != nil {
			t.Fatal(err)
		}
		limit = 10 * time.Since(start)
		t.Logf("without a limit: %v", limit/10)
	}
	if took > limit {
		t.Errorf("got %v, want at most %v", took, limit)
	}
}

// A document is written once, into memory of its size: one that stands on a base, and one
// that a delta has put in a base's place.
func TestWrittenOnce(t *testing.T) {
	large := []byte(`{"d":"` + strings.Repeat("x", 1<<20) + `","p":{}}`)
	member := `"m":"` + strings.Repeat("y", 100<<10) + `"`
	patch := Delta{Type: MergePatch, Path: "/p", Body: []byte("{" + member + "}")}
	list := []byte(`["` + strings.Repeat("x", 1<<20) + `"]`)
	added := `"` + strings.Repeat("y", 12<<10) + `"` // little: a patch is reckoned at eight times its size
	add := Delta{Type: JSONPatch, Path: "/", Body: []byte(`[{"op":"add","path":"/-","value":` + added + `}]`)}
	for name, in := range map[string]struct {
		base   []byte
		deltas []Delta
		size   int
	}{
		"base":           {large, []Delta{patch}, len(large) + len(member)},
		"replaced":       {[]byte(`{}`), []Delta{{Type: Replace, Path: "/", Body: large}, patch}, len(large) + len(member)},
		"first":          {nil, []Delta{{Type: Replace, Path: "/", Body: large}, patch}, len(large) + len(member)},
		"array":          {list, []Delta{add}, len(list) + len(",") + len(added)},
		"array replaced": {[]byte(`{}`), []Delta{{Type: Replace, Path: "/", Body: list}, add}, len(list) + len(",") + len(added)},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		doc, _, err := Merge(in.base, in.deltas, Limits{})
		runtime.ReadMemStats(&after)
		if err != nil || len(doc) != in.size {
			t.Fatalf("%s: got %d bytes, %v", name, len(doc), err)
		}
		if made := after.TotalAlloc - before.TotalAlloc; made > uint64(len(doc)+128<<10) {
			t.Errorf("%s: %d bytes of memory for a document of %d", name, made, len(doc))
		}
	}
}
