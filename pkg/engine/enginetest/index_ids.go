package enginetest

import (
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// withID is one delta with an idempotency id; the content stands for its
// fingerprint.
func withID(catalog, id string, content byte) engine.Reserve {
	r := reserve(catalog, 1)
	r.ID, r.Fingerprint = id, [16]byte{content}
	return r
}

// expecting is one delta that is conditional on the catalog's head.
func expecting(catalog string, head engine.Version, gate string) engine.Reserve {
	r := reserve(catalog, 1)
	r.Expect, r.Gate = &head, gate
	return r
}

// commitID commits a reserved run with its id.
func (f *fixture) commitID(s engine.SegmentID, r engine.Reserve, first engine.Version) {
	f.Helper()
	c := place(r.Catalog, first, r.N)
	c.ID, c.Fingerprint = r.ID, r.Fingerprint
	f.committed(s, c)
}

func (f *fixture) outcome(catalog, id string) engine.IDState {
	f.Helper()
	o, err := f.x.Outcome(f.Context(), f.epoch, catalog, id)
	f.ok(err)
	return o
}

var idCases = []indexCase{
	{name: "ID/pending, then a receipt", run: func(f *fixture) {
		r := withID("users", "id-1", 1)
		f.equal("outcome before", f.outcome("users", "id-1"), engine.IDState{})
		s := f.segment()
		first := f.preCommit(s, r)[0].First
		f.equal("outcome while open", f.outcome("users", "id-1"), engine.IDState{State: engine.IDPending, First: first, N: 1, Fingerprint: r.Fingerprint})
		f.equal("a repetition of the segment", f.preCommit(s, r)[0], engine.Reserved{First: first})
		f.equal("in flight", f.preCommit(f.segment(), r)[0], engine.Reserved{State: engine.ReserveInFlight, First: first, N: 1})
		f.commitID(s, r, first)
		for range 2 {
			f.equal("duplicate", f.preCommit(f.segment(), r)[0], engine.Reserved{State: engine.ReserveDuplicate, First: first, N: 1})
		}
		f.equal("reused", f.preCommit(f.segment(), withID("users", "id-1", 2))[0], engine.Reserved{State: engine.ReserveReused})
		f.equal("outcome", f.outcome("users", "id-1"), engine.IDState{State: engine.IDCommitted, First: first, N: 1, Fingerprint: r.Fingerprint})
		f.equal("of another catalog", f.outcome("orders", "id-1"), engine.IDState{})
		if v := f.view("users"); len(v.Runs) != 1 || v.Pending {
			f.Fatalf("got %+v, want one run and nothing pending", v)
		}
	}},
	{name: "ID/twice in one segment", run: func(f *fixture) {
		r := withID("users", "id-1", 1)
		s := f.segment()
		got := f.preCommit(s, r, r, reserve("users", 1))
		if got[0].State != engine.ReserveOK || got[1].State != engine.ReserveInFlight || got[2].State != engine.ReserveOK {
			f.Fatalf("got %+v, want the second in flight", got)
		}
		// A repetition finds each run by its place.
		again := f.preCommit(s, r, r, reserve("users", 1))
		if again[0].First != got[0].First || again[1].State != engine.ReserveInFlight || again[2].First != got[2].First {
			f.Fatalf("got %+v, want %+v", again, got)
		}
	}},
	{name: "ID/freed by a roll-back", run: func(f *fixture) {
		r := withID("users", "id-1", 1)
		s := f.segment()
		first := f.preCommit(s, r)[0].First
		f.rollback(s, "users")
		f.equal("outcome", f.outcome("users", "id-1"), engine.IDState{})
		s2 := f.segment()
		second := f.preCommit(s2, r)[0]
		if second.State != engine.ReserveOK || !first.Less(second.First) {
			f.Fatalf("got %+v, want a new reservation", second)
		}
		f.rollback(s, "users") // a late one must not free what is not its own
		f.equal("outcome", f.outcome("users", "id-1").State, engine.IDPending)
		f.commitID(s2, r, second.First)
	}},
	{name: "ID/expires", clock: true, run: func(f *fixture) {
		now := time.Unix(1_800_000_000, 0)
		f.setTime(now)
		r := withID("users", "id-1", 1)
		s := f.segment()
		first := f.preCommit(s, r)[0].First
		f.commitID(s, r, first)
		f.setTime(now.Add(engine.IDTTL - time.Second))
		f.equal("before", f.preCommit(f.segment(), r)[0].State, engine.ReserveDuplicate)
		f.setTime(now.Add(engine.IDTTL + time.Second))
		f.equal("after", f.preCommit(f.segment(), r)[0].State, engine.ReserveOK)
	}},
	{name: "ID/a new epoch keeps, restores and frees", run: func(f *fixture) {
		kept, lost, sealed := withID("users", "kept", 1), withID("users", "lost", 2), withID("users", "sealed", 3)
		s := f.segment()
		keptFirst := f.preCommit(s, kept)[0].First
		f.commitID(s, kept, keptFirst)
		s2, s3 := f.segment(), f.segment()
		sealedFirst := f.preCommit(s2, sealed)[0].First
		f.preCommit(s3, lost)
		f.fence(2)
		shard, expires := engine.Shard("users"), time.Now().Add(time.Hour).Truncate(time.Millisecond)
		receipt := engine.RestoreID{Catalog: "users", ID: "sealed", Fingerprint: sealed.Fingerprint, First: sealedFirst, N: 1, Expires: expires}
		folded := engine.RestoreID{Catalog: "users", ID: "folded", Fingerprint: [16]byte{4}, First: engine.Version{Sec: 5, Seq: 6}, N: 7, Expires: expires}
		for range 2 {
			f.ok(f.x.Restore(f.Context(), shard, 2, engine.Restore{
				Runs: []engine.RestoreRun{{Catalog: "users", Run: liveRun(s2, place("users", sealedFirst, 1)), ID: receipt}},
				IDs:  []engine.RestoreID{folded, {Catalog: "users", ID: "old", Expires: time.Unix(1, 0), N: 1}},
			}))
		}
		f.ok(f.x.Resolve(f.Context(), shard, 2, s2, []engine.RunKey{{Catalog: "users", First: sealedFirst}}))
		f.ok(f.x.Resolve(f.Context(), shard, 2, s3, nil))
		f.begin(2)
		for id, want := range map[string]engine.IDState{
			"kept":   {State: engine.IDCommitted, First: keptFirst, N: 1, Fingerprint: kept.Fingerprint},
			"sealed": {State: engine.IDCommitted, First: sealedFirst, N: 1, Fingerprint: sealed.Fingerprint},
			"folded": {State: engine.IDCommitted, First: folded.First, N: 7, Fingerprint: folded.Fingerprint},
			"lost":   {}, "old": {},
		} {
			f.equal("outcome of "+id, f.outcome("users", id), want)
		}
	}},
	{name: "Expect/head", run: func(f *fixture) {
		never := f.preCommit(f.segment(), expecting("users", engine.Version{Sec: 1, Seq: 1}, ""))[0]
		f.equal("another version", never, engine.Reserved{State: engine.ReserveConflict})
		s := f.segment()
		first := f.preCommit(s, expecting("users", engine.Version{}, ""))[0]
		f.equal("never written", first.State, engine.ReserveOK)
		f.committed(s, place("users", first.First, 1))
		f.equal("written since", f.preCommit(f.segment(), expecting("users", engine.Version{}, ""))[0], engine.Reserved{State: engine.ReserveConflict, Head: first.First})
		s2 := f.segment()
		second := f.preCommit(s2, expecting("users", first.First, ""))[0]
		f.equal("the head", second.State, engine.ReserveOK)
		f.equal("a repetition", f.preCommit(s2, expecting("users", first.First, ""))[0], second)
	}},
	{name: "Expect/undecided, and the gate", run: func(f *fixture) {
		s := f.segment()
		open := f.reserveOne(s, "users", 1)
		cond := func(gate string) engine.ReserveState {
			r := f.preCommit(f.segment(), expecting("users", engine.Version{}, gate))[0]
			if r.State == engine.ReserveUndecided {
				f.equal("what is in the way", r.Older, s)
			}
			return r.State
		}
		f.equal("open", cond(""), engine.ReserveUndecided)
		f.equal("no gate", f.preCommit(f.segment(), reserve("users", 1))[0].State, engine.ReserveOK)
		f.equal("with a gate", cond("token"), engine.ReserveUndecided)
		f.equal("others wait", f.preCommit(f.segment(), reserve("users", 1))[0].State, engine.ReservePaced)
		f.equal("another condition waits", cond("other"), engine.ReservePaced)
		f.equal("other catalogs do not", f.preCommit(f.segment(), reserve("orders", 1))[0].State, engine.ReserveOK)
		f.committed(s, place("users", open, 1))
		testGateEnds(f)
	}},
	{name: "Expect/a gate ends with a conflict", run: func(f *fixture) {
		s := f.segment()
		open := f.reserveOne(s, "users", 1)
		cond := func() engine.ReserveState {
			return f.preCommit(f.segment(), expecting("users", engine.Version{}, "token"))[0].State
		}
		others := func() engine.ReserveState { return f.preCommit(f.segment(), reserve("users", 1))[0].State }
		f.equal("open", cond(), engine.ReserveUndecided)
		f.committed(s, place("users", open, 1))
		f.equal("others wait", others(), engine.ReservePaced)
		f.equal("its turn", cond(), engine.ReserveConflict)
		f.equal("and the others'", others(), engine.ReserveOK)
	}},
	{name: "Expect/a gate ends", clock: true, run: func(f *fixture) {
		others := func() engine.ReserveState { return f.preCommit(f.segment(), reserve("users", 1))[0].State }
		f.setTime(start.Add(time.Hour))
		f.reserveOne(f.segment(), "users", 1)
		closed := func() {
			f.Helper()
			f.equal("with a gate", f.preCommit(f.segment(), expecting("users", engine.Version{}, "token"))[0].State, engine.ReserveUndecided)
			f.equal("others wait", others(), engine.ReservePaced)
		}
		closed()
		f.setTime(start.Add(time.Hour + engine.GateTTL + time.Millisecond))
		f.equal("after its time", others(), engine.ReserveOK)
		closed()
		f.setTime(start) // it would last for an hour by this clock
		f.equal("after a step back", others(), engine.ReserveOK)
	}},
	{name: "ID/kept by a clock that steps back", clock: true, run: func(f *fixture) {
		f.setTime(start.Add(time.Hour))
		r := withID("users", "id-1", 1)
		s := f.segment()
		first := f.preCommit(s, r)[0].First
		f.commitID(s, r, first)
		f.setTime(start)
		f.equal("duplicate", f.preCommit(f.segment(), r)[0], engine.Reserved{State: engine.ReserveDuplicate, First: first, N: 1})
	}},
	{name: "Expect/within one segment", run: func(f *fixture) {
		s := f.segment()
		got := f.preCommit(s, reserve("users", 1), expecting("users", engine.Version{}, ""))
		if got[0].State != engine.ReserveOK || got[1] != (engine.Reserved{State: engine.ReserveUndecided, Older: s}) {
			f.Fatalf("got %+v, want the second undecided", got)
		}
		f.committed(s, place("users", got[0].First, 1))
		got = f.preCommit(f.segment(), reserve("users", 1), expecting("users", engine.Version{}, ""))
		if got[1].State != engine.ReserveUndecided {
			f.Fatalf("got %+v, want the second undecided, as no run is open but the first", got)
		}
	}},
}

// testGateEnds: the gate that "token" closed opens for it, and then for all.
func testGateEnds(f *fixture) {
	f.Helper()
	// The unconditional run that came before the gate is still open.
	stuck, err := f.x.Stuck(f.Context(), f.epoch)
	f.ok(err)
	for _, s := range stuck {
		f.ok(f.x.Rollback(f.Context(), engine.Rollback{Epoch: f.epoch, Segment: s.Segment, Shards: s.Shards}))
	}
	head := f.view("users").Head
	f.equal("its turn", f.preCommit(f.segment(), expecting("users", head, "token"))[0].State, engine.ReserveOK)
	f.equal("and the others'", f.preCommit(f.segment(), reserve("users", 1))[0].State, engine.ReserveOK)
}
