package enginetest

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

var (
	seedFlag = flag.Uint64("enginetest.seed", 0, "seed of the random operations on an index; 0 draws one")
	opsFlag  = flag.Int("enginetest.ops", 500, "how many random operations on an index a seed runs")
)

var randomCases = []indexCase{
	{name: "Random/operations against a log of the answers", fresh: true, run: func(f *fixture) { randomOperations(f, nil) }},
	{name: "Random/operations against the reference", fresh: true, clock: true, run: func(f *fixture) {
		now := start
		model := memory.NewIndex(memory.Options{Clock: func() time.Time { return now }})
		randomOperations(f, func(t time.Time) *memory.Index {
			now = t
			f.setTime(t)
			return model
		})
	}},
}

// driver runs random operations on an index, in one goroutine. Each answer is
// held against the driver's own log of what was committed and, when the clock
// is the driver's, against the answer of the reference.
type driver struct {
	*fixture
	rnd     *rand.Rand
	set     func(time.Time) *memory.Index // sets both clocks; nil: the clock is not ours
	model   *memory.Index
	now     time.Time
	history []string

	names    []string
	segments []*drawn
	logs     map[string][]engine.Run      // every committed run, folded or not
	snaps    map[string][]engine.Snapshot // every registered snapshot
	moves    []engine.Relocate
	on       bool // events are

	condemned int       // the shard that has lost its epoch, -1 for none
	latest    time.Time // that the clock ever said
	floor     int64     // of the latest epoch

	republished bool // events may stand in the outbox again
}

// drawn is a segment that was pre-committed.
type drawn struct {
	id      engine.SegmentID
	asked   []engine.Reserve
	maxLive int64
	places  []engine.CommitRun // of the runs that got a version
}

func randomOperations(f *fixture, set func(time.Time) *memory.Index) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64N(1 << 32)
	}
	shard := engine.Shard("users")
	d := &driver{
		fixture: f, rnd: rand.New(rand.NewPCG(seed, 0)), set: set, now: start, latest: start,
		logs: make(map[string][]engine.Run), snaps: make(map[string][]engine.Snapshot),
		names: []string{"users", catalogIn(shard, 0), catalogIn(shard, 1), "中文", "a|b", "USERS"},
	}
	f.Logf("replay with -enginetest.seed=%d -enginetest.ops=%d", seed, *opsFlag)
	defer func() {
		if f.Failed() {
			f.Logf("the last operations:\n%s", strings.Join(d.history[max(0, len(d.history)-40):], "\n"))
		}
	}()
	if set != nil {
		d.model = set(d.now)
	}
	d.newEpoch()
	d.events(true)
	ops := []struct {
		weight int
		do     func()
	}{
		{20, d.preCommitNew}, {3, d.preCommitAgain}, {30, d.commitSome}, {5, d.rollbackSome}, {10, d.lookAtOne}, {8, d.foldOne},
		{2, d.snapshotsOf}, {2, d.catalogsOf}, {3, d.stuckNow}, {3, d.planOf}, {2, d.garbageOf}, {2, d.unusedOf}, {2, d.forgetSome}, {1, d.abandonSome}, {2, d.liveOf}, {4, d.relocateSome}, {2, d.dropSome}, {3, d.drain}, {6, d.tick}, {1, d.oldEpoch},
		{1, func() { d.events(d.rnd.IntN(3) > 0) }}, {1, d.newEpoch},
	}
	total := 0
	for _, op := range ops {
		total += op.weight
	}
	for range *opsFlag {
		pick := d.rnd.IntN(total)
		for _, op := range ops {
			if pick -= op.weight; pick < 0 {
				op.do()
				break
			}
		}
	}
	for _, name := range d.names {
		d.look(name, engine.Version{})
	}
	d.stuckNow()
	d.drain()
}

// same does an operation on the index under test, then on the reference, and
// holds their answers, as text, against each other.
func (d *driver) same(what string, call func(x IndexUnderTest) string) {
	d.Helper()
	got := call(d.x)
	d.history = append(d.history, what+"\n    → "+got)
	if d.model == nil {
		return
	}
	if want := call(d.model); got != want {
		d.Fatalf("%s:\n got %s\nwant %s", what, got, want)
	}
}

// class is what counts of an error.
func class(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, engine.ErrEpoch):
		return "epoch"
	case errors.Is(err, engine.ErrStale):
		return "stale"
	default:
		return "error" // its text is the index's own
	}
}

func (d *driver) name() string { return d.names[d.rnd.IntN(len(d.names))] }

// old is a segment of the past, mostly of the near one.
func (d *driver) old() *drawn {
	if len(d.segments) == 0 {
		return nil
	}
	near := min(len(d.segments), 6)
	if d.rnd.IntN(8) == 0 {
		near = len(d.segments)
	}
	return d.segments[len(d.segments)-1-d.rnd.IntN(near)]
}

func (d *driver) preCommitNew() {
	d.n++
	s := &drawn{id: engine.SegmentID{Epoch: d.epoch, Unix: start.Unix(), Writer: "writer" + []string{"aa", "bb", "cc"}[d.rnd.IntN(3)], N: d.n}}
	s.maxLive = []int64{0, 0, 1000, 100_000}[d.rnd.IntN(4)]
	for range 1 + d.rnd.IntN(4) {
		s.asked = append(s.asked, reserve(d.name(), []int{1, 1, 1, 2, 5, 1000, 70_000}[d.rnd.IntN(7)]))
		if d.rnd.IntN(40) == 0 {
			s.asked[len(s.asked)-1] = reserve(s.asked[len(s.asked)-1].Catalog, 800_000)
		}
	}
	d.segments = append(d.segments, s)
	for i, r := range d.askPreCommit(s, d.epoch) {
		if r.Err == nil && r.State == engine.ReserveOK {
			s.places = append(s.places, place(s.asked[i].Catalog, r.First, s.asked[i].N))
			if log := d.logs[s.asked[i].Catalog]; len(log) > 0 && !log[len(log)-1].Last.Less(r.First) {
				d.Fatalf("%q: reserved %s, and %s is committed", s.asked[i].Catalog, r.First, log[len(log)-1].Last)
			}
		}
	}
}

func (d *driver) preCommitAgain() {
	s := d.old()
	if s == nil {
		return
	}
	again := d.askPreCommit(s, d.epoch)
	if s.id.Epoch != d.epoch || len(s.places) == 0 {
		return
	}
	k := 0
	for i, r := range again {
		if k < len(s.places) && r.First == s.places[k].First && s.asked[i].Catalog == s.places[k].Catalog {
			k++
		}
	}
	if k < len(s.places) {
		d.Fatalf("precommit %s again: got %+v, want the plan %+v", s.id, again, s.places)
	}
	// What had been paced in a shard without a plan may have a version now.
	s.places = s.places[:0]
	for i, r := range again {
		if r.Err == nil && r.State == engine.ReserveOK {
			s.places = append(s.places, place(s.asked[i].Catalog, r.First, s.asked[i].N))
		}
	}
}

func (d *driver) askPreCommit(s *drawn, epoch uint64) (answer []engine.Reserved) {
	d.same(fmt.Sprintf("precommit %s %+v over at most %d", s.id, s.asked, s.maxLive), func(x IndexUnderTest) string {
		res, err := x.PreCommit(d.Context(), engine.PreCommit{Epoch: epoch, Segment: s.id, Runs: s.asked, MaxLive: s.maxLive})
		text := class(err)
		for _, r := range res.Runs {
			text += fmt.Sprintf(" | %s state %d %s", r.First, r.State, class(r.Err))
		}
		if x == d.x {
			answer = res.Runs
			if err != nil || len(answer) != len(s.asked) {
				d.Fatalf("precommit: got %d answers and error %v", len(answer), err)
			}
		}
		return text
	})
	return answer
}

func (d *driver) commitSome() {
	s := d.old()
	if s == nil || len(s.places) == 0 {
		return
	}
	runs := slices.Clone(s.places)
	if d.rnd.IntN(3) == 0 {
		runs = slices.DeleteFunc(runs, func(engine.CommitRun) bool { return d.rnd.IntN(2) == 0 })
	}
	if d.rnd.IntN(10) == 0 {
		runs = append(runs, place(d.name(), engine.Version{Sec: start.Unix() - 1, Seq: 1}, 1)) // never planned
	}
	if d.rnd.IntN(20) == 0 {
		slices.Reverse(runs)
	}
	d.same(fmt.Sprintf("commit %s %+v", s.id, runs), func(x IndexUnderTest) string {
		got, err := x.Commit(d.Context(), engine.Commit{Epoch: d.epoch, Segment: s.id, Runs: runs})
		text := class(err)
		for _, c := range got {
			text += fmt.Sprintf(" | %d %s %s", c.State, c.Older, class(c.Err))
		}
		if x != d.x {
			return text
		}
		if err != nil || len(got) != len(runs) {
			d.Fatalf("commit: got %d answers and error %v", len(got), err)
		}
		for i, c := range got {
			if c.State == engine.RunCommitted && s.id.Epoch == d.epoch {
				d.logged(runs[i].Catalog, liveRun(s.id, runs[i]))
			}
		}
		return text
	})
}

// logged takes down a run that was answered as committed, unless it was before.
func (d *driver) logged(name string, r engine.Run) {
	log := d.logs[name]
	if slices.ContainsFunc(log, func(have engine.Run) bool { return have.First == r.First }) { // perhaps it stands elsewhere now
		return
	}
	if len(log) > 0 && !log[len(log)-1].Last.Less(r.First) {
		d.Fatalf("%q: committed %+v after %+v", name, r, log[len(log)-1])
	}
	d.logs[name] = append(log, r)
}

func (d *driver) rollbackSome() {
	s := d.old()
	if s == nil {
		return
	}
	r := engine.Rollback{Epoch: d.epoch, Segment: s.id}
	for _, a := range s.asked {
		if shard := engine.Shard(a.Catalog); !slices.Contains(r.Shards, shard) && d.rnd.IntN(4) > 0 {
			r.Shards = append(r.Shards, shard)
		}
	}
	for _, c := range s.places {
		if d.rnd.IntN(4) == 0 {
			r.Keep = append(r.Keep, engine.RunKey{Catalog: c.Catalog, First: c.First})
		}
	}
	d.same(fmt.Sprintf("rollback %+v", r), func(x IndexUnderTest) string { return class(x.Rollback(d.Context(), r)) })
}

func (d *driver) lookAtOne() {
	name := d.name()
	after := engine.Version{}
	if log := d.logs[name]; len(log) > 0 && d.rnd.IntN(2) == 0 {
		after = log[d.rnd.IntN(len(log))].Last
	}
	d.look(name, after)
}

// look holds a view against the log.
func (d *driver) look(name string, after engine.Version) {
	var v engine.View
	d.same(fmt.Sprintf("view %q after %s", name, after), func(x IndexUnderTest) string {
		got, err := x.View(d.Context(), d.epoch, name, after)
		if x == d.x {
			v = got
		}
		got.Now, got.PendingSince = got.Now.UTC(), got.PendingSince.UTC()
		return fmt.Sprintf("%s %+v", class(err), got)
	})
	var snap engine.Snapshot
	if snaps := d.snaps[name]; len(snaps) > 0 {
		snap = snaps[len(snaps)-1]
	}
	head := snap.Stop
	var want []engine.Run
	var deltas, bytes int64
	for _, r := range d.logs[name] {
		head = engine.MaxVersion(head, r.Last)
		if snap.Stop.Less(r.First) {
			deltas, bytes = deltas+int64(r.N), bytes+r.Len
			if after.Less(r.First) {
				want = append(want, r)
			}
		}
	}
	if !slices.Equal(v.Runs, want) || v.Head != head || v.Snapshot != snap || v.Deltas != deltas || v.Bytes != bytes {
		d.Fatalf("view %q after %s:\n got %+v\nwant head %s, snapshot %+v, %d deltas, %d bytes, runs %+v", name, after, v, head, snap, deltas, bytes, want)
	}
}
