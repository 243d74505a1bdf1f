package disk

import (
	"context"
	"fmt"

	"github.com/jsonlake/lake/pkg/engine"
)

// pointDeletes is how many runs are deleted one by one; above it they are
// deleted as a range, which costs every later read a little until it is
// compacted.
const pointDeletes = 4096

// Fold registers a snapshot by compare-and-set and trims the live log. The runs
// that it trims are counted before the shard is locked: below the latest
// snapshot's successor none comes or goes. They may move to another segment, though,
// and then they are counted again: whose reference is given up decides what is
// garbage.
func (x *Index) Fold(ctx context.Context, f engine.Fold) error {
	if err := x.fold(ctx, f); err != nil {
		return fmt.Errorf("fold %q at %s: %w", f.Catalog, f.Snapshot.Stop, err)
	}
	return nil
}

func (x *Index) fold(ctx context.Context, f engine.Fold) error {
	if err := checkCatalog(f.Catalog); err != nil {
		return err
	}
	now, end, err := x.enter(ctx)
	if err != nil {
		return err
	}
	defer end()
	s := x.shards[engine.Shard(f.Catalog)]
	var moves uint64
	if err := s.look(f.Epoch, func() error { moves = s.moves; return nil }); err != nil {
		return err
	}
	kind, prev := engine.EventSnapshotted, f.Snapshot.Start
	var t trim
	if !f.Snapshot.Purged() {
		if t, err = x.trimmed(ctx, f.Catalog, f.Snapshot.Start, f.Snapshot.Stop); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.works(f.Epoch); err != nil {
		return err
	}
	if f.Snapshot.Purged() { // follows any snapshot: only now it is certain which
		kind, prev = engine.EventPurged, engine.Version{}
	}
	if f.Snapshot.Purged() || s.moves != moves {
		if t, err = x.trimmed(ctx, f.Catalog, prev, f.Snapshot.Stop); err != nil {
			return err
		}
	}
	c, err := x.work(s, now)
	if err != nil {
		return err
	}
	h, err := c.head(f.Catalog)
	if err != nil {
		return c.drop(err)
	}
	follows := h.snap.Stop == f.Snapshot.Start || f.Snapshot.Purged() && h.snap.Stop.Less(f.Snapshot.Stop)
	if !follows || t.runs == 0 || t.last != f.Snapshot.Stop {
		repeated, err := x.registered(f.Catalog, f.Snapshot)
		if err == nil && !repeated {
			err = engine.ErrStale
		}
		if err != nil {
			return c.drop(err)
		}
		return c.end(false)
	}
	if err := c.adopt(f.Catalog, h, f.Snapshot, t); err != nil {
		return c.drop(err)
	}
	c.event(engine.Event{
		V: 1, Catalog: f.Catalog, Kind: kind, First: t.first, Version: f.Snapshot.Stop, Prev: prev,
		Count: t.deltas, Bytes: f.Snapshot.DocBytes, Time: now,
		LiveDeltas: h.deltas, LiveBytes: h.bytes, DocBytes: h.snap.DocBytes,
	})
	return c.end(true)
}

// registered tells whether a snapshot is there already.
func (x *Index) registered(catalog string, s engine.Snapshot) (bool, error) {
	same := false
	_, err := x.read(keySnapshot(catalog, s.Stop), func(b []byte) error {
		have, err := decodeSnapshot(keySnapshot(catalog, s.Stop), b)
		same = have.Start == s.Start
		return err
	})
	return same, err
}

// trim is the part of a live log that a snapshot replaces.
type trim struct {
	first, last   engine.Version // of the oldest run, of the newest one
	runs          int64
	deltas, bytes int64
	segments      map[engine.SegmentID]int64 // runs of each
	lasts         []engine.Version           // of the runs, for as many as are deleted one by one
}

// trimmed counts the live runs behind from, up to stop.
func (x *Index) trimmed(ctx context.Context, catalog string, from, stop engine.Version) (trim, error) {
	t := trim{segments: make(map[engine.SegmentID]int64)}
	if !from.Less(stop) {
		return t, nil
	}
	err := x.scan(append(keyRun(catalog, from), 0), append(keyRun(catalog, stop), 0), func(key, value []byte) (bool, error) {
		r, err := decodeRun(key, value)
		if err != nil {
			return false, err
		}
		if t.runs == 0 {
			t.first = r.First
		}
		t.runs++
		t.deltas += int64(r.N)
		t.bytes += r.Len
		t.last = r.Last
		t.segments[r.Segment]++
		if t.runs <= pointDeletes {
			t.lasts = append(t.lasts, r.Last)
		}
		if t.runs%1024 == 0 {
			return true, ctx.Err()
		}
		return true, nil
	})
	return t, err
}

// adopt makes a snapshot the latest of its catalog; runs up to its stop leave
// the live log.
func (c *change) adopt(name string, h *changedHead, snapshot engine.Snapshot, t trim) error {
	if t.runs > pointDeletes {
		_ = c.batch.DeleteRange(keyRun(name, engine.Version{}), append(keyRun(name, t.last), 0), nil) // fails on indexed batches only
	} else {
		for _, last := range t.lasts {
			c.delete(keyRun(name, last))
		}
	}
	for segment, n := range t.segments {
		r, err := c.ref(segment)
		if err != nil {
			return err
		}
		r.live = max(0, r.live-n)
		c.collect(segment, r)
	}
	h.runs -= t.runs
	h.deltas -= t.deltas
	h.bytes -= t.bytes
	h.snap = snapshot
	c.raise(h, snapshot.Stop)
	c.set(keySnapshot(name, snapshot.Stop), appendSnapshot(nil, snapshot))
	return nil
}
