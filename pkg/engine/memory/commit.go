package memory

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// PreCommit reserves versions for the runs of a segment, a shard at a time.
func (x *Index) PreCommit(ctx context.Context, p engine.PreCommit) (engine.Reservation, error) {
	for _, r := range p.Runs {
		if r.N < 1 {
			return engine.Reservation{}, fmt.Errorf("reserve a run of %d deltas of %q: %w", r.N, r.Catalog, engine.ErrInvalid)
		}
	}
	now, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return engine.Reservation{}, err
	}
	res := engine.Reservation{Runs: make([]engine.Reserved, len(p.Runs))}
	for number := range x.shards {
		var mine []int // places of this shard's runs
		for i, r := range p.Runs {
			if engine.Shard(r.Catalog) == number {
				mine = append(mine, i)
			}
		}
		if len(mine) == 0 {
			continue
		}
		s, err := x.working(number, p.Epoch)
		if err != nil {
			for _, i := range mine {
				res.Runs[i].Err = err
			}
			continue
		}
		s.work(now)
		if s.plans[p.Segment] == nil {
			s.reserve(now, p, mine, res.Runs)
		} else {
			s.repeat(p, mine, res.Runs)
		}
		res.Now = now
	}
	return res, nil
}

// reserve makes the segment's plan.
func (s *shard) reserve(now time.Time, p engine.PreCommit, mine []int, answer []engine.Reserved) {
	made := &plan{since: now}
	for _, i := range mine {
		r := p.Runs[i]
		c := s.catalog(r.Catalog)
		// The space of ids is MaxSeq a second. A catalog may borrow from the next
		// second, no more. Time that steps back must not make it wait, so the
		// greatest time ever seen counts. Nothing is reserved for the runs behind
		// it either: last stays as it is.
		if c.last.Sec > max(now.Unix(), s.mark.Unix(), s.floor)+1 {
			answer[i].Paced = true
			continue
		}
		base := engine.MaxVersion(c.last, engine.Version{Sec: now.Unix()})
		base = engine.MaxVersion(base, engine.Version{Sec: s.floor, Seq: engine.MaxSeq})
		first := base.Add(1)
		c.last = first.Add(r.N - 1)
		if !slices.Contains(c.open, p.Segment) {
			c.open = append(c.open, p.Segment)
		}
		made.runs = append(made.runs, engine.Planned{Catalog: r.Catalog, First: first, N: r.N, State: engine.PlanOpen})
		answer[i].First = first
	}
	if len(made.runs) > 0 {
		s.plans[p.Segment] = made
	}
}

// repeat answers a PreCommit that came before with what is planned: the k-th
// run of a catalog has the k-th reservation of that catalog.
func (s *shard) repeat(p engine.PreCommit, mine []int, answer []engine.Reserved) {
	seen := make(map[string]int)
	for _, i := range mine {
		r := p.Runs[i]
		k := seen[r.Catalog]
		seen[r.Catalog]++
		answer[i].Paced = true // unless it is in the plan
		for _, have := range s.plans[p.Segment].runs {
			if have.Catalog != r.Catalog {
				continue
			}
			if k > 0 {
				k--
				continue
			}
			answer[i] = engine.Reserved{First: have.First}
			if have.N != r.N {
				answer[i] = engine.Reserved{Err: fmt.Errorf("segment %s has %d deltas of %q planned, not %d: %w", p.Segment, have.N, r.Catalog, r.N, engine.ErrInvalid)}
			}
			break
		}
	}
}

// Commit makes runs of a segment visible, each in its turn.
func (x *Index) Commit(ctx context.Context, c engine.Commit) ([]engine.Committed, error) {
	now, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return nil, err
	}
	answer := make([]engine.Committed, len(c.Runs))
	for number := range x.shards {
		var mine []int
		for i, r := range c.Runs {
			if engine.Shard(r.Catalog) == number {
				mine = append(mine, i)
			}
		}
		if len(mine) == 0 {
			continue
		}
		s, err := x.working(number, c.Epoch)
		if err != nil {
			for _, i := range mine {
				answer[i].Err = err
			}
			continue
		}
		s.work(now)
		var events eventList
		for _, i := range mine {
			answer[i] = s.commit(now, c.Segment, c.Runs[i], &events)
		}
		s.publish(x.events, events.list)
	}
	return answer, nil
}

func (s *shard) commit(now time.Time, segment engine.SegmentID, r engine.CommitRun, events *eventList) engine.Committed {
	p := s.plans[segment]
	have := p.find(r.Catalog, r.First)
	switch {
	case have == nil, have.State == engine.PlanRolledBack:
		return engine.Committed{State: engine.RunGone}
	case have.N != r.N:
		return engine.Committed{Err: fmt.Errorf("segment %s has %d deltas of %q planned at %s, not %d: %w", segment, have.N, r.Catalog, r.First, r.N, engine.ErrInvalid)}
	case have.State == engine.PlanCommitted:
		return engine.Committed{State: engine.RunCommitted}
	}
	c := s.catalog(r.Catalog)
	if c.open[0] != segment {
		return engine.Committed{State: engine.RunWaiting, Older: c.open[0]}
	}
	if p.oldestOpen(r.Catalog) != have {
		return engine.Committed{State: engine.RunWaiting, Older: segment}
	}
	run := engine.Run{First: r.First, Last: r.First.Add(r.N - 1), N: r.N, Segment: segment, Off: r.Off, Len: r.Len}
	if r.N == 1 {
		run.Type, run.Path = r.Type, r.Path
	}
	s.insert(now, r.Catalog, run, r.Author, events)
	s.decide(now, segment, have, engine.PlanCommitted)
	return engine.Committed{State: engine.RunCommitted}
}

// insert puts a run at the end of its catalog's live log.
func (s *shard) insert(now time.Time, name string, run engine.Run, author string, events *eventList) {
	c := s.catalog(name)
	prev := c.head
	c.runs = append(c.runs, run)
	c.head = run.Last
	c.last = engine.MaxVersion(c.last, run.Last)
	s.refs[run.Segment]++
	delete(s.garbage, run.Segment)
	deltas, bytes := c.live()
	events.committed(engine.Event{
		V: 1, Catalog: name, Kind: engine.EventCommitted, First: run.First, Version: run.Last, Prev: prev,
		Count: int64(run.N), Bytes: run.Len, Author: author, Writer: run.Segment.Writer, Time: now.UnixMilli(),
		LiveDeltas: deltas, LiveBytes: bytes, DocBytes: c.snapshot().DocBytes,
	})
}

// decide gives an open run of a plan its last state and lets go of what hangs
// on it.
func (s *shard) decide(now time.Time, segment engine.SegmentID, r *engine.Planned, state engine.PlanState) {
	r.State = state
	p := s.plans[segment]
	if p.oldestOpen(r.Catalog) == nil {
		c := s.catalog(r.Catalog)
		c.open = slices.DeleteFunc(c.open, func(o engine.SegmentID) bool { return o == segment })
	}
	for i := range p.runs {
		if p.runs[i].State == engine.PlanOpen {
			return
		}
	}
	p.decided = now
	s.decided = append(s.decided, segment)
	s.collect(now, segment)
}

// Rollback decides against the undecided runs of a segment.
func (x *Index) Rollback(ctx context.Context, r engine.Rollback) error {
	now, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return err
	}
	var first error
	for _, number := range r.Shards {
		s, err := x.working(number, r.Epoch)
		if err != nil {
			if first == nil {
				first = err
			}
			continue
		}
		s.work(now)
		p := s.plans[r.Segment]
		if !p.undecided() {
			continue
		}
		for i := range p.runs {
			run := &p.runs[i]
			if run.State == engine.PlanOpen && !slices.Contains(r.Keep, engine.RunKey{Catalog: run.Catalog, First: run.First}) {
				s.decide(now, r.Segment, run, engine.PlanRolledBack)
			}
		}
	}
	return first
}
