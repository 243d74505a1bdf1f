package memory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// A shard's epoch moves one way only:
//
//	         Fence n+1             Open n+1
//	open n ───────────▶ opening n+1 ───────▶ open n+1
//	                     ▲       │
//	                     └───────┘ Restore, Resolve; or Fence n+2: opening n+2

// Epochs tells what each shard believes.
func (x *Index) Epochs(ctx context.Context) ([]engine.ShardEpoch, error) {
	_, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return nil, err
	}
	list := make([]engine.ShardEpoch, engine.Shards)
	for number, s := range x.shards {
		if s.n == 0 {
			continue
		}
		empty := true
		for _, c := range s.catalogs {
			empty = empty && c.head.IsZero()
		}
		list[number] = engine.ShardEpoch{N: s.n, Open: s.open, Mark: s.mark, Same: s.fencedOn == x.self, Empty: empty}
	}
	return list, nil
}

// Exclusive tells what the options said.
func (x *Index) Exclusive() bool { return x.exclusive }

// Fence moves a shard to epoch n. All it knows stays.
func (x *Index) Fence(ctx context.Context, shard int, n uint64) error {
	_, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return err
	}
	s, err := x.shard(shard)
	switch {
	case err != nil:
		return err
	case s.n > n:
		return fmt.Errorf("fence shard %d at epoch %d, it is at %d: %w", shard, n, s.n, engine.ErrEpoch)
	case s.n < n:
		s.n, s.open, s.emptied, s.fencedOn = n, false, false, x.self
	}
	return nil
}

// opening is the shard if it was fenced at n, and whether it still waits to be
// opened.
func (x *Index) opening(shard int, n uint64) (s *shard, opening bool, err error) {
	s, err = x.shard(shard)
	if err == nil && (s.n != n || s.fencedOn != x.self) {
		err = fmt.Errorf("open shard %d in epoch %d, it is at %d: %w", shard, n, s.n, engine.ErrEpoch)
	}
	if err != nil {
		return nil, false, err
	}
	return s, !s.open, nil
}

// Restore puts back what the shard does not hold.
func (x *Index) Restore(ctx context.Context, shard int, n uint64, r engine.Restore) error {
	for _, e := range r.Runs {
		if engine.Shard(e.Catalog) != shard {
			return fmt.Errorf("restore a run of %q in shard %d: %w", e.Catalog, shard, engine.ErrInvalid)
		}
	}
	for _, e := range r.IDs {
		if engine.Shard(e.Catalog) != shard {
			return fmt.Errorf("restore an id of %q in shard %d: %w", e.Catalog, shard, engine.ErrInvalid)
		}
	}
	for _, e := range r.Snapshots {
		if engine.Shard(e.Catalog) != shard {
			return fmt.Errorf("restore a snapshot of %q in shard %d: %w", e.Catalog, shard, engine.ErrInvalid)
		}
	}
	now, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return err
	}
	s, opening, err := x.opening(shard, n)
	if err != nil || !opening {
		return err // a restore that comes after the opening has been done before
	}
	for _, e := range r.Snapshots {
		if c := s.catalog(e.Catalog); c.snapshot().Stop.Less(e.Snapshot.Stop) {
			s.adopt(now, c, e.Snapshot)
		}
	}
	var events eventList
	for _, e := range r.Runs {
		if s.catalog(e.Catalog).head.Less(e.Run.First) {
			s.insert(now, e.Catalog, e.Run, e.Author, &events)
		} else if r.Republish {
			events.committed(pastEvent(now, e))
		}
		s.receipt(now, e.Catalog, e.ID)
	}
	for _, id := range r.IDs {
		s.receipt(now, id.Catalog, id)
	}
	s.publish(now, x.events, events.list)
	s.abandon(now, r.Segments)
	return nil
}

// pastEvent tells of a run that is folded already.
func pastEvent(now time.Time, e engine.RestoreRun) engine.Event {
	return engine.Event{
		V: 1, Catalog: e.Catalog, Kind: engine.EventCommitted, First: e.Run.First, Version: e.Run.Last, Prev: e.Prev,
		Count: int64(e.Run.N), Bytes: e.Run.Len, Author: e.Author, Writer: e.Run.Segment.Writer, Time: now.UnixMilli(),
	}
}

// receipt restores an idempotency id.
func (s *shard) receipt(now time.Time, name string, id engine.RestoreID) {
	if id.ID == "" || !id.Expires.After(now) {
		return
	}
	s.catalog(name).keep(id.ID, identity{until: id.Expires, state: engine.IDState{
		State: engine.IDCommitted, First: id.First, N: id.N, Fingerprint: id.Fingerprint,
	}})
}

// Reservations lists the segments that are undecided in the shard.
func (x *Index) Reservations(ctx context.Context, shard int, n uint64) ([]engine.SegmentID, error) {
	_, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return nil, err
	}
	s, opening, err := x.opening(shard, n)
	if err != nil || !opening {
		return nil, err
	}
	var list []engine.SegmentID
	for segment, p := range s.plans {
		if p.undecided() {
			list = append(list, segment)
		}
	}
	slices.SortFunc(list, func(a, b engine.SegmentID) int {
		return cmp.Or(s.plans[a].since.Compare(s.plans[b].since), cmp.Compare(a.String(), b.String()))
	})
	return list, nil
}

// Resolve decides what a segment of an older epoch left open.
func (x *Index) Resolve(ctx context.Context, shard int, n uint64, segment engine.SegmentID, committed []engine.RunKey) error {
	now, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return err
	}
	s, opening, err := x.opening(shard, n)
	if err != nil || !opening {
		return err
	}
	p := s.plans[segment]
	if !p.undecided() {
		return nil
	}
	for i := range p.runs {
		r := &p.runs[i]
		if r.State != engine.PlanOpen {
			continue
		}
		state := engine.PlanRolledBack
		if slices.Contains(committed, engine.RunKey{Catalog: r.Catalog, First: r.First}) {
			state = engine.PlanCommitted
		}
		s.decide(now, segment, r, state)
	}
	return nil
}

// Open opens a fenced shard.
func (x *Index) Open(ctx context.Context, shard int, n uint64, floor int64) error {
	_, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return err
	}
	s, opening, err := x.opening(shard, n)
	if err != nil || !opening {
		return err
	}
	s.open, s.floor = true, max(s.floor, floor)
	return nil
}
