package enginetest

import (
	"slices"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

var epochCases = []indexCase{
	{name: "Epoch/a fresh index", fresh: true, run: func(f *fixture) {
		list, err := f.x.Epochs(f.Context())
		f.ok(err)
		f.equal("shards", len(list), engine.Shards)
		for s, e := range list {
			if e.N != 0 || e.Open || !e.Mark.IsZero() {
				f.Fatalf("shard %d: got %+v, want nothing", s, e)
			}
		}
		f.refuses(0)
		f.refuses(1)
		for s := range engine.Shards {
			f.is(f.x.Restore(f.Context(), s, 1, engine.Restore{}), engine.ErrEpoch)
			f.is(f.x.Resolve(f.Context(), s, 1, f.segment(), nil), engine.ErrEpoch)
			f.is(f.x.Open(f.Context(), s, 1, 0), engine.ErrEpoch)
			_, err := f.x.Reservations(f.Context(), s, 1)
			f.is(err, engine.ErrEpoch)
		}
	}},
	{name: "Epoch/fence, open", fresh: true, run: func(f *fixture) {
		for s := range engine.Shards {
			f.ok(f.x.Fence(f.Context(), s, 7))
			f.ok(f.x.Fence(f.Context(), s, 7))
			f.is(f.x.Fence(f.Context(), s, 6), engine.ErrEpoch)
			f.is(f.x.Open(f.Context(), s, 6, 0), engine.ErrEpoch)
			f.is(f.x.Open(f.Context(), s, 8, 0), engine.ErrEpoch)
		}
		for s, e := range f.epochs() {
			f.equal("shard", e, engine.ShardEpoch{N: 7, Same: true, Empty: true, Mark: e.Mark})
			if !e.Mark.IsZero() {
				f.Fatalf("shard %d: got mark %v before any work", s, e.Mark)
			}
		}
		f.refuses(6)
		f.refuses(7)
		f.begin(7)
		for s := range engine.Shards {
			f.ok(f.x.Fence(f.Context(), s, 7)) // late: an open epoch stays open
		}
		for _, e := range f.epochs() {
			if e.N != 7 || !e.Open || !e.Same || !e.Empty {
				f.Fatalf("got %+v, want it open in epoch 7", e)
			}
		}
		f.refuses(6)
		f.refuses(8)
		f.write("users", 1)
		for s, e := range f.epochs() {
			if e.Empty != (s != engine.Shard("users")) {
				f.Fatalf("shard %d: got %+v", s, e)
			}
		}
	}},
	{name: "Epoch/one shard alone", fresh: true, run: func(f *fixture) {
		a, b := catalogIn(2, 0), catalogIn(9, 0)
		for s := range engine.Shards {
			f.ok(f.x.Fence(f.Context(), s, 1))
			if s != 9 {
				f.ok(f.x.Open(f.Context(), s, 1, 0))
			}
		}
		f.epoch = 1
		s := f.segment()
		got := f.preCommit(s, reserve(b, 1), reserve(a, 2))
		f.is(got[0].Err, engine.ErrEpoch)
		f.ok(got[1].Err)
		com := f.commit(s, place(b, got[1].First, 1), place(a, got[1].First, 2))
		f.is(com[0].Err, engine.ErrEpoch)
		f.equal("commit in the open shard", com[1], engine.Committed{State: engine.RunCommitted})
		f.wantRuns(a, liveRun(s, place(a, got[1].First, 2)))
		_, err := f.x.Heartbeat(f.Context(), 1, "aaaaaaaa")
		f.is(err, engine.ErrEpoch)
		_, err = f.x.Catalogs(f.Context(), 1, "", "", 10)
		f.is(err, engine.ErrEpoch)
		_, err = f.x.Stuck(f.Context(), 1)
		f.is(err, engine.ErrEpoch)
		_, err = f.x.Next(f.Context(), 1, []int{2, 9}, 10)
		f.is(err, engine.ErrEpoch)
		f.is(f.x.Rollback(f.Context(), engine.Rollback{Epoch: 1, Segment: s, Shards: []int{9}}), engine.ErrEpoch)
	}},
	{name: "Epoch/a later fence stops the older epoch and keeps the data", run: func(f *fixture) {
		run := f.write("users", 3)
		f.ok(f.fold("users", engine.Version{}, run.Last))
		live := f.write("users", 2)
		s := f.segment()
		open := place("users", f.reserveOne(s, "users", 1), 1)
		f.ok(f.x.SetEvents(f.Context(), true))
		for shard := range engine.Shards {
			f.ok(f.x.Fence(f.Context(), shard, 2))
		}
		f.refuses(1)
		f.refuses(2)
		f.is(f.commit(s, open)[0].Err, engine.ErrEpoch)
		list, err := f.x.Reservations(f.Context(), engine.Shard("users"), 2)
		f.ok(err)
		f.equal("reservations", list, []engine.SegmentID{s})
		f.ok(f.x.Resolve(f.Context(), engine.Shard("users"), 2, s, nil))
		f.begin(2)
		f.refuses(1)
		v := f.wantRuns("users", live)
		if v.Snapshot != snapshot(engine.Version{}, run.Last) || v.Pending {
			f.Fatalf("got %+v, want the snapshot and nothing pending", v)
		}
		f.gone(s, open)
		later := f.write("users", 1)
		if !open.First.Less(later.First) {
			f.Fatalf("got %s again, which an older epoch has reserved", later.First)
		}
	}},
	{name: "Epoch/a second fence while opening", fresh: true, run: func(f *fixture) {
		for s := range engine.Shards {
			f.ok(f.x.Fence(f.Context(), s, 1))
			f.ok(f.x.Fence(f.Context(), s, 2))
			f.is(f.x.Open(f.Context(), s, 1, 0), engine.ErrEpoch)
			f.is(f.x.Restore(f.Context(), s, 1, engine.Restore{}), engine.ErrEpoch)
			f.is(f.x.Resolve(f.Context(), s, 1, f.segment(), nil), engine.ErrEpoch)
			_, err := f.x.Reservations(f.Context(), s, 1)
			f.is(err, engine.ErrEpoch)
		}
		f.begin(2)
		f.write("users", 1)
	}},
	{name: "Epoch/floor", run: func(f *fixture) {
		ahead := time.Now().Unix() + 1000
		shard := engine.Shard("users")
		f.write("users", 1)
		f.ok(f.x.Fence(f.Context(), shard, 2))
		f.ok(f.x.Open(f.Context(), shard, 2, ahead))
		f.ok(f.x.Open(f.Context(), shard, 2, 0)) // opening an open epoch does nothing
		f.ok(f.x.Open(f.Context(), shard, 2, ahead+500))
		f.epoch = 2
		a, b := f.write("users", 2), f.write("users", 1)
		f.equal("first above the floor", a.First, engine.Version{Sec: ahead + 1, Seq: 1})
		f.equal("next", b.First, engine.Version{Sec: ahead + 1, Seq: 3})
		// The floor does not count against the pace of a catalog.
		for range 2 {
			s := f.segment()
			f.committed(s, place("users", f.reserveOne(s, "users", 1000), 1000))
		}
	}},
	{name: "Epoch/mark", clock: true, run: func(f *fixture) {
		mark := func() time.Time { return f.epochs()[0].Mark }
		_, err := f.x.Heartbeat(f.Context(), f.epoch, "aaaaaaaa")
		f.ok(err)
		if !mark().Equal(start) {
			f.Fatalf("got mark %v, want %v", mark(), start)
		}
		f.setTime(start.Add(secs(60)))
		_, err = f.x.Epochs(f.Context())
		f.ok(err)
		f.view("users")
		for s := range engine.Shards {
			f.ok(f.x.Fence(f.Context(), s, 2))
			f.ok(f.x.Restore(f.Context(), s, 2, engine.Restore{}))
		}
		if !mark().Equal(start) {
			f.Fatalf("got mark %v, want it unmoved by looks, fences and restores", mark())
		}
		f.begin(2)
		now, err := f.x.Heartbeat(f.Context(), 2, "aaaaaaaa")
		f.ok(err)
		if !now.Equal(start.Add(secs(60))) || !mark().Equal(now) {
			f.Fatalf("got time %v and mark %v, want both %v", now, mark(), start.Add(secs(60)))
		}
		f.setTime(start) // a mark never moves back
		_, err = f.x.Heartbeat(f.Context(), 2, "aaaaaaaa")
		f.ok(err)
		if !mark().Equal(now) {
			f.Fatalf("got mark %v, want %v", mark(), now)
		}
	}},
}

func (f *fixture) epochs() []engine.ShardEpoch {
	f.Helper()
	list, err := f.x.Epochs(f.Context())
	f.ok(err)
	f.equal("shards", len(list), engine.Shards)
	return list
}

// fence moves all shards to epoch n, still opening.
func (f *fixture) fence(n uint64) {
	f.Helper()
	for s := range engine.Shards {
		f.ok(f.x.Fence(f.Context(), s, n))
	}
	f.epoch = n
}

func (f *fixture) restore(catalog string, snapshots []engine.Snapshot, runs ...engine.Run) {
	f.Helper()
	var r engine.Restore
	for _, s := range snapshots {
		r.Snapshots = append(r.Snapshots, engine.RestoreSnapshot{Catalog: catalog, Snapshot: s})
	}
	for _, run := range runs {
		r.Runs = append(r.Runs, engine.RestoreRun{Catalog: catalog, Run: run, Author: "author of " + catalog})
	}
	f.ok(f.x.Restore(f.Context(), engine.Shard(catalog), f.epoch, r))
}

var recoveryCases = []indexCase{
	{name: "Restore/into an empty index", run: func(f *fixture) {
		type history struct {
			name string
			runs []engine.Run
			snap engine.Snapshot
		}
		var all []history
		for i, name := range append([]string{"folded", "folded whole"}, weirdNames...) {
			h := history{name: name}
			for k := range 5 {
				h.runs = append(h.runs, f.write(name, 1+(i+k)%3))
			}
			if i < 2 {
				stop := h.runs[2+2*i].Last
				f.ok(f.fold(name, engine.Version{}, stop))
				h.snap = snapshot(engine.Version{}, stop)
			}
			all = append(all, h)
		}
		g := &fixture{T: f.T, open: f.open, x: f.open(f.T), n: f.n}
		g.fence(2)
		for range 2 { // may be repeated
			for _, h := range all {
				var snaps []engine.Snapshot
				if h.snap != (engine.Snapshot{}) {
					snaps = append(snaps, h.snap)
				}
				g.restore(h.name, snaps, h.runs...)
			}
		}
		g.begin(2)
		for _, h := range all {
			was, is := f.view(h.name), g.view(h.name)
			was.Now = is.Now
			f.equal("view of "+h.name, is, was)
		}
		was, err := f.x.Catalogs(f.Context(), 1, "", "", 1000)
		f.ok(err)
		is, err := g.x.Catalogs(f.Context(), 2, "", "", 1000)
		f.ok(err)
		f.equal("catalogs", is, was)
		last := all[1].runs[4].Last // folded whole: the head is the snapshot's stop
		if r := g.write("folded whole", 1); !last.Less(r.First) {
			f.Fatalf("got %s, want it after %s", r.First, last)
		}
	}},
	{name: "Restore/passes over what is there", run: func(f *fixture) {
		a, b, c := f.write("users", 1), f.write("users", 2), f.write("users", 3)
		f.ok(f.fold("users", engine.Version{}, a.Last))
		f.fence(2)
		before := snapshot(engine.Version{}, a.Last)
		d := engine.Run{First: c.Last.Add(5), Last: c.Last.Add(9), N: 5, Segment: f.segment(), Off: 7, Len: 70}
		f.restore("users", []engine.Snapshot{before}, a, b, c, d)
		f.restore("users", nil, b)
		f.restore("users", nil, a, b, c, d)
		f.begin(2)
		v := f.wantRuns("users", b, c, d)
		if v.Deltas != 10 || v.Bytes != b.Len+c.Len+70 || v.Snapshot != before {
			f.Fatalf("got %+v, want 10 deltas above %+v", v, before)
		}
		if r := f.write("users", 1); !d.Last.Less(r.First) {
			f.Fatalf("got %s, want it after %s", r.First, d.Last)
		}
	}},
	{name: "Restore/adopts a newer snapshot and trims", run: func(f *fixture) {
		a, b, c := f.write("users", 1), f.write("users", 2), f.write("users", 3)
		s1, s2, old := snapshot(engine.Version{}, a.Last), snapshot(a.Last, b.Last), snapshot(engine.Version{}, engine.Version{Sec: 5, Seq: 5})
		ahead := c.Last.Add(100)
		s3 := snapshot(b.Last, ahead)
		f.fence(2)
		f.restore("users", []engine.Snapshot{s1, s2})
		f.restore("users", []engine.Snapshot{old, s1, s2})
		f.ok(f.x.Fence(f.Context(), 0, 2))
		f.begin(2)
		v := f.wantRuns("users", c)
		if v.Snapshot != s2 || v.Deltas != 3 || v.Bytes != c.Len || v.Head != c.Last {
			f.Fatalf("got %+v, want snapshot %+v", v, s2)
		}
		f.equal("garbage", f.garbage(engine.Shard("users")), []engine.SegmentID{a.Segment, b.Segment})
		list, err := f.x.Snapshots(f.Context(), 2, "users", engine.Version{}, 10)
		f.ok(err)
		f.equal("snapshots", list, []engine.Snapshot{s1, s2})

		f.fence(3)
		f.restore("users", []engine.Snapshot{s3}, c) // c lies below the stop
		f.begin(3)
		v = f.view("users")
		if v.Head != ahead || len(v.Runs) != 0 || v.Snapshot != s3 || v.Deltas != 0 || v.Bytes != 0 {
			f.Fatalf("got %+v, want the snapshot alone", v)
		}
		if r := f.write("users", 1); !ahead.Less(r.First) {
			f.Fatalf("got %s, want it after %s", r.First, ahead)
		}
	}},
	{name: "Restore/a snapshot alone makes a catalog", run: func(f *fixture) {
		f.fence(2)
		s := snapshot(engine.Version{}, engine.Version{Sec: 1_600_000_000, Seq: 17})
		f.restore("users", []engine.Snapshot{s})
		for shard, e := range f.epochs() {
			if e.Empty != (shard != engine.Shard("users")) {
				f.Fatalf("shard %d: got %+v", shard, e)
			}
		}
		f.begin(2)
		if v := f.view("users"); v.Head != s.Stop || v.Snapshot != s || len(v.Runs) != 0 {
			f.Fatalf("got %+v, want the snapshot", v)
		}
		list, err := f.x.Catalogs(f.Context(), 2, "", "", 10)
		f.ok(err)
		f.equal("catalogs", list, []engine.CatalogInfo{{Catalog: "users", Version: s.Stop, Bytes: s.DocBytes, Updated: s.Stop.Sec}})
	}},
	{name: "Restore/snapshots before runs", run: func(f *fixture) {
		f.fence(2)
		v := func(i int) engine.Version { return engine.Version{Sec: 1_600_000_000, Seq: uint32(i)} }
		s := f.segment()
		runs := []engine.Run{
			{First: v(1), Last: v(3), N: 3, Segment: s, Len: 30}, {First: v(4), Last: v(4), N: 1, Type: 1, Path: "/", Segment: s, Off: 30, Len: 10},
			{First: v(7), Last: v(8), N: 2, Segment: s, Off: 40, Len: 20},
		}
		f.restore("users", []engine.Snapshot{snapshot(engine.Version{}, v(4))}, runs...)
		f.begin(2)
		f.wantRuns("users", runs[2])
	}},
	{name: "Restore/comes late", run: func(f *fixture) {
		r := f.write("users", 1)
		// Of an epoch that is open, nothing may change: whether it is told is left open.
		late := engine.Run{First: r.Last.Add(10), Last: r.Last.Add(10), N: 1, Type: 1, Path: "/", Segment: r.Segment, Len: 10}
		s := f.segment()
		c := place("orders", f.reserveOne(s, "orders", 1), 1)
		for range 2 {
			_ = f.x.Restore(f.Context(), engine.Shard("users"), f.epoch, engine.Restore{Runs: []engine.RestoreRun{{Catalog: "users", Run: late}}})
			_ = f.x.Resolve(f.Context(), engine.Shard("orders"), f.epoch, s, nil)
		}
		f.wantRuns("users", r)
		f.committed(s, c)
		// Of an older epoch it is refused.
		f.fence(2)
		f.is(f.x.Restore(f.Context(), engine.Shard("users"), 1, engine.Restore{Runs: []engine.RestoreRun{{Catalog: "users", Run: late}}}), engine.ErrEpoch)
		f.is(f.x.Resolve(f.Context(), engine.Shard("orders"), 1, s, nil), engine.ErrEpoch)
		f.is(f.x.Open(f.Context(), 0, 1, 0), engine.ErrEpoch)
		f.begin(2)
		f.wantRuns("users", r)
	}},
	{name: "Resolve/what was restored is committed, the rest rolled back", run: func(f *fixture) {
		a, b := catalogIn(4, 0), catalogIn(4, 1)
		sealed, lost := f.segment(), f.segment()
		x := f.reserve(sealed, reserve(a, 1), reserve(b, 2))
		y := f.reserve(lost, reserve(a, 3), reserve(b, 1))
		f.fence(2)
		list, err := f.x.Reservations(f.Context(), 4, 2)
		f.ok(err)
		if len(list) != 2 || !slices.Contains(list, sealed) || !slices.Contains(list, lost) {
			f.Fatalf("reservations: got %v, want %v and %v", list, sealed, lost)
		}
		f.restore(a, nil, liveRun(sealed, place(a, x[0], 1)))
		f.restore(b, nil, liveRun(sealed, place(b, x[1], 2)))
		for range 2 {
			f.ok(f.x.Resolve(f.Context(), 4, 2, lost, nil))
			f.ok(f.x.Resolve(f.Context(), 4, 2, sealed, []engine.RunKey{{Catalog: a, First: x[0]}, {Catalog: b, First: x[1]}}))
			f.ok(f.x.Resolve(f.Context(), 4, 2, f.segment(), nil)) // never planned
		}
		list, err = f.x.Reservations(f.Context(), 4, 2)
		f.ok(err)
		f.equal("reservations", len(list), 0)
		f.begin(2)
		f.equal("plan of the sealed", f.plan(4, sealed), []engine.Planned{
			{Catalog: a, First: x[0], N: 1, State: engine.PlanCommitted}, {Catalog: b, First: x[1], N: 2, State: engine.PlanCommitted},
		})
		f.equal("plan of the lost", f.plan(4, lost), []engine.Planned{
			{Catalog: a, First: y[0], N: 3, State: engine.PlanRolledBack}, {Catalog: b, First: y[1], N: 1, State: engine.PlanRolledBack},
		})
		f.committed(sealed, place(a, x[0], 1), place(b, x[1], 2))
		f.gone(lost, place(a, y[0], 3), place(b, y[1], 1))
		v := f.wantRuns(a, liveRun(sealed, place(a, x[0], 1)))
		if v.Pending {
			f.Fatalf("got %+v, want nothing pending", v)
		}
		stuck, err := f.x.Stuck(f.Context(), 2)
		f.ok(err)
		f.equal("stuck", len(stuck), 0)
		if r := f.write(a, 1); !y[0].Add(2).Less(r.First) {
			f.Fatalf("got %s, want it after all that was reserved (%s)", r.First, y[0].Add(2))
		}
	}},
	{name: "Restore/a run of a segment that was garbage", run: func(f *fixture) {
		// An index that lost its tail can have folded the one run of a segment that it
		// knew of.
		a, b := catalogIn(4, 0), catalogIn(4, 1)
		r := f.write(a, 1)
		f.ok(f.fold(a, engine.Version{}, r.Last))
		f.equal("garbage", f.garbage(4), []engine.SegmentID{r.Segment})
		lost := engine.Run{First: r.Last, Last: r.Last, N: 1, Type: 1, Path: "/", Segment: r.Segment, Off: 200, Len: 20}
		f.fence(2)
		f.restore(b, nil, lost)
		f.begin(2)
		f.equal("garbage", len(f.garbage(4)), 0)
		f.ok(f.fold(b, engine.Version{}, lost.Last))
		f.equal("garbage", f.garbage(4), []engine.SegmentID{r.Segment})
	}},
	{name: "Resolve/counts of restored segments", run: func(f *fixture) {
		name := catalogIn(4, 0)
		s := f.segment()
		c := place(name, f.reserveOne(s, name, 2), 2)
		f.fence(2)
		f.restore(name, nil, liveRun(s, c))
		f.ok(f.x.Resolve(f.Context(), 4, 2, s, []engine.RunKey{{Catalog: name, First: c.First}}))
		f.begin(2)
		f.equal("garbage", len(f.garbage(4)), 0)
		f.ok(f.fold(name, engine.Version{}, c.First.Add(1)))
		f.equal("garbage", f.garbage(4), []engine.SegmentID{s})
	}},
}
