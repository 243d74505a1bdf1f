package enginetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

var raceCases = []indexCase{
	{name: "Race/writers, folders and readers on the same catalogs", run: raceWriters},
	{name: "Race/one precommit from many", run: func(f *fixture) {
		s := f.segment()
		runs := []engine.Reserve{reserve("users", 2), reserve("orders", 1)}
		answers := make([]engine.Reservation, 8)
		race(f.T, len(answers), func(i int) bool {
			var err error
			if answers[i], err = f.x.PreCommit(f.Context(), engine.PreCommit{Epoch: f.epoch, Segment: s, Runs: runs}); err != nil {
				f.Error(err)
			}
			return true
		})
		for _, a := range answers {
			f.equal("reserved", a.Runs, answers[0].Runs)
		}
		c := place("users", answers[0].Runs[0].First, 2)
		race(f.T, len(answers), func(int) bool {
			got, err := f.x.Commit(f.Context(), engine.Commit{Epoch: f.epoch, Segment: s, Runs: []engine.CommitRun{c}})
			if err != nil || got[0] != (engine.Committed{State: engine.RunCommitted}) {
				f.Errorf("got %+v and error %v, want it committed", got, err)
			}
			return true
		})
		f.wantRuns("users", liveRun(s, c))
	}},
	{name: "Race/commit against rollback", run: func(f *fixture) {
		for range 20 {
			s := f.segment()
			c := place("users", f.reserveOne(s, "users", 1), 1)
			before := len(f.view("users").Runs)
			var state engine.CommitState
			race(f.T, 2, func(i int) bool {
				if i == 0 {
					if err := f.x.Rollback(f.Context(), engine.Rollback{Epoch: f.epoch, Segment: s, Shards: shardsOf("users")}); err != nil {
						f.Error(err)
					}
					return true
				}
				got, err := f.x.Commit(f.Context(), engine.Commit{Epoch: f.epoch, Segment: s, Runs: []engine.CommitRun{c}})
				if err != nil || got[0].Err != nil {
					f.Errorf("got %+v and error %v", got, err)
					return false
				}
				state = got[0].State
				return true
			})
			v := f.view("users")
			if want := before + map[engine.CommitState]int{engine.RunCommitted: 1}[state]; len(v.Runs) != want || v.Pending || state == engine.RunWaiting {
				f.Fatalf("state %d: got %d runs, want %d", state, len(v.Runs), want)
			}
		}
	}},
	// What is folded leaves the segment in which it stands at that moment; the other
	// catalog's run keeps the first one alive.
	{name: "Race/fold against relocation", run: func(f *fixture) {
		folded, cold := catalogIn(9, 0), catalogIn(9, 1)
		f.ok(f.x.SetEvents(f.Context(), false))
		var stop engine.Version
		for range 20 {
			s, to := f.segment(), f.segment()
			v := f.reserve(s, reserve(folded, 1), reserve(cold, 1))
			f.committed(s, place(folded, v[0], 1), place(cold, v[1], 1))
			race(f.T, 2, func(i int) bool {
				var err error
				if i == 0 {
					err = f.fold(folded, stop, v[0])
				} else {
					_, err = f.x.Relocate(f.Context(), engine.Relocate{Epoch: f.epoch, To: to, Runs: []engine.Relocation{{Catalog: folded, First: v[0], From: s, Len: 1}}})
				}
				if err != nil {
					f.Error(err)
				}
				return true
			})
			stop = v[0]
			live := f.live(9, s.Unix+1)
			if slices.Contains(live, to.String()) || !slices.Contains(live, s.String()) || !f.unused(s)[0].IsZero() {
				f.Fatalf("live are %v, want %s and not %s", live, s, to)
			}
		}
	}},
	{name: "Race/one of many folds", run: func(f *fixture) {
		a, b := f.write("users", 1), f.write("users", 1)
		won := race(f.T, 8, func(i int) bool {
			return f.fold("users", engine.Version{}, []engine.Version{a.Last, b.Last}[i%2]) == nil
		})
		if won != 4 { // the four that meant the same
			f.Fatalf("got %d successful folds, want 4", won)
		}
	}},
}

// raceWriters lets writers commit and roll back segments over a few catalogs
// at once, beside folds and reads. Whatever was seen must be a prefix of what
// is there in the end, and all that was answered as committed must be there,
// once, in order.
func raceWriters(f *fixture) {
	const writers, segments = 6, 40
	names := []string{"users", "orders", "carts", "devices", catalogIn(engine.Shard("users"), 0)}
	ctx, cancel := context.WithTimeout(f.Context(), 2*time.Minute)
	defer cancel()
	f.ok(f.x.SetEvents(ctx, true))

	var mu sync.Mutex
	committed := make(map[string][]engine.Run)
	var work, watch sync.WaitGroup
	for w := range writers {
		work.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 1))
			for n := range segments {
				s := engine.SegmentID{Epoch: f.epoch, Unix: start.Unix(), Writer: fmt.Sprintf("writer%c%c", 'a'+w, 'a'+w), N: uint64(n + 1)}
				runs, err := raceSegment(ctx, f, rnd, s, names)
				if err != nil {
					f.Errorf("segment %s: %v", s, err)
					return
				}
				mu.Lock()
				for name, r := range runs {
					committed[name] = append(committed[name], r...)
				}
				mu.Unlock()
			}
		})
	}
	stop := make(chan struct{})
	watch.Go(func() { // a folder
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(3 * time.Millisecond):
			}
			name := names[i%2] // the others keep their whole log
			v, err := f.x.View(ctx, f.epoch, name, engine.Version{})
			if err == nil && len(v.Runs) > 3 {
				stop := v.Runs[len(v.Runs)/2].Last
				err = f.x.Fold(ctx, engine.Fold{Epoch: f.epoch, Catalog: name, Snapshot: snapshot(v.Snapshot.Stop, stop)})
			}
			if err != nil {
				f.Errorf("fold %q: %v", name, err)
				return
			}
		}
	})
	seen := make(map[string][]engine.Run)
	watch.Go(func() { // a reader that follows the logs that are not folded
		for {
			for _, name := range names[2:] {
				log := seen[name]
				after := engine.Version{}
				if len(log) > 0 {
					after = log[len(log)-1].Last
				}
				v, err := f.x.View(ctx, f.epoch, name, after)
				if err != nil {
					f.Errorf("view %q: %v", name, err)
					return
				}
				seen[name] = append(log, v.Runs...)
			}
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	})
	work.Wait()
	close(stop)
	watch.Wait()
	if f.Failed() {
		f.FailNow()
	}

	for i, name := range names {
		want := committed[name]
		slices.SortFunc(want, func(a, b engine.Run) int { return a.First.Compare(b.First) })
		v := f.view(name)
		if v.Pending {
			f.Fatalf("%q: got something pending after all was decided", name)
		}
		for k := 1; k < len(want); k++ {
			if !want[k-1].Last.Less(want[k].First) {
				f.Fatalf("%q: %+v and %+v overlap", name, want[k-1], want[k])
			}
		}
		if i < 2 {
			want = slices.DeleteFunc(slices.Clone(want), func(r engine.Run) bool { return !v.Snapshot.Stop.Less(r.Last) })
		} else if got := seen[name]; !slices.Equal(got, want[:len(got)]) {
			f.Fatalf("%q: a reader followed %+v, want a prefix of %+v", name, got, want)
		}
		if !slices.Equal(v.Runs, want) {
			f.Fatalf("%q: got %d runs %+v, want %d runs %+v", name, len(v.Runs), v.Runs, len(want), want)
		}
	}
	for _, shard := range shardsOf(names...) {
		for name, last := range tiles(f, f.outbox(shard)) {
			var deltas int64
			for _, r := range committed[name] {
				deltas += int64(r.N)
			}
			if last.Version != f.view(name).Head || last.Count != deltas {
				f.Fatalf("%q: events cover up to %s with %d deltas, want %s with %d", name, last.Version, last.Count, f.view(name).Head, deltas)
			}
		}
	}
}

// raceSegment takes one segment through its life and tells what it committed.
func raceSegment(ctx context.Context, f *fixture, rnd *rand.Rand, s engine.SegmentID, names []string) (map[string][]engine.Run, error) {
	var reserves []engine.Reserve
	for range 1 + rnd.IntN(4) {
		reserves = append(reserves, reserve(names[rnd.IntN(len(names))], 1+rnd.IntN(3)))
	}
	res, err := f.x.PreCommit(ctx, engine.PreCommit{Epoch: f.epoch, Segment: s, Runs: reserves})
	if err != nil {
		return nil, err
	}
	var open []engine.CommitRun
	for i, r := range res.Runs {
		if r.Err != nil || r.State == engine.ReservePaced {
			return nil, fmt.Errorf("reserve: got %+v", r)
		}
		open = append(open, place(reserves[i].Catalog, r.First, reserves[i].N))
	}
	var catalogs []string
	for _, r := range reserves {
		catalogs = append(catalogs, r.Catalog)
	}
	if rnd.IntN(8) == 0 {
		return nil, f.x.Rollback(ctx, engine.Rollback{Epoch: f.epoch, Segment: s, Shards: shardsOf(catalogs...)})
	}
	done := make(map[string][]engine.Run)
	for len(open) > 0 {
		got, err := f.x.Commit(ctx, engine.Commit{Epoch: f.epoch, Segment: s, Runs: open})
		if err != nil {
			return nil, err
		}
		var waiting []engine.CommitRun
		for i, g := range got {
			switch {
			case g.Err != nil:
				return nil, g.Err
			case g.State == engine.RunCommitted:
				done[open[i].Catalog] = append(done[open[i].Catalog], liveRun(s, open[i]))
			case g.State == engine.RunWaiting && !g.Older.IsZero():
				waiting = append(waiting, open[i])
			default:
				return nil, fmt.Errorf("commit %+v: got %+v", open[i], g)
			}
		}
		if open = waiting; len(open) > 0 {
			select {
			case <-ctx.Done():
				return nil, fmt.Errorf("still waiting: %w", ctx.Err())
			case <-time.After(time.Millisecond):
			}
		}
	}
	return done, nil
}
