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

// Garbage lists the segments that a shard does not need any more. Objects are
// deleted because of the answer, so that all that led to it is made durable
// first: an index that forgot a fold after a power cut would miss them.
func (x *Index) Garbage(ctx context.Context, epoch uint64, shard, limit int) ([]engine.Garbage, error) {
	var list []engine.Garbage
	err := x.list(ctx, limit, func(int64) error {
		s, err := x.shard(shard)
		if err != nil {
			return err
		}
		err = s.look(epoch, func() error {
			from, to := tableOf(tableGarbage, shard)
			return x.scan(from, to, func(key, _ []byte) (bool, error) {
				segment, err := segmentOfKey(key)
				list = append(list, engine.Garbage{Segment: segment, Since: fromMillis(int64(numberOfKey(key)))})
				return len(list) < limit, err
			})
		})
		if err == nil && len(list) > 0 {
			err = x.sync()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list garbage of index shard %d: %w", shard, err)
	}
	return list, nil
}

// Forget strikes a segment from the garbage of a shard.
func (x *Index) Forget(ctx context.Context, epoch uint64, shard int, segment engine.SegmentID) error {
	if err := x.forget(ctx, epoch, shard, segment); err != nil {
		return fmt.Errorf("forget segment %s in index shard %d: %w", segment, shard, err)
	}
	return nil
}

func (x *Index) forget(ctx context.Context, epoch uint64, shard int, segment engine.SegmentID) error {
	if err := checkSegment(segment); err != nil {
		return err
	}
	now, end, err := x.enter(ctx)
	if err != nil {
		return err
	}
	defer end()
	s, err := x.shard(shard)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.works(epoch); err != nil {
		return err
	}
	c, err := x.work(s, now)
	if err != nil {
		return err
	}
	r, err := c.ref(segment)
	if err != nil {
		return c.drop(err)
	}
	if r.garbage == 0 {
		return c.end(false)
	}
	c.delete(keyGarbage(shard, r.garbage, segment))
	c.delete(keyRefs(shard, segment))
	r.known = false
	return c.end(true)
}

// Referenced tells which segments some shard still needs. Like Garbage it makes
// durable what a "no" relies on.
func (x *Index) Referenced(ctx context.Context, epoch uint64, segments []engine.SegmentID) ([]bool, error) {
	needed, err := x.referenced(ctx, epoch, segments)
	if err != nil {
		return nil, fmt.Errorf("look for references to segments: %w", err)
	}
	return needed, nil
}

func (x *Index) referenced(ctx context.Context, epoch uint64, segments []engine.SegmentID) ([]bool, error) {
	_, end, err := x.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	needed := make([]bool, len(segments))
	for _, s := range x.shards {
		err := s.look(epoch, func() error {
			for i, segment := range segments {
				if needed[i] || checkSegment(segment) != nil {
					continue
				}
				var r refsRecord
				if _, err := x.read(keyRefs(s.number, segment), r.decode); err != nil {
					return err
				}
				_, open := s.undecided[segment]
				needed[i] = open || r.live > 0
			}
			return ctx.Err()
		})
		if err != nil {
			return nil, err
		}
	}
	if slices.Contains(needed, false) {
		return needed, x.sync()
	}
	return needed, nil
}

// sync makes durable whatever was committed so far.
func (x *Index) sync() error {
	b := x.db.NewBatch()
	if err := b.LogData(nil, nil); err != nil {
		return err
	}
	return x.apply(b, true)
}
