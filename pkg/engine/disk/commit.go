package disk

import (
	"context"
	"errors"
	"fmt"

	"github.com/jsonlake/lake/pkg/engine"
)

// Commit makes runs of a segment visible, each in its turn.
func (x *Index) Commit(ctx context.Context, c engine.Commit) ([]engine.Committed, error) {
	for i := range c.Runs {
		if err := checkID(c.Runs[i].ID); err != nil {
			return nil, fmt.Errorf("commit segment %s: %w", c.Segment, err)
		}
	}
	now, end, err := x.enter(ctx)
	if err != nil {
		return nil, fmt.Errorf("commit segment %s: %w", c.Segment, err)
	}
	defer end()
	answer := make([]engine.Committed, len(c.Runs))
	shards, mine := byShard(len(c.Runs), func(i int) string { return c.Runs[i].Catalog })
	for number := range shards.each {
		err := ctx.Err()
		if err == nil {
			err = x.commitShard(x.shards[number], now, c, mine[number], answer)
		}
		if err != nil {
			err = fmt.Errorf("commit segment %s: %w", c.Segment, err)
			for _, i := range mine[number] {
				answer[i] = engine.Committed{Err: err}
			}
		}
	}
	return answer, nil
}

func (x *Index) commitShard(s *shard, now int64, req engine.Commit, mine []int32, answer []engine.Committed) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.works(req.Epoch); err != nil {
		return err
	}
	c, err := x.work(s, now)
	if err != nil {
		return err
	}
	var plan *planRecord
	if checkSegment(req.Segment) == nil { // nobody can have planned another
		if plan, err = c.plan(req.Segment); err != nil {
			return c.drop(err)
		}
	}
	changed, from := false, 0
	for _, i := range mine {
		place := -1
		if plan != nil {
			if place = plan.find(req.Runs[i].Catalog, req.Runs[i].First, from); place >= 0 {
				from = place + 1
			}
		}
		if place < 0 {
			answer[i] = engine.Committed{State: engine.RunGone}
			continue
		}
		a, err := c.commitRun(req.Segment, plan, place, &req.Runs[i])
		if err != nil {
			return c.drop(err)
		}
		answer[i] = a.Committed
		changed = changed || a.changed
	}
	if changed {
		c.set(keyPlan(s.number, req.Segment), plan.raw)
	}
	return c.end(changed)
}

type commitAnswer struct {
	engine.Committed
	changed bool
}

func (c *change) commitRun(segment engine.SegmentID, plan *planRecord, place int, r *engine.CommitRun) (commitAnswer, error) {
	have := &plan.runs[place]
	switch {
	case have.State == engine.PlanRolledBack:
		return commitAnswer{Committed: engine.Committed{State: engine.RunGone}}, nil
	case have.N != r.N:
		err := fmt.Errorf("%w: segment %s has planned %d deltas of %q at %s, not %d", engine.ErrInvalid, segment, have.N, r.Catalog, r.First, r.N)
		return commitAnswer{Committed: engine.Committed{Err: err}}, nil
	case have.State == engine.PlanCommitted:
		return commitAnswer{Committed: engine.Committed{State: engine.RunCommitted}}, nil
	}
	h, err := c.head(r.Catalog)
	if err != nil {
		return commitAnswer{}, err
	}
	if len(h.open) > 0 && h.open[0].segment != segment {
		return commitAnswer{Committed: engine.Committed{State: engine.RunWaiting, Older: h.open[0].segment}}, nil
	}
	if plan.behind(place) {
		return commitAnswer{Committed: engine.Committed{State: engine.RunWaiting, Older: segment}}, nil
	}
	run := engine.Run{First: r.First, Last: r.First.Add(r.N - 1), N: r.N, Segment: segment, Off: r.Off, Len: r.Len}
	if r.N == 1 {
		run.Type, run.Path = r.Type, r.Path
	}
	err = c.insert(r.Catalog, run, r.Author)
	c.receipt(r.Catalog, r.ID, engine.IDState{First: r.First, N: r.N, Fingerprint: r.Fingerprint}, c.now+engine.IDTTL.Milliseconds())
	if err == nil {
		err = c.decide(segment, plan, place, engine.PlanCommitted)
	}
	return commitAnswer{Committed: engine.Committed{State: engine.RunCommitted}, changed: true}, err
}

// Rollback decides against the undecided runs of a segment. Every shard is
// tried; the first error is answered.
func (x *Index) Rollback(ctx context.Context, r engine.Rollback) error {
	now, end, err := x.enter(ctx)
	if err != nil {
		return fmt.Errorf("roll back segment %s: %w", r.Segment, err)
	}
	defer end()
	var first error
	for _, number := range r.Shards {
		s, err := x.shard(number)
		if err == nil {
			err = errors.Join(ctx.Err(), checkSegment(r.Segment))
		}
		if err == nil {
			err = x.rollbackShard(s, now, r)
		}
		if err != nil && first == nil {
			first = fmt.Errorf("roll back segment %s: %w", r.Segment, err)
		}
	}
	return first
}

func (x *Index) rollbackShard(s *shard, now int64, r engine.Rollback) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.works(r.Epoch); err != nil {
		return err
	}
	c, err := x.work(s, now)
	if err != nil {
		return err
	}
	plan, err := c.plan(r.Segment)
	if err != nil {
		return c.drop(err)
	}
	keep := keysOf(r.Keep)
	changed, err := c.decideOpen(r.Segment, plan, func(run engine.RunKey) engine.PlanState {
		if keep[run] {
			return engine.PlanOpen
		}
		return engine.PlanRolledBack
	})
	if err != nil {
		return c.drop(err)
	}
	return c.end(changed)
}

// decideOpen gives every open run of a plan the state that f says.
func (c *change) decideOpen(segment engine.SegmentID, plan *planRecord, f func(engine.RunKey) engine.PlanState) (changed bool, err error) {
	if plan == nil || plan.undecided() == 0 {
		return false, nil
	}
	for i := range plan.runs {
		if plan.runs[i].State != engine.PlanOpen {
			continue
		}
		state := f(engine.RunKey{Catalog: plan.runs[i].Catalog, First: plan.runs[i].First})
		if state == engine.PlanOpen {
			continue
		}
		if err := c.decide(segment, plan, i, state); err != nil {
			return false, err
		}
		changed = true
	}
	if changed {
		c.set(keyPlan(c.s.number, segment), plan.raw)
	}
	return changed, nil
}

func keysOf(list []engine.RunKey) map[engine.RunKey]bool {
	set := make(map[engine.RunKey]bool, len(list))
	for _, k := range list {
		set[k] = true
	}
	return set
}
