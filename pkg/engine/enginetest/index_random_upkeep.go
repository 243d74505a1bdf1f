package enginetest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

func (d *driver) foldOne() {
	name := d.name()
	f := engine.Fold{Epoch: d.epoch, Catalog: name}
	snaps, log := d.snaps[name], d.logs[name]
	if len(snaps) > 0 {
		f.Snapshot.Start = snaps[len(snaps)-1].Stop
	}
	if len(log) > 0 {
		f.Snapshot.Stop = log[len(log)-1-d.rnd.IntN(min(4, len(log)))].Last
	}
	switch d.rnd.IntN(12) {
	case 0:
		f.Snapshot.Stop = f.Snapshot.Stop.Add(1)
	case 1:
		f.Snapshot.Start = f.Snapshot.Start.Add(1)
	case 2: // the latest again
		if len(snaps) > 0 {
			f.Snapshot = snaps[len(snaps)-1]
		}
	}
	if slices.ContainsFunc(snaps[:max(0, len(snaps)-1)], func(s engine.Snapshot) bool { return s.Start == f.Snapshot.Start && s.Stop == f.Snapshot.Stop }) {
		return // repeating a fold that is not the latest any more: success or ErrStale
	}
	f.Snapshot = snapshot(f.Snapshot.Start, f.Snapshot.Stop)
	d.same(fmt.Sprintf("fold %+v", f), func(x IndexUnderTest) string {
		err := x.Fold(d.Context(), f)
		if x == d.x && err == nil && !slices.Contains(d.snaps[name], f.Snapshot) {
			d.snaps[name] = append(d.snaps[name], f.Snapshot)
		}
		return class(err)
	})
}

func (d *driver) snapshotsOf() {
	name, limit := d.name(), 1+d.rnd.IntN(5)
	after := engine.Version{}
	if snaps := d.snaps[name]; len(snaps) > 0 && d.rnd.IntN(2) == 0 {
		after = snaps[d.rnd.IntN(len(snaps))].Stop
	}
	d.same(fmt.Sprintf("snapshots of %q after %s, %d", name, after, limit), func(x IndexUnderTest) string {
		got, err := x.Snapshots(d.Context(), d.epoch, name, after, limit)
		return fmt.Sprintf("%s %+v", class(err), got)
	})
}

func (d *driver) catalogsOf() {
	prefix, after, limit := "", "", 1+d.rnd.IntN(8)
	if d.rnd.IntN(2) == 0 {
		prefix = d.name()[:1]
	}
	if d.rnd.IntN(2) == 0 {
		after = d.name()
	}
	d.same(fmt.Sprintf("catalogs %q after %q, %d", prefix, after, limit), func(x IndexUnderTest) string {
		got, err := x.Catalogs(d.Context(), d.epoch, prefix, after, limit)
		return fmt.Sprintf("%s %+v", class(err), got)
	})
}

func (d *driver) stuckNow() {
	d.same("stuck", func(x IndexUnderTest) string {
		got, err := x.Stuck(d.Context(), d.epoch)
		var lines []string // equal times have no order
		for i, s := range got {
			if i > 0 && s.Since.Before(got[i-1].Since) {
				d.Fatalf("stuck: got %+v, want the oldest first", got)
			}
			slices.Sort(s.Shards)
			s.Since, s.Heartbeat, s.Now = s.Since.UTC(), s.Heartbeat.UTC(), s.Now.UTC()
			lines = append(lines, fmt.Sprintf("%+v", s))
		}
		slices.Sort(lines)
		return class(err) + " " + strings.Join(lines, " | ")
	})
}

func (d *driver) planOf() {
	s := d.old()
	if s == nil {
		return
	}
	shard := engine.Shard(s.asked[d.rnd.IntN(len(s.asked))].Catalog)
	d.same(fmt.Sprintf("plan of %s in shard %d", s.id, shard), func(x IndexUnderTest) string {
		got, err := x.Plan(d.Context(), d.epoch, shard, s.id)
		return fmt.Sprintf("%s %+v", class(err), got)
	})
}

// drain reads the outbox and sometimes trims it. Of a catalog, what one writer
// committed at one time may be one event or several. What is published again may
// come more than once, and in other pieces: then only how far the events go is
// compared.
func (d *driver) drain() {
	trim, again := d.rnd.IntN(2) == 0, d.republished
	d.republished = d.republished && !trim
	d.same(fmt.Sprintf("outbox, trim %v", trim), func(x IndexUnderTest) string {
		got, err := x.Next(d.Context(), d.epoch, shardsOf(d.names...), 1_000_000)
		events, heard := make(map[string][]engine.Event), make(map[string]engine.Version)
		for _, b := range got {
			for _, e := range b.Events {
				if e.Kind == engine.EventCommitted {
					heard[e.Catalog] = engine.MaxVersion(heard[e.Catalog], e.Version)
				}
				list := events[e.Catalog]
				if n := len(list); n > 0 && e.Kind == engine.EventCommitted && list[n-1].Kind == e.Kind && list[n-1].Version == e.Prev && list[n-1].Writer == e.Writer && list[n-1].Time == e.Time {
					e.First, e.Prev, e.Count, e.Bytes = list[n-1].First, list[n-1].Prev, e.Count+list[n-1].Count, e.Bytes+list[n-1].Bytes
					list = list[:n-1]
				}
				events[e.Catalog] = append(list, e)
			}
			if trim {
				if err := x.Trim(d.Context(), d.epoch, b.Shard, b.UpTo); err != nil {
					d.Fatalf("trim shard %d up to %q: %v", b.Shard, b.UpTo, err)
				}
			}
		}
		if again {
			return fmt.Sprintf("%s %v", class(err), heard)
		}
		return fmt.Sprintf("%s %+v", class(err), events) // maps print in the order of their keys
	})
}

// tick steps the clock, mostly forward. The heartbeat after it moves the mark:
// which other methods move it need not be known then.
func (d *driver) tick() {
	if d.set == nil {
		return
	}
	step := []time.Duration{time.Millisecond, 100 * time.Millisecond, 999 * time.Millisecond, time.Second, 2 * time.Second, -time.Second, -20 * time.Second}[d.rnd.IntN(7)]
	// Plans live for ten minutes: stay below that, the adapter's timers may not follow the clock.
	if next := d.now.Add(step); next.Sub(start) < 5*time.Minute && start.Sub(next) < time.Minute {
		d.now = next
	}
	if d.now.After(d.latest) {
		d.latest = d.now
	}
	d.history = append(d.history, fmt.Sprintf("clock %v", d.now))
	d.set(d.now)
	d.heartbeat()
}

func (d *driver) heartbeat() { d.heartbeatOf("writer" + []string{"aa", "bb"}[d.rnd.IntN(2)]) }

func (d *driver) heartbeatOf(writer string) {
	d.same("heartbeat of "+writer, func(x IndexUnderTest) string {
		now, err := x.Heartbeat(d.Context(), d.epoch, writer)
		if d.model == nil {
			return class(err)
		}
		return fmt.Sprintf("%s %v", class(err), now.UTC())
	})
}

func (d *driver) oldEpoch() {
	s := &drawn{id: d.segment(), asked: []engine.Reserve{reserve(d.name(), 1)}}
	for _, r := range d.askPreCommit(s, d.epoch+uint64(2*d.rnd.IntN(2))-1) {
		d.is(r.Err, engine.ErrEpoch)
	}
}

func (d *driver) events(on bool) {
	d.on = on
	d.same(fmt.Sprintf("events %v", on), func(x IndexUnderTest) string { return class(x.SetEvents(d.Context(), on)) })
}

// newEpoch fences all shards, puts back some of what was undecided, as if its
// segments had been sealed, adopts a snapshot here and there, resolves what is
// left and opens.
func (d *driver) newEpoch() {
	d.condemnSome()
	d.epoch++
	each := func(what string, call func(x IndexUnderTest, shard int) string) {
		d.same(what, func(x IndexUnderTest) string {
			var text []string
			for shard := range engine.Shards {
				text = append(text, call(x, shard))
			}
			return strings.Join(text, " ")
		})
	}
	each(fmt.Sprintf("fence %d", d.epoch), func(x IndexUnderTest, shard int) string { return class(x.Fence(d.Context(), shard, d.epoch)) })
	d.same("epochs", func(x IndexUnderTest) string {
		got, err := x.Epochs(d.Context())
		for i := range got {
			got[i].Mark = got[i].Mark.UTC()
			if d.model == nil || i == d.condemned { // an index may keep the mark
				got[i].Mark = time.Time{}
			}
		}
		return fmt.Sprintf("%s %+v", class(err), got)
	})

	restores := make([]engine.Restore, engine.Shards)
	emptied := d.emptySome(each)
	for _, name := range d.names {
		shard := engine.Shard(name)
		log, snaps := d.logs[name], d.snaps[name]
		if emptied[shard] {
			d.refill(&restores[shard], name)
			continue
		}
		restores[shard].Republish = d.rnd.IntN(4) == 0
		if d.rnd.IntN(4) == 0 && len(log) > 0 {
			s := snapshot(engine.Version{}, log[d.rnd.IntN(len(log))].Last)
			if len(snaps) > 0 {
				s.Start = snaps[len(snaps)-1].Stop
			}
			restores[shard].Snapshots = append(restores[shard].Snapshots, engine.RestoreSnapshot{Catalog: name, Snapshot: s})
			if len(snaps) == 0 || snaps[len(snaps)-1].Stop.Less(s.Stop) {
				d.snaps[name] = append(snaps, s)
			}
		}
		runs := slices.Clone(log[max(0, len(log)-3):]) // there already
		for _, s := range d.segments {
			if d.rnd.IntN(2) == 0 && s.id.Epoch == d.epoch-1 { // sealed
				for _, c := range s.places {
					if r := liveRun(s.id, c); c.Catalog == name && !slices.ContainsFunc(runs, func(have engine.Run) bool { return have.First == r.First }) {
						runs = append(runs, r)
					}
				}
			}
		}
		slices.SortFunc(runs, func(a, b engine.Run) int { return a.First.Compare(b.First) })
		for _, r := range runs {
			restores[shard].Runs = append(restores[shard].Runs, engine.RestoreRun{Catalog: name, Run: r, Author: "author of " + name, Prev: r.First.Add(-1)})
			head := engine.Version{}
			if snaps := d.snaps[name]; len(snaps) > 0 {
				head = snaps[len(snaps)-1].Stop
			}
			if log := d.logs[name]; len(log) > 0 {
				head = engine.MaxVersion(head, log[len(log)-1].Last)
			}
			if head.Less(r.First) {
				d.logs[name] = append(d.logs[name], r)
			}
		}
	}
	for _, r := range restores {
		d.republished = d.republished || r.Republish
	}
	times := 1 + d.rnd.IntN(2)
	each(fmt.Sprintf("restore %+v", restores), func(x IndexUnderTest, shard int) string {
		for range times {
			if err := x.Restore(d.Context(), shard, d.epoch, restores[shard]); err != nil {
				return class(err)
			}
		}
		return class(nil)
	})
	each("resolve", func(x IndexUnderTest, shard int) string {
		list, err := x.Reservations(d.Context(), shard, d.epoch)
		var names []string
		for _, s := range list {
			names = append(names, s.String())
			if err == nil {
				var sealed []engine.RunKey
				for _, r := range restores[shard].Runs {
					if r.Run.Segment == s {
						sealed = append(sealed, engine.RunKey{Catalog: r.Catalog, First: r.Run.First})
					}
				}
				err = x.Resolve(d.Context(), shard, d.epoch, s, sealed)
			}
		}
		slices.Sort(names)
		return fmt.Sprint(class(err), names)
	})
	var floor int64
	if d.set != nil {
		floor = max(d.floor, d.now.Unix()-3+int64(d.rnd.IntN(6))) // one that is condemned may forget it
		d.floor = floor
	}
	each(fmt.Sprintf("open, floor %d", floor), func(x IndexUnderTest, shard int) string {
		return class(x.Open(d.Context(), shard, d.epoch, floor))
	})
	d.events(d.on)
	for _, writer := range []string{"writeraa", "writerbb", "writercc"} { // who is emptied may forget them
		d.heartbeatOf(writer)
	}
}
