package memory

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// Fold registers a snapshot by compare-and-set and trims the live log.
func (x *Index) Fold(ctx context.Context, f engine.Fold) error {
	now, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return err
	}
	s, err := x.working(engine.Shard(f.Catalog), f.Epoch)
	if err != nil {
		return err
	}
	s.work(now)
	c := s.catalogs[f.Catalog]
	if c == nil {
		c = new(catalog)
	}
	for _, have := range c.snaps {
		if have.Start == f.Snapshot.Start && have.Stop == f.Snapshot.Stop {
			return nil // a repetition
		}
	}
	endsRun := slices.ContainsFunc(c.runs, func(r engine.Run) bool { return r.Last == f.Snapshot.Stop })
	follows := c.snapshot().Stop == f.Snapshot.Start && f.Snapshot.Start.Less(f.Snapshot.Stop)
	kind, prev := engine.EventSnapshotted, f.Snapshot.Start
	if f.Snapshot.Purged() {
		follows = c.snapshot().Stop.Less(f.Snapshot.Stop)
		kind, prev = engine.EventPurged, engine.Version{}
	}
	if !follows || !endsRun {
		return fmt.Errorf("fold %q at %s: %w", f.Catalog, f.Snapshot.Stop, engine.ErrStale)
	}
	first := c.runs[0].First
	folded := s.adopt(now, c, f.Snapshot)
	deltas, bytes := c.live()
	s.publish(now, x.events, []engine.Event{{
		V: 1, Catalog: f.Catalog, Kind: kind, First: first, Version: f.Snapshot.Stop, Prev: prev,
		Count: folded, Bytes: f.Snapshot.DocBytes, Time: now.UnixMilli(),
		LiveDeltas: deltas, LiveBytes: bytes, DocBytes: f.Snapshot.DocBytes,
	}})
	return nil
}

// adopt makes a snapshot the latest of its catalog; runs up to its stop leave
// the live log. It tells how many deltas they had.
func (s *shard) adopt(now time.Time, c *catalog, snapshot engine.Snapshot) (folded int64) {
	c.snaps = append(c.snaps, snapshot)
	c.head = engine.MaxVersion(c.head, snapshot.Stop)
	c.last = engine.MaxVersion(c.last, snapshot.Stop)
	var keep []engine.Run
	for _, r := range c.runs {
		if snapshot.Stop.Less(r.Last) {
			keep = append(keep, r)
			continue
		}
		folded += int64(r.N)
		s.refs[r.Segment]--
		s.collect(now, r.Segment)
	}
	c.runs = keep
	return folded
}
