package disk

import (
	"context"
	"encoding/binary"
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
		if err := checkID(r.ID); err != nil {
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
		if err := c.repeat(have, p, mine, answer); err != nil {
			return c.drop(err)
		}
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
	s := c.s
	base := engine.MaxVersion(engine.Version{Sec: c.now / 1000}, engine.Version{Sec: s.floor, Seq: engine.MaxSeq})
	plan := newPlan(c.now, len(mine))
	for _, i := range mine {
		r := &p.Runs[i]
		h, err := c.head(r.Catalog)
		if err != nil {
			return false, err
		}
		if answer[i], err = c.admit(h, r, p.MaxLive); err != nil {
			return false, err
		}
		if answer[i].State != engine.ReserveOK {
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
		if r.ID != "" {
			c.keep(idKey{r.Catalog, r.ID}, &idRecord{known: true, changed: true, segment: p.Segment, IDState: engine.IDState{
				State: engine.IDPending, First: first, N: r.N, Fingerprint: r.Fingerprint,
			}})
		}
		at := len(plan.runs) + 1
		back := 0
		if h.lastAt > 0 {
			back = at - h.lastAt
		}
		h.lastAt = at
		plan.add(plannedRun{Planned: engine.Planned{Catalog: r.Catalog, First: first, N: r.N}, back: back, place: int(i), id: r.ID})
		answer[i].First = first
	}
	if len(plan.runs) == 0 {
		return false, nil
	}
	c.set(keyPlan(s.number, p.Segment), plan.raw)
	c.set(keyUndecided(s.number, p.Segment), binary.BigEndian.AppendUint64(nil, uint64(c.now)))
	c.planned = append(c.planned, p.Segment)
	return true, nil
}

// admit says whether a run may be reserved: by its id, the catalog's gate, its
// expectation, its live log and its pace, in this order.
func (c *change) admit(h *changedHead, r *engine.Reserve, maxLive int64) (engine.Reserved, error) {
	s := c.s
	if r.ID != "" {
		id, err := c.id(r.Catalog, r.ID)
		if err != nil {
			return engine.Reserved{}, err
		}
		if known := id.at(c.now); known.State != engine.IDUnknown {
			return knownID(known, r), nil
		}
	}
	held, gated := s.gates[r.Catalog]
	// A gate with more than its time left is from before the clock was stepped back.
	if left := held.until - c.now; gated && left > 0 && left <= engine.GateTTL.Milliseconds() && held.token != r.Gate {
		return engine.Reserved{State: engine.ReservePaced}, nil
	}
	if r.Expect != nil {
		switch {
		case len(h.open) > 0:
			if r.Gate != "" {
				s.setGate(c.now, r.Catalog, r.Gate)
			}
			return engine.Reserved{State: engine.ReserveUndecided, Older: h.open[0].segment}, nil
		case h.head.Compare(*r.Expect) != 0:
			s.hadTurn(r.Catalog, r.Gate)
			return engine.Reserved{State: engine.ReserveConflict, Head: h.head}, nil
		}
	}
	if maxLive > 0 && h.deltas > maxLive {
		return engine.Reserved{State: engine.ReserveFull}, nil
	}
	// A catalog may borrow a second's ids, no more, to the millisecond. Time that steps
	// back must not make it wait, so the greatest time ever seen counts. The runs
	// behind it come no further: last stays as it is.
	if h.last.Sec*1000+int64(h.last.Seq/1000) > max(c.now, s.mark, s.floor*1000+999)+1000 {
		return engine.Reserved{State: engine.ReservePaced}, nil
	}
	s.hadTurn(r.Catalog, r.Gate)
	return engine.Reserved{}, nil
}

// hadTurn opens the gate that a token closed.
func (s *shard) hadTurn(catalog, token string) {
	if held, gated := s.gates[catalog]; gated && held.token == token {
		delete(s.gates, catalog)
	}
}

func knownID(known engine.IDState, r *engine.Reserve) engine.Reserved {
	switch {
	case known.Fingerprint != r.Fingerprint:
		return engine.Reserved{State: engine.ReserveReused}
	case known.State == engine.IDPending:
		return engine.Reserved{State: engine.ReserveInFlight, First: known.First, N: known.N}
	default:
		return engine.Reserved{State: engine.ReserveDuplicate, First: known.First, N: known.N}
	}
}

// setGate closes a catalog to others. Gates live in memory: a process that is
// gone has no writes to let through.
func (s *shard) setGate(now int64, catalog, token string) {
	for name, g := range s.gates {
		if g.until <= now {
			delete(s.gates, name)
		}
	}
	s.gates[catalog] = gate{token: token, until: now + engine.GateTTL.Milliseconds()}
}

// repeat answers a PreCommit that came before: a run that was reserved by its
// place among the segment's runs; one that was not by what its id says, else to
// try again.
func (c *change) repeat(have *planRecord, p engine.PreCommit, mine []int32, answer []engine.Reserved) error {
	k := 0 // the plan has the runs in their order
	for _, i := range mine {
		r := &p.Runs[i]
		for k < len(have.runs) && have.runs[k].place < int(i) {
			k++
		}
		if k < len(have.runs) && have.runs[k].place == int(i) {
			run := &have.runs[k]
			answer[i] = engine.Reserved{First: run.First}
			if run.Catalog != r.Catalog || run.N != r.N {
				answer[i] = engine.Reserved{Err: fmt.Errorf("%w: segment %s has planned %d deltas of %q there, not %d of %q", engine.ErrInvalid, p.Segment, run.N, run.Catalog, r.N, r.Catalog)}
			}
			continue
		}
		answer[i] = engine.Reserved{State: engine.ReservePaced}
		if r.ID == "" {
			continue
		}
		id, err := c.id(r.Catalog, r.ID)
		if err != nil {
			return err
		}
		if known := id.at(c.now); known.State != engine.IDUnknown {
			answer[i] = knownID(known, r)
		}
	}
	return nil
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
