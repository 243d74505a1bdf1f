package enginetest

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// pieces lists a shard's garbage whole.
func (f *fixture) pieces(shard int) []engine.Garbage {
	f.Helper()
	list, err := f.x.Garbage(f.Context(), f.epoch, shard, 1000)
	f.ok(err)
	return list
}

func (f *fixture) usage(segments ...engine.SegmentID) []engine.Usage {
	f.Helper()
	usages, err := f.x.Unused(f.Context(), f.epoch, segments)
	f.ok(err)
	return usages
}

// unused is since when no shard needs segments; zero when one does, or none knows them.
func (f *fixture) unused(segments ...engine.SegmentID) []time.Time {
	f.Helper()
	var since []time.Time
	for _, u := range f.usage(segments...) {
		since = append(since, u.Since)
	}
	return since
}

func (f *fixture) relocate(to engine.SegmentID, runs ...engine.Relocation) []bool {
	f.Helper()
	got, err := f.x.Relocate(f.Context(), engine.Relocate{Epoch: f.epoch, To: to, Runs: runs})
	f.ok(err)
	return got
}

func (f *fixture) drop(catalog string, before engine.Version, limit int) int {
	f.Helper()
	n, err := f.x.Drop(f.Context(), engine.Drop{Epoch: f.epoch, Catalog: catalog, Before: before, Limit: limit})
	f.ok(err)
	return n
}

func (f *fixture) live(shard int, older int64) []string {
	f.Helper()
	list, err := f.x.Live(f.Context(), f.epoch, shard, older, 1000)
	f.ok(err)
	names := []string{}
	for _, s := range list {
		names = append(names, s.String())
	}
	slices.Sort(names)
	return names
}

// reopen does what a recovery does around a shard's restore.
func (f *fixture) reopen(n uint64, shard int, fill func()) {
	f.Helper()
	for s := range engine.Shards {
		f.ok(f.x.Fence(f.Context(), s, n))
		if s == shard {
			fill()
		}
		f.ok(f.x.Open(f.Context(), s, n, 0))
	}
	f.epoch = n
}

var garbageCases = []indexCase{
	{name: "Garbage/unused and forget", clock: true, run: func(f *fixture) {
		a, b := f.write("users", 1), f.write("users", 1)
		open, never := f.segment(), f.segment()
		f.reserveOne(open, "orders", 1)
		f.setTime(start.Add(secs(3)))
		f.ok(f.fold("users", engine.Version{}, a.Last))
		f.setTime(start.Add(secs(5)))
		f.equal("unused", fmt.Sprint(f.unused(a.Segment, b.Segment, open, never)),
			fmt.Sprint([]time.Time{start.Add(secs(3)), {}, {}, {}}))
		shard := engine.Shard("users")
		list := f.pieces(shard)
		if len(list) != 1 || list[0].Segment != a.Segment || !list[0].Since.Equal(start.Add(secs(3))) {
			f.Fatalf("garbage: got %+v, want %s since 3 s", list, a.Segment)
		}
		for range 2 {
			f.ok(f.x.Forget(f.Context(), f.epoch, shard, list))
		}
		f.ok(f.x.Forget(f.Context(), f.epoch, shard, []engine.Garbage{{Segment: b.Segment}, {Segment: never}})) // which are none
		f.equal("garbage", len(f.pieces(shard)), 0)
		f.equal("unused", f.unused(a.Segment)[0].IsZero(), true)
		f.wantRuns("users", b)
	}},
	{name: "Garbage/very much is forgotten at once", run: func(f *fixture) {
		a := f.write("users", 1)
		f.ok(f.fold("users", engine.Version{}, a.Last))
		shard := engine.Shard("users")
		var list []engine.Garbage
		for range 9000 {
			list = append(list, engine.Garbage{Segment: f.segment()})
		}
		f.ok(f.x.Forget(f.Context(), f.epoch, shard, append(list, f.pieces(shard)...)))
		f.equal("garbage", len(f.pieces(shard)), 0)
	}},
	{name: "Garbage/a segment in two shards", clock: true, run: func(f *fixture) {
		a, b := catalogIn(3, 0), catalogIn(12, 0)
		s := f.segment()
		v := f.reserve(s, reserve(a, 1), reserve(b, 1))
		f.committed(s, place(a, v[0], 1), place(b, v[1], 1))
		f.ok(f.fold(a, engine.Version{}, v[0]))
		f.equal("unused while one needs it", f.unused(s)[0].IsZero(), true)
		f.setTime(start.Add(secs(7)))
		f.ok(f.fold(b, engine.Version{}, v[1]))
		f.equal("unused", f.unused(s)[0].Equal(start.Add(secs(7))), true)
	}},
	{name: "Garbage/never before the mark", clock: true, run: func(f *fixture) {
		a := f.write("users", 1)
		f.setTime(start.Add(secs(60)))
		_, err := f.x.Heartbeat(f.Context(), f.epoch, "aaaaaaaa")
		f.ok(err)
		f.setTime(start.Add(secs(10))) // a step back
		f.ok(f.fold("users", engine.Version{}, a.Last))
		if list := f.pieces(engine.Shard("users")); len(list) != 1 || list[0].Since.Before(start.Add(secs(60))) {
			f.Fatalf("got %+v, want it garbage since the mark at 60 s", list)
		}
	}},
	{name: "Garbage/not before its events are published", clock: true, run: func(f *fixture) {
		f.ok(f.x.SetEvents(f.Context(), true))
		shard := engine.Shard("users")
		a := f.write("users", 1)
		f.setTime(start.Add(secs(1)))
		f.ok(f.fold("users", engine.Version{}, a.Last))
		f.equal("garbage", len(f.pieces(shard)), 0)
		f.equal("unused", f.unused(a.Segment)[0].IsZero(), true)
		batches, err := f.x.Next(f.Context(), f.epoch, []int{shard}, 100)
		f.ok(err)
		f.ok(f.x.Trim(f.Context(), f.epoch, shard, batches[0].UpTo))
		f.equal("garbage", f.garbage(shard), []engine.SegmentID{a.Segment})
		f.equal("unused", f.unused(a.Segment)[0].IsZero(), false)
	}},
	{name: "Abandon/what nobody knows", clock: true, run: func(f *fixture) {
		a, b := f.write("users", 1), f.write("users", 1)
		open, copied, elsewhere := f.segment(), f.segment(), f.segment()
		f.reserveOne(open, "orders", 1)
		shard := engine.Shard("users")
		f.committed(elsewhere, place(catalogIn((shard+1)%engine.Shards, 0), f.reserveOne(elsewhere, catalogIn((shard+1)%engine.Shards, 0), 1), 1))
		f.setTime(start.Add(secs(2)))
		f.ok(f.fold("users", engine.Version{}, a.Last))
		all := []engine.SegmentID{a.Segment, b.Segment, open, copied, elsewhere}
		f.equal("before", f.usage(all...), []engine.Usage{{Since: start.Add(secs(2))}, {Needed: true}, {Needed: true}, {}, {Needed: true}})
		for _, at := range []int{5, 6} {
			f.setTime(start.Add(secs(at)))
			f.ok(f.x.Abandon(f.Context(), f.epoch, shard, all))
			f.ok(f.x.Abandon(f.Context(), f.epoch, engine.Shard("orders"), []engine.SegmentID{open}))
		}
		f.equal("after", f.usage(all...), []engine.Usage{{Since: start.Add(secs(2))}, {Needed: true}, {Needed: true}, {Since: start.Add(secs(5))}, {Needed: true}})
		f.wantRuns("users", b)
		if err := f.x.Abandon(f.Context(), f.epoch+1, shard, all); !errors.Is(err, engine.ErrEpoch) {
			f.Fatalf("of another epoch: got error %v, want ErrEpoch", err)
		}
		f.equal("moved to all the same", f.relocate(copied, engine.Relocation{Catalog: "users", First: b.First, From: b.Segment, Len: 7}), []bool{true})
		f.equal("needed again", f.usage(copied), []engine.Usage{{Needed: true}})
	}},
	{name: "Live/segments that are older", run: func(f *fixture) {
		f.ok(f.x.SetEvents(f.Context(), false))
		shard := engine.Shard("users")
		old, young := f.segment(), f.segment()
		young.Unix += 100
		for _, s := range []engine.SegmentID{old, young} {
			f.committed(s, place("users", f.reserveOne(s, "users", 1), 1))
		}
		f.equal("live", f.live(shard, start.Unix()+50), []string{old.String()})
		f.equal("live", len(f.live(shard, start.Unix()+101)), 2)
		f.equal("live elsewhere", len(f.live((shard+1)%engine.Shards, start.Unix()+101)), 0)
		f.ok(f.fold("users", engine.Version{}, f.view("users").Runs[0].Last))
		f.equal("live", len(f.live(shard, start.Unix()+50)), 0)
	}},
	{name: "Relocate/live runs stand elsewhere", run: func(f *fixture) {
		a, b := f.write("users", 1), f.write("users", 3)
		other := f.write(catalogIn(5, 0), 1)
		otherName := catalogIn(5, 0)
		to := f.segment()
		moves := []engine.Relocation{
			{Catalog: "users", First: a.First, From: a.Segment, Off: 7, Len: 70},
			{Catalog: "users", First: b.First, From: b.Segment, Off: 77, Len: 700},
			{Catalog: otherName, First: other.First, From: other.Segment, Off: 777, Len: 7},
			{Catalog: "users", First: b.Last.Add(1), From: a.Segment},
			{Catalog: "unknown", First: a.First, From: a.Segment},
			{Catalog: "users", First: a.First, From: b.Segment, Off: 1, Len: 1},
		}
		f.equal("asked", f.relocate(engine.SegmentID{}, moves...), []bool{true, true, true, false, false, false})
		f.wantRuns("users", a, b)
		for range 2 {
			f.equal("moved", f.relocate(to, moves[:5]...), []bool{true, true, true, false, false})
		}
		f.equal("from elsewhere", f.relocate(f.segment(), moves[0]), []bool{false})
		f.equal("twice in one call", f.relocate(to, moves[0], moves[0]), []bool{true, true})
		oldA, oldB := a.Segment, b.Segment
		a.Segment, a.Off, a.Len = to, 7, 70
		b.Segment, b.Off, b.Len = to, 77, 700
		v := f.wantRuns("users", a, b)
		f.equal("bytes", v.Bytes, int64(770))
		f.equal("deltas", v.Deltas, int64(4))
		for i, since := range f.unused(oldA, oldB, other.Segment, to) {
			if since.IsZero() != (i == 3) {
				f.Fatalf("segment %d: got unused since %v", i, since)
			}
		}
		f.ok(f.fold("users", engine.Version{}, a.Last))
		f.equal("not garbage yet", slices.Contains(f.garbage(engine.Shard("users")), to), false)
		f.ok(f.fold("users", a.Last, b.Last))
		f.equal("garbage", slices.Contains(f.garbage(engine.Shard("users")), to), true)
		f.equal("still used elsewhere", f.unused(to)[0].IsZero(), true)
	}},
	{name: "Drop/old snapshots", run: func(f *fixture) {
		var stops []engine.Version
		var prev engine.Version
		for range 5 {
			r := f.write("users", 1)
			f.ok(f.fold("users", prev, r.Last))
			prev = r.Last
			stops = append(stops, prev)
		}
		shard := engine.Shard("users")
		segments := len(f.pieces(shard))
		f.equal("nothing below", f.drop("users", stops[0], 10), 0)
		f.equal("unknown", f.drop("unknown", stops[4], 10), 0)
		if left := f.drop("users", stops[2], 1); left > 1 { // 0 when the call is sent twice
			f.Fatalf("limited: got %d left, want at most one", left)
		}
		f.equal("the rest", f.drop("users", stops[2], 10), 0)
		f.equal("again", f.drop("users", stops[2], 10), 0)
		snaps, err := f.x.Snapshots(f.Context(), f.epoch, "users", engine.Version{}, 10)
		f.ok(err)
		if len(snaps) != 3 || snaps[0].Stop != stops[2] || snaps[0].Start != stops[1] {
			f.Fatalf("got snapshots %+v, want those from %s on", snaps, stops[2])
		}
		var dropped []engine.Garbage
		for _, g := range f.pieces(shard) {
			if g.Segment.IsZero() {
				dropped = append(dropped, g)
			}
		}
		if len(dropped) != 2 || dropped[0].Catalog != "users" || dropped[0].Snapshot.Start != (engine.Version{}) || dropped[0].Snapshot.Stop != stops[0] ||
			dropped[1].Snapshot.Start != stops[0] || dropped[1].Snapshot.Stop != stops[1] || dropped[1].Since.IsZero() {
			f.Fatalf("got garbage %+v, want the first two snapshots", dropped)
		}
		f.ok(f.x.Forget(f.Context(), f.epoch, shard, dropped[:1]))
		f.equal("garbage", len(f.pieces(shard)), segments+1)
		f.equal("the latest stays", f.drop("users", engine.Version{Sec: 1 << 40, Seq: 1}, 10), 0)
		f.equal("latest", f.view("users").Snapshot, snapshot(stops[3], stops[4]))
	}},
	{name: "Condemn/the shard knows nothing", run: func(f *fixture) {
		r := f.write("users", 1)
		f.write(catalogIn(5, 0), 1)
		shard := engine.Shard("users")
		f.is(f.x.Condemn(f.Context(), f.epoch+1, shard), engine.ErrEpoch)
		f.wantRuns("users", r)
		f.ok(f.x.Condemn(f.Context(), f.epoch, shard))
		_, err := f.x.View(f.Context(), f.epoch, "users", engine.Version{})
		f.is(err, engine.ErrEpoch)
		f.ok(f.x.Condemn(f.Context(), f.epoch, shard))
		list, err := f.x.Epochs(f.Context())
		f.ok(err)
		if list[shard].N != 0 || list[shard].Open || list[5].N != f.epoch || !list[5].Open {
			f.Fatalf("got %+v and %+v, want only shard %d without an epoch", list[shard], list[5], shard)
		}
		f.begin(f.epoch + 1)
		f.wantRuns("users")
		f.equal("the other shard's runs", len(f.view(catalogIn(5, 0)).Runs), 1)
		f.equal("live", len(f.live(shard, r.Segment.Unix+1)), 0)
		f.write("users", 1)
	}},
	{name: "Empty/while opening only", run: func(f *fixture) {
		f.ok(f.x.SetEvents(f.Context(), true))
		name, shard := "users", engine.Shard("users")
		first := f.epoch
		a := f.write(name, 1)
		f.ok(f.fold(name, engine.Version{}, a.Last))
		f.write(name, 1)
		open := f.segment()
		f.reserve(open, engine.Reserve{Catalog: name, N: 1, ID: "one", Fingerprint: [16]byte{1}})
		held, err := f.x.Acquire(f.Context(), shard, "lease", "me", time.Minute)
		f.ok(err)
		f.equal("held", held, true)
		f.is(f.x.Empty(f.Context(), shard, first+1), engine.ErrEpoch)
		f.ok(f.x.Empty(f.Context(), shard, first)) // it is open: too late
		f.equal("runs", len(f.view(name).Runs), 1)
		mark := f.epochs()[shard].Mark
		f.reopen(first+1, shard, func() {
			f.is(f.x.Empty(f.Context(), shard, first), engine.ErrEpoch)
			for range 2 {
				f.ok(f.x.Empty(f.Context(), shard, first+1))
			}
			list, err := f.x.Reservations(f.Context(), shard, first+1)
			f.ok(err)
			f.equal("reservations", len(list), 0)
			f.ok(f.x.Restore(f.Context(), shard, first+1, engine.Restore{Runs: []engine.RestoreRun{{Catalog: name, Run: a}}}))
			f.ok(f.x.Empty(f.Context(), shard, first+1)) // late: what was restored stays
		})
		e := f.epochs()[shard]
		if e.N != first+1 || !e.Open || !e.Mark.Equal(mark) {
			f.Fatalf("got %+v, want an open shard with mark %v", e, mark)
		}
		f.wantRuns(name, a)
		f.equal("view", f.view(name).Snapshot, engine.Snapshot{})
		f.equal("garbage", len(f.pieces(shard)), 0)
		f.equal("events, of the restored run", len(f.outbox(shard)), 1)
		state, err := f.x.Outcome(f.Context(), f.epoch, name, "one")
		f.ok(err)
		f.equal("id", state, engine.IDState{})
		held, err = f.x.Acquire(f.Context(), shard, "lease", "you", time.Minute)
		f.ok(err)
		f.equal("the lease is still held", held, false)
		f.write(name, 1)
		f.equal("events are still on", len(f.outbox(shard)), 2)
	}},
	// An opener that was stopped before it emptied a shard, and goes on when another
	// has opened a later epoch.
	{name: "Empty/late, of an older epoch", run: func(f *fixture) {
		name, shard, first := "users", engine.Shard("users"), f.epoch
		a := f.write(name, 1)
		f.fence(first + 1)
		f.fence(first + 2)
		f.is(f.x.Empty(f.Context(), shard, first+1), engine.ErrEpoch)
		f.begin(first + 2)
		b := f.write(name, 1)
		f.is(f.x.Empty(f.Context(), shard, first+1), engine.ErrEpoch)
		f.wantRuns(name, a, b)
		f.fence(first + 3)
		f.is(f.x.Empty(f.Context(), shard, first+1), engine.ErrEpoch)
		f.is(f.x.Empty(f.Context(), shard, first+2), engine.ErrEpoch)
		f.begin(first + 3)
		f.wantRuns(name, a, b)
	}},
	{name: "Restore/republishes what is folded", run: func(f *fixture) {
		f.ok(f.x.SetEvents(f.Context(), true))
		name, shard := "users", engine.Shard("users")
		var runs []engine.RestoreRun
		var prev engine.Version
		for i := range 3 {
			r := f.write(name, 2)
			runs = append(runs, engine.RestoreRun{Catalog: name, Author: fmt.Sprint("author ", i), Run: r, Prev: prev})
			prev = r.Last
		}
		f.reopen(f.epoch+1, shard, func() {
			f.ok(f.x.Empty(f.Context(), shard, f.epoch+1))
			f.ok(f.x.Restore(f.Context(), shard, f.epoch+1, engine.Restore{
				Snapshots: []engine.RestoreSnapshot{{Catalog: name, Snapshot: snapshot(engine.Version{}, runs[1].Run.Last)}},
			}))
			f.ok(f.x.Restore(f.Context(), shard, f.epoch+1, engine.Restore{Runs: runs, Republish: true}))
		})
		f.wantRuns(name, runs[2].Run)
		var covered engine.Version
		for _, e := range f.outbox(shard) {
			if !covered.Less(e.Version) {
				continue // told twice
			}
			if e.Kind != engine.EventCommitted || e.Prev != covered || e.Catalog != name {
				f.Fatalf("got event %+v, want one that goes on from %s", e, covered)
			}
			covered = e.Version
		}
		f.equal("covered", covered, runs[2].Run.Last)
		before := len(f.outbox(shard))
		f.reopen(f.epoch+1, shard, func() {
			f.ok(f.x.Restore(f.Context(), shard, f.epoch+1, engine.Restore{Runs: runs}))
		})
		f.equal("not republished unless asked", len(f.outbox(shard)), before)
	}},
	{name: "Restore/segments nobody needs are garbage", run: func(f *fixture) {
		name, shard := "users", engine.Shard("users")
		a, b := f.write(name, 1), f.write(name, 1)
		f.ok(f.fold(name, engine.Version{}, a.Last))
		old := f.pieces(shard)
		tombstone := f.segment()
		f.reopen(f.epoch+1, shard, func() {
			for range 2 {
				f.ok(f.x.Restore(f.Context(), shard, f.epoch+1, engine.Restore{Segments: []engine.SegmentID{a.Segment, b.Segment, tombstone}}))
			}
		})
		f.wantRuns(name, b)
		list := f.pieces(shard)
		if len(list) != 2 || list[0] != old[0] || list[1].Segment != tombstone || list[1].Since.IsZero() {
			f.Fatalf("got %+v, want %+v unchanged and the tombstone", list, old[0])
		}
	}},
}
