package enginetest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

func secs(n int) time.Duration { return time.Duration(n) * time.Second }

var viewCases = []indexCase{
	{name: "View/never written", run: func(f *fixture) {
		f.write("orders", 1)
		v := f.view("users")
		f.equal("view", v, engine.View{Now: v.Now})
	}},
	{name: "View/after", run: func(f *fixture) {
		var runs []engine.Run
		for i := range 6 {
			runs = append(runs, f.write("users", 1+i))
		}
		f.ok(f.fold("users", engine.Version{}, runs[1].Last))
		boundary := engine.Version{}
		for i := -1; i < len(runs); i++ {
			if i >= 0 {
				boundary = runs[i].Last
			}
			v := f.viewAfter("users", boundary)
			want := runs[max(2, i+1):]
			if len(v.Runs) != len(want) || len(want) > 0 && !slices.Equal(v.Runs, want) {
				f.Fatalf("after %s: got %+v, want %+v", boundary, v.Runs, want)
			}
			if v.Deltas != 3+4+5+6 || v.Head != runs[5].Last || v.Snapshot != snapshot(engine.Version{}, runs[1].Last) {
				f.Fatalf("after %s: got %+v, want the whole live log counted", boundary, v)
			}
		}
		if v := f.viewAfter("users", runs[5].Last.Add(1000)); len(v.Runs) != 0 || v.Head != runs[5].Last {
			f.Fatalf("after more than the head: got %+v, want no runs", v)
		}
	}},
	{name: "View/answers are private", run: func(f *fixture) {
		r := f.write("users", 1)
		v := f.view("users")
		v.Runs[0].Len = -1
		f.wantRuns("users", r)
	}},
	{name: "View/pending since the oldest reservation", clock: true, run: func(f *fixture) {
		a, b := f.segment(), f.segment()
		ca := place("users", f.reserveOne(a, "users", 1), 1)
		f.setTime(start.Add(1500 * time.Millisecond))
		cb := place("users", f.reserveOne(b, "users", 1), 1)
		f.setTime(start.Add(secs(3)))
		v := f.view("users")
		if !v.Pending || !v.PendingSince.Equal(start) || !v.Now.Equal(start.Add(secs(3))) {
			f.Fatalf("got %+v, want pending since %v", v, start)
		}
		f.committed(a, ca)
		if v = f.view("users"); !v.Pending || !v.PendingSince.Equal(start.Add(1500*time.Millisecond)) {
			f.Fatalf("got %+v, want pending since the second reservation", v)
		}
		f.committed(b, cb)
		if v = f.view("users"); v.Pending || !v.PendingSince.IsZero() {
			f.Fatalf("got %+v, want nothing pending", v)
		}
	}},
	{name: "View/many runs", run: func(f *fixture) {
		const many = 700 // beyond what small encodings hold
		s := f.segment()
		firsts := f.reserve(s, slices.Repeat([]engine.Reserve{reserve("users", 1)}, many)...)
		var places []engine.CommitRun
		var want []engine.Run
		for _, first := range firsts {
			places = append(places, place("users", first, 1))
			want = append(want, liveRun(s, place("users", first, 1)))
		}
		f.committed(s, places...)
		f.wantRuns("users", want...)
		if v := f.viewAfter("users", firsts[many-2]); len(v.Runs) != 1 {
			f.Fatalf("got %d runs, want 1", len(v.Runs))
		}
	}},
}

var foldCases = []indexCase{
	{name: "Fold/trims and registers", run: func(f *fixture) {
		a, b, c := f.write("users", 3), f.write("users", 1), f.write("users", 2)
		f.ok(f.fold("users", engine.Version{}, b.Last))
		v := f.wantRuns("users", c)
		if v.Deltas != 2 || v.Bytes != c.Len || v.Snapshot != snapshot(engine.Version{}, b.Last) {
			f.Fatalf("got %+v, want the snapshot and 2 deltas of %d bytes", v, c.Len)
		}
		f.equal("garbage", f.garbage(engine.Shard("users")), []engine.SegmentID{a.Segment, b.Segment})
		f.ok(f.fold("users", b.Last, c.Last))
		if v = f.view("users"); len(v.Runs) != 0 || v.Head != c.Last || v.Deltas != 0 || v.Bytes != 0 || v.Snapshot != snapshot(b.Last, c.Last) {
			f.Fatalf("got %+v, want an empty live log under the second snapshot", v)
		}
		d := f.write("users", 1)
		f.wantRuns("users", d)
		if !c.Last.Less(d.First) {
			f.Fatalf("got %s after a fold at %s", d.First, c.Last)
		}
	}},
	{name: "Fold/repeated", run: func(f *fixture) {
		a, b := f.write("users", 3), f.write("users", 1)
		for range 3 {
			f.ok(f.fold("users", engine.Version{}, a.Last))
		}
		f.wantRuns("users", b)
		f.ok(f.fold("users", a.Last, b.Last))
		for range 2 {
			f.ok(f.fold("users", a.Last, b.Last))
		}
		list, err := f.x.Snapshots(f.Context(), f.epoch, "users", engine.Version{}, 10)
		f.ok(err)
		f.equal("snapshots", list, []engine.Snapshot{snapshot(engine.Version{}, a.Last), snapshot(a.Last, b.Last)})
	}},
	{name: "Fold/stale", run: func(f *fixture) {
		f.is(f.fold("users", engine.Version{}, engine.Version{Sec: 5, Seq: 1}), engine.ErrStale) // never written
		a, b, c := f.write("users", 3), f.write("users", 1), f.write("users", 2)
		for _, stop := range []engine.Version{a.First, a.First.Add(1), c.First, c.Last.Add(1), c.Last.Add(1_000_000), {Sec: 1, Seq: 1}} {
			f.is(f.fold("users", engine.Version{}, stop), engine.ErrStale) // not the end of a run
		}
		f.ok(f.fold("users", engine.Version{}, a.Last))
		f.is(f.fold("users", engine.Version{}, b.Last), engine.ErrStale) // lost the race
		f.is(f.fold("users", b.Last, c.Last), engine.ErrStale)           // a gap
		f.is(f.fold("users", a.First, b.Last), engine.ErrStale)
		s := f.segment()
		first := f.reserveOne(s, "users", 1)
		f.is(f.fold("users", a.Last, first), engine.ErrStale) // reserved is not committed
		f.rollback(s, "users")
		f.is(f.fold("users", a.Last, first), engine.ErrStale)
		f.wantRuns("users", b, c)
		f.ok(f.fold("users", a.Last, c.Last))
	}},
	{name: "Fold/below open reservations", run: func(f *fixture) {
		a := f.write("users", 2)
		s := f.segment()
		c := place("users", f.reserveOne(s, "users", 1), 1)
		f.ok(f.fold("users", engine.Version{}, a.Last))
		if v := f.view("users"); !v.Pending {
			f.Fatalf("got %+v, want it pending", v)
		}
		f.committed(s, c)
		f.wantRuns("users", liveRun(s, c))
	}},
	{name: "Fold/a segment is garbage when its last live run of the shard is folded", run: func(f *fixture) {
		a, b, other := catalogIn(5, 0), catalogIn(5, 1), catalogIn(6, 0)
		s := f.segment()
		firsts := f.reserve(s, reserve(a, 1), reserve(a, 1), reserve(b, 1), reserve(other, 1))
		f.committed(s, place(a, firsts[0], 1), place(a, firsts[1], 1), place(b, firsts[2], 1), place(other, firsts[3], 1))
		f.ok(f.fold(a, engine.Version{}, firsts[0]))
		f.equal("garbage", len(f.garbage(5)), 0)
		f.ok(f.fold(a, firsts[0], firsts[1]))
		f.equal("garbage", len(f.garbage(5)), 0)
		f.ok(f.fold(b, engine.Version{}, firsts[2]))
		f.equal("garbage", f.garbage(5), []engine.SegmentID{s})
		f.equal("garbage of the other shard", len(f.garbage(6)), 0)
		f.ok(f.fold(other, engine.Version{}, firsts[3]))
		f.equal("garbage of the other shard", f.garbage(6), []engine.SegmentID{s})
		f.equal("garbage", f.garbage(5), []engine.SegmentID{s})
	}},
	{name: "Fold/no garbage while a run of the segment is undecided", run: func(f *fixture) {
		a, b, c := catalogIn(5, 0), catalogIn(5, 1), catalogIn(5, 2)
		committed, rolledBack := f.segment(), f.segment()
		x := f.reserve(committed, reserve(a, 1), reserve(b, 1))
		f.committed(committed, place(a, x[0], 1))
		f.ok(f.fold(a, engine.Version{}, x[0]))
		f.equal("garbage", len(f.garbage(5)), 0)
		f.committed(committed, place(b, x[1], 1))
		f.equal("garbage", len(f.garbage(5)), 0)
		f.ok(f.fold(b, engine.Version{}, x[1]))
		f.equal("garbage", f.garbage(5), []engine.SegmentID{committed})

		y := f.reserve(rolledBack, reserve(c, 1), reserve(a, 1))
		f.committed(rolledBack, place(c, y[0], 1))
		f.ok(f.fold(c, engine.Version{}, y[0]))
		f.equal("garbage", f.garbage(5), []engine.SegmentID{committed})
		f.rollback(rolledBack, a)
		f.equal("garbage", f.garbage(5), []engine.SegmentID{committed, rolledBack})
	}},
	{name: "Fold/what was rolled back whole is no garbage", run: func(f *fixture) {
		s := f.segment()
		f.reserveOne(s, "users", 1)
		f.rollback(s, "users")
		f.equal("garbage", len(f.garbage(engine.Shard("users"))), 0)
	}},
	{name: "Fold/garbage is listed up to the limit", run: func(f *fixture) {
		var want []engine.SegmentID
		var last engine.Version
		for range 5 {
			r := f.write("users", 1)
			f.ok(f.fold("users", last, r.Last))
			last, want = r.Last, append(want, r.Segment)
		}
		list, err := f.x.Garbage(f.Context(), f.epoch, engine.Shard("users"), 3)
		f.ok(err)
		if len(list) != 3 {
			f.Fatalf("got %d, want 3", len(list))
		}
		got := f.garbage(engine.Shard("users"))
		slices.SortFunc(got, func(a, b engine.SegmentID) int { return int(a.N) - int(b.N) }) // equal times have no order
		f.equal("garbage", got, want)
	}},
	{name: "Fold/garbage has the time of the fold", clock: true, run: func(f *fixture) {
		r := f.write("users", 1)
		f.setTime(start.Add(secs(77)))
		f.ok(f.fold("users", engine.Version{}, r.Last))
		f.setTime(start.Add(secs(99)))
		list, err := f.x.Garbage(f.Context(), f.epoch, engine.Shard("users"), 3)
		f.ok(err)
		if len(list) != 1 || !list[0].Since.Equal(start.Add(secs(77))) || list[0].Segment != r.Segment {
			f.Fatalf("got %+v, want %s since %v", list, r.Segment, start.Add(secs(77)))
		}
	}},
	{name: "Fold/several runs of a segment on both sides of the stop", run: func(f *fixture) {
		s := f.segment()
		x := f.reserve(s, reserve("users", 2), reserve("users", 3))
		a, b := place("users", x[0], 2), place("users", x[1], 3)
		f.committed(s, a, b)
		f.ok(f.fold("users", engine.Version{}, x[0].Add(1)))
		f.wantRuns("users", liveRun(s, b))
		f.equal("garbage", len(f.garbage(engine.Shard("users"))), 0)
	}},
}

var listCases = []indexCase{
	{name: "Snapshots/paging", run: func(f *fixture) {
		var want []engine.Snapshot
		var last engine.Version
		for i := range 25 {
			r := f.write("users", 1+i%3)
			f.ok(f.fold("users", last, r.Last))
			want = append(want, snapshot(last, r.Last))
			last = r.Last
		}
		for _, limit := range []int{1, 2, 7, 25, 1000} {
			var got []engine.Snapshot
			after := engine.Version{}
			for {
				page, err := f.x.Snapshots(f.Context(), f.epoch, "users", after, limit)
				f.ok(err)
				if len(page) > limit {
					f.Fatalf("limit %d: got %d", limit, len(page))
				}
				if len(page) == 0 {
					break
				}
				got = append(got, page...)
				after = page[len(page)-1].Stop
			}
			f.equal(fmt.Sprintf("pages of %d", limit), got, want)
		}
		// after need not be the stop of a snapshot
		page, err := f.x.Snapshots(f.Context(), f.epoch, "users", want[4].Stop.Add(-1), 1)
		f.ok(err)
		f.equal("after a version between two stops", page, want[4:5])
		page, err = f.x.Snapshots(f.Context(), f.epoch, "orders", engine.Version{}, 10)
		f.ok(err)
		f.equal("of a catalog never written", len(page), 0)
	}},
	{name: "Catalogs/paging in byte order", run: func(f *fixture) {
		names := slices.Clone(weirdNames)
		for i := range 1100 {
			names = append(names, fmt.Sprintf("page/%d", i))
		}
		for chunk := range slices.Chunk(names, 300) {
			s := f.segment()
			var runs []engine.Reserve
			for _, name := range chunk {
				runs = append(runs, reserve(name, 1))
			}
			var places []engine.CommitRun
			for i, first := range f.reserve(s, runs...) {
				places = append(places, place(chunk[i], first, 1))
			}
			f.committed(s, places...)
		}
		f.reserveOne(f.segment(), "page/reserved only", 1)
		rolledBack := f.segment()
		f.reserveOne(rolledBack, "page/rolled back", 1)
		f.rollback(rolledBack, "page/rolled back")
		slices.Sort(names) // byte order

		for _, prefix := range []string{"", "page/", "page/10", "page/109", "a", "(", "[", "é", "e", "中", "\U0010FFFF", "\uFFFD", "none", "page/1099x", "users"} {
			var want []string
			for _, name := range names {
				if strings.HasPrefix(name, prefix) {
					want = append(want, name)
				}
			}
			for _, limit := range []int{100, 999, 5000} {
				var got []string
				after := ""
				for {
					page, err := f.x.Catalogs(f.Context(), f.epoch, prefix, after, limit)
					f.ok(err)
					if len(page) > limit {
						f.Fatalf("limit %d: got %d", limit, len(page))
					}
					for _, c := range page {
						got = append(got, c.Catalog)
					}
					if len(page) < limit {
						break
					}
					after = got[len(got)-1]
				}
				if !slices.Equal(got, want) {
					f.Fatalf("prefix %q, limit %d: got %d names %.300q, want %d names %.300q", prefix, limit, len(got), got, len(want), want)
				}
			}
		}
		for _, c := range []struct{ prefix, after, want string }{
			{"", "page/500", "page/501"}, {"", "page/5000", "page/501"}, {"page/", "a", "page/0"}, {"page/", "zz", ""}, {"", "\U0010FFFF", ""}, {"", " ", "\""},
		} {
			page, err := f.x.Catalogs(f.Context(), f.epoch, c.prefix, c.after, 1)
			f.ok(err)
			got := ""
			if len(page) > 0 {
				got = page[0].Catalog
			}
			if got != c.want {
				f.Fatalf("prefix %q after %q: got %q, want %q", c.prefix, c.after, got, c.want)
			}
		}
	}},
	// Names that do not spread over the shards.
	{name: "Catalogs/one shard", run: func(f *fixture) {
		var names []string
		var runs []engine.Reserve
		for i := 0; len(names) < 250; i++ {
			if name := fmt.Sprintf("skew/%05d", i); engine.Shard(name) == 7 || i%97 == 0 {
				names, runs = append(names, name), append(runs, reserve(name, 1))
			}
		}
		s := f.segment()
		var places []engine.CommitRun
		for i, first := range f.reserve(s, runs...) {
			places = append(places, place(names[i], first, 1))
		}
		f.committed(s, places...)
		for _, limit := range []int{1, 7, 100, 249, 250, 251} {
			var got []string
			for after := ""; ; after = got[len(got)-1] {
				page, err := f.x.Catalogs(f.Context(), f.epoch, "skew/", after, limit)
				f.ok(err)
				for _, c := range page {
					got = append(got, c.Catalog)
				}
				if len(page) < limit {
					break
				}
			}
			if !slices.Equal(got, names) {
				f.Fatalf("limit %d: got %d names %.300q, want %d names %.300q", limit, len(got), got, len(names), names)
			}
		}
	}},
	{name: "Catalogs/what a line tells", run: func(f *fixture) {
		line := func() engine.CatalogInfo {
			page, err := f.x.Catalogs(f.Context(), f.epoch, "users", "", 10)
			f.ok(err)
			if len(page) != 1 {
				f.Fatalf("got %+v, want one catalog", page)
			}
			return page[0]
		}
		page, err := f.x.Catalogs(f.Context(), f.epoch, "", "", 10)
		f.ok(err)
		f.equal("catalogs of an empty lake", len(page), 0)
		a := f.write("users", 3)
		f.equal("line", line(), engine.CatalogInfo{Catalog: "users", Version: a.Last, Deltas: 3, Updated: a.Last.Sec})
		b := f.write("users", 2)
		f.equal("line", line(), engine.CatalogInfo{Catalog: "users", Version: b.Last, Deltas: 5, Updated: b.Last.Sec})
		f.ok(f.fold("users", engine.Version{}, a.Last))
		f.equal("line", line(), engine.CatalogInfo{Catalog: "users", Version: b.Last, Bytes: snapshot(engine.Version{}, a.Last).DocBytes, Deltas: 2, Updated: b.Last.Sec})
		f.ok(f.fold("users", a.Last, b.Last))
		f.equal("line", line(), engine.CatalogInfo{Catalog: "users", Version: b.Last, Bytes: snapshot(a.Last, b.Last).DocBytes, Updated: b.Last.Sec})
		f.reserveOne(f.segment(), "users", 9) // reservations do not show
		f.equal("line", line(), engine.CatalogInfo{Catalog: "users", Version: b.Last, Bytes: snapshot(a.Last, b.Last).DocBytes, Updated: b.Last.Sec})
	}},
}
