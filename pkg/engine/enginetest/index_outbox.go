package enginetest

import (
	"slices"

	"github.com/jsonlake/lake/pkg/engine"
)

var outboxCases = []indexCase{
	{name: "Outbox/off by default", run: func(f *fixture) {
		r := f.write("users", 1)
		f.ok(f.fold("users", engine.Version{}, r.Last))
		f.equal("events", len(f.outbox(engine.Shard("users"))), 0)
		f.ok(f.x.SetEvents(f.Context(), true))
		f.write("users", 1)
		f.equal("events", len(f.outbox(engine.Shard("users"))), 1)
		f.ok(f.x.SetEvents(f.Context(), false))
		f.write("users", 1)
		f.equal("events", len(f.outbox(engine.Shard("users"))), 1)
	}},
	{name: "Outbox/what an event tells", clock: true, run: func(f *fixture) {
		f.ok(f.x.SetEvents(f.Context(), true))
		shard := engine.Shard("users")
		a := f.write("users", 3)
		f.setTime(start.Add(secs(9)))
		b := f.write("users", 1)
		f.ok(f.fold("users", engine.Version{}, a.Last))
		c := f.write("users", 2)
		doc := snapshot(engine.Version{}, a.Last).DocBytes
		f.equal("events", f.outbox(shard), []engine.Event{
			{V: 1, Catalog: "users", Kind: engine.EventCommitted, First: a.First, Version: a.Last, Count: 3, Bytes: a.Len, Author: "author of users", Writer: "aaaaaaaa",
				Time: start.UnixMilli(), LiveDeltas: 3, LiveBytes: a.Len},
			{V: 1, Catalog: "users", Kind: engine.EventCommitted, First: b.First, Version: b.Last, Prev: a.Last, Count: 1, Bytes: b.Len, Author: "author of users", Writer: "aaaaaaaa",
				Time: start.UnixMilli() + 9000, LiveDeltas: 4, LiveBytes: a.Len + b.Len},
			{V: 1, Catalog: "users", Kind: engine.EventSnapshotted, First: a.First, Version: a.Last, Count: 3, Bytes: doc,
				Time: start.UnixMilli() + 9000, LiveDeltas: 1, LiveBytes: b.Len, DocBytes: doc},
			{V: 1, Catalog: "users", Kind: engine.EventCommitted, First: c.First, Version: c.Last, Prev: b.Last, Count: 2, Bytes: c.Len, Author: "author of users", Writer: "aaaaaaaa",
				Time: start.UnixMilli() + 9000, LiveDeltas: 3, LiveBytes: b.Len + c.Len, DocBytes: doc},
		})
	}},
	{name: "Outbox/a repetition makes no event", run: func(f *fixture) {
		f.ok(f.x.SetEvents(f.Context(), true))
		r := f.write("users", 2)
		for range 3 {
			f.committed(r.Segment, place("users", r.First, 2))
			f.ok(f.fold("users", engine.Version{}, r.Last))
		}
		f.equal("events", len(f.outbox(engine.Shard("users"))), 2)
		waiting, open := f.segment(), f.segment()
		f.reserveOne(waiting, "users", 1)
		c := place("users", f.reserveOne(open, "users", 1), 1)
		f.waits(waiting, open, c)
		f.rollback(waiting, "users")
		f.rollback(open, "users")
		f.gone(open, c)
		f.is(f.fold("users", engine.Version{}, c.First), engine.ErrStale)
		f.equal("events", len(f.outbox(engine.Shard("users"))), 2)
	}},
	{name: "Outbox/ranges tile", run: func(f *fixture) {
		f.ok(f.x.SetEvents(f.Context(), true))
		a, b := catalogIn(11, 0), catalogIn(11, 1)
		heads := make(map[string]engine.Version)
		deltas := make(map[string]int64)
		for i := range 60 {
			s := f.segment()
			runs := []engine.Reserve{reserve(a, 1+i%2)}
			if i%3 > 0 {
				runs = append(runs, reserve(b, 1), reserve(a, 1+i%4), reserve(a, 1))
			}
			var places []engine.CommitRun
			for k, first := range f.reserve(s, runs...) {
				places = append(places, place(runs[k].Catalog, first, runs[k].N))
			}
			switch i % 7 {
			case 3:
				f.rollback(s, a)
				continue
			case 5: // in two parts
				f.committed(s, places[:1]...)
			}
			f.committed(s, places...)
			for _, c := range places {
				heads[c.Catalog] = c.First.Add(c.N - 1)
				deltas[c.Catalog] += int64(c.N)
			}
			if i%20 == 10 {
				v := f.view(a)
				f.ok(f.fold(a, v.Snapshot.Stop, v.Runs[len(v.Runs)/2].Last))
			}
		}
		got := tiles(f, f.outbox(11))
		for name, head := range heads {
			if got[name].Version != head || got[name].Count != deltas[name] {
				f.Fatalf("%q: events cover up to %s with %d deltas, want %s with %d", name, got[name].Version, got[name].Count, head, deltas[name])
			}
			f.equal("head", f.view(name).Head, head)
		}
	}},
	{name: "Outbox/next and trim", run: func(f *fixture) {
		f.ok(f.x.SetEvents(f.Context(), true))
		names := []string{catalogIn(2, 0), catalogIn(13, 0)}
		var want [2][]engine.Version
		for i := range 30 {
			r := f.write(names[i%2], 1)
			want[i%2] = append(want[i%2], r.Last)
		}
		shards := []int{2, 13, 5}
		all, err := f.x.Next(f.Context(), f.epoch, shards, 1000)
		f.ok(err)
		again, err := f.x.Next(f.Context(), f.epoch, shards, 1000)
		f.ok(err)
		f.equal("read again", again, all)
		var got [2][]engine.Version
		for round := 0; len(got[0])+len(got[1]) < 30; round++ {
			if round > 30 {
				f.Fatalf("got %d and %d events after %d rounds", len(got[0]), len(got[1]), round)
			}
			batches, err := f.x.Next(f.Context(), f.epoch, shards, 4)
			f.ok(err)
			for _, b := range batches {
				i := slices.Index(shards, b.Shard)
				if i == 2 && len(b.Events) > 0 {
					f.Fatalf("got events of a silent shard: %+v", b)
				}
				if (b.UpTo == "") != (len(b.Events) == 0) || len(b.Events) > 4 {
					f.Fatalf("got batch %+v, want at most 4 entries and their last id", b)
				}
				for _, e := range b.Events {
					got[i] = append(got[i], e.Version)
				}
				f.ok(f.x.Trim(f.Context(), f.epoch, b.Shard, b.UpTo))
				if round%2 == 0 { // may be repeated
					f.ok(f.x.Trim(f.Context(), f.epoch, b.Shard, b.UpTo))
				}
			}
		}
		f.equal("events", got, want)
		f.equal("left", len(f.outbox(2))+len(f.outbox(13)), 0)
		f.write(names[0], 1)
		f.equal("after all was trimmed", len(f.outbox(2)), 1)
		f.equal("of the other shard", len(f.outbox(13)), 0)
	}},
	{name: "Outbox/survives a new epoch, with what it restores", run: func(f *fixture) {
		f.ok(f.x.SetEvents(f.Context(), true))
		shard := engine.Shard("users")
		a := f.write("users", 1)
		s := f.segmentOf("bbbbbbbb")
		firsts := f.reserve(s, reserve("users", 2), reserve("users", 1))
		b, c := liveRun(s, place("users", firsts[0], 2)), liveRun(s, place("users", firsts[1], 1))
		f.fence(2)
		f.restore("users", nil, a, b, c)
		f.restore("users", nil, a, b, c)
		f.ok(f.x.Resolve(f.Context(), shard, 2, s, []engine.RunKey{{Catalog: "users", First: firsts[0]}, {Catalog: "users", First: firsts[1]}}))
		f.begin(2)
		d := f.write("users", 1)
		last := tiles(f, f.outbox(shard))["users"]
		if last.Version != d.Last || last.Count != 5 {
			f.Fatalf("events cover up to %s with %d deltas, want %s with 5", last.Version, last.Count, d.Last)
		}
		var ofB int64
		for _, e := range f.outbox(shard) {
			if e.Writer == "bbbbbbbb" {
				ofB += e.Count
				if e.Author != "author of users" || e.Time == 0 {
					f.Fatalf("got %+v, want its author and a time", e)
				}
			}
		}
		f.equal("deltas of the restored segment", ofB, int64(3))
	}},
	{name: "Outbox/weird names", run: func(f *fixture) {
		f.ok(f.x.SetEvents(f.Context(), true))
		for _, name := range weirdNames {
			s := f.segment()
			c := place(name, f.reserveOne(s, name, 1), 1)
			c.Author = name
			f.committed(s, c)
		}
		got := make(map[string]string)
		for shard := range engine.Shards {
			for _, e := range f.outbox(shard) {
				if engine.Shard(e.Catalog) != shard {
					f.Fatalf("got %q in shard %d", e.Catalog, shard)
				}
				got[e.Catalog] = e.Author
			}
		}
		for _, name := range weirdNames {
			f.equal("author", got[name], name)
		}
	}},
}

// tiles holds that the committed events of each catalog cover its versions
// without gap or overlap, in order, and gives their sum: the last version and
// the count of deltas.
func tiles(f *fixture, events []engine.Event) map[string]engine.Event {
	f.Helper()
	sum := make(map[string]engine.Event)
	for _, e := range events {
		if e.V != 1 || e.Count < 1 || e.Version.Less(e.First) {
			f.Fatalf("got event %+v", e)
		}
		if e.Kind != engine.EventCommitted {
			continue
		}
		have := sum[e.Catalog]
		if e.Prev != have.Version || !e.Prev.Less(e.First) {
			f.Fatalf("event %+v follows one up to %s, want prev %s", e, have.Version, have.Version)
		}
		sum[e.Catalog] = engine.Event{Version: e.Version, Count: have.Count + e.Count}
	}
	return sum
}
