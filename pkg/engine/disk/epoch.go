package disk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jsonlake/lake/pkg/engine"
)

// A shard's epoch moves one way only. What moves it is on the disk before it is
// answered.
//
//	         Fence n+1             Open n+1
//	open n ───────────▶ opening n+1 ───────▶ open n+1
//	  │                  ▲       │
//	  │ unclean stop     └───────┘ Restore, Resolve; or Fence n+2: opening n+2
//	  ▼                  │
//	not the one fenced ──┘ Fence n+1

// Epochs tells what each shard believes.
func (x *Index) Epochs(ctx context.Context) ([]engine.ShardEpoch, error) {
	_, end, err := x.enter(ctx)
	if err != nil {
		return nil, fmt.Errorf("epochs of the index: %w", err)
	}
	defer end()
	list := make([]engine.ShardEpoch, engine.Shards)
	for i, s := range x.shards {
		s.mu.RLock()
		if s.n > 0 {
			list[i] = engine.ShardEpoch{N: s.n, Open: s.open, Mark: fromMillis(s.mark), Same: s.same, Empty: s.catalogs == 0}
		}
		s.mu.RUnlock()
	}
	return list, nil
}

// Exclusive is true: nobody else can have the directory.
func (x *Index) Exclusive() bool { return true }

// Fence moves a shard to epoch n. All it knows stays.
func (x *Index) Fence(ctx context.Context, shard int, n uint64) error {
	_, end, err := x.enter(ctx)
	if err != nil {
		return fmt.Errorf("fence index shard %d: %w", shard, err)
	}
	defer end()
	s, err := x.shard(shard)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.n > n:
		return fmt.Errorf("fence index shard %d at epoch %d, it is at %d: %w", shard, n, s.n, engine.ErrEpoch)
	case s.n == n:
		return nil
	}
	if s.n == 0 { // of a condemned shard
		if err := x.wipe(ctx, s); err != nil {
			return fmt.Errorf("fence index shard %d: empty it: %w", shard, err)
		}
	}
	c := x.begin(s, 0)
	c.rec.n, c.rec.open = n, false
	if err := c.commit(true); err != nil {
		return fmt.Errorf("fence index shard %d: %w", shard, err)
	}
	s.same = true
	return nil
}

// opening runs f while the shard waits to be opened at n. What comes after
// the opening has been done before, and does nothing.
func (x *Index) opening(ctx context.Context, what string, shard int, n uint64, f func(c *change) error) error {
	now, end, err := x.enter(ctx)
	if err != nil {
		return fmt.Errorf("%s index shard %d: %w", what, shard, err)
	}
	defer end()
	s, err := x.shard(shard)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n != n || !s.same || n == 0 {
		return fmt.Errorf("%s index shard %d in epoch %d, it is at %d: %w", what, shard, n, s.n, engine.ErrEpoch)
	}
	if s.open {
		return nil
	}
	c := x.begin(s, now)
	if err := f(c); err != nil {
		return c.drop(fmt.Errorf("%s index shard %d: %w", what, shard, err))
	}
	return nil
}

// Restore puts back what the shard does not hold.
func (x *Index) Restore(ctx context.Context, shard int, n uint64, r engine.Restore) error {
	for _, e := range r.Runs {
		err := checkIn(shard, e.Catalog)
		if err == nil {
			err = checkID(e.ID.ID)
		}
		if err == nil {
			err = checkSegment(e.Run.Segment)
		}
		if err == nil && (e.Run.N < 1 || e.Run.Last.Less(e.Run.First) || !e.Run.First.Valid() || !e.Run.Last.Valid()) {
			err = fmt.Errorf("%w: no run of %d deltas goes from %s to %s", engine.ErrInvalid, e.Run.N, e.Run.First, e.Run.Last)
		}
		if err != nil {
			return fmt.Errorf("restore a run of %q in index shard %d: %w", e.Catalog, shard, err)
		}
	}
	for _, e := range r.Snapshots {
		if err := checkIn(shard, e.Catalog); err != nil {
			return fmt.Errorf("restore a snapshot of %q in index shard %d: %w", e.Catalog, shard, err)
		}
	}
	for _, id := range r.IDs {
		if err := errors.Join(checkIn(shard, id.Catalog), checkID(id.ID)); err != nil {
			return fmt.Errorf("restore an id of %q in index shard %d: %w", id.Catalog, shard, err)
		}
	}
	for _, s := range r.Segments {
		if err := checkSegment(s); err != nil {
			return fmt.Errorf("restore segments in index shard %d: %w", shard, err)
		}
	}
	return x.opening(ctx, "restore", shard, n, func(c *change) error {
		for _, e := range r.Snapshots {
			if err := c.restoreSnapshot(ctx, e); err != nil {
				return err
			}
		}
		for _, e := range r.Runs {
			h, err := c.head(e.Catalog)
			if err != nil {
				return err
			}
			if h.head.Less(e.Run.First) {
				if err := c.insert(e.Catalog, e.Run, e.Author); err != nil {
					return err
				}
			} else if r.Republish {
				c.event(engine.Event{
					V: 1, Catalog: e.Catalog, Kind: engine.EventCommitted, First: e.Run.First, Version: e.Run.Last, Prev: e.Prev,
					Count: int64(e.Run.N), Bytes: e.Run.Len, Author: e.Author, Writer: e.Run.Segment.Writer, Time: c.now,
				})
			}
			c.restoreID(e.Catalog, e.ID)
		}
		for _, id := range r.IDs {
			c.restoreID(id.Catalog, id)
		}
		if err := c.abandon(r.Segments); err != nil {
			return err
		}
		return c.end(len(r.Runs)+len(r.Snapshots)+len(r.IDs)+len(r.Segments) > 0)
	})
}

func checkIn(shard int, catalog string) error {
	if err := checkCatalog(catalog); err != nil {
		return err
	}
	if engine.Shard(catalog) != shard {
		return fmt.Errorf("%w: the catalog belongs to shard %d", engine.ErrInvalid, engine.Shard(catalog))
	}
	return nil
}

// restoreSnapshot adopts a snapshot that stops above the latest one. It comes
// before the runs of its batch, so that the log on the disk is all there is to
// trim.
func (c *change) restoreSnapshot(ctx context.Context, e engine.RestoreSnapshot) error {
	h, err := c.head(e.Catalog)
	if err != nil || !h.snap.Stop.Less(e.Snapshot.Stop) {
		return err
	}
	t, err := c.x.trimmed(ctx, e.Catalog, h.snap.Stop, e.Snapshot.Stop)
	if err != nil {
		return err
	}
	return c.adopt(e.Catalog, h, e.Snapshot, t)
}

func (c *change) restoreID(catalog string, id engine.RestoreID) {
	if until := id.Expires.UnixMilli(); until > c.now {
		c.receipt(catalog, id.ID, engine.IDState{First: id.First, N: id.N, Fingerprint: id.Fingerprint}, until)
	}
}

// Reservations lists the segments that are undecided in the shard, oldest first.
func (x *Index) Reservations(ctx context.Context, shard int, n uint64) ([]engine.SegmentID, error) {
	var list []engine.SegmentID
	err := x.opening(ctx, "list reservations of", shard, n, func(c *change) error {
		since := c.s.undecided
		for segment := range since {
			list = append(list, segment)
		}
		slices.SortFunc(list, func(a, b engine.SegmentID) int {
			return cmp.Or(cmp.Compare(since[a], since[b]), cmp.Compare(a.String(), b.String()))
		})
		return c.drop(nil)
	})
	return list, err
}

// Resolve decides what a segment of an older epoch left open.
func (x *Index) Resolve(ctx context.Context, shard int, n uint64, segment engine.SegmentID, committed []engine.RunKey) error {
	if err := checkSegment(segment); err != nil {
		return err
	}
	return x.opening(ctx, "resolve in", shard, n, func(c *change) error {
		plan, err := c.plan(segment)
		if err != nil {
			return err
		}
		sealed := keysOf(committed)
		changed, err := c.decideOpen(segment, plan, func(run engine.RunKey) engine.PlanState {
			if sealed[run] {
				return engine.PlanCommitted
			}
			return engine.PlanRolledBack
		})
		if err != nil {
			return err
		}
		return c.end(changed)
	})
}

// Open opens a fenced shard, once all that was restored is on the disk.
func (x *Index) Open(ctx context.Context, shard int, n uint64, floor int64) error {
	return x.opening(ctx, "open", shard, n, func(c *change) error {
		c.rec.open, c.rec.floor = true, max(c.rec.floor, floor)
		return c.commit(true)
	})
}
