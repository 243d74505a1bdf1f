package disk

import (
	"context"
	"fmt"
	"math/bits"

	"github.com/jsonlake/lake/pkg/engine"
)

// maxRunDeltas bounds a run far above any that is written: so that versions are
// counted without overflow.
const maxRunDeltas = 1 << 30

// PreCommit reserves versions for the runs of a segment, a shard at a time.
func (x *Index) PreCommit(ctx context.Context, p engine.PreCommit) (engine.Reservation, error) {
	answer, err := x.preCommit(ctx, p)
	if err != nil {
		return engine.Reservation{}, fmt.Errorf("reserve for segment %s: %w", p.Segment, err)
	}
	return answer, nil
}

func (x *Index) preCommit(ctx context.Context, p engine.PreCommit) (engine.Reservation, error) {
	if err := checkSegment(p.Segment); err != nil {
		return engine.Reservation{}, err
	}
	for _, r := range p.Runs {
		if err := checkCatalog(r.Catalog); err != nil {
			return engine.Reservation{}, err
		}
		if r.N < 1 || r.N > maxRunDeltas {
			return engine.Reservation{}, fmt.Errorf("%w: a run of %d deltas of %q; 1 to %d are possible", engine.ErrInvalid, r.N, r.Catalog, maxRunDeltas)
		}
	}
	now, end, err := x.enter(ctx)
	if err != nil {
		return engine.Reservation{}, err
	}
	defer end()
	if err := x.free.check(); err != nil {
		return engine.Reservation{}, err
	}
	answer := engine.Reservation{Runs: make([]engine.Reserved, len(p.Runs))}
	shards, mine := byShard(len(p.Runs), func(i int) string { return p.Runs[i].Catalog })
	for number := range shards.each {
		err := ctx.Err()
		if err == nil {
			err = x.preCommitShard(x.shards[number], now, p, mine[number], answer.Runs)
		}
		if err != nil {
			for _, i := range mine[number] {
				answer.Runs[i] = engine.Reserved{Err: err}
			}
			continue
		}
		answer.Now = fromMillis(now)
	}
	return answer, nil
}

func (x *Index) preCommitShard(s *shard, now int64, p engine.PreCommit, mine []int32, answer []engine.Reserved) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.works(p.Epoch); err != nil {
		return err
	}
	c, err := x.work(s, now)
	if err != nil {
		return err
	}
	have, err := c.plan(p.Segment)
	if err != nil {
		return c.drop(err)
	}
	if have != nil {
		repeat(have, p, mine, answer)
		return c.end(false)
	}
	made, err := c.reserve(p, mine, answer)
	if err != nil {
		return c.drop(err)
	}
	return c.end(made)
}

// reserve makes the segment's plan.
func (c *change) reserve(p engine.PreCommit, mine []int32, answer []engine.Reserved) (made bool, err error) {
	s, sec := c.s, c.now/1000
	// A catalog may borrow its ids from the next second, no more. Time that steps
	// back must not make it wait, so the greatest time ever seen counts.
	limit := max(sec, s.mark/1000, s.floor) + 1
	base := engine.MaxVersion(engine.Version{Sec: sec}, engine.Version{Sec: s.floor, Seq: engine.MaxSeq})
	plan := newPlan(c.now, len(mine))
	for _, i := range mine {
		r := &p.Runs[i]
		h, err := c.head(r.Catalog)
		if err != nil {
			return false, err
		}
		if h.paced || h.last.Sec > limit {
			h.paced = true // the runs behind it too: they come in order
			answer[i] = engine.Reserved{Paced: true}
			continue
		}
		first := engine.MaxVersion(h.last, base).Add(1)
		h.last, h.changed = first.Add(r.N-1), true
		if !h.last.Valid() {
			return false, fmt.Errorf("%w: %q has no versions after %s", engine.ErrUnavailable, r.Catalog, first)
		}
		if n := len(h.open); n > 0 && h.open[n-1].segment == p.Segment {
			h.open[n-1].runs++
		} else {
			h.open = append(h.open, reservation{segment: p.Segment, since: c.now, runs: 1})
		}
		place := len(plan.runs) + 1
		back := 0
		if h.lastAt > 0 {
			back = place - h.lastAt
		}
		h.lastAt = place
		plan.add(engine.Planned{Catalog: r.Catalog, First: first, N: r.N}, back)
		answer[i] = engine.Reserved{First: first}
	}
	if len(plan.runs) == 0 {
		return false, nil
	}
	c.set(keyPlan(s.number, p.Segment), plan.raw)
	c.set(keyUndecided(s.number, p.Segment), appendInt(nil, c.now))
	c.planned = append(c.planned, p.Segment)
	return true, nil
}

// repeat answers a PreCommit that came before with what is planned: the k-th
// run of a catalog has the k-th reservation of that catalog. What is not in
// the plan was paced.
func repeat(have *planRecord, p engine.PreCommit, mine []int32, answer []engine.Reserved) {
	planned := make(map[string][]int, len(have.runs))
	for i := range have.runs {
		name := have.runs[i].Catalog
		planned[name] = append(planned[name], i)
	}
	for _, i := range mine {
		r := &p.Runs[i]
		places := planned[r.Catalog]
		if len(places) == 0 {
			answer[i] = engine.Reserved{Paced: true}
			continue
		}
		planned[r.Catalog] = places[1:]
		run := &have.runs[places[0]]
		if run.N != r.N {
			answer[i] = engine.Reserved{Err: fmt.Errorf("%w: segment %s has planned %d deltas of %q there, not %d", engine.ErrInvalid, p.Segment, run.N, r.Catalog, r.N)}
			continue
		}
		answer[i] = engine.Reserved{First: run.First}
	}
}

// shardSet has a bit a shard.
type shardSet uint32

// each yields the shards, ascending.
func (set shardSet) each(yield func(int) bool) {
	for ; set != 0; set &= set - 1 {
		if !yield(bits.TrailingZeros32(uint32(set))) {
			return
		}
	}
}

// byShard tells which of n things belong to which shard, in their order.
func byShard(n int, catalog func(i int) string) (set shardSet, places [engine.Shards][]int32) {
	if n == 1 {
		number := engine.Shard(catalog(0))
		places[number] = []int32{0}
		return 1 << number, places
	}
	var counts [engine.Shards]int
	of := make([]uint8, n)
	for i := range n {
		of[i] = uint8(engine.Shard(catalog(i)))
		counts[of[i]]++
	}
	all := make([]int32, 0, n)
	for s, count := range counts {
		if count > 0 {
			set |= 1 << s
			places[s] = all[len(all) : len(all) : len(all)+count]
			all = all[:len(all)+count]
		}
	}
	for i, s := range of {
		places[s] = append(places[s], int32(i))
	}
	return set, places
}
