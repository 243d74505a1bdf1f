package memory

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// Heartbeat says that a writer lives.
func (x *Index) Heartbeat(ctx context.Context, epoch uint64, writer string) (time.Time, error) {
	now, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return time.Time{}, err
	}
	for number := range x.shards {
		s, err := x.working(number, epoch)
		if err != nil {
			return time.Time{}, err
		}
		s.work(now)
		s.writers[writer] = now
	}
	return now, nil
}

// Stuck lists the undecided segments of all shards.
func (x *Index) Stuck(ctx context.Context, epoch uint64) ([]engine.Stuck, error) {
	now, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return nil, err
	}
	found := make(map[engine.SegmentID]*engine.Stuck)
	for number := range x.shards {
		s, err := x.working(number, epoch)
		if err != nil {
			return nil, err
		}
		for segment, p := range s.plans {
			if !p.undecided() {
				continue
			}
			st := found[segment]
			if st == nil {
				st = &engine.Stuck{Segment: segment, Since: p.since, Now: now}
				found[segment] = st
			}
			st.Shards = append(st.Shards, number)
			if p.since.Before(st.Since) {
				st.Since = p.since
			}
			if at := s.writers[segment.Writer]; at.After(st.Heartbeat) {
				st.Heartbeat = at
			}
		}
	}
	var list []engine.Stuck
	for _, st := range found {
		list = append(list, *st)
	}
	slices.SortFunc(list, func(a, b engine.Stuck) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Segment.String(), b.Segment.String()))
	})
	return list, nil
}

// Plan is what a segment has planned in a shard.
func (x *Index) Plan(ctx context.Context, epoch uint64, shard int, segment engine.SegmentID) ([]engine.Planned, error) {
	_, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return nil, err
	}
	s, err := x.working(shard, epoch)
	if err != nil {
		return nil, err
	}
	p := s.plans[segment]
	if p == nil {
		return nil, nil
	}
	return slices.Clone(p.runs), nil
}

// Outcome tells what is known of an idempotency id.
func (x *Index) Outcome(ctx context.Context, epoch uint64, catalog, id string) (engine.IDState, error) {
	now, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return engine.IDState{}, err
	}
	s, err := x.working(engine.Shard(catalog), epoch)
	if err != nil {
		return engine.IDState{}, err
	}
	c := s.catalogs[catalog]
	if c == nil {
		return engine.IDState{}, nil
	}
	return c.known(now, id), nil
}
