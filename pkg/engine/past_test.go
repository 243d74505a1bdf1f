package engine_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/memory"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

// told is a history as the test knows it: what each delta left behind.
type told struct {
	version engine.Version
	doc     []byte // nil: absent
	delta   merge.Delta
	author  string
}

// clocked is a house whose index has a clock that the test moves.
func clocked(t *testing.T) (h *house, clock *atomic.Int64) {
	clock = &atomic.Int64{}
	clock.Store(1_700_000_000)
	h = newHouse(t)
	h.index = memory.NewIndex(memory.Options{Clock: func() time.Time { return time.Unix(clock.Load(), 0) }, Exclusive: true})
	return h, clock
}

// rebuild wipes the index and opens a new epoch from the bucket.
func (h *house) rebuild(e *engine.Engine, o engine.Options) *engine.Engine {
	h.t.Helper()
	h.close(e)
	h.index = memory.NewIndex(memory.Options{Exclusive: true})
	o.NewEpoch = true
	return h.open(o)
}

func writeTold(t *testing.T, e *engine.Engine, all []told, d merge.Delta, author string) []told {
	t.Helper()
	r, err := e.Write(t.Context(), engine.WriteRequest{Catalog: "c", Path: d.Path, MergeType: d.Type, Body: d.Body, NoAutoParents: d.Strict, Author: author})
	if err != nil {
		t.Fatal(err)
	}
	var base []byte
	if len(all) > 0 {
		base = all[len(all)-1].doc
	}
	doc, _, err := merge.Merge(base, []merge.Delta{d}, merge.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return append(all, told{r.Version, doc, d, author})
}

func readAt(t *testing.T, e *engine.Engine, at *engine.At) (engine.Version, []byte) {
	t.Helper()
	r, err := e.Read(t.Context(), engine.ReadRequest{Catalog: "c", At: at})
	if err != nil && !errors.Is(err, engine.ErrNotFound) {
		t.Fatalf("read at %s: %v", at, err)
	}
	return r.Version, r.Body
}

// checkPast holds everything that tells of the past to the history.
func checkPast(t *testing.T, e *engine.Engine, all []told) {
	t.Helper()
	first, last := all[0].version, all[len(all)-1].version
	for _, w := range all {
		if v, doc := readAt(t, e, engine.AtVersion(w.version)); v != w.version || !bytes.Equal(doc, w.doc) {
			t.Fatalf("at %s: got %s at %s, want %s", w.version, doc, v, w.doc)
		}
	}
	newest := func(bound engine.Version) (w told) {
		for _, x := range all {
			if !bound.Less(x.version) {
				w = x
			}
		}
		return w
	}
	for sec := first.Sec - 1; sec <= last.Sec+1; sec++ {
		w := newest(engine.Version{Sec: sec, Seq: engine.MaxSeq})
		if v, doc := readAt(t, e, engine.AtTime(time.Unix(sec, 999_999_999))); v != w.version || !bytes.Equal(doc, w.doc) {
			t.Fatalf("at second %d: got %s at %s, want %s at %s", sec, doc, v, w.doc, w.version)
		}
		between := engine.Version{Sec: sec, Seq: 777} // was never given
		if between.Less(last) {
			if v, doc := readAt(t, e, engine.AtVersion(between)); v != newest(between).version || !bytes.Equal(doc, newest(between).doc) {
				t.Fatalf("at %s: got %s at %s, want that of %s", between, doc, v, newest(between).version)
			}
		}
	}
	if _, err := e.Read(t.Context(), engine.ReadRequest{Catalog: "c", At: engine.AtVersion(last.Add(1))}); !errors.Is(err, engine.ErrNotFound) || errors.Is(err, engine.ErrHistoryGone) {
		t.Fatalf("a version ahead: got %v, want not found", err)
	}
	asc := wholeLog(t, e, "c", 7)
	if len(asc) != len(all) {
		t.Fatalf("the log has %d entries, want %d", len(asc), len(all))
	}
	var base []byte
	var prev engine.Version
	for i, l := range asc {
		_, outcomes, err := merge.Merge(base, []merge.Delta{all[i].delta}, merge.Limits{})
		if err != nil || l.Version != all[i].version || l.Prev != prev || l.Author != all[i].author || l.Path != all[i].delta.Path || l.Outcome != outcomes[0] {
			t.Fatalf("log entry %d: got %+v, want %+v after %s, %+v", i, l, all[i], prev, outcomes)
		}
		base, prev = all[i].doc, l.Version
	}
	for _, page := range []int{1000, 5} {
		desc := wholeLogBack(t, e, "c", page)
		slices.Reverse(desc)
		if got, want := fmt.Sprintf("%+v", desc), fmt.Sprintf("%+v", asc); got != want {
			t.Fatalf("descending, in pages of %d: got\n%s\nwant\n%s", page, got, want)
		}
	}
}

func wholeLogBack(t *testing.T, e *engine.Engine, catalog string, page int) (all []engine.LogEntry) {
	t.Helper()
	var after engine.Version
	for {
		p, err := e.Log(t.Context(), engine.LogRequest{Catalog: catalog, After: after, Limit: page, Order: engine.Descending})
		if err != nil {
			t.Fatalf("log before %s: %v", after, err)
		}
		all = append(all, p.Items...)
		if p.Next == nil {
			return all
		}
		after = *p.Next
	}
}

// checkDiffs compares neighbours, and some others, and applies what comes out.
func checkDiffs(t *testing.T, e *engine.Engine, all []told, r *rand.Rand) {
	t.Helper()
	for i, w := range all {
		for _, j := range []int{max(0, i-1), r.IntN(len(all))} {
			for _, format := range []engine.MergeType{0, engine.MergeTypeMergePatch, engine.MergeTypeJSONPatch} {
				d, err := e.Diff(t.Context(), engine.DiffRequest{Catalog: "c", From: engine.At{Version: all[j].version}, To: engine.AtVersion(w.version), Format: format})
				if errors.Is(err, engine.ErrInvalid) && format == engine.MergeTypeMergePatch && engine.Code(err).Code == "not_expressible" {
					continue
				}
				if err != nil || d.From != all[j].version || d.To != w.version {
					t.Fatalf("diff %s %s %s: %+v, %v", all[j].version, w.version, format, d, err)
				}
				got, _, err := merge.Merge(all[j].doc, []merge.Delta{{Type: d.Merge, Path: "/", Body: d.Patch}}, merge.Limits{})
				if err != nil || !bytes.Equal(got, w.doc) {
					t.Fatalf("diff %s %s %s: %s leads to %s, want %s", all[j].version, w.version, d.Merge, d.Patch, got, w.doc)
				}
			}
		}
	}
}

// pointers lists every JSON Pointer of a document.
func pointers(v any, at string) []string {
	list := []string{at}
	switch v := v.(type) {
	case map[string]any:
		for name, m := range v {
			list = append(list, pointers(m, merge.AppendToken(at, name))...)
		}
	case []any:
		for i, m := range v {
			list = append(list, pointers(m, at+"/"+strconv.Itoa(i))...)
		}
	}
	return list
}

func valueAt(t *testing.T, doc []byte, pointer string) []byte {
	t.Helper()
	v, _, err := merge.Get(doc, pointer)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// toBlame finds the change of a value by looking at every document.
func toBlame(t *testing.T, all []told, pointer string) (w told, found bool) {
	t.Helper()
	for i := len(all) - 1; i >= 0; i-- {
		var before []byte
		if i > 0 {
			before = valueAt(t, all[i-1].doc, pointer)
		}
		if !bytes.Equal(before, valueAt(t, all[i].doc, pointer)) {
			return all[i], true
		}
	}
	return told{}, false
}

// checkBlame blames every pointer of the document as it is after all.
func checkBlame(t *testing.T, e *engine.Engine, all []told, more ...string) {
	t.Helper()
	last := all[len(all)-1]
	var tree any
	if last.doc != nil {
		if err := json.Unmarshal(last.doc, &tree); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range append(pointers(tree, ""), more...) {
		want, found := toBlame(t, all, p)
		res, err := e.Blame(t.Context(), engine.BlameRequest{Catalog: "c", Pointer: p, At: engine.AtVersion(last.version)})
		if !found {
			if !errors.Is(err, engine.ErrNotFound) {
				t.Fatalf("blame %q: got %+v, %v, want not found", p, res, err)
			}
			continue
		}
		if err != nil || len(res.Items) != 1 {
			t.Fatalf("blame %q: %+v, %v, want %s", p, res, err, want.version)
		}
		sameBlame(t, res.Items[0], want, p, valueAt(t, last.doc, p) != nil)
		if val := valueAt(t, last.doc, p); len(val) == 0 || val[0] != '{' {
			continue
		}
		var items []engine.BlameEntry
		for after := (*string)(nil); ; {
			res, err := e.Blame(t.Context(), engine.BlameRequest{Catalog: "c", Pointer: p, Members: true, After: after, Limit: 2, At: engine.AtVersion(last.version)})
			if err != nil {
				t.Fatalf("blame the members of %q: %v", p, err)
			}
			items = append(items, res.Items...)
			if after = res.Next; after == nil {
				break
			}
		}
		i := 0
		for name := range merge.Members(valueAt(t, last.doc, p)) {
			m := merge.AppendToken(p, name)
			want, _ := toBlame(t, all, m)
			if i >= len(items) {
				t.Fatalf("blame the members of %q: %d of them", p, len(items))
			}
			sameBlame(t, items[i], want, m, true)
			i++
		}
		if i != len(items) {
			t.Fatalf("blame the members of %q: got %d, want %d", p, len(items), i)
		}
	}
}

func sameBlame(t *testing.T, got engine.BlameEntry, want told, pointer string, present bool) {
	t.Helper()
	if got.Pointer != pointer || got.Version != want.version || got.Author != want.author || got.Merge != want.delta.Type || got.Path != want.delta.Path || got.Present != present || got.Gone || got.Time == 0 || got.ID == "" {
		t.Fatalf("blame %q: got %+v, want version %s, author %s, %s at %s, present %v", pointer, got, want.version, want.author, want.delta.Type, want.delta.Path, present)
	}
}

// randomDelta draws deltas that meet each other: few names, arrays beside
// objects, moves, no-ops, removals.
func randomDelta(r *rand.Rand) merge.Delta {
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	n := r.IntN(3)
	switch r.IntN(12) {
	case 0:
		return merge.Delta{Type: merge.Replace, Path: pick("/", "/a", "/b/c"), Body: []byte(pick(`{"a":{"x":1,"y":[1,2]},"b":{}}`, `[1,[2],{"a":1}]`, `7`))}
	case 1:
		return merge.Delta{Type: merge.Delete, Path: pick("/", "/a", "/a/x", "/b", "/b/c")}
	case 2, 3, 4:
		return merge.Delta{Type: merge.Replace, Path: pick("/a/x", "/a/y", "/b/c/d", "/b", "/l"), Body: []byte(pick(fmt.Sprint(n), `[0,1,2]`, `{"x":null,"0":1}`, `"s"`))}
	case 5, 6, 7:
		return merge.Delta{Type: merge.MergePatch, Path: pick("/", "/a", "/b"), Body: []byte(pick(fmt.Sprintf(`{"a":{"x":%d}}`, n), `{"b":null}`, `{"l":{}}`, `{"x":{"y":1},"b":{"c":{"e":2}}}`, `{}`, `{"1":5,"a":[3]}`))}
	default:
		return merge.Delta{Type: merge.JSONPatch, Path: pick("/", "/a"), Strict: r.IntN(4) == 0, Body: []byte(pick(
			`[{"op":"add","path":"/l/-","value":1}]`, `[{"op":"add","path":"/l/0","value":{"z":2}}]`, `[{"op":"remove","path":"/l/0"}]`,
			`[{"op":"move","from":"/a/x","path":"/b/x"}]`, `[{"op":"copy","from":"/a","path":"/k/j"}]`, `[{"op":"move","from":"/l/1","path":"/l/0"}]`,
			`[{"op":"test","path":"/a/x","value":1},{"op":"replace","path":"/a/x","value":9}]`, `[{"op":"add","path":"/b/c/~0t","value":3}]`, `[{"op":"add","path":"","value":{"l":[1,2,3]}}]`))}
	}
}

// Random histories, folded at random: every version and second, the log both
// ways, diffs and blames, on the live log, from packs, and after a rebuild.
func TestPastOfRandomHistories(t *testing.T) {
	t.Parallel()
	for seed := range uint64(25) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a seed makes it repeatable
			h, clock := clocked(t)
			o := engine.Options{Name: "past"}
			e := h.open(o)
			var all []told
			for i := range 60 {
				if r.IntN(3) == 0 {
					clock.Add(int64(r.IntN(3)))
				}
				all = writeTold(t, e, all, randomDelta(r), fmt.Sprintf("r%d", i))
				if r.IntN(12) == 0 {
					if _, err := e.Fold(t.Context(), "c"); err != nil {
						t.Fatal(err)
					}
				}
			}
			check := func() {
				t.Helper()
				checkPast(t, e, all)
				checkDiffs(t, e, all, r)
				for _, n := range []int{len(all), len(all)/2 + 1, 3} {
					checkBlame(t, e, all[:n], "/a/x", "/b/c", "/l/0", "/l/2", "/never", "/b/c/~0t", "/k")
				}
			}
			check()
			if _, err := e.Fold(t.Context(), "c"); err != nil {
				t.Fatal(err)
			}
			check()
			e = h.rebuild(e, o)
			check()
		})
	}
}
