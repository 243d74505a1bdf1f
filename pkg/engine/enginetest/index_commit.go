package enginetest

import (
	"context"
	"fmt"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

var commitCases = []indexCase{
	{name: "Commit/reserve, commit, view", run: func(f *fixture) {
		s := f.segment()
		first := f.reserveOne(s, "users", 3)
		v := f.view("users")
		if !v.Head.IsZero() || len(v.Runs) != 0 || !v.Pending || v.PendingSince.IsZero() {
			f.Fatalf("view of a reserved catalog: got %+v, want nothing but pending", v)
		}
		c := place("users", first, 3)
		f.committed(s, c)
		v = f.wantRuns("users", liveRun(s, c))
		if v.Pending || !v.PendingSince.IsZero() || v.Deltas != 3 || v.Bytes != c.Len || v.Snapshot != (engine.Snapshot{}) {
			f.Fatalf("view of a committed catalog: got %+v, want 3 deltas of %d bytes, nothing pending, no snapshot", v, c.Len)
		}
	}},
	{name: "Commit/type and path of a run of one", run: func(f *fixture) {
		for _, path := range []string{"/", "/a", "/user.info/$x", "/_a/b.c1"} {
			s := f.segment()
			first := f.reserve(s, engine.Reserve{Catalog: "users", N: 1, Type: 3, Path: path})[0]
			c := engine.CommitRun{Catalog: "users", First: first, N: 1, Type: 3, Path: path, Off: 1 << 33, Len: 1 << 20}
			f.committed(s, c)
			runs := f.view("users").Runs
			f.equal("run", runs[len(runs)-1], liveRun(s, c))
		}
	}},
	{name: "Commit/versions increase", run: func(f *fixture) {
		var last engine.Version
		for i := range 50 {
			n := 1 + i%7
			s := f.segment()
			first := f.reserveOne(s, "users", n)
			if !last.Less(first) {
				f.Fatalf("reserved %s after %s, want a greater one", first, last)
			}
			last = first.Add(n - 1)
			if i%2 == 0 {
				f.committed(s, place("users", first, n))
			} else {
				f.rollback(s, "users") // its versions are not given again
			}
		}
	}},
	{name: "Commit/ids carry over the second", run: func(f *fixture) {
		a := f.write("users", 999_999)
		b := f.write("users", 2)
		if got := b.First.Sub(a.Last); got < 1 {
			f.Fatalf("got %s after %s, want a greater one", b.First, a.Last)
		}
		s := f.segment()
		runs := f.reserve(s, reserve("users", 5), reserve("users", 1_100_000))
		if runs[1] != runs[0].Add(5) {
			f.Fatalf("got %s and %s, want the runs of one segment contiguous in the id space", runs[0], runs[1])
		}
		f.committed(s, place("users", runs[0], 5), place("users", runs[1], 1_100_000))
		v := f.view("users")
		if v.Deltas != 999_999+2+1_100_005 {
			f.Fatalf("got %d deltas, want %d", v.Deltas, 999_999+2+1_100_005)
		}
		for i, r := range v.Runs {
			if r.Last != r.First.Add(r.N-1) || !r.Last.Valid() || !r.First.Valid() {
				f.Fatalf("run %d: got %+v", i, r)
			}
		}
	}},
	{name: "Commit/waits in turn for another commit", run: func(f *fixture) { waitInTurn(f, true) }},
	{name: "Commit/waits in turn for a rollback", run: func(f *fixture) { waitInTurn(f, false) }},
	{name: "Commit/a waiting run changes nothing and holds up no other", run: func(f *fixture) {
		a, b := f.segment(), f.segment()
		f.reserveOne(a, "users", 1)
		firsts := f.reserve(b, reserve("users", 2), reserve("orders", 1), reserve("carts", 1))
		before := f.view("users")
		got := f.commit(b, place("users", firsts[0], 2), place("orders", firsts[1], 1), place("carts", firsts[2], 1))
		f.equal("answers", got, []engine.Committed{{State: engine.RunWaiting, Older: a}, {State: engine.RunCommitted}, {State: engine.RunCommitted}})
		after := f.view("users")
		after.Now = before.Now
		f.equal("view of what waits", after, before)
		f.wantRuns("orders", liveRun(b, place("orders", firsts[1], 1)))
	}},
	{name: "Commit/repeated precommit answers the plan", run: func(f *fixture) {
		s := f.segment()
		runs := []engine.Reserve{reserve("users", 2), reserve("orders", 1), reserve("users", 1), reserve("users", 5)}
		want := f.reserve(s, runs...)
		f.equal("repeated", f.reserve(s, runs...), want)
		other := f.reserveOne(f.segment(), "users", 1)
		if !want[3].Add(4).Less(other) {
			f.Fatalf("another segment got %s, want it after %s", other, want[3].Add(4))
		}
		f.committed(s, place("users", want[0], 2))
		f.equal("repeated half committed", f.reserve(s, runs...), want)
		f.rollback(s, "users", "orders")
		f.equal("repeated after rollback", f.reserve(s, runs...), want)
		v := f.wantRuns("users", liveRun(s, place("users", want[0], 2)))
		if !v.Pending { // the other segment's
			f.Fatal("got nothing pending")
		}
	}},
	{name: "Commit/repeated commit has its effect once", run: func(f *fixture) {
		s := f.segment()
		runs := f.reserve(s, reserve("users", 1), reserve("orders", 4))
		a, b := place("users", runs[0], 1), place("orders", runs[1], 4)
		for range 3 {
			f.committed(s, a)
			f.wantRuns("users", liveRun(s, a))
		}
		for range 3 {
			f.committed(s, a, b)
		}
		later := f.write("users", 2)
		f.committed(s, b, a)
		v := f.wantRuns("users", liveRun(s, a), later)
		f.wantRuns("orders", liveRun(s, b))
		if v.Deltas != 3 {
			f.Fatalf("got %d deltas, want 3", v.Deltas)
		}
	}},
	{name: "Commit/repeated commit of a folded run", run: func(f *fixture) {
		s := f.segment()
		c := place("users", f.reserveOne(s, "users", 1), 1)
		f.committed(s, c)
		f.ok(f.fold("users", engine.Version{}, c.First))
		f.committed(s, c)
		if v := f.view("users"); len(v.Runs) != 0 || v.Head != c.First || v.Deltas != 0 || v.Bytes != 0 {
			f.Fatalf("got %+v, want an empty live log", v)
		}
	}},
	{name: "Commit/gone after rollback", run: func(f *fixture) {
		s := f.segment()
		c := place("users", f.reserveOne(s, "users", 1), 1)
		for range 2 {
			f.rollback(s, "users")
			f.gone(s, c)
		}
		if v := f.view("users"); !v.Head.IsZero() || v.Pending || len(v.Runs) != 0 {
			f.Fatalf("got %+v, want nothing", v)
		}
	}},
	{name: "Commit/gone without a plan", run: func(f *fixture) {
		f.gone(f.segment(), place("users", engine.Version{Sec: start.Unix(), Seq: 1}, 1))
		s := f.segment()
		first := f.reserveOne(s, "users", 2)
		f.gone(s, place("users", first.Add(1), 1), place("orders", first, 2))
		f.committed(s, place("users", first, 2))
	}},
	{name: "Commit/rollback of what is committed changes nothing", run: func(f *fixture) {
		r := f.write("users", 2)
		f.rollback(r.Segment, "users", "orders")
		f.wantRuns("users", r)
		f.committed(r.Segment, place("users", r.First, 2))
		f.rollback(f.segment(), "users", "orders") // nor of what was never planned
		f.wantRuns("users", r)
	}},
	{name: "Commit/in parts", run: func(f *fixture) {
		s := f.segment()
		names := []string{"users", "orders", "carts", "devices"}
		firsts := f.reserve(s, reserve(names[0], 1), reserve(names[1], 2), reserve(names[2], 3), reserve(names[3], 4))
		for i, name := range names {
			for k, later := range names {
				if v := f.view(later); v.Pending != (k >= i) || v.Head.IsZero() != (k >= i) {
					f.Fatalf("%d committed, %q: got %+v", i, later, v)
				}
			}
			f.committed(s, place(name, firsts[i], i+1))
		}
	}},
	{name: "Commit/several runs of one catalog", run: func(f *fixture) {
		s := f.segment()
		firsts := f.reserve(s, reserve("users", 1), reserve("users", 10), reserve("users", 1))
		a, b, c := place("users", firsts[0], 1), place("users", firsts[1], 10), place("users", firsts[2], 1)
		if b.First != a.First.Add(1) || c.First != b.First.Add(10) {
			f.Fatalf("got %v, want contiguous versions", firsts)
		}
		f.waits(s, s, b)
		f.waits(s, s, c)
		f.committed(s, a)
		f.waits(s, s, c)
		f.committed(s, b, c)
		f.wantRuns("users", liveRun(s, a), liveRun(s, b), liveRun(s, c))
	}},
	{name: "Commit/a segment's later run waits for its older one alone", run: func(f *fixture) {
		s, other := f.segment(), f.segment()
		firsts := f.reserve(s, reserve("users", 1), reserve("users", 1))
		o := place("users", f.reserveOne(other, "users", 1), 1)
		f.committed(s, place("users", firsts[0], 1))
		f.waits(s, other, o) // the second run is still open
		f.ok(f.x.Rollback(f.Context(), engine.Rollback{Epoch: f.epoch, Segment: s, Shards: shardsOf("users"), Keep: []engine.RunKey{{Catalog: "users", First: firsts[1]}}}))
		f.waits(s, other, o)
		f.committed(s, place("users", firsts[1], 1))
		f.committed(other, o)
	}},
	{name: "Commit/rollback keeps", run: func(f *fixture) {
		s := f.segment()
		firsts := f.reserve(s, reserve("users", 1), reserve("users", 2), reserve("orders", 1), reserve("carts", 1))
		keep := []engine.RunKey{{Catalog: "users", First: firsts[1]}, {Catalog: "carts", First: firsts[3]}}
		for range 2 {
			f.ok(f.x.Rollback(f.Context(), engine.Rollback{Epoch: f.epoch, Segment: s, Shards: shardsOf("users", "orders", "carts"), Keep: keep}))
		}
		f.gone(s, place("users", firsts[0], 1), place("orders", firsts[2], 1))
		f.committed(s, place("users", firsts[1], 2), place("carts", firsts[3], 1))
		f.wantRuns("users", liveRun(s, place("users", firsts[1], 2)))
	}},
	{name: "Commit/rollback of some shards", run: func(f *fixture) {
		a, b := catalogIn(3, 0), catalogIn(12, 0)
		s := f.segment()
		firsts := f.reserve(s, reserve(a, 1), reserve(b, 1))
		f.rollback(s, a)
		f.gone(s, place(a, firsts[0], 1))
		f.committed(s, place(b, firsts[1], 1))
	}},
	{name: "Commit/many catalogs over all shards", run: func(f *fixture) {
		const many = 400
		s := f.segment()
		var runs []engine.Reserve
		for i := range many {
			runs = append(runs, reserve(fmt.Sprintf("many-%d", i), 1+i%3))
		}
		firsts := f.reserve(s, runs...)
		var places []engine.CommitRun
		for i, r := range runs {
			places = append(places, place(r.Catalog, firsts[i], r.N))
		}
		f.committed(s, places...)
		for _, c := range places {
			f.wantRuns(c.Catalog, liveRun(s, c))
		}
		list, err := f.x.Catalogs(f.Context(), f.epoch, "many-", "", 1000)
		f.ok(err)
		if len(list) != many {
			f.Fatalf("got %d catalogs, want %d", len(list), many)
		}
	}},
	{name: "Commit/names of any kind", run: func(f *fixture) {
		for _, name := range weirdNames {
			r := f.write(name, 1)
			f.wantRuns(name, r)
		}
		for _, name := range weirdNames {
			f.wantRuns(name, f.view(name).Runs...)
			if v := f.view(name); len(v.Runs) != 1 {
				f.Fatalf("%q: got %d runs, want 1", name, len(v.Runs))
			}
		}
	}},
	{name: "Commit/a run without deltas is refused", run: func(f *fixture) {
		for _, n := range []int{0, -1} {
			res, err := f.x.PreCommit(f.Context(), engine.PreCommit{Epoch: f.epoch, Segment: f.segment(), Runs: []engine.Reserve{{Catalog: "users", N: n}}})
			if err == nil && res.Runs[0].Err == nil {
				f.Fatalf("reserve %d deltas: got %+v, want an error", n, res.Runs[0])
			}
		}
	}},
	{name: "Commit/time of a reservation", clock: true, run: func(f *fixture) {
		f.setTime(start.Add(1234 * time.Millisecond))
		res, err := f.x.PreCommit(f.Context(), engine.PreCommit{Epoch: f.epoch, Segment: f.segment(), Runs: []engine.Reserve{reserve("users", 1), reserve("orders", 1)}})
		f.ok(err)
		if !res.Now.Equal(start.Add(1234 * time.Millisecond)) {
			f.Fatalf("got %v, want %v", res.Now, start.Add(1234*time.Millisecond))
		}
		for _, r := range res.Runs {
			f.equal("first", r.First, engine.Version{Sec: start.Unix() + 1, Seq: 1})
		}
	}},
	{name: "Commit/cancelled context", run: func(f *fixture) {
		ctx, cancel := context.WithCancel(f.Context())
		cancel()
		s := f.segment()
		res, err := f.x.PreCommit(ctx, engine.PreCommit{Epoch: f.epoch, Segment: s, Runs: []engine.Reserve{reserve("users", 1)}})
		if err == nil && (len(res.Runs) != 1 || res.Runs[0].Err == nil) {
			f.Fatalf("precommit: got %+v, want an error", res)
		}
		com, err := f.x.Commit(ctx, engine.Commit{Epoch: f.epoch, Segment: s, Runs: []engine.CommitRun{place("users", engine.Version{Sec: 1, Seq: 1}, 1)}})
		if err == nil && (len(com) != 1 || com[0].Err == nil) {
			f.Fatalf("commit: got %+v, want an error", com)
		}
		if v, err := f.x.View(ctx, f.epoch, "users", engine.Version{}); err == nil {
			f.Fatalf("view: got %+v, want an error", v)
		}
		if _, err := f.x.Heartbeat(ctx, f.epoch, "aaaaaaaa"); err == nil {
			f.Fatal("heartbeat: got no error")
		}
		f.write("users", 1) // the index itself is well
	}},
	{name: "Commit/nothing asked", run: func(f *fixture) {
		s := f.segment()
		f.preCommit(s)
		f.commit(s)
		f.ok(f.x.Rollback(f.Context(), engine.Rollback{Epoch: f.epoch, Segment: s}))
	}},
	{name: "Commit/paced when ids run out", clock: true, run: func(f *fixture) {
		const all = engine.MaxSeq
		orders := catalogIn(engine.Shard("users"), 0) // one plan for both
		for i := range int64(2) {
			r := f.write("users", all)
			f.equal("first", r.First, engine.Version{Sec: start.Unix() + i, Seq: 1})
		}
		// The catalog is two seconds ahead now: it waits, others do not.
		s := f.segment()
		runs := []engine.Reserve{reserve("users", 1), reserve(orders, 1), reserve("users", 1)}
		got := f.preCommit(s, runs...)
		if got[0].State != engine.ReservePaced || got[2].State != engine.ReservePaced || got[0].Err != nil || got[1].State == engine.ReservePaced || got[1].First.IsZero() {
			f.Fatalf("got %+v, want the runs of users paced", got)
		}
		f.setTime(start.Add(secs(1)))
		// A repeated precommit reserves nothing new.
		f.equal("repeated", f.preCommit(s, runs...), got)
		f.committed(s, place(orders, got[1].First, 1))
		r := f.write("users", 1)
		f.equal("first", r.First, engine.Version{Sec: start.Unix() + 2, Seq: 1})
	}},
	{name: "Commit/paced to the millisecond", clock: true, run: func(f *fixture) {
		at := start.Add(secs(10))
		f.setTime(at)
		f.write("users", engine.MaxSeq)
		f.write("users", 250_000) // up to a quarter of the next second
		for _, after := range []time.Duration{0, 249 * time.Millisecond, 250 * time.Millisecond} {
			f.setTime(at.Add(after))
			s := f.segment()
			state := f.preCommit(s, reserve("users", 1))[0].State
			f.ok(f.x.Rollback(f.Context(), engine.Rollback{Epoch: f.epoch, Segment: s, Shards: []int{engine.Shard("users")}}))
			want := engine.ReservePaced
			if after >= 250*time.Millisecond {
				want = engine.ReserveOK
			}
			f.equal(after.String(), state, want)
		}
	}},
	{name: "Commit/paced runs do not overtake", clock: true, run: func(f *fixture) {
		s := f.segment()
		got := f.preCommit(s, reserve("users", 3*engine.MaxSeq), reserve("users", 1), reserve("users", 1))
		if got[0].State == engine.ReservePaced || got[1].State != engine.ReservePaced || got[2].State != engine.ReservePaced {
			f.Fatalf("got %+v, want the runs behind the first paced", got)
		}
		f.committed(s, place("users", got[0].First, 3*engine.MaxSeq))
		if v := f.view("users"); v.Pending || v.Deltas != 3*engine.MaxSeq {
			f.Fatalf("got %+v, want it committed and nothing pending", v)
		}
	}},
	{name: "Commit/nothing is added to a long log", run: func(f *fixture) {
		orders := catalogIn(engine.Shard("users"), 0) // one plan for both
		f.write("users", 3)
		run := f.write("users", 2)
		ask := func(most int64) (states [3]engine.ReserveState) {
			f.Helper()
			s := f.segment()
			res, err := f.x.PreCommit(f.Context(), engine.PreCommit{Epoch: f.epoch, Segment: s, MaxLive: most, Runs: []engine.Reserve{reserve("users", 1), reserve(orders, 1), reserve("users", 1)}})
			f.ok(err)
			for i, r := range res.Runs {
				f.ok(r.Err)
				states[i] = r.State
			}
			f.ok(f.x.Rollback(f.Context(), engine.Rollback{Epoch: f.epoch, Segment: s, Shards: []int{engine.Shard("users")}}))
			return states
		}
		const full = engine.ReserveFull
		f.equal("no bound", ask(0), [3]engine.ReserveState{})
		f.equal("at the bound", ask(5), [3]engine.ReserveState{})
		f.equal("over it", ask(4), [3]engine.ReserveState{full, engine.ReserveOK, full})
		f.ok(f.x.Fold(f.Context(), engine.Fold{Epoch: f.epoch, Catalog: "users", Snapshot: snapshot(engine.Version{}, run.Last)}))
		f.equal("folded", ask(4), [3]engine.ReserveState{})
	}},
	{name: "Commit/a clock that steps back neither reuses nor paces", clock: true, run: func(f *fixture) {
		a := f.write("users", 5)
		f.setTime(start.Add(-secs(3600)))
		b := f.write("users", 5)
		f.equal("first after the step", b.First, a.Last.Add(1))
		c := f.write("orders", 1)
		if c.First.Sec > start.Unix() {
			f.Fatalf("got %s, want nothing ahead of the greatest time seen", c.First)
		}
		f.setTime(start.Add(secs(7200)))
		d := f.write("users", 1)
		f.equal("first after the step forward", d.First, engine.Version{Sec: start.Unix() + 7200, Seq: 1})
	}},
}

// weirdNames are names that trip careless encodings.
var weirdNames = []string{
	"users", "USERS", "Users", "中文", "a b", "a|b", "a.b", "a*b", "a>b", "a/b", "a:b", "a{b}", "{}", "(users", ")USERS", "~epoch", "delta|2|/|1_1|x",
	"\u00e9", "e\u0301", "👩‍👩‍👧‍👦", "\u2028", "\"", "\\", "'", "%", "%s", "-", "_", "0", " ", "a@b", "[a", "]", "+", "-inf", "(", "(a", "[", "\U0010FFFF", "\uFFFD", "nil", "null",
}

func waitInTurn(f *fixture, commit bool) {
	const n = 5
	var segments []engine.SegmentID
	var runs []engine.CommitRun
	for i := range n {
		s := f.segmentOf(fmt.Sprintf("writer%c%c", 'a'+i, 'a'+i))
		segments = append(segments, s)
		runs = append(runs, place("users", f.reserveOne(s, "users", i+1), i+1))
	}
	var want []engine.Run
	for i := range n {
		for k := n - 1; k > i; k-- {
			f.waits(segments[i], segments[k], runs[k])
		}
		f.wantRuns("users", want...)
		if commit || i%2 == 1 {
			f.committed(segments[i], runs[i])
			want = append(want, liveRun(segments[i], runs[i]))
		} else {
			f.rollback(segments[i], "users")
		}
	}
	v := f.wantRuns("users", want...)
	if v.Pending {
		f.Fatal("got something pending, want nothing")
	}
}
