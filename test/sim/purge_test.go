package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/codec"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

// purges is a client that erases catalogs. Whoever has heard nothing of its purge
// asks again with its id, as the command line does.
func (w *world) purges(client, slot int) *op {
	timeout := []time.Duration{4 * time.Second, 20 * time.Second}[w.rnd.IntN(2)]
	if o := w.latest[client]; o != nil && o.options.ID != "" && o.state != acked && w.chance(0.8) {
		return w.purge(&op{client: client, catalog: o.catalog, author: o.author, options: o.options, again: o}, slot, timeout)
	}
	o := &op{client: client, catalog: w.catalog(w.rnd.IntN(w.mix.Catalogs)), author: fmt.Sprintf("w%d.%d", client, len(w.ops))}
	if w.chance(0.7) && !w.mix.Retain { // as in write
		o.options.ID = o.author
	}
	sent := w.purge(o, slot, timeout)
	if sent != nil && w.chance(0.4) {
		w.at(w.about(700*time.Millisecond), "kill", func() {
			if sent.p.dead.Load() || w.healed {
				return
			}
			if !sent.over {
				w.counters.add("killed in a purge")
			}
			w.restart(sent.p.slot, w.between(50*time.Millisecond, 8*time.Second), bootMode{})
		})
	}
	return sent
}

func (w *world) purge(o *op, slot int, timeout time.Duration) *op {
	o.kind, o.deltas = "purge", []engine.WriteRequest{{Path: "/", MergeType: merge.Purge}}
	sent := w.begin(o, slot, timeout, func(ctx context.Context, e *engine.Engine) answer {
		r, err := e.Purge(ctx, engine.PurgeRequest{Catalog: o.catalog, Author: o.author, ID: o.options.ID})
		return answer{receipt: r, err: err}
	})
	if sent != nil {
		w.latest[o.client] = sent
	}
	return sent
}

// purged judges the answer to a purge.
func (w *world) purged(o *op) {
	switch o.result = (engine.WriteResult{Version: o.receipt.Version, First: o.receipt.Version, Count: 1}); {
	case o.err == nil:
		o.state = acked
		if left := w.before(o.catalog, o.receipt.Version); o.receipt.Complete && len(left) > 0 {
			w.violate("purge", "of %s at %s: %+v, and %v is still there", o.catalog, o.receipt.Version, o.receipt, left)
		}
	case !o.receipt.Version.IsZero(): // committed, and not erased yet
		o.state = unknown
		w.counters.add("purges interrupted by an error")
	case errors.Is(o.err, engine.ErrNotFound):
		o.state = rejected
	default:
		return
	}
}

// before lists what the bucket holds of a catalog from before a version.
func (w *world) before(catalog string, at engine.Version) (keys []string) {
	ctx := context.Background()
	for o := range w.bucket.List(ctx, engine.CatalogDir(catalog)+"/", "") {
		if start, stop := spanOf(o.Key); start.Less(at) {
			keys = append(keys, fmt.Sprintf("%s (to %s)", o.Key, stop))
		}
	}
	for o := range w.bucket.List(ctx, "wal/", "") {
		b, _ := w.bucket.Get(ctx, o.Key)
		for f, err := range codec.Frames(b, codec.Options{}) {
			if err == nil && f.Kind == codec.KindRun && f.Catalog == catalog && versionOf(f.First).Less(at) {
				keys = append(keys, o.Key)
				break
			}
		}
	}
	return keys
}

func versionOf(v codec.Version) engine.Version { return engine.Version{Sec: v.Sec, Seq: v.Seq} }

// spanOf tells which versions a snapshot or pack is of, by its key.
func spanOf(key string) (start, stop engine.Version) {
	file := key[strings.LastIndexByte(key, '/')+1:]
	span, _, _ := strings.Cut(file, ".")
	a, z, _ := strings.Cut(span, "~")
	start, err1 := engine.ParseVersion(a)
	stop, err2 := engine.ParseVersion(z)
	if err1 != nil || err2 != nil {
		return engine.Version{}, engine.Version{}
	}
	return start, stop
}

// erased lets a lake without faults bring all purges to their end, and holds the
// bucket to what it promises then: nothing of what was purged is there any more.
func (w *world) erased(p *process) {
	const pause = 2 * time.Second
	if w.offset < w.furthest { // a record of a purge may be from a time that the clock has left again
		w.turnClock(w.furthest - w.offset)
	}
	w.run(time.Second, func() bool { return false })
	for c := range w.mix.Catalogs { // a purge whose process died is in the log only
		for done, more := false, true; more; done = false {
			go func() {
				r, err := p.engine.Fold(context.Background(), w.catalog(c))
				w.arrive(arrival{who: p.who, op: "folded", do: func() {
					if done, more = true, r.More; err != nil {
						w.violate("purge", "fold of %s, without faults: %v", w.catalog(c), err)
					}
				}})
			}()
			if !w.run(time.Minute, func() bool { return done }) {
				w.violate("purge", "fold of %s does not end", w.catalog(c))
				return
			}
		}
	}
	var left []string
	over := func() bool {
		w.drainEvents(p)
		left = nil
		for o := range w.bucket.List(context.Background(), "_lake/purge/", "") {
			left = append(left, o.Key)
		}
		return len(left) == 0
	}
	if from := w.now(); !w.run(2*w.mix.Grace+time.Minute, every(w, pause, over)) {
		w.violate("purge", "%v after the last fault %v is not at its end", w.now()-from, left)
	}
}

// truth's purges, newest last.
func (t *truth) purges() (at []engine.Version) {
	for _, r := range t.runs {
		if r.purge() {
			at = append(at, r.last)
		}
	}
	return at
}

func (r *truthRun) purge() bool {
	return r.n == 1 && len(r.deltas) == 1 && r.deltas[0].Type == merge.Purge
}

// checkPurges holds a catalog to its purges.
func (w *world) checkPurges(name string, t *truth) {
	all := t.purges()
	if len(all) > 0 && w.mix.Purges > 0 {
		newest := all[len(all)-1]
		w.counters.addN("purges in histories", len(all))
		if left := w.before(name, newest); len(left) > 0 {
			w.violate("purge", "%s was purged at %s, all is over, and %v is still there", name, newest, left)
		}
	}
	for _, o := range w.ops {
		if o.kind != "purge" || o.catalog != name || o.result.Version.IsZero() {
			continue
		}
		at := o.result.Version
		if !slices.Contains(all, at) {
			w.violate("lost", "the purge %s of %s was answered with version %s, where there is none", o.author, name, at)
		}
		if o.state != acked {
			continue
		}
		for _, q := range w.ops {
			switch {
			case q.catalog != name || q.state != acked:
			case q.kind == "write" && q.end < o.firstBegin() && !q.result.Version.Less(at):
				w.violate("purge", "%s of %s at %s was acknowledged before the purge at %s was asked for", q.author, name, q.result.Version, at)
			case q.begin <= o.end:
			case q.kind == "past" && q.at.Less(at) && !q.gone:
				w.violate("purge", "read %d of %s at %s, after the purge at %s, got %q", q.id, name, q.at, at, clip(q.body))
			case q.kind == "log" && len(q.log) > 0 && q.log[0].Version.Less(at):
				w.violate("purge", "log read %d of %s, after the purge at %s, begins at %s", q.id, name, at, q.log[0].Version)
			}
		}
		for _, f := range []*final{w.last[name], w.rebuilt[name], w.cleared[name]} {
			if f != nil && len(f.log) > 0 && f.log[0].Version.Less(at) {
				w.violate("purge", "the log of %s, purged at %s, begins at %s in the end", name, at, f.log[0].Version)
			}
		}
	}
}

// past is a client that reads at a version that somebody was answered.
func (w *world) past(client, slot int) *op {
	var known []*op
	for _, o := range w.ops {
		if o.kind == "write" && o.state == acked {
			known = append(known, o)
		}
	}
	if len(known) == 0 {
		return nil
	}
	q := known[w.rnd.IntN(len(known))]
	at := q.result.Version
	return w.begin(&op{kind: "past", client: client, catalog: q.catalog, at: at}, slot, 10*time.Second, func(ctx context.Context, e *engine.Engine) answer {
		r, err := e.Read(ctx, engine.ReadRequest{Catalog: q.catalog, At: engine.AtVersion(at)})
		return answer{version: r.Version, body: r.Body, err: err}
	})
}

// checkPast: the past is what a replay gives, or given up.
func (w *world) checkPast(name string, t *truth) {
	for _, o := range w.ops {
		if o.kind != "past" || o.catalog != name || o.state != acked {
			continue
		}
		if o.gone {
			purged := slices.ContainsFunc(t.purges(), func(p engine.Version) bool { return o.at.Less(p) })
			if !purged && !o.at.Less(w.goneBefore(name, o.end)) {
				w.violate("past", "read %d of %s at %s: %v, and nobody gave it up", o.id, name, o.at, o.err)
			}
			w.counters.add("pasts that are gone")
			continue
		}
		if doc, there := t.docs[o.at]; doc != o.body || there == o.absent || !o.absent && o.version != o.at {
			w.violate("past", "read %d of %s at %s saw %q at %s, a replay gives %q", o.id, name, o.at, clip(o.body), o.version, clip(doc))
		}
	}
}
