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
			s.repeat(now, p, mine, res.Runs)
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
		if answer[i] = s.admit(now, c, r, p.MaxLive); answer[i].State != engine.ReserveOK {
			continue
		}
		base := engine.MaxVersion(c.last, engine.Version{Sec: now.Unix()})
		base = engine.MaxVersion(base, engine.Version{Sec: s.floor, Seq: engine.MaxSeq})
		first := base.Add(1)
		c.last = first.Add(r.N - 1)
		if !slices.Contains(c.open, p.Segment) {
			c.open = append(c.open, p.Segment)
		}
		if r.ID != "" {
			c.keep(r.ID, identity{segment: p.Segment, until: now.Add(engine.IDTTL), state: engine.IDState{
				State: engine.IDPending, First: first, N: r.N, Fingerprint: r.Fingerprint,
			}})
		}
		made.runs = append(made.runs, engine.Planned{Catalog: r.Catalog, First: first, N: r.N, State: engine.PlanOpen})
		made.place, made.ids = append(made.place, i), append(made.ids, r.ID)
		answer[i].First = first
	}
	if len(made.runs) > 0 {
		s.plans[p.Segment] = made
	}
}

// admit says whether a run may be reserved: by its id, the catalog's gate, its
// expectation, its live log and its pace, in this order.
func (s *shard) admit(now time.Time, c *catalog, r engine.Reserve, maxLive int64) engine.Reserved {
	if known := c.known(now, r.ID); known.State != engine.IDUnknown {
		return knownID(known, r)
	}
	// A gate with more than its time left is from before the clock was stepped back.
	if left := c.gate.until.Sub(now); c.gate.token != "" && left > 0 && left <= engine.GateTTL && c.gate.token != r.Gate {
		return engine.Reserved{State: engine.ReservePaced}
	}
	if r.Expect != nil {
		switch {
		case len(c.open) > 0:
			if r.Gate != "" {
				c.gate = gate{token: r.Gate, until: now.Add(engine.GateTTL)}
			}
			return engine.Reserved{State: engine.ReserveUndecided, Older: c.open[0]}
		case c.head != *r.Expect:
			c.hadTurn(r.Gate)
			return engine.Reserved{State: engine.ReserveConflict, Head: c.head}
		}
	}
	if maxLive > 0 {
		if deltas, _ := c.live(); deltas > maxLive {
			return engine.Reserved{State: engine.ReserveFull}
		}
	}
	// The space of ids is MaxSeq a second. A catalog may borrow a second's, no more,
	// to the millisecond: were whole seconds compared, one that has used them up
	// would stand still until the next begins. Time that steps back must not make
	// it wait, so the greatest time ever seen counts. Nothing is reserved for the
	// runs behind it either: last stays as it is.
	if c.last.Sec*1000+int64(c.last.Seq/1000) > max(now.UnixMilli(), s.mark.UnixMilli(), s.floor*1000+999)+1000 {
		return engine.Reserved{State: engine.ReservePaced}
	}
	c.hadTurn(r.Gate)
	return engine.Reserved{}
}

// hadTurn opens the gate that a token closed.
func (c *catalog) hadTurn(token string) {
	if c.gate.token == token {
		c.gate = gate{}
	}
}

func knownID(known engine.IDState, r engine.Reserve) engine.Reserved {
	answer := engine.Reserved{State: engine.ReserveDuplicate, First: known.First, N: known.N}
	switch {
	case known.Fingerprint != r.Fingerprint:
		answer = engine.Reserved{State: engine.ReserveReused}
	case known.State == engine.IDPending:
		answer.State = engine.ReserveInFlight
	}
	return answer
}

// known is what the catalog knows of an id now.
func (c *catalog) known(now time.Time, id string) engine.IDState {
	have, ok := c.ids[id]
	if id == "" || !ok || have.state.State == engine.IDCommitted && !have.until.After(now) {
		return engine.IDState{}
	}
	return have.state
}

func (c *catalog) keep(id string, i identity) {
	if c.ids == nil {
		c.ids = make(map[string]identity)
	}
	c.ids[id] = i
}

// repeat answers a PreCommit that came before: a run that was reserved by its
// place among the segment's runs; one that was not by what its id says, else to
// try again.
func (s *shard) repeat(now time.Time, p engine.PreCommit, mine []int, answer []engine.Reserved) {
	have := s.plans[p.Segment]
	for _, i := range mine {
		r := p.Runs[i]
		k := slices.Index(have.place, i)
		switch known := s.catalog(r.Catalog).known(now, r.ID); {
		case k >= 0 && (have.runs[k].Catalog != r.Catalog || have.runs[k].N != r.N):
			answer[i].Err = fmt.Errorf("segment %s has %d deltas of %q planned, not %d of %q: %w", p.Segment, have.runs[k].N, have.runs[k].Catalog, r.N, r.Catalog, engine.ErrInvalid)
		case k >= 0:
			answer[i].First = have.runs[k].First
		case known.State != engine.IDUnknown:
			answer[i] = knownID(known, r)
		default:
			answer[i].State = engine.ReservePaced
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
		s.publish(now, x.events, events.list)
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
	if r.ID != "" {
		c.keep(r.ID, identity{until: now.Add(engine.IDTTL), state: engine.IDState{
			State: engine.IDCommitted, First: r.First, N: r.N, Fingerprint: r.Fingerprint,
		}})
	}
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
	delete(s.garbage, piece{segment: run.Segment})
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
	for i := range p.runs {
		if id := p.ids[i]; &p.runs[i] == r && id != "" && state == engine.PlanRolledBack {
			if c := s.catalog(r.Catalog); c.ids[id].segment == segment {
				delete(c.ids, id)
			}
		}
	}
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
