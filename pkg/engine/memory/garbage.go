package memory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// piece is something that became garbage: a segment, or a dropped snapshot.
type piece struct {
	segment     engine.SegmentID
	catalog     string
	start, stop engine.Version
}

func pieceOf(g engine.Garbage) piece {
	if !g.Segment.IsZero() {
		return piece{segment: g.Segment}
	}
	return piece{catalog: g.Catalog, start: g.Snapshot.Start, stop: g.Snapshot.Stop}
}

// discard makes garbage of a piece, unless it is already. The time it gets is
// never before the mark: whoever knows a later mark knows of it.
func (s *shard) discard(now time.Time, p piece) {
	if _, known := s.garbage[p]; known {
		return
	}
	if now.Before(s.mark) {
		now = s.mark
	}
	s.garbage[p] = now
}

// collect makes garbage of a segment whose runs were all folded. One that still
// has undecided runs is left until they are decided; one that never had a
// committed run here is not garbage: its key holds a tombstone.
func (s *shard) collect(now time.Time, segment engine.SegmentID) {
	if count, known := s.refs[segment]; known && count == 0 && !s.plans[segment].undecided() {
		delete(s.refs, segment)
		s.discard(now, piece{segment: segment})
	}
}

// published tells whether all events from before t have left the outbox.
func (s *shard) published(t time.Time) bool {
	return len(s.outbox) == 0 || t.Before(s.outbox[0].at)
}

// Garbage lists what a shard does not need any more.
func (x *Index) Garbage(ctx context.Context, epoch uint64, shard, limit int) ([]engine.Garbage, error) {
	if limit < 1 {
		return nil, fmt.Errorf("list at most %d segments: %w", limit, engine.ErrInvalid)
	}
	_, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return nil, err
	}
	s, err := x.working(shard, epoch)
	if err != nil {
		return nil, err
	}
	var list []engine.Garbage
	for p, since := range s.garbage {
		if s.published(since) {
			list = append(list, engine.Garbage{Segment: p.segment, Catalog: p.catalog, Snapshot: engine.Snapshot{Start: p.start, Stop: p.stop}, Since: since})
		}
	}
	slices.SortFunc(list, func(a, b engine.Garbage) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Segment.String(), b.Segment.String()),
			strings.Compare(a.Catalog, b.Catalog), a.Snapshot.Stop.Compare(b.Snapshot.Stop), a.Snapshot.Start.Compare(b.Snapshot.Start))
	})
	return list[:min(limit, len(list))], nil
}

// Unused tells whether some shard needs a segment, else since when none does.
func (x *Index) Unused(ctx context.Context, epoch uint64, segments []engine.SegmentID) ([]engine.Usage, error) {
	_, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return nil, err
	}
	usages := make([]engine.Usage, len(segments))
	for number := range x.shards {
		s, err := x.working(number, epoch)
		if err != nil {
			return nil, err
		}
		for i, segment := range segments {
			u := &usages[i]
			at, garbage := s.garbage[piece{segment: segment}]
			if s.refs[segment] > 0 || s.plans[segment].undecided() || garbage && !s.published(at) {
				u.Needed, u.Since = true, time.Time{}
			}
			if !u.Needed && at.After(u.Since) {
				u.Since = at
			}
		}
	}
	return usages, nil
}

// Abandon makes garbage of segments that a shard does not need.
func (x *Index) Abandon(ctx context.Context, epoch uint64, number int, segments []engine.SegmentID) error {
	return x.change(ctx, epoch, number, func(s *shard, now time.Time) { s.abandon(now, segments) })
}

func (s *shard) abandon(now time.Time, segments []engine.SegmentID) {
	for _, segment := range segments {
		if s.refs[segment] == 0 && !s.plans[segment].undecided() {
			s.discard(now, piece{segment: segment})
		}
	}
}

// Forget strikes entries from a shard's garbage.
func (x *Index) Forget(ctx context.Context, epoch uint64, number int, list []engine.Garbage) error {
	return x.change(ctx, epoch, number, func(s *shard, _ time.Time) {
		for _, g := range list {
			delete(s.garbage, pieceOf(g))
		}
	})
}

// change runs f on a shard that is open in the epoch.
func (x *Index) change(ctx context.Context, epoch uint64, number int, f func(s *shard, now time.Time)) error {
	now, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return err
	}
	s, err := x.working(number, epoch)
	if err != nil {
		return err
	}
	s.work(now)
	f(s, now)
	return nil
}

// Live lists segments with live runs.
func (x *Index) Live(ctx context.Context, epoch uint64, shard int, older int64, limit int) ([]engine.SegmentID, error) {
	if limit < 1 {
		return nil, fmt.Errorf("list at most %d segments: %w", limit, engine.ErrInvalid)
	}
	_, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return nil, err
	}
	s, err := x.working(shard, epoch)
	if err != nil {
		return nil, err
	}
	var list []engine.SegmentID
	for segment, count := range s.refs {
		if count > 0 && segment.Unix < older {
			list = append(list, segment)
		}
	}
	slices.SortFunc(list, func(a, b engine.SegmentID) int { return cmp.Compare(a.String(), b.String()) })
	return list[:min(limit, len(list))], nil
}

// Relocate says that live runs stand in another segment now.
func (x *Index) Relocate(ctx context.Context, r engine.Relocate) ([]bool, error) {
	now, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return nil, err
	}
	for _, m := range r.Runs { // all shards or none
		if _, err := x.working(engine.Shard(m.Catalog), r.Epoch); err != nil {
			return nil, err
		}
	}
	stands := make([]bool, len(r.Runs))
	for i, m := range r.Runs {
		s := x.shards[engine.Shard(m.Catalog)]
		if !r.To.IsZero() {
			s.work(now)
		}
		stands[i] = s.relocate(now, r.To, m)
	}
	return stands, nil
}

func (s *shard) relocate(now time.Time, to engine.SegmentID, m engine.Relocation) bool {
	c := s.catalogs[m.Catalog]
	if c == nil {
		return false
	}
	at := slices.IndexFunc(c.runs, func(r engine.Run) bool { return r.First == m.First })
	switch {
	case at < 0:
		return false
	case to.IsZero():
		return c.runs[at].Segment == m.From
	case c.runs[at].Segment == to:
		return true
	case c.runs[at].Segment != m.From:
		return false
	}
	c.runs[at].Segment, c.runs[at].Off, c.runs[at].Len = to, m.Off, m.Len
	s.refs[to]++
	delete(s.garbage, piece{segment: to})
	s.refs[m.From]--
	s.collect(now, m.From)
	return true
}

// Drop takes old snapshots out of the registration.
func (x *Index) Drop(ctx context.Context, d engine.Drop) (int, error) {
	if d.Limit < 1 {
		return 0, fmt.Errorf("drop at most %d snapshots: %w", d.Limit, engine.ErrInvalid)
	}
	now, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return 0, err
	}
	s, err := x.working(engine.Shard(d.Catalog), d.Epoch)
	if err != nil {
		return 0, err
	}
	s.work(now)
	c := s.catalogs[d.Catalog]
	if c == nil {
		return 0, nil
	}
	dropped := 0
	for dropped < d.Limit && len(c.snaps) > 1 && c.snaps[0].Stop.Less(d.Before) {
		if !c.snaps[0].Purged() {
			s.discard(now, piece{catalog: d.Catalog, start: c.snaps[0].Start, stop: c.snaps[0].Stop})
		}
		c.snaps = c.snaps[1:]
		dropped++
	}
	left := 0
	for i := range len(c.snaps) - 1 {
		if c.snaps[i].Stop.Less(d.Before) {
			left++
		}
	}
	return left, nil
}

// Condemn takes the epoch from a shard.
func (x *Index) Condemn(ctx context.Context, epoch uint64, shard int) error {
	_, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return err
	}
	if s, err := x.shard(shard); err != nil || s.n == 0 {
		return err // a repetition
	}
	s, err := x.working(shard, epoch)
	if err != nil {
		return err
	}
	x.shards[shard] = newShard()
	x.shards[shard].leases, x.shards[shard].writers = s.leases, s.writers
	return nil
}

// Empty removes what an opening shard knows.
func (x *Index) Empty(ctx context.Context, shard int, n uint64) error {
	_, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return err
	}
	s, opening, err := x.opening(shard, n)
	if err != nil || !opening || s.emptied {
		return err
	}
	e := newShard()
	e.emptied = true
	e.n, e.open, e.floor, e.mark, e.fencedOn = s.n, s.open, s.floor, s.mark, s.fencedOn
	e.leases, e.writers, e.entries = s.leases, s.writers, s.entries
	x.shards[shard] = e
	return nil
}
