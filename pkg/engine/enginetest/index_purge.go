package enginetest

import (
	"slices"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

// purged is the snapshot of a purge.
func purged(at engine.Version) engine.Snapshot {
	return engine.Snapshot{Start: at, Stop: at, PackBytes: 90}
}

// purge commits a purge.
func (f *fixture) purge(catalog string) engine.Run {
	f.Helper()
	s := f.segment()
	first := f.reserve(s, engine.Reserve{Catalog: catalog, N: 1, Type: merge.Purge, Path: "/"})[0]
	c := place(catalog, first, 1)
	c.Type, c.Path = merge.Purge, "/"
	f.committed(s, c)
	runs := f.view(catalog).Runs
	return runs[len(runs)-1]
}

func (f *fixture) foldPurge(catalog string, at engine.Version) error {
	f.Helper()
	return f.x.Fold(f.Context(), engine.Fold{Epoch: f.epoch, Catalog: catalog, Snapshot: purged(at)})
}

var purgeCases = []indexCase{
	{name: "Purge/takes the place of whatever was before", run: func(f *fixture) {
		shard := engine.Shard("users")
		a, b := f.write("users", 2), f.write("users", 1)
		f.ok(f.fold("users", engine.Version{}, a.Last))
		p := f.purge("users")
		f.equal("type", p.Type, merge.Purge)
		f.is(f.foldPurge("users", b.Last.Add(-5)), engine.ErrStale)
		f.is(f.foldPurge("users", p.Last.Add(1)), engine.ErrStale)
		c := f.write("users", 1)
		for range 2 {
			f.ok(f.foldPurge("users", p.Last))
		}
		f.wantRuns("users", c)
		f.equal("latest", f.view("users").Snapshot, purged(p.Last))
		f.is(f.foldPurge("users", a.Last), engine.ErrStale)
		f.is(f.fold("users", a.Last, c.Last), engine.ErrStale) // of a fold that began before
		garbage := f.garbage(shard)
		for _, s := range []engine.SegmentID{a.Segment, b.Segment, p.Segment} {
			f.equal("garbage", slices.Contains(garbage, s), true)
		}
		f.ok(f.fold("users", p.Last, c.Last))
		f.equal("latest", f.view("users").Snapshot, snapshot(p.Last, c.Last))
	}},
	{name: "Purge/of a catalog that was never folded, and again", run: func(f *fixture) {
		f.is(f.foldPurge("users", engine.Version{Sec: 5, Seq: 1}), engine.ErrStale)
		f.write("users", 3)
		p := f.purge("users")
		f.ok(f.foldPurge("users", p.Last))
		f.wantRuns("users")
		f.write("users", 1)
		q := f.purge("users")
		f.ok(f.foldPurge("users", q.Last))
		f.ok(f.foldPurge("users", p.Last)) // a repetition, late
		v := f.view("users")
		f.equal("latest", v.Snapshot, purged(q.Last))
		f.equal("head", v.Head, q.Last)
		f.equal("deltas", v.Deltas, int64(0))
	}},
	{name: "Purge/more runs than a step takes", run: func(f *fixture) {
		for range 1100 {
			f.write("users", 1)
		}
		p := f.purge("users")
		f.ok(f.x.SetEvents(f.Context(), true))
		f.ok(f.foldPurge("users", p.Last))
		f.wantRuns("users")
		f.equal("events", len(f.outbox(engine.Shard("users"))), 1)
		f.equal("folded", f.outbox(engine.Shard("users"))[0].Count, int64(1101))
	}},
	{name: "Purge/the event", clock: true, run: func(f *fixture) {
		f.ok(f.x.SetEvents(f.Context(), true))
		a := f.write("users", 3)
		p := f.purge("users")
		f.ok(f.foldPurge("users", p.Last))
		got := f.outbox(engine.Shard("users"))
		f.equal("events", len(got), 3)
		f.equal("committed", []engine.Version{got[1].Prev, got[1].Version}, []engine.Version{a.Last, p.Last})
		f.equal("event", got[2], engine.Event{
			V: 1, Catalog: "users", Kind: engine.EventPurged, First: a.First, Version: p.Last, Count: 4, Time: start.UnixMilli(),
		})
	}},
	{name: "Purge/dropped, its objects stay", run: func(f *fixture) {
		shard := engine.Shard("users")
		a := f.write("users", 1)
		f.ok(f.fold("users", engine.Version{}, a.Last))
		p := f.purge("users")
		f.ok(f.foldPurge("users", p.Last))
		b := f.write("users", 1)
		f.ok(f.fold("users", p.Last, b.Last))
		f.equal("left", f.drop("users", b.Last, 10), 0)
		snaps, err := f.x.Snapshots(f.Context(), f.epoch, "users", engine.Version{}, 10)
		f.ok(err)
		f.equal("snapshots", snaps, []engine.Snapshot{snapshot(p.Last, b.Last)})
		var dropped []engine.Version
		for _, g := range f.pieces(shard) {
			if g.Segment.IsZero() {
				dropped = append(dropped, g.Snapshot.Stop)
			}
		}
		f.equal("garbage", dropped, []engine.Version{a.Last})
	}},
	{name: "Purge/adopted and restored", run: func(f *fixture) {
		name, shard := "users", engine.Shard("users")
		a := f.write(name, 2)
		p := f.purge(name)
		q := f.purge(name)
		f.reopen(f.epoch+1, shard, func() {
			f.ok(f.x.Empty(f.Context(), shard, f.epoch+1))
			f.ok(f.x.Restore(f.Context(), shard, f.epoch+1, engine.Restore{Snapshots: []engine.RestoreSnapshot{{Catalog: name, Snapshot: purged(p.Last)}}}))
			f.ok(f.x.Restore(f.Context(), shard, f.epoch+1, engine.Restore{Runs: []engine.RestoreRun{{Catalog: name, Run: a}, {Catalog: name, Run: p}, {Catalog: name, Run: q}}}))
		})
		v := f.wantRuns(name, q)
		f.equal("latest", v.Snapshot, purged(p.Last))
		f.ok(f.foldPurge(name, q.Last))
		f.wantRuns(name)
	}},
}
