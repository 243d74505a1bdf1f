package enginetest

import (
	"slices"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

func (f *fixture) stuck() []engine.Stuck {
	f.Helper()
	list, err := f.x.Stuck(f.Context(), f.epoch)
	f.ok(err)
	for i := range list {
		slices.Sort(list[i].Shards)
	}
	return list
}

var maintenanceCases = []indexCase{
	{name: "Stuck/until all is decided", run: func(f *fixture) {
		f.equal("stuck", len(f.stuck()), 0)
		a, b := catalogIn(1, 0), catalogIn(14, 0)
		s := f.segmentOf("bbbbbbbb")
		x := f.reserve(s, reserve(a, 1), reserve(a, 1), reserve(b, 1))
		want := func(shards ...int) {
			f.Helper()
			list := f.stuck()
			if len(list) != 1 || list[0].Segment != s || !slices.Equal(list[0].Shards, shards) || list[0].Since.IsZero() || list[0].Now.Before(list[0].Since) {
				f.Fatalf("got %+v, want %s in shards %v", list, s, shards)
			}
		}
		want(1, 14)
		f.committed(s, place(a, x[0], 1))
		want(1, 14)
		f.committed(s, place(a, x[1], 1))
		want(14)
		f.rollback(s, b)
		f.equal("stuck", len(f.stuck()), 0)
	}},
	{name: "Stuck/heartbeats", clock: true, run: func(f *fixture) {
		early, late := f.segmentOf("bbbbbbbb"), f.segmentOf("cccccccc")
		f.reserveOne(early, "users", 1)
		f.setTime(start.Add(secs(2)))
		f.reserveOne(late, "orders", 1)
		now, err := f.x.Heartbeat(f.Context(), f.epoch, "cccccccc")
		f.ok(err)
		if !now.Equal(start.Add(secs(2))) {
			f.Fatalf("got time %v, want %v", now, start.Add(secs(2)))
		}
		f.setTime(start.Add(secs(5)))
		list := f.stuck()
		if len(list) != 2 || list[0].Segment != early || list[1].Segment != late {
			f.Fatalf("got %+v, want the oldest first", list)
		}
		for i, want := range []struct{ since, heartbeat time.Time }{{start, time.Time{}}, {start.Add(secs(2)), start.Add(secs(2))}} {
			got := list[i]
			if !got.Since.Equal(want.since) || !got.Heartbeat.Equal(want.heartbeat) || got.Heartbeat.IsZero() != want.heartbeat.IsZero() || !got.Now.Equal(start.Add(secs(5))) {
				f.Fatalf("got %+v, want %+v", got, want)
			}
		}
		_, err = f.x.Heartbeat(f.Context(), f.epoch, "cccccccc")
		f.ok(err)
		if list = f.stuck(); !list[1].Heartbeat.Equal(start.Add(secs(5))) {
			f.Fatalf("got %+v, want a heartbeat at %v", list[1], start.Add(secs(5)))
		}
	}},
	{name: "Stuck/oldest first over many", clock: true, run: func(f *fixture) {
		var want []engine.SegmentID
		for i := range 40 {
			f.setTime(start.Add(secs(i)))
			s := f.segment()
			f.reserveOne(s, catalogIn(i%engine.Shards, i), 1)
			want = append(want, s)
		}
		var got []engine.SegmentID
		for _, st := range f.stuck() {
			got = append(got, st.Segment)
		}
		f.equal("stuck", got, want)
	}},
	{name: "Plan/states", run: func(f *fixture) {
		a, b := catalogIn(7, 0), catalogIn(7, 1)
		s := f.segment()
		f.equal("plan of nothing", len(f.plan(7, s)), 0)
		x := f.reserve(s, reserve(a, 1), reserve(b, 2), reserve(a, 3))
		want := []engine.Planned{{Catalog: a, First: x[0], N: 1}, {Catalog: b, First: x[1], N: 2}, {Catalog: a, First: x[2], N: 3}}
		f.equal("plan", f.plan(7, s), want)
		f.equal("plan of another shard", len(f.plan(8, s)), 0)
		f.committed(s, place(a, x[0], 1))
		want[0].State = engine.PlanCommitted
		f.equal("plan", f.plan(7, s), want)
		f.ok(f.x.Rollback(f.Context(), engine.Rollback{Epoch: f.epoch, Segment: s, Shards: []int{7}, Keep: []engine.RunKey{{Catalog: b, First: x[1]}}}))
		want[2].State = engine.PlanRolledBack
		f.equal("plan", f.plan(7, s), want)
		f.committed(s, place(b, x[1], 2))
		want[1].State = engine.PlanCommitted
		f.equal("plan", f.plan(7, s), want)
		f.rollback(s, a, b)
		f.equal("plan of a decided segment", f.plan(7, s), want)
	}},
	{name: "Plan/weird names", run: func(f *fixture) {
		s := f.segment()
		var runs []engine.Reserve
		for _, name := range weirdNames {
			runs = append(runs, reserve(name, 2))
		}
		firsts := f.reserve(s, runs...)
		want := make(map[int][]engine.Planned)
		for i, name := range weirdNames {
			shard := engine.Shard(name)
			want[shard] = append(want[shard], engine.Planned{Catalog: name, First: firsts[i], N: 2})
		}
		for shard, w := range want {
			f.equal("plan", f.plan(shard, s), w)
		}
	}},
	{name: "Close/may be repeated", run: func(f *fixture) {
		f.ok(f.x.Close())
		_ = f.x.Close() // whatever it answers, it does not panic
		if _, err := f.x.View(f.Context(), f.epoch, "users", engine.Version{}); err == nil {
			f.Fatal("view of a closed index: got no error")
		}
	}},
}

var leaseCases = []indexCase{
	{name: "Lease/one holder", run: func(f *fixture) {
		f.lease(3, "relay", "a", time.Minute, true)
		f.lease(3, "relay", "b", time.Minute, false)
		f.lease(3, "relay", "a", time.Minute, true) // renewed
		f.lease(3, "relay", "b", time.Minute, false)
		f.lease(4, "relay", "b", time.Minute, true) // another shard
		f.lease(3, "sweeper", "b", time.Minute, true)
		f.lease(3, "fold/中文 |", "b", time.Minute, true)
		f.lease(3, "fold/中文 |", "a", time.Minute, false)
	}},
	{name: "Lease/release", run: func(f *fixture) {
		f.ok(f.x.Release(f.Context(), 3, "relay", "a")) // nobody's
		f.lease(3, "relay", "a", time.Minute, true)
		f.ok(f.x.Release(f.Context(), 3, "relay", "b")) // not b's
		f.lease(3, "relay", "b", time.Minute, false)
		f.ok(f.x.Release(f.Context(), 3, "relay", "a"))
		f.ok(f.x.Release(f.Context(), 3, "relay", "a"))
		f.lease(3, "relay", "b", time.Minute, true)
		f.ok(f.x.Release(f.Context(), 3, "relay", "a")) // late: it is b's now
		f.lease(3, "relay", "a", time.Minute, false)
	}},
	{name: "Lease/expires", run: func(f *fixture) {
		f.lease(3, "relay", "a", 50*time.Millisecond, true)
		f.lease(5, "relay", "a", time.Minute, true)
		eventually(f.T, 10*time.Second, func() bool {
			got, err := f.x.Acquire(f.Context(), 3, "relay", "b", time.Minute)
			f.ok(err)
			return got
		})
		f.lease(3, "relay", "a", time.Minute, false)
		f.lease(5, "relay", "b", time.Minute, false)
	}},
	{name: "Lease/renewal prolongs", run: func(f *fixture) {
		f.lease(3, "relay", "a", 50*time.Millisecond, true)
		f.lease(3, "relay", "a", time.Minute, true)
		f.lease(4, "relay", "a", 100*time.Millisecond, true) // expires after the first would have
		eventually(f.T, 10*time.Second, func() bool {
			got, err := f.x.Acquire(f.Context(), 4, "relay", "b", time.Minute)
			f.ok(err)
			return got
		})
		f.lease(3, "relay", "b", time.Minute, false)
	}},
	// Whose end is farther away than that of a new lease would be was taken before
	// the clock was stepped back; it must not be waited for, perhaps for hours.
	{name: "Lease/does not outlive a clock stepped back", run: func(f *fixture) {
		f.lease(3, "relay", "a", time.Hour, true)
		f.lease(3, "relay", "b", time.Minute, true)
		f.lease(3, "relay", "a", time.Minute, false)
	}},
	{name: "Lease/knows no epochs", fresh: true, run: func(f *fixture) {
		f.lease(0, "epoch", "a", time.Minute, true)
		f.begin(1)
		f.lease(0, "epoch", "b", time.Minute, false)
	}},
	{name: "Lease/racers", run: func(f *fixture) {
		for round := range 10 {
			winners := race(f.T, 16, func(i int) bool {
				got, err := f.x.Acquire(f.Context(), round, "race", string(rune('a'+i)), time.Minute)
				f.ok(err)
				return got
			})
			f.equal("winners", winners, 1)
		}
	}},
}

func (f *fixture) lease(shard int, name, token string, ttl time.Duration, want bool) {
	f.Helper()
	got, err := f.x.Acquire(f.Context(), shard, name, token, ttl)
	f.ok(err)
	if got != want {
		f.Fatalf("acquire %q of shard %d for %q: got %v, want %v", name, shard, token, got, want)
	}
}
