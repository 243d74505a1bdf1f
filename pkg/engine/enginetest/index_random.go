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
}

// drawn is a segment that was pre-committed.
type drawn struct {
	id     engine.SegmentID
	asked  []engine.Reserve
	places []engine.CommitRun // of the runs that got a version
}

func randomOperations(f *fixture, set func(time.Time) *memory.Index) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64N(1 << 32)
	}
	shard := engine.Shard("users")
	d := &driver{
		fixture: f, rnd: rand.New(rand.NewPCG(seed, 0)), set: set, now: start,
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
		{2, d.snapshotsOf}, {2, d.catalogsOf}, {3, d.stuckNow}, {3, d.planOf}, {2, d.garbageOf}, {3, d.drain}, {6, d.tick}, {1, d.oldEpoch},
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
		return "error " + err.Error()
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
	for range 1 + d.rnd.IntN(4) {
		s.asked = append(s.asked, reserve(d.name(), []int{1, 1, 1, 2, 5, 1000, 70_000}[d.rnd.IntN(7)]))
		if d.rnd.IntN(40) == 0 {
			s.asked[len(s.asked)-1] = reserve(s.asked[len(s.asked)-1].Catalog, 800_000)
		}
	}
	d.segments = append(d.segments, s)
	for i, r := range d.askPreCommit(s, d.epoch) {
		if r.Err == nil && r.State != engine.ReservePaced {
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
		if r.Err == nil && r.State != engine.ReservePaced {
			s.places = append(s.places, place(s.asked[i].Catalog, r.First, s.asked[i].N))
		}
	}
}

func (d *driver) askPreCommit(s *drawn, epoch uint64) (answer []engine.Reserved) {
	d.same(fmt.Sprintf("precommit %s %+v", s.id, s.asked), func(x IndexUnderTest) string {
		res, err := x.PreCommit(d.Context(), engine.PreCommit{Epoch: epoch, Segment: s.id, Runs: s.asked})
		text := class(err)
		for _, r := range res.Runs {
			text += fmt.Sprintf(" | %s paced=%v %s", r.First, r.State == engine.ReservePaced, class(r.Err))
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
	if slices.Contains(log, r) {
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

func (d *driver) foldOne() {
	name := d.name()
	f := engine.Fold{Epoch: d.epoch, Catalog: name}
	snaps, log := d.snaps[name], d.logs[name]
	if len(snaps) > 0 {
		f.Snapshot.Start = snaps[len(snaps)-1].Stop
	}
	if len(log) > 0 {
		f.Snapshot.Stop = log[len(log)-1-d.rnd.IntN(min(4, len(log)))].Last
	}
	switch d.rnd.IntN(12) {
	case 0:
		f.Snapshot.Stop = f.Snapshot.Stop.Add(1)
	case 1:
		f.Snapshot.Start = f.Snapshot.Start.Add(1)
	case 2: // the latest again
		if len(snaps) > 0 {
			f.Snapshot = snaps[len(snaps)-1]
		}
	}
	if slices.ContainsFunc(snaps[:max(0, len(snaps)-1)], func(s engine.Snapshot) bool { return s.Start == f.Snapshot.Start && s.Stop == f.Snapshot.Stop }) {
		return // repeating a fold that is not the latest any more: success or ErrStale
	}
	f.Snapshot = snapshot(f.Snapshot.Start, f.Snapshot.Stop)
	d.same(fmt.Sprintf("fold %+v", f), func(x IndexUnderTest) string {
		err := x.Fold(d.Context(), f)
		if x == d.x && err == nil && !slices.Contains(d.snaps[name], f.Snapshot) {
			d.snaps[name] = append(d.snaps[name], f.Snapshot)
		}
		return class(err)
	})
}

func (d *driver) snapshotsOf() {
	name, limit := d.name(), 1+d.rnd.IntN(5)
	after := engine.Version{}
	if snaps := d.snaps[name]; len(snaps) > 0 && d.rnd.IntN(2) == 0 {
		after = snaps[d.rnd.IntN(len(snaps))].Stop
	}
	d.same(fmt.Sprintf("snapshots of %q after %s, %d", name, after, limit), func(x IndexUnderTest) string {
		got, err := x.Snapshots(d.Context(), d.epoch, name, after, limit)
		return fmt.Sprintf("%s %+v", class(err), got)
	})
}

func (d *driver) catalogsOf() {
	prefix, after, limit := "", "", 1+d.rnd.IntN(8)
	if d.rnd.IntN(2) == 0 {
		prefix = d.name()[:1]
	}
	if d.rnd.IntN(2) == 0 {
		after = d.name()
	}
	d.same(fmt.Sprintf("catalogs %q after %q, %d", prefix, after, limit), func(x IndexUnderTest) string {
		got, err := x.Catalogs(d.Context(), d.epoch, prefix, after, limit)
		return fmt.Sprintf("%s %+v", class(err), got)
	})
}

func (d *driver) stuckNow() {
	d.same("stuck", func(x IndexUnderTest) string {
		got, err := x.Stuck(d.Context(), d.epoch)
		var lines []string // equal times have no order
		for i, s := range got {
			if i > 0 && s.Since.Before(got[i-1].Since) {
				d.Fatalf("stuck: got %+v, want the oldest first", got)
			}
			slices.Sort(s.Shards)
			s.Since, s.Heartbeat, s.Now = s.Since.UTC(), s.Heartbeat.UTC(), s.Now.UTC()
			lines = append(lines, fmt.Sprintf("%+v", s))
		}
		slices.Sort(lines)
		return class(err) + " " + strings.Join(lines, " | ")
	})
}

func (d *driver) planOf() {
	s := d.old()
	if s == nil {
		return
	}
	shard := engine.Shard(s.asked[d.rnd.IntN(len(s.asked))].Catalog)
	d.same(fmt.Sprintf("plan of %s in shard %d", s.id, shard), func(x IndexUnderTest) string {
		got, err := x.Plan(d.Context(), d.epoch, shard, s.id)
		return fmt.Sprintf("%s %+v", class(err), got)
	})
}

func (d *driver) garbageOf() {
	shard := engine.Shard(d.name())
	d.same(fmt.Sprintf("garbage of shard %d", shard), func(x IndexUnderTest) string {
		got, err := x.Garbage(d.Context(), d.epoch, shard, 10_000)
		var lines []string
		for _, g := range got {
			lines = append(lines, fmt.Sprintf("%s since %v", g.Segment, g.Since.UTC()))
		}
		slices.Sort(lines)
		return class(err) + " " + strings.Join(lines, " | ")
	})
}

// drain reads the outbox and sometimes trims it. Of a catalog, what one writer
// committed at one time may be one event or several.
func (d *driver) drain() {
	trim := d.rnd.IntN(2) == 0
	d.same(fmt.Sprintf("outbox, trim %v", trim), func(x IndexUnderTest) string {
		got, err := x.Next(d.Context(), d.epoch, shardsOf(d.names...), 1_000_000)
		events := make(map[string][]engine.Event)
		for _, b := range got {
			for _, e := range b.Events {
				list := events[e.Catalog]
				if n := len(list); n > 0 && e.Kind == engine.EventCommitted && list[n-1].Kind == e.Kind && list[n-1].Version == e.Prev && list[n-1].Writer == e.Writer && list[n-1].Time == e.Time {
					e.First, e.Prev, e.Count, e.Bytes = list[n-1].First, list[n-1].Prev, e.Count+list[n-1].Count, e.Bytes+list[n-1].Bytes
					list = list[:n-1]
				}
				events[e.Catalog] = append(list, e)
			}
			if trim {
				if err := x.Trim(d.Context(), d.epoch, b.Shard, b.UpTo); err != nil {
					d.Fatalf("trim shard %d up to %q: %v", b.Shard, b.UpTo, err)
				}
			}
		}
		return fmt.Sprintf("%s %+v", class(err), events) // maps print in the order of their keys
	})
}

// tick steps the clock, mostly forward. The heartbeat after it moves the mark:
// which other methods move it need not be known then.
func (d *driver) tick() {
	if d.set == nil {
		return
	}
	step := []time.Duration{time.Millisecond, 100 * time.Millisecond, 999 * time.Millisecond, time.Second, 2 * time.Second, -time.Second, -20 * time.Second}[d.rnd.IntN(7)]
	// Plans live for ten minutes: stay below that, the adapter's timers may not follow the clock.
	if next := d.now.Add(step); next.Sub(start) < 5*time.Minute && start.Sub(next) < time.Minute {
		d.now = next
	}
	d.history = append(d.history, fmt.Sprintf("clock %v", d.now))
	d.set(d.now)
	d.heartbeat()
}

func (d *driver) heartbeat() {
	writer := "writer" + []string{"aa", "bb"}[d.rnd.IntN(2)]
	d.same("heartbeat of "+writer, func(x IndexUnderTest) string {
		now, err := x.Heartbeat(d.Context(), d.epoch, writer)
		if d.model == nil {
			return class(err)
		}
		return fmt.Sprintf("%s %v", class(err), now.UTC())
	})
}

func (d *driver) oldEpoch() {
	s := &drawn{id: d.segment(), asked: []engine.Reserve{reserve(d.name(), 1)}}
	for _, r := range d.askPreCommit(s, d.epoch+uint64(2*d.rnd.IntN(2))-1) {
		d.is(r.Err, engine.ErrEpoch)
	}
}

func (d *driver) events(on bool) {
	d.same(fmt.Sprintf("events %v", on), func(x IndexUnderTest) string { return class(x.SetEvents(d.Context(), on)) })
}

// newEpoch fences all shards, puts back some of what was undecided, as if its
// segments had been sealed, adopts a snapshot here and there, resolves what is
// left and opens.
func (d *driver) newEpoch() {
	d.epoch++
	each := func(what string, call func(x IndexUnderTest, shard int) string) {
		d.same(what, func(x IndexUnderTest) string {
			var text []string
			for shard := range engine.Shards {
				text = append(text, call(x, shard))
			}
			return strings.Join(text, " ")
		})
	}
	each(fmt.Sprintf("fence %d", d.epoch), func(x IndexUnderTest, shard int) string { return class(x.Fence(d.Context(), shard, d.epoch)) })
	d.same("epochs", func(x IndexUnderTest) string {
		got, err := x.Epochs(d.Context())
		for i := range got {
			got[i].Mark = got[i].Mark.UTC()
			if d.model == nil {
				got[i].Mark = time.Time{}
			}
		}
		return fmt.Sprintf("%s %+v", class(err), got)
	})

	restores := make([]engine.Restore, engine.Shards)
	for _, name := range d.names {
		shard := engine.Shard(name)
		log, snaps := d.logs[name], d.snaps[name]
		if d.rnd.IntN(4) == 0 && len(log) > 0 {
			s := snapshot(engine.Version{}, log[d.rnd.IntN(len(log))].Last)
			if len(snaps) > 0 {
				s.Start = snaps[len(snaps)-1].Stop
			}
			restores[shard].Snapshots = append(restores[shard].Snapshots, engine.RestoreSnapshot{Catalog: name, Snapshot: s})
			if len(snaps) == 0 || snaps[len(snaps)-1].Stop.Less(s.Stop) {
				d.snaps[name] = append(snaps, s)
			}
		}
		runs := slices.Clone(log[max(0, len(log)-3):]) // there already
		for _, s := range d.segments {
			if d.rnd.IntN(2) == 0 && s.id.Epoch == d.epoch-1 { // sealed
				for _, c := range s.places {
					if r := liveRun(s.id, c); c.Catalog == name && !slices.Contains(runs, r) {
						runs = append(runs, r)
					}
				}
			}
		}
		slices.SortFunc(runs, func(a, b engine.Run) int { return a.First.Compare(b.First) })
		for _, r := range runs {
			restores[shard].Runs = append(restores[shard].Runs, engine.RestoreRun{Catalog: name, Run: r, Author: "author of " + name})
			head := engine.Version{}
			if snaps := d.snaps[name]; len(snaps) > 0 {
				head = snaps[len(snaps)-1].Stop
			}
			if log := d.logs[name]; len(log) > 0 {
				head = engine.MaxVersion(head, log[len(log)-1].Last)
			}
			if head.Less(r.First) {
				d.logs[name] = append(d.logs[name], r)
			}
		}
	}
	times := 1 + d.rnd.IntN(2)
	each(fmt.Sprintf("restore %+v", restores), func(x IndexUnderTest, shard int) string {
		for range times {
			if err := x.Restore(d.Context(), shard, d.epoch, restores[shard]); err != nil {
				return class(err)
			}
		}
		return class(nil)
	})
	each("resolve", func(x IndexUnderTest, shard int) string {
		list, err := x.Reservations(d.Context(), shard, d.epoch)
		var names []string
		for _, s := range list {
			names = append(names, s.String())
			if err == nil {
				var sealed []engine.RunKey
				for _, r := range restores[shard].Runs {
					if r.Run.Segment == s {
						sealed = append(sealed, engine.RunKey{Catalog: r.Catalog, First: r.Run.First})
					}
				}
				err = x.Resolve(d.Context(), shard, d.epoch, s, sealed)
			}
		}
		slices.Sort(names)
		return fmt.Sprint(class(err), names)
	})
	var floor int64
	if d.set != nil {
		floor = d.now.Unix() - 3 + int64(d.rnd.IntN(6))
	}
	each(fmt.Sprintf("open, floor %d", floor), func(x IndexUnderTest, shard int) string {
		return class(x.Open(d.Context(), shard, d.epoch, floor))
	})
	d.heartbeat()
}
