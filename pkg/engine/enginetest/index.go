package enginetest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

// IndexUnderTest is what an index adapter offers.
type IndexUnderTest interface {
	engine.Index
	engine.Maintenance
	engine.Outbox
	engine.Leases
}

// SteppedClock is an optional capability of an IndexUnderTest: from the first
// call on, the index's clock stands at t, in whole milliseconds, until the next call.
// Without it the cases that need a certain time are not part of the suite.
type SteppedClock interface {
	SetTime(t time.Time)
}

// TestIndex holds an adapter to the contract of engine.Index,
// engine.Maintenance, engine.Outbox and engine.Leases. Each call of open gives a
// fresh index that nobody else uses, in which no shard was ever fenced, and
// registers its Close with t.Cleanup. Cases run in parallel.
func TestIndex(t *testing.T, open func(t *testing.T) IndexUnderTest) {
	t.Helper()
	for _, group := range [][]indexCase{
		epochCases, commitCases, viewCases, headCases, foldCases, listCases, maintenanceCases, garbageCases, purgeCases, recoveryCases, outboxCases, leaseCases, idCases, raceCases, randomCases,
	} {
		for _, c := range group {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				f := &fixture{T: t, open: open, x: open(t)}
				if c.clock {
					clock, ok := f.x.(SteppedClock)
					if !ok {
						return // the clock is not ours to set; SteppedClock says so
					}
					f.clock = clock
					f.setTime(start)
				}
				if !c.fresh {
					f.begin(1)
				}
				c.run(f)
			})
		}
	}
}

// start is where stepped clocks begin.
var start = time.Unix(1_700_000_000, 0).UTC()

type indexCase struct {
	name  string
	run   func(f *fixture)
	fresh bool // begins with an index that was never fenced
	clock bool // needs a SteppedClock
}

// fixture is an index and a few shorthands. Its methods fail the test on any
// error that the case did not ask for.
type fixture struct {
	*testing.T
	open  func(t *testing.T) IndexUnderTest
	x     IndexUnderTest
	clock SteppedClock
	epoch uint64
	n     uint64 // segments made
}

func (f *fixture) setTime(t time.Time) { f.clock.SetTime(t) }

// begin opens epoch n in every shard.
func (f *fixture) begin(n uint64) {
	f.Helper()
	for s := range engine.Shards {
		f.ok(f.x.Fence(f.Context(), s, n))
	}
	for s := range engine.Shards {
		f.ok(f.x.Open(f.Context(), s, n, 0))
	}
	f.epoch = n
}

func (f *fixture) ok(err error) {
	f.Helper()
	if err != nil {
		f.Fatalf("got error %v, want none", err)
	}
}

func (f *fixture) is(err, target error) {
	f.Helper()
	if !errors.Is(err, target) {
		f.Fatalf("got error %v, want %v", err, target)
	}
}

// equal compares records; differences are printed whole.
func (f *fixture) equal(what string, got, want any) {
	f.Helper()
	if !reflect.DeepEqual(got, want) {
		f.Fatalf("%s: got %+v, want %+v", what, got, want)
	}
}

// segment is a new name of a segment.
func (f *fixture) segment() engine.SegmentID { return f.segmentOf("aaaaaaaa") }

func (f *fixture) segmentOf(writer string) engine.SegmentID {
	f.n++
	return engine.SegmentID{Epoch: f.epoch, Unix: start.Unix(), Writer: writer, N: f.n}
}

func reserve(catalog string, n int) engine.Reserve {
	r := engine.Reserve{Catalog: catalog, N: n}
	if n == 1 {
		r.Type, r.Path = merge.MergePatch, "/a/b.c"
	}
	return r
}

// preCommit asks and gives the answer as it is.
func (f *fixture) preCommit(s engine.SegmentID, runs ...engine.Reserve) []engine.Reserved {
	f.Helper()
	res, err := f.x.PreCommit(f.Context(), engine.PreCommit{Epoch: f.epoch, Segment: s, Runs: runs})
	f.ok(err)
	if len(res.Runs) != len(runs) {
		f.Fatalf("precommit of %d runs: got %d answers", len(runs), len(res.Runs))
	}
	return res.Runs
}

// reserve reserves runs that must get versions.
func (f *fixture) reserve(s engine.SegmentID, runs ...engine.Reserve) []engine.Version {
	f.Helper()
	var firsts []engine.Version
	for i, r := range f.preCommit(s, runs...) {
		if r.Err != nil || r.State == engine.ReservePaced || !r.First.Valid() || r.First.IsZero() {
			f.Fatalf("reserve %d deltas of %q: got %+v, want a version", runs[i].N, runs[i].Catalog, r)
		}
		firsts = append(firsts, r.First)
	}
	return firsts
}

func (f *fixture) reserveOne(s engine.SegmentID, catalog string, n int) engine.Version {
	f.Helper()
	return f.reserve(s, reserve(catalog, n))[0]
}

// place says where a run stands in its segment: a made-up place that depends
// on its name alone, so that repetitions agree.
func place(catalog string, first engine.Version, n int) engine.CommitRun {
	c := engine.CommitRun{
		Catalog: catalog, First: first, N: n, Off: int64(first.Seq) * 1000, Len: 100 + 10*int64(n), Author: "author of " + catalog,
	}
	if n == 1 {
		c.Type, c.Path = merge.MergePatch, "/a/b.c"
	}
	return c
}

// liveRun is how a placed run looks in the live log.
func liveRun(s engine.SegmentID, c engine.CommitRun) engine.Run {
	return engine.Run{First: c.First, Last: c.First.Add(c.N - 1), N: c.N, Type: c.Type, Path: c.Path, Segment: s, Off: c.Off, Len: c.Len}
}

// commit asks and gives the answer as it is.
func (f *fixture) commit(s engine.SegmentID, runs ...engine.CommitRun) []engine.Committed {
	f.Helper()
	got, err := f.x.Commit(f.Context(), engine.Commit{Epoch: f.epoch, Segment: s, Runs: runs})
	f.ok(err)
	if len(got) != len(runs) {
		f.Fatalf("commit of %d runs: got %d answers", len(runs), len(got))
	}
	return got
}

// wantCommit asks and holds every answer against what is wanted.
func (f *fixture) wantCommit(want engine.CommitState, older engine.SegmentID, s engine.SegmentID, runs ...engine.CommitRun) {
	f.Helper()
	for i, got := range f.commit(s, runs...) {
		if got.Err != nil || got.State != want || got.Older != older {
			f.Fatalf("commit %q %s of %s: got %+v, want state %d, older %q", runs[i].Catalog, runs[i].First, s, got, want, older)
		}
	}
}

func (f *fixture) committed(s engine.SegmentID, runs ...engine.CommitRun) {
	f.Helper()
	f.wantCommit(engine.RunCommitted, engine.SegmentID{}, s, runs...)
}

func (f *fixture) gone(s engine.SegmentID, runs ...engine.CommitRun) {
	f.Helper()
	f.wantCommit(engine.RunGone, engine.SegmentID{}, s, runs...)
}

func (f *fixture) waits(older, s engine.SegmentID, runs ...engine.CommitRun) {
	f.Helper()
	f.wantCommit(engine.RunWaiting, older, s, runs...)
}

// write reserves and commits a run in a segment of its own.
func (f *fixture) write(catalog string, n int) engine.Run {
	f.Helper()
	s := f.segment()
	c := place(catalog, f.reserveOne(s, catalog, n), n)
	f.committed(s, c)
	return liveRun(s, c)
}

func (f *fixture) rollback(s engine.SegmentID, catalogs ...string) {
	f.Helper()
	f.ok(f.x.Rollback(f.Context(), engine.Rollback{Epoch: f.epoch, Segment: s, Shards: shardsOf(catalogs...)}))
}

func shardsOf(catalogs ...string) []int {
	var list []int
	for _, c := range catalogs {
		if s := engine.Shard(c); !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

func (f *fixture) view(catalog string) engine.View {
	f.Helper()
	return f.viewAfter(catalog, engine.Version{})
}

func (f *fixture) viewAfter(catalog string, after engine.Version) engine.View {
	f.Helper()
	v, err := f.x.View(f.Context(), f.epoch, catalog, after)
	f.ok(err)
	if v.Now.IsZero() {
		f.Fatalf("view of %q: got no time", catalog)
	}
	return v
}

// wantRuns holds the live log of a catalog against runs.
func (f *fixture) wantRuns(catalog string, want ...engine.Run) engine.View {
	f.Helper()
	v := f.view(catalog)
	if len(v.Runs) != len(want) || len(want) > 0 && !reflect.DeepEqual(v.Runs, want) {
		f.Fatalf("runs of %q: got %+v, want %+v", catalog, v.Runs, want)
	}
	if len(want) > 0 && v.Head != want[len(want)-1].Last {
		f.Fatalf("head of %q: got %s, want %s", catalog, v.Head, want[len(want)-1].Last)
	}
	return v
}

func (f *fixture) fold(catalog string, start, stop engine.Version) error {
	return f.x.Fold(f.Context(), engine.Fold{Epoch: f.epoch, Catalog: catalog, Snapshot: snapshot(start, stop)})
}

func snapshot(start, stop engine.Version) engine.Snapshot {
	return engine.Snapshot{Start: start, Stop: stop, DocBytes: 1000 + int64(stop.Seq), PackBytes: 500 + int64(stop.Seq)}
}

func (f *fixture) plan(shard int, s engine.SegmentID) []engine.Planned {
	f.Helper()
	p, err := f.x.Plan(f.Context(), f.epoch, shard, s)
	f.ok(err)
	return p
}

func (f *fixture) garbage(shard int) []engine.SegmentID {
	f.Helper()
	list, err := f.x.Garbage(f.Context(), f.epoch, shard, 1000)
	f.ok(err)
	var names []engine.SegmentID
	for i, g := range list {
		if g.Since.IsZero() || i > 0 && g.Since.Before(list[i-1].Since) {
			f.Fatalf("garbage of shard %d: got %+v, want the oldest first", shard, list)
		}
		names = append(names, g.Segment)
	}
	return names
}

// outbox reads a shard's outbox whole, without trimming.
func (f *fixture) outbox(shard int) []engine.Event {
	f.Helper()
	batches, err := f.x.Next(f.Context(), f.epoch, []int{shard}, 1_000_000)
	f.ok(err)
	var events []engine.Event
	for _, b := range batches {
		if b.Shard != shard {
			f.Fatalf("outbox of shard %d: got one of shard %d", shard, b.Shard)
		}
		events = append(events, b.Events...)
	}
	return events
}

// catalogIn is the i-th of some names that belong to a shard.
func catalogIn(shard, i int) string {
	for k := 0; ; k++ {
		name := fmt.Sprintf("cat-%d", k)
		if engine.Shard(name) == shard {
			if i == 0 {
				return name
			}
			i--
		}
	}
}

// refuses holds that every method answers ErrEpoch in an epoch.
func (f *fixture) refuses(epoch uint64) {
	f.Helper()
	ctx := f.Context()
	const catalog = "refused"
	s, shard := f.segment(), engine.Shard(catalog)
	first := engine.Version{Sec: 1, Seq: 1}
	res, err := f.x.PreCommit(ctx, engine.PreCommit{Epoch: epoch, Segment: s, Runs: []engine.Reserve{reserve(catalog, 1)}})
	f.ok(err)
	f.is(res.Runs[0].Err, engine.ErrEpoch)
	com, err := f.x.Commit(ctx, engine.Commit{Epoch: epoch, Segment: s, Runs: []engine.CommitRun{place(catalog, first, 1)}})
	f.ok(err)
	f.is(com[0].Err, engine.ErrEpoch)
	for name, call := range map[string]func() error{
		"rollback": func() error {
			return f.x.Rollback(ctx, engine.Rollback{Epoch: epoch, Segment: s, Shards: []int{shard}})
		},
		"view":      func() error { _, err := f.x.View(ctx, epoch, catalog, engine.Version{}); return err },
		"snapshots": func() error { _, err := f.x.Snapshots(ctx, epoch, catalog, engine.Version{}, 1); return err },
		"fold": func() error {
			return f.x.Fold(ctx, engine.Fold{Epoch: epoch, Catalog: catalog, Snapshot: snapshot(engine.Version{}, first)})
		},
		"catalogs":  func() error { _, err := f.x.Catalogs(ctx, epoch, "", "", 1); return err },
		"heartbeat": func() error { _, err := f.x.Heartbeat(ctx, epoch, "aaaaaaaa"); return err },
		"stuck":     func() error { _, err := f.x.Stuck(ctx, epoch); return err },
		"plan":      func() error { _, err := f.x.Plan(ctx, epoch, shard, s); return err },
		"garbage":   func() error { _, err := f.x.Garbage(ctx, epoch, shard, 1); return err },
		"next":      func() error { _, err := f.x.Next(ctx, epoch, []int{shard}, 1); return err },
	} {
		if err := call(); !errors.Is(err, engine.ErrEpoch) {
			f.Fatalf("%s in epoch %d: got error %v, want %v", name, epoch, err, engine.ErrEpoch)
		}
	}
}
