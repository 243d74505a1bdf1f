package redis

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/enginetest"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

// TestConditionsAgainstReference draws reservations with ids, expectations and
// gates, commits, roll-backs, folds, epochs and steps of the clock (forwards: a
// gate that has expired stays so here), and holds every answer against the reference. LAKE_SEED replays a run.
func TestConditionsAgainstReference(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	seed := rand.Uint64N(1 << 32)
	if s := os.Getenv("LAKE_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("replay with LAKE_SEED=%d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	now := time.Unix(1_700_000_000, 0).UTC()
	model := memory.NewIndex(memory.Options{Clock: func() time.Time { return now }})
	x := &stepped{Index: open(t, server.URL), t: t}
	x.clock.past = func(time.Time) time.Duration { return 0 }
	x.SetTime(now)
	ctx := t.Context()
	shard := engine.Shard("users")
	names := []string{"users"}
	for i := 0; len(names) < 3; i++ {
		if name := fmt.Sprintf("a|b %d", i); engine.Shard(name) == shard {
			names = append(names, name)
		}
	}
	both := func(what string, do func(x enginetest.IndexUnderTest) string) {
		t.Helper()
		got, want := do(x), do(model)
		if got != want {
			t.Fatalf("%s:\n got %s\nwant %s", what, got, want)
		}
	}
	class := func(err error) string {
		for _, e := range []error{engine.ErrEpoch, engine.ErrStale, engine.ErrInvalid, engine.ErrDamaged, engine.ErrUnavailable} {
			if errors.Is(err, e) {
				return e.Error()
			}
		}
		return fmt.Sprint(err)
	}
	type segment struct {
		p      engine.PreCommit
		c      engine.Commit
		shards []int
	}
	var segments []*segment
	heads := map[string]engine.Version{}
	stops := map[string]engine.Version{}
	epoch, n := uint64(0), uint64(0)
	newEpoch := func() {
		epoch++
		for s := range engine.Shards {
			both("fence", func(x enginetest.IndexUnderTest) string { return class(x.Fence(ctx, s, epoch)) })
		}
		for _, s := range segments {
			var sealed []engine.RunKey
			for _, r := range s.c.Runs {
				if rnd.IntN(3) == 0 { // its id is committed before it is resolved, as a restore does
					sealed = append(sealed, engine.RunKey{Catalog: r.Catalog, First: r.First})
				}
			}
			both("resolve", func(x enginetest.IndexUnderTest) string {
				return class(x.Resolve(ctx, shard, epoch, s.p.Segment, sealed))
			})
		}
		if rnd.IntN(2) == 0 {
			id := engine.RestoreID{Catalog: names[rnd.IntN(3)], ID: fmt.Sprintf("id|%d", rnd.IntN(6)), First: engine.Version{Sec: 1, Seq: 1}, N: 7, Expires: now.Add(time.Duration(rnd.IntN(100)-20) * time.Minute)}
			both("restore", func(x enginetest.IndexUnderTest) string {
				return class(x.Restore(ctx, shard, epoch, engine.Restore{IDs: []engine.RestoreID{id}}))
			})
		}
		for s := range engine.Shards {
			both("open", func(x enginetest.IndexUnderTest) string { return class(x.Open(ctx, s, epoch, now.Unix()-5)) })
		}
	}
	newEpoch()
	look := func(name string) {
		both("view "+name, func(y enginetest.IndexUnderTest) string {
			v, err := y.View(ctx, epoch, name, engine.Version{})
			if y == enginetest.IndexUnderTest(x) {
				heads[name], stops[name] = v.Head, v.Snapshot.Stop
			}
			return fmt.Sprintf("%+v %s", v, class(err))
		})
	}
	counted := map[engine.ReserveState]int{}
	for range 1500 {
		var s *segment
		if len(segments) > 0 {
			s = segments[max(0, len(segments)-1-rnd.IntN(6))]
		}
		switch op := rnd.IntN(100); {
		case op < 35 || s == nil:
			n++
			s = &segment{p: engine.PreCommit{Epoch: epoch, Segment: engine.SegmentID{Epoch: epoch, Unix: 1, Writer: "abcdefgh", N: n}}, shards: []int{shard}}
			for range 1 + rnd.IntN(5) {
				r := engine.Reserve{Catalog: names[rnd.IntN(3)], N: 1 + rnd.IntN(3), Path: "/"}
				if rnd.IntN(2) == 0 {
					r.ID, r.Fingerprint = fmt.Sprintf("id|%d", rnd.IntN(6)), [16]byte{'\n', 0, '|', byte(rnd.IntN(4) / 3)}
				}
				if rnd.IntN(3) == 0 {
					v := heads[r.Catalog]
					if rnd.IntN(4) == 0 {
						v = engine.Version{}
					}
					r.Expect = &v
					if rnd.IntN(2) == 0 {
						r.Gate = fmt.Sprintf("gate!@,%d", rnd.IntN(2))
					}
				}
				s.p.Runs = append(s.p.Runs, r)
			}
			segments = append(segments, s)
			fallthrough
		case op < 40: // or once more
			if s.p.Epoch != epoch {
				continue
			}
			first := s.c.Runs == nil
			both(fmt.Sprintf("precommit %+v", s.p), func(y enginetest.IndexUnderTest) string {
				res, err := y.PreCommit(ctx, s.p)
				text := class(err)
				for i, r := range res.Runs {
					text += fmt.Sprintf(" | %d %s %d %s %s", r.State, r.First, r.N, r.Head, class(r.Err))
					if y == enginetest.IndexUnderTest(x) && first {
						counted[r.State]++
						if ask := s.p.Runs[i]; r.Err == nil && r.State == engine.ReserveOK {
							s.c.Runs = append(s.c.Runs, engine.CommitRun{Catalog: ask.Catalog, First: r.First, N: ask.N, Path: "/", Len: 10, ID: ask.ID, Fingerprint: ask.Fingerprint})
						}
					}
				}
				return text
			})
			s.c.Epoch, s.c.Segment = s.p.Epoch, s.p.Segment
		case op < 65:
			c := s.c
			c.Epoch = epoch
			if rnd.IntN(3) == 0 && len(c.Runs) > 1 {
				c.Runs = c.Runs[rnd.IntN(2) : 1+rnd.IntN(len(c.Runs))]
			}
			both(fmt.Sprintf("commit %+v", c), func(x enginetest.IndexUnderTest) string {
				done, err := x.Commit(ctx, c)
				text := class(err)
				for _, d := range done {
					text += fmt.Sprintf(" | %d %s %s", d.State, d.Older, class(d.Err))
				}
				return text
			})
		case op < 75:
			r := engine.Rollback{Epoch: epoch, Segment: s.p.Segment, Shards: s.shards}
			if rnd.IntN(3) == 0 && len(s.c.Runs) > 0 {
				keep := s.c.Runs[rnd.IntN(len(s.c.Runs))]
				r.Keep = []engine.RunKey{{Catalog: keep.Catalog, First: keep.First}}
			}
			both("rollback", func(x enginetest.IndexUnderTest) string { return class(x.Rollback(ctx, r)) })
		case op < 80:
			name := names[rnd.IntN(3)]
			look(name)
			both("fold", func(x enginetest.IndexUnderTest) string {
				return class(x.Fold(ctx, engine.Fold{Epoch: epoch, Catalog: name, Snapshot: engine.Snapshot{Start: stops[name], Stop: heads[name]}}))
			})
		case op < 92:
			step := []time.Duration{10 * time.Millisecond, 400 * time.Millisecond, time.Second, 3 * time.Second, 3 * time.Hour}[rnd.IntN(5)]
			if step > engine.IDTTL/100 {
				// The reference forgets receipts of segments by this clock, Redis by its own.
				for _, s := range segments {
					both("rollback", func(x enginetest.IndexUnderTest) string {
						return class(x.Rollback(ctx, engine.Rollback{Epoch: epoch, Segment: s.p.Segment, Shards: s.shards}))
					})
				}
				segments = nil
			}
			now = now.Add(step)
			x.SetTime(now)
		case op < 93:
			newEpoch()
		default:
			look(names[rnd.IntN(3)])
		}
		name, id := names[rnd.IntN(3)], fmt.Sprintf("id|%d", rnd.IntN(6))
		both("outcome", func(x enginetest.IndexUnderTest) string {
			s, err := x.Outcome(ctx, epoch, name, id)
			return fmt.Sprintf("%+v %s", s, class(err))
		})
		look(name)
	}
	for state := engine.ReserveOK; state <= engine.ReserveConflict; state++ {
		if counted[state] == 0 {
			t.Errorf("state %d was never answered: got %v, want each", state, counted)
		}
	}
}
