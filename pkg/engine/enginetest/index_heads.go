package enginetest

import (
	"sync"

	"github.com/jsonlake/lake/pkg/engine"
)

// headCases are of adapters that are an engine.HeadTeller, which is optional.
var headCases = []indexCase{
	{name: "TellHead", run: func(f *fixture) {
		t, ok := f.x.(engine.HeadTeller)
		if !ok {
			return
		}
		tell := func(epoch uint64, catalog string, at engine.Version, unchanged, pending bool) {
			f.Helper()
			type told struct{ unchanged, pending bool }
			c := make(chan told, 2)
			if !t.TellHead(epoch, catalog, at, func(unchanged, pending bool) { c <- told{unchanged, pending} }) {
				if unchanged {
					f.Fatalf("%s at %s: not asked, want unchanged", catalog, at)
				}
				return
			}
			f.equal(catalog+" at "+at.String(), <-c, told{unchanged, pending})
		}
		tell(1, "users", engine.Version{}, false, false)
		tell(1, "users", engine.Version{Sec: 1_700_000_000, Seq: 1}, false, false)
		one := f.write("users", 3)
		tell(1, "users", one.Last, true, false)
		tell(1, "users", one.First, false, false)
		tell(1, "users", one.Last.Add(1), false, false)
		tell(1, "orders", one.Last, false, false)
		tell(2, "users", one.Last, false, false)

		s := f.segment()
		open := place("users", f.reserveOne(s, "users", 1), 1)
		tell(1, "users", one.Last, true, true)
		f.committed(s, open)
		tell(1, "users", open.First, true, false)
		f.ok(f.fold("users", engine.Version{}, one.Last))
		tell(1, "users", open.First, true, false)

		shard := engine.Shard("users")
		f.ok(f.x.Fence(f.Context(), shard, 2))
		tell(1, "users", open.First, false, false)
		tell(2, "users", open.First, false, false)
	}},
	// Whoever is told that nothing changed asked after what was committed before.
	{name: "TellHead/fresh", run: func(f *fixture) {
		t, ok := f.x.(engine.HeadTeller)
		if !ok {
			return
		}
		const askers, writes = 8, 30
		at := f.write("users", 1).Last
		for range writes {
			var wg sync.WaitGroup
			before := at
			for range askers { // these may see either
				wg.Add(1)
				if !t.TellHead(1, "users", before, func(bool, bool) { wg.Done() }) {
					wg.Done()
				}
			}
			at = f.write("users", 1).Last
			for range askers {
				wg.Add(1)
				if !t.TellHead(1, "users", before, func(unchanged, _ bool) {
					if unchanged {
						f.Errorf("at %s: unchanged, after %s was committed", before, at)
					}
					wg.Done()
				}) {
					wg.Done()
				}
			}
			wg.Wait()
		}
	}},
}
