package sim

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/codec"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

// truth is a catalog's history as the bucket alone tells it: the runs of all
// segments that the seals name, in version order, replayed one delta at a time.
// It is read with nothing of the engine but the names of keys.
type truth struct {
	runs    []truthRun
	log     []truthDelta
	docs    map[engine.Version]string // after each run; absent: no entry
	heads   map[engine.Version]bool
	authors map[string][]int // runs by author
}

type truthRun struct {
	first, last engine.Version
	n           int
	author      string
	segment     string
	deltas      []merge.Delta
}

type truthDelta struct {
	version, prev engine.Version
	author        string
	delta         merge.Delta
	outcome       merge.Outcome
}

func (w *world) truth() map[string]*truth {
	ctx := context.Background()
	var segments []string
	for o := range w.bucket.List(ctx, "_lake/epoch/", "") {
		if !strings.HasSuffix(o.Key, ".seal.json") {
			continue
		}
		b, _ := w.bucket.Get(ctx, o.Key)
		var s struct{ Segments []string }
		if err := json.Unmarshal(b, &s); err != nil {
			w.violate("seal", "%s: %v", o.Key, err)
		}
		segments = append(segments, s.Segments...)
	}
	if w.off == "seal" {
		segments = nil
		for o := range w.bucket.List(ctx, "wal/", "") {
			segments = append(segments, o.Key)
		}
	}
	for o := range w.archive.List(ctx, "wal/", "") { // some were collected before their epoch was sealed
		if !slices.Contains(segments, o.Key) {
			segments = append(segments, o.Key)
		}
	}
	all := map[string]*truth{}
	for c := range w.mix.Catalogs {
		all[w.catalog(c)] = &truth{docs: map[engine.Version]string{}, heads: map[engine.Version]bool{{}: true}, authors: map[string][]int{}}
	}
	for _, key := range segments {
		b, err := w.archive.Get(ctx, key)
		if err != nil { // not collected; in the place of one that was, a tombstone may stand: a decision that came too late
			b, err = w.bucket.Get(ctx, key)
		}
		if err != nil {
			w.violate("seal", "a sealed segment is missing: %v", err)
			continue
		}
		for f, err := range codec.Frames(b, codec.Options{}) {
			if err != nil {
				w.violate("damage", "%s: %v", key, err)
				break
			}
			if f.Kind == codec.KindTombstone {
				break
			}
			first := engine.Version{Sec: f.First.Sec, Seq: f.First.Seq}
			r := truthRun{first: first, last: first.Add(int(f.N) - 1), n: int(f.N), author: f.Author, segment: key, deltas: parseDeltas(f.Payload, false)}
			if len(r.deltas) != r.n {
				w.violate("damage", "%s: %d deltas, not %d", key, len(r.deltas), r.n)
			}
			all[f.Catalog].runs = append(all[f.Catalog].runs, r)
		}
	}
	for name, t := range all {
		t.replay(w, name)
	}
	return all
}

func (t *truth) replay(w *world, name string) {
	slices.SortFunc(t.runs, func(a, b truthRun) int { return a.first.Compare(b.first) })
	// A run that was compacted stands in two segments.
	t.runs = slices.CompactFunc(t.runs, func(a, b truthRun) bool {
		return a.first == b.first && a.author == b.author && reflect.DeepEqual(a.deltas, b.deltas)
	})
	var doc []byte
	var head engine.Version
	for i, r := range t.runs {
		if !head.Less(r.first) {
			w.violate("twice", "%s: versions from %s on are given to %s (%s) and to %s (%s)", name, r.first, t.runs[i-1].author, t.runs[i-1].segment, r.author, r.segment)
		}
		for k, d := range r.deltas {
			var out []merge.Outcome
			var err error
			if doc, out, err = merge.Merge(doc, []merge.Delta{d}, merge.Limits{}); err != nil {
				w.violate("merge", "%s at %s: %v", name, r.first.Add(k), err)
				return
			}
			t.log = append(t.log, truthDelta{version: r.first.Add(k), prev: head, author: r.author, delta: d, outcome: out[0]})
			head = r.first.Add(k)
		}
		t.heads[head] = true
		if doc != nil {
			t.docs[head] = string(doc)
		}
		t.authors[r.author] = append(t.authors[r.author], i)
	}
}

// parseDeltas takes a payload apart: type, flags, path, body, and in packs an
// outcome of three bytes and a number.
func parseDeltas(b []byte, pack bool) (ds []merge.Delta) {
	field := func() []byte {
		n, k := binary.Uvarint(b)
		if k <= 0 || uint64(len(b)-k) < n {
			b = nil
			return nil
		}
		f := b[k : k+int(n)]
		b = b[k+int(n):]
		return f
	}
	for len(b) > 2 {
		d := merge.Delta{Type: merge.Type(b[0]), Strict: b[1]&1 != 0}
		b = b[2:]
		d.Path = string(field())
		d.Body = field()
		if pack && len(b) > 3 {
			b = b[3:]
			_, k := binary.Uvarint(b)
			b = b[max(k, 0):]
		}
		ds = append(ds, d)
	}
	return ds
}

// check compares what was seen with the truth.
func (w *world) check() {
	all := w.truth()
	for _, name := range sortedKeys(all) {
		t := all[name]
		w.checkFinal(name, t, "rebuilt", w.rebuilt)
		w.checkFinal(name, t, "rebuilt after its purges", w.cleared)
		w.checkLast(name, t)
		w.checkWrites(name, t)
		w.checkReads(name, t)
		w.checkPast(name, t)
		w.checkPurges(name, t)
		w.checkObjects(name, t)
		w.checkEvents(name, t)
	}
}

func (w *world) checkFinal(name string, t *truth, what string, finals map[string]*final) {
	f := finals[name]
	if f == nil {
		return // said elsewhere
	}
	var head engine.Version
	if len(t.runs) > 0 {
		head = t.runs[len(t.runs)-1].last
	}
	if f.version != head {
		w.violate("I8", "%s of %s has version %s, the bucket %s", what, name, f.version, head)
		return
	}
	if doc, there := t.docs[head]; doc != f.body || there == f.absent {
		w.violate("I8", "%s document of %s at %s is %q, a replay gives %q", what, name, head, clip(f.body), clip(doc))
	}
	w.checkLog(name, t, what+" log", f.log, w.step, true)
}

// checkLast holds what was seen before the index was wiped against the truth:
// only writes that nobody acknowledged may have been added since.
func (w *world) checkLast(name string, t *truth) {
	f := w.last[name]
	if f == nil {
		return
	}
	if !t.heads[f.version] {
		w.violate("I8", "%s had version %s before the index was wiped, which is no prefix of the rebuilt history", name, f.version)
		return
	}
	if doc, there := t.docs[f.version]; doc != f.body || there == f.absent {
		w.violate("I8", "%s at %s was %q before the index was wiped, a replay gives %q", name, f.version, clip(f.body), clip(doc))
	}
	w.checkLog(name, t, "last log", f.log, w.step, false)
	for _, o := range w.ops {
		if (o.kind == "write" || o.kind == "purge") && o.catalog == name && o.state == acked && f.version.Less(o.result.Version) {
			w.violate("I3", "the last read of %s at %s misses %s at %s", name, f.version, o.author, o.result.Version)
		}
	}
}

func (w *world) checkLog(name string, t *truth, what string, log []engine.LogEntry, by int, whole bool) {
	known, gone := t.log, w.gone(name, by)
	if len(log) > 0 { // what the retention gave up may be missing at the beginning, and nothing else
		i, j := 0, slices.IndexFunc(known, func(d truthDelta) bool { return d.version == log[0].Version && d.delta.Type == merge.Purge })
		for i < len(known) && known[i].version.Less(log[0].Version) && !gone.Less(known[i].version) {
			i++
		}
		switch {
		case j > i: // what a purge gave up likewise: it stands at the beginning then
			known = known[j:]
			w.counters.add("logs that begin with a purge")
		case i > 0:
			known = known[i:]
			w.counters.add("logs without what retention gave up")
		}
	}
	if len(log) > len(known) || whole && len(log) != len(known) {
		w.violate("log", "%s of %s has %d entries, a replay %d of %d (given up to %s)", what, name, len(log), len(known), len(t.log), gone)
		return
	}
	for i, e := range log {
		x := known[i]
		if i == 0 && x.delta.Type == merge.Purge && e.Prev.IsZero() {
			x.prev = e.Prev // of a purge that is folded
		}
		if e.Version != x.version || e.Prev != x.prev || e.Author != x.author || e.Path != x.delta.Path || e.Merge != x.delta.Type ||
			!bytes.Equal(e.Body, x.delta.Body) || e.Outcome != x.outcome {
			w.violate("log", "%s of %s, entry %d: got %+v, want %+v", what, name, i, e, x)
			return
		}
	}
}

func (w *world) checkWrites(name string, t *truth) {
	type placed struct {
		o *op
		v engine.Version
	}
	var order []placed
	for _, o := range w.ops {
		if o.kind != "write" && o.kind != "purge" || o.catalog != name {
			continue
		}
		at := t.authors[o.author]
		if o.kind == "purge" && o.state == acked && (len(at) == 0 || t.runs[at[0]].last != o.result.Version) {
			continue // nothing was written since an earlier purge, or since one that came after its first attempt
		}
		switch {
		case o.state == acked && len(at) == 0:
			w.violate("lost", "%s of %s at %s was acknowledged (step %d) and is not in the history", o.author, name, o.result.Version, o.end)
			continue
		case len(at) > 1 && t.forgotten(at):
			w.counters.add("ids forgotten with what was purged")
			continue
		case len(at) > 1:
			w.violate("doubled", "%s of %s is in the history %d times", o.author, name, len(at))
		case o.state == rejected && len(at) > 0 && !w.maybe(o):
			w.violate("rejected", "%s of %s was rejected (%v) and is in the history at %s", o.author, name, o.err, t.runs[at[0]].first)
		}
		if len(at) == 0 {
			continue
		}
		r := t.runs[at[0]]
		if o.state == acked && (r.first != o.result.First || r.last != o.result.Version || r.n != o.result.Count) {
			w.violate("version", "%s of %s was answered %+v and is at %s..%s", o.author, name, o.result, r.first, r.last)
		}
		for i, d := range r.deltas {
			if q := o.deltas[i]; d.Type != q.MergeType || d.Path != q.Path || !bytes.Equal(d.Body, q.Body) {
				w.violate("content", "%s of %s, delta %d: %+v is stored, %+v was sent", o.author, name, i, d, q)
			}
		}
		w.checkCondition(name, t, o, at[0])
		order = append(order, placed{o, r.first})
	}
	for _, a := range order {
		for _, b := range order {
			if a.o.state == acked && a.o.end < b.o.firstBegin() && b.v.Less(a.v) {
				w.violate("order", "%s was sent after the answer to %s and comes before it in %s: %s, %s", b.o.author, a.o.author, name, b.v, a.v)
			}
		}
	}
}

// firstBegin is when the first attempt of a write began.
func (o *op) firstBegin() int {
	for o.again != nil {
		o = o.again
	}
	return o.begin
}

// maybe tells whether another attempt of a write may have been committed.
func (w *world) maybe(o *op) bool {
	return slices.ContainsFunc(w.ops, func(q *op) bool {
		return q.kind == o.kind && q.author == o.author && q.state != rejected
	})
}

// forgotten tells runs of one id of which all but the last were purged before that
// came: a rebuild may then not know the id any more.
func (t *truth) forgotten(at []int) bool {
	for k, i := range at[1:] {
		if !slices.ContainsFunc(t.runs[at[k]+1:i], func(r truthRun) bool { return r.purge() }) {
			return false
		}
	}
	return true
}

// checkCondition holds a conditional write that is in the history to what
// stood before it.
func (w *world) checkCondition(name string, t *truth, o *op, i int) {
	var before engine.Version
	if i > 0 {
		before = t.runs[i-1].last
	}
	if o.options.IfVersion != nil && *o.options.IfVersion != before {
		w.violate("condition", "%s of %s is conditional on %s and came after %s", o.author, name, *o.options.IfVersion, before)
	}
	if doc, there := t.docs[before]; o.options.IfAbsent && there {
		w.violate("condition", "%s of %s is conditional on absence and met %q", o.author, name, clip(doc))
	}
}

func (w *world) checkReads(name string, t *truth) {
	var reads []*op
	for _, o := range w.ops {
		if o.catalog != name || o.state != acked {
			continue
		}
		switch o.kind {
		case "log":
			w.checkLog(name, t, fmt.Sprintf("log read %d", o.id), o.log, o.end, false)
		case "read":
			reads = append(reads, o)
		}
	}
	for _, r := range reads {
		if !t.heads[r.version] {
			w.violate("I2", "read %d of %s saw version %s, which is no prefix of the history", r.id, name, r.version)
			continue
		}
		if doc, there := t.docs[r.version]; doc != r.body || there == r.absent {
			w.violate("I7", "read %d of %s at %s saw %q, a replay gives %q", r.id, name, r.version, clip(r.body), clip(doc))
		}
		for _, o := range w.ops {
			if (o.kind == "write" || o.kind == "purge") && o.catalog == name && o.state == acked && o.end < r.begin && r.version.Less(o.result.Version) {
				w.violate("I3", "read %d of %s at %s misses %s at %s, acknowledged before it began", r.id, name, r.version, o.author, o.result.Version)
			}
		}
		for _, q := range reads {
			if q.end < r.begin && r.version.Less(q.version) {
				w.violate("I2", "read %d of %s at %s is older than read %d before it, at %s", r.id, name, r.version, q.id, q.version)
			}
		}
	}
}

// checkObjects holds every snapshot and pack against the replay, registered or
// not.
func (w *world) checkObjects(name string, t *truth) {
	ctx := context.Background()
	for o := range w.bucket.List(ctx, engine.CatalogDir(name)+"/", "") {
		start, stop := spanOf(o.Key)
		b, err := w.bucket.Get(ctx, o.Key)
		if err != nil || stop.IsZero() || !t.heads[stop] || !t.heads[start] {
			w.violate("snapshot", "%s does not begin and end with runs of the history", o.Key)
			continue
		}
		for _, at := range t.purges() {
			if start.Less(at) && !stop.Less(at) {
				w.violate("purge", "%s goes past the purge at %s", o.Key, at)
			}
		}
		if strings.HasSuffix(o.Key, ".snap") {
			f, _, err := codec.Decode(b, codec.Options{})
			if doc := t.docs[stop]; err != nil || string(f.Payload) != doc {
				w.violate("snapshot", "%s holds %q, a replay gives %q (%v)", o.Key, clip(string(f.Payload)), clip(doc), err)
			}
			continue
		}
		i := slices.IndexFunc(t.log, func(d truthDelta) bool { return start.Less(d.version) || start == stop && d.version == stop })
		for f, err := range codec.Frames(b, codec.Options{}) {
			if err != nil {
				w.violate("damage", "%s: %v", o.Key, err)
				break
			}
			for k, d := range parseDeltas(f.Payload, true) {
				v := engine.Version{Sec: f.First.Sec, Seq: f.First.Seq}.Add(k)
				if i < 0 || i >= len(t.log) || t.log[i].version != v || d.Path != t.log[i].delta.Path || !bytes.Equal(d.Body, t.log[i].delta.Body) {
					w.violate("pack", "%s holds %+v at %s, which is not in the history", o.Key, d, v)
					break
				}
				i++
			}
		}
		if i <= 0 || t.log[i-1].version != stop {
			w.violate("pack", "%s does not end at its stop", o.Key)
		}
	}
}
