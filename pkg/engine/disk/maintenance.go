package disk

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

const (
	// writerTTL is how long a writer is remembered after its last heartbeat, in
	// ms: far longer than anybody waits for one.
	writerTTL = int64(10 * time.Minute / time.Millisecond)
	// markPause is how old the mark on the disk may become while heartbeats alone
	// move it, in ms.
	markPause = int64(time.Minute / time.Millisecond)
)

// Heartbeat says that a writer lives. It lives in memory: who finds this index
// open again after its process has died has no other writers to look for.
func (x *Index) Heartbeat(ctx context.Context, epoch uint64, writer string) (time.Time, error) {
	now, end, err := x.enter(ctx)
	if err != nil {
		return time.Time{}, fmt.Errorf("heartbeat: %w", err)
	}
	defer end()
	for _, s := range x.shards {
		if err := x.heartbeat(s, now, epoch, writer); err != nil {
			return time.Time{}, fmt.Errorf("heartbeat: %w", err)
		}
	}
	return fromMillis(now), nil
}

func (x *Index) heartbeat(s *shard, now int64, epoch uint64, writer string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.works(epoch); err != nil {
		return err
	}
	s.soft.Lock()
	for w, at := range s.writers {
		if now-at > writerTTL {
			delete(s.writers, w)
		}
	}
	s.writers[writer] = now
	s.soft.Unlock()
	c, err := x.work(s, now)
	if err != nil {
		return err
	}
	return c.end(now-s.saved >= markPause)
}

// Stuck lists the undecided segments of all shards.
func (x *Index) Stuck(ctx context.Context, epoch uint64) ([]engine.Stuck, error) {
	list, err := x.stuck(ctx, epoch)
	if err != nil {
		return nil, fmt.Errorf("list undecided segments: %w", err)
	}
	return list, nil
}

func (x *Index) stuck(ctx context.Context, epoch uint64) ([]engine.Stuck, error) {
	now, end, err := x.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	var list []engine.Stuck
	places := make(map[engine.SegmentID]int)
	for _, s := range x.shards {
		err := s.look(epoch, func() error {
			s.soft.Lock()
			defer s.soft.Unlock()
			for segment, at := range s.undecided {
				since, alive := fromMillis(at), fromMillis(s.writers[segment.Writer])
				i, known := places[segment]
				if !known {
					i = len(list)
					places[segment] = i
					list = append(list, engine.Stuck{Segment: segment, Since: since, Now: fromMillis(now)})
				}
				st := &list[i]
				st.Shards = append(st.Shards, s.number)
				if since.Before(st.Since) {
					st.Since = since
				}
				if alive.After(st.Heartbeat) {
					st.Heartbeat = alive
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(list, func(a, b engine.Stuck) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Segment.String(), b.Segment.String()))
	})
	return list, nil
}

// Plan is what a segment has planned in a shard.
func (x *Index) Plan(ctx context.Context, epoch uint64, shard int, segment engine.SegmentID) ([]engine.Planned, error) {
	now, end, err := x.enter(ctx)
	if err != nil {
		return nil, fmt.Errorf("plan of segment %s: %w", segment, err)
	}
	defer end()
	s, err := x.shard(shard)
	if err != nil {
		return nil, err
	}
	var p *planRecord
	err = s.look(epoch, func() error {
		var err error
		if checkSegment(segment) == nil { // nobody can have planned another
			p, err = x.plan(shard, segment)
		}
		return err
	})
	if err != nil || p == nil || p.expired(now) {
		return nil, err
	}
	list := make([]engine.Planned, len(p.runs))
	for i := range list {
		list[i] = p.runs[i].Planned
	}
	return list, nil
}

// sync makes durable whatever was committed so far.
func (x *Index) sync() error {
	b := x.db.NewBatch()
	if err := b.LogData(nil, nil); err != nil {
		return err
	}
	return x.apply(b, true)
}
