package enginetest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jsonlake/lake/pkg/engine"
)

// The part of the random operations that ends things: garbage, relocation,
// retention, and shards that begin anew.

func (d *driver) shard() int { return engine.Shard(d.name()) }

// garbageIn lists a shard's garbage, and gives what the index under test says.
func (d *driver) garbageIn(shard int) (list []engine.Garbage) {
	d.same(fmt.Sprintf("garbage of shard %d", shard), func(x IndexUnderTest) string {
		got, err := x.Garbage(d.Context(), d.epoch, shard, 10_000)
		if x == d.x {
			list = got
		}
		var lines []string
		for i, g := range got {
			if i > 0 && g.Since.Before(got[i-1].Since) {
				d.Fatalf("garbage: got %+v, want the oldest first", got)
			}
			lines = append(lines, fmt.Sprintf("%s %q %s~%s since %v", g.Segment, g.Catalog, g.Snapshot.Start, g.Snapshot.Stop, g.Since.UTC()))
		}
		slices.Sort(lines)
		return class(err) + " " + strings.Join(lines, " | ")
	})
	return list
}

func (d *driver) garbageOf() { d.garbageIn(d.shard()) }

// someSegments draws segments, old, young and moved to.
func (d *driver) someSegments() (list []engine.SegmentID) {
	for range 1 + d.rnd.IntN(4) {
		if s := d.old(); s != nil {
			list = append(list, s.id)
		}
		if len(d.moves) > 0 && d.rnd.IntN(3) == 0 {
			list = append(list, d.moves[d.rnd.IntN(len(d.moves))].To)
		}
	}
	return list
}

func (d *driver) unusedOf() {
	list := d.someSegments()
	for _, g := range d.garbageIn(d.shard()) {
		if !g.Segment.IsZero() && d.rnd.IntN(4) == 0 {
			list = append(list, g.Segment)
		}
	}
	if len(list) == 0 {
		return
	}
	d.same(fmt.Sprintf("unused %v", list), func(x IndexUnderTest) string {
		got, err := x.Unused(d.Context(), d.epoch, list)
		text := class(err)
		for _, u := range got {
			text += fmt.Sprint(" ", u.Needed, u.Since.UTC())
		}
		return text
	})
}

func (d *driver) forgetSome() {
	shard := d.shard()
	list := slices.DeleteFunc(slices.Clone(d.garbageIn(shard)), func(engine.Garbage) bool { return d.rnd.IntN(2) == 0 })
	for _, s := range d.someSegments() { // which may be none
		if d.rnd.IntN(4) == 0 {
			list = append(list, engine.Garbage{Segment: s})
		}
	}
	if len(list) == 0 {
		return
	}
	d.same(fmt.Sprintf("forget in shard %d %+v", shard, list), func(x IndexUnderTest) string {
		return class(x.Forget(d.Context(), d.epoch, shard, list))
	})
	d.garbageIn(shard)
}

func (d *driver) abandonSome() {
	shard, list := d.shard(), d.someSegments()
	if len(list) == 0 {
		return
	}
	d.same(fmt.Sprintf("abandon in shard %d %v", shard, list), func(x IndexUnderTest) string {
		return class(x.Abandon(d.Context(), d.epoch, shard, list))
	})
	d.garbageIn(shard)
}

func (d *driver) liveOf() {
	shard, older := d.shard(), start.Unix()+int64(d.rnd.IntN(2))
	d.same(fmt.Sprintf("live in shard %d before %d", shard, older), func(x IndexUnderTest) string {
		got, err := x.Live(d.Context(), d.epoch, shard, older, 10_000)
		var names []string
		for _, s := range got {
			names = append(names, s.String())
		}
		slices.Sort(names)
		return fmt.Sprint(class(err), names)
	})
}

// relocateSome moves runs, live or not, to a segment of their own, asks where they
// stand, or moves once more what was moved.
func (d *driver) relocateSome() {
	var r engine.Relocate
	if len(d.moves) > 0 && d.rnd.IntN(4) == 0 {
		r = d.moves[d.rnd.IntN(len(d.moves))]
	} else {
		for _, name := range d.names {
			log := d.logs[name]
			for _, run := range log[max(0, len(log)-5):] {
				if d.rnd.IntN(3) > 0 {
					continue
				}
				m := engine.Relocation{Catalog: name, First: run.First, From: run.Segment, Off: int64(d.rnd.IntN(1000)), Len: run.Len + int64(d.rnd.IntN(3))}
				if d.rnd.IntN(10) == 0 {
					m.From.N += 1000
				}
				r.Runs = append(r.Runs, m)
			}
		}
		if len(r.Runs) == 0 {
			return
		}
		if d.rnd.IntN(4) > 0 {
			d.n++
			r.To = engine.SegmentID{Epoch: d.epoch, Unix: start.Unix(), Writer: "writeraa", N: d.n}
			d.moves = append(d.moves, r)
		}
	}
	r.Epoch = d.epoch
	d.same(fmt.Sprintf("relocate %+v", r), func(x IndexUnderTest) string {
		got, err := x.Relocate(d.Context(), r)
		if x == d.x && err == nil && !r.To.IsZero() {
			for i, m := range r.Runs {
				at := slices.IndexFunc(d.logs[m.Catalog], func(run engine.Run) bool { return run.First == m.First })
				if got[i] && at >= 0 && d.logs[m.Catalog][at].Segment == m.From {
					run := &d.logs[m.Catalog][at]
					run.Segment, run.Off, run.Len = r.To, m.Off, m.Len
				}
			}
		}
		return fmt.Sprint(class(err), got)
	})
}

// dropSome gives old snapshots up, without a limit: a client that sends the call
// twice may drop twice as many.
func (d *driver) dropSome() {
	name := d.name()
	snaps := d.snaps[name]
	q := engine.Drop{Epoch: d.epoch, Catalog: name, Limit: 1000}
	if len(snaps) > 0 {
		q.Before = snaps[d.rnd.IntN(len(snaps))].Stop.Add(d.rnd.IntN(2))
	}
	d.same(fmt.Sprintf("drop %+v", q), func(x IndexUnderTest) string {
		left, err := x.Drop(d.Context(), q)
		return fmt.Sprint(class(err), left)
	})
	for n := 0; n < q.Limit && len(snaps) > 1 && snaps[0].Stop.Less(q.Before); n++ {
		snaps = snaps[1:]
	}
	d.snaps[name] = snaps
}

// condemnSome takes the epoch from a shard now and then.
func (d *driver) condemnSome() {
	d.condemned = -1
	if d.epoch == 0 || d.rnd.IntN(3) > 0 || d.now.Before(d.latest) {
		return // with the mark, what becomes garbage while the clock is back would differ
	}
	d.condemned = d.shard()
	for range 1 + d.rnd.IntN(2) {
		d.same(fmt.Sprintf("condemn shard %d", d.condemned), func(x IndexUnderTest) string {
			return class(x.Condemn(d.Context(), d.epoch, d.condemned))
		})
	}
}

// emptySome empties fenced shards now and then, and tells which know nothing.
func (d *driver) emptySome(each func(what string, call func(x IndexUnderTest, shard int) string)) (emptied [engine.Shards]bool) {
	if d.condemned >= 0 {
		emptied[d.condemned] = true
	}
	if d.rnd.IntN(3) == 0 {
		emptied[d.shard()] = true
	}
	if emptied == [engine.Shards]bool{} {
		return emptied
	}
	times := 1 + d.rnd.IntN(2)
	each(fmt.Sprintf("empty %v", emptied), func(x IndexUnderTest, shard int) string {
		for range times {
			if !emptied[shard] {
				break
			}
			if err := x.Empty(d.Context(), shard, d.epoch); err != nil {
				return class(err)
			}
		}
		return class(nil)
	})
	d.segments = nil // what was decided may be remembered, or not
	return emptied
}

// refill puts back all that is known of a catalog whose shard was emptied.
func (d *driver) refill(r *engine.Restore, name string) {
	r.Republish = true
	for _, s := range d.snaps[name] {
		r.Snapshots = append(r.Snapshots, engine.RestoreSnapshot{Catalog: name, Snapshot: s})
	}
	var prev engine.Version
	for _, run := range d.logs[name] {
		r.Runs = append(r.Runs, engine.RestoreRun{Catalog: name, Run: run, Author: "author of " + name, Prev: prev})
		prev = run.Last
		if !slices.Contains(r.Segments, run.Segment) {
			r.Segments = append(r.Segments, run.Segment)
		}
	}
}
