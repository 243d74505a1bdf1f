package disk

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jsonlake/lake/pkg/engine"
)

// discard is the time at which something becomes garbage, ms: never before the
// shard's mark, so that an index whose mark is later knows of it.
func (c *change) discard() int64 { return max(1, c.now, c.rec.mark) }

// collect makes garbage of a segment whose runs were all folded and decided. One
// that never had a committed run here is not garbage: its key holds a tombstone.
func (c *change) collect(segment engine.SegmentID, r *refsRecord) {
	if r.known {
		c.unneeded(segment, r)
	}
}

// unneeded makes garbage of a segment that nothing in the shard needs.
func (c *change) unneeded(segment engine.SegmentID, r *refsRecord) {
	if _, open := c.s.undecided[segment]; open && !slices.Contains(c.decided, segment) {
		return
	}
	if r.live == 0 && r.garbage == 0 {
		r.known, r.garbage = true, c.discard()
		c.set(keyGarbage(c.s.number, r.garbage, segment), nil)
	}
}

// unpublished is the time of the oldest entry of the outbox, ms; 0 when there is
// none. What became garbage then or later may have events in the outbox. The
// caller holds mu.
func (x *Index) unpublished(s *shard) (at int64, err error) {
	if s.oldest > s.entries {
		return 0, nil
	}
	_, to := tableOf(tableOutbox, s.number)
	err = x.scan(keyOutbox(s.number, s.oldest), to, func(_, value []byte) (bool, error) {
		events, err := decodeEvents(nil, value)
		for _, e := range events {
			at = max(1, e.Time)
		}
		return false, err
	})
	return at, err
}

// Garbage lists what a shard does not need any more. Objects are deleted because
// of the answer, so that all that led to it is made durable first: an index that
// forgot a fold after a power cut would have to be rebuilt whole.
func (x *Index) Garbage(ctx context.Context, epoch uint64, shard, limit int) ([]engine.Garbage, error) {
	var list []engine.Garbage
	err := x.list(ctx, limit, func(int64) error {
		s, err := x.shard(shard)
		if err != nil {
			return err
		}
		err = s.look(epoch, func() error {
			withheld, err := x.unpublished(s)
			if err != nil {
				return err
			}
			list, err = x.garbageOf(shard, limit, withheld)
			return err
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

// garbageOf reads the oldest entries of both tables, those before withheld (0:
// all).
func (x *Index) garbageOf(shard, limit int, withheld int64) ([]engine.Garbage, error) {
	var list []engine.Garbage
	for _, table := range []byte{tableGarbage, tableDropped} {
		from, to := tableOf(table, shard)
		left := limit
		err := x.scan(from, to, func(key, _ []byte) (bool, error) {
			since := int64(numberOfKey(key))
			if withheld > 0 && since >= withheld {
				return false, nil
			}
			g := engine.Garbage{Since: fromMillis(since)}
			var err error
			if table == tableGarbage {
				g.Segment, err = segmentOfKey(key)
			} else {
				g.Catalog, g.Snapshot.Start, g.Snapshot.Stop, err = dropOfKey(key)
			}
			list = append(list, g)
			left--
			return left > 0, err
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(list, func(a, b engine.Garbage) int { return a.Since.Compare(b.Since) })
	return list[:min(limit, len(list))], nil
}

// Unused tells whether some shard needs a segment, else since when none does. Like
// Garbage it makes durable what the answer relies on.
func (x *Index) Unused(ctx context.Context, epoch uint64, segments []engine.SegmentID) ([]engine.Usage, error) {
	usages, err := x.unused(ctx, epoch, segments)
	if err != nil {
		return nil, fmt.Errorf("look for references to segments: %w", err)
	}
	return usages, nil
}

func (x *Index) unused(ctx context.Context, epoch uint64, segments []engine.SegmentID) ([]engine.Usage, error) {
	_, end, err := x.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	usages := make([]engine.Usage, len(segments))
	for _, s := range x.shards {
		err := s.look(epoch, func() error {
			withheld, err := x.unpublished(s)
			if err != nil {
				return err
			}
			for i, segment := range segments {
				u := &usages[i]
				if u.Needed || checkSegment(segment) != nil {
					continue
				}
				var r refsRecord
				if _, err := x.read(keyRefs(s.number, segment), r.decode); err != nil {
					return err
				}
				_, open := s.undecided[segment]
				if open || r.live > 0 || r.garbage > 0 && withheld > 0 && r.garbage >= withheld {
					*u = engine.Usage{Needed: true}
				} else if at := fromMillis(r.garbage); at.After(u.Since) {
					u.Since = at
				}
			}
			return ctx.Err()
		})
		if err != nil {
			return nil, err
		}
	}
	return usages, x.sync()
}

// Abandon makes garbage of segments that a shard does not need.
func (x *Index) Abandon(ctx context.Context, epoch uint64, shard int, segments []engine.SegmentID) error {
	for _, s := range segments {
		if err := checkSegment(s); err != nil {
			return fmt.Errorf("abandon segments in index shard %d: %w", shard, err)
		}
	}
	err := x.change(ctx, epoch, shard, func(c *change) error {
		if err := c.abandon(segments); err != nil {
			return c.drop(err)
		}
		return c.end(len(segments) > 0)
	})
	if err != nil {
		return fmt.Errorf("abandon segments in index shard %d: %w", shard, err)
	}
	return nil
}

func (c *change) abandon(segments []engine.SegmentID) error {
	for _, s := range segments {
		r, err := c.ref(s)
		if err != nil {
			return err
		}
		c.unneeded(s, r)
	}
	return nil
}

// Forget strikes entries from the garbage of a shard.
func (x *Index) Forget(ctx context.Context, epoch uint64, shard int, list []engine.Garbage) error {
	err := x.change(ctx, epoch, shard, func(c *change) error {
		changed := false
		for _, g := range list {
			if g.Segment.IsZero() {
				if checkCatalog(g.Catalog) == nil && !g.Since.IsZero() {
					c.delete(keyDropped(shard, g.Since.UnixMilli(), g.Catalog, g.Snapshot.Start, g.Snapshot.Stop))
					changed = true
				}
				continue
			}
			if checkSegment(g.Segment) != nil {
				continue
			}
			r, err := c.ref(g.Segment)
			if err != nil {
				return c.drop(err)
			}
			if r.garbage == 0 {
				continue
			}
			c.delete(keyGarbage(shard, r.garbage, g.Segment))
			c.delete(keyRefs(shard, g.Segment))
			*r = refsRecord{}
			changed = true
		}
		return c.end(changed)
	})
	if err != nil {
		return fmt.Errorf("forget garbage of index shard %d: %w", shard, err)
	}
	return nil
}

// change runs f as one operation on a shard that is open in the epoch.
func (x *Index) change(ctx context.Context, epoch uint64, shard int, f func(c *change) error) error {
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
	return f(c)
}

// Live lists segments with live runs.
func (x *Index) Live(ctx context.Context, epoch uint64, shard int, older int64, limit int) ([]engine.SegmentID, error) {
	var list []engine.SegmentID
	err := x.list(ctx, limit, func(int64) error {
		s, err := x.shard(shard)
		if err != nil {
			return err
		}
		return s.look(epoch, func() error {
			from, to := tableOf(tableRefs, shard)
			return x.scan(from, to, func(key, value []byte) (bool, error) {
				segment, err := segmentOfKey(key)
				if err != nil {
					return false, err
				}
				var r refsRecord
				if err := r.decode(value); err != nil {
					return false, err
				}
				if r.live > 0 && segment.Unix < older {
					list = append(list, segment)
				}
				return len(list) < limit, ctx.Err()
			})
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list live segments of index shard %d: %w", shard, err)
	}
	return list, nil
}

// Relocate says that live runs stand in another segment now.
func (x *Index) Relocate(ctx context.Context, r engine.Relocate) ([]bool, error) {
	stands, err := x.relocate(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("relocate runs: %w", err)
	}
	return stands, nil
}

func (x *Index) relocate(ctx context.Context, r engine.Relocate) ([]bool, error) {
	if !r.To.IsZero() {
		if err := checkSegment(r.To); err != nil {
			return nil, err
		}
	}
	var shards [engine.Shards][]int
	for i, m := range r.Runs {
		if err := checkCatalog(m.Catalog); err != nil {
			return nil, err
		}
		s := engine.Shard(m.Catalog)
		shards[s] = append(shards[s], i)
	}
	stands := make([]bool, len(r.Runs))
	for number, mine := range shards {
		if len(mine) == 0 {
			continue
		}
		err := x.change(ctx, r.Epoch, number, func(c *change) error {
			changed := false
			done := make(map[engine.RunKey]int, len(mine)) // what the batch moves is not read back
			for _, i := range mine {
				k := engine.RunKey{Catalog: r.Runs[i].Catalog, First: r.Runs[i].First}
				if j, twice := done[k]; twice {
					stands[i] = stands[j] && (!r.To.IsZero() || r.Runs[i].From == r.Runs[j].From)
					continue
				}
				done[k] = i
				moved, err := c.relocate(r.To, r.Runs[i], &stands[i])
				if err != nil {
					return c.drop(err)
				}
				changed = changed || moved
			}
			if changed {
				c.s.moves++
			}
			return c.end(changed)
		})
		if err != nil {
			return nil, err
		}
	}
	return stands, nil
}

func (c *change) relocate(to engine.SegmentID, m engine.Relocation, stands *bool) (moved bool, err error) {
	h, err := c.head(m.Catalog)
	if err != nil || h.runs == 0 || m.First.Less(h.snap.Stop) || m.First == h.snap.Stop {
		return false, err
	}
	var run engine.Run
	found := false
	err = c.x.scan(keyRun(m.Catalog, m.First), endOf(tableRun, m.Catalog), func(key, value []byte) (bool, error) {
		run, err = decodeRun(key, value)
		found = run.First == m.First
		return false, err
	})
	switch {
	case err != nil || !found:
		return false, err
	case to.IsZero():
		*stands = run.Segment == m.From
		return false, nil
	case run.Segment == to:
		*stands = true
		return false, nil
	case run.Segment != m.From:
		return false, nil
	}
	there, err := c.ref(to)
	if err != nil {
		return false, err
	}
	from, err := c.ref(m.From)
	if err != nil {
		return false, err
	}
	if there.garbage > 0 {
		c.delete(keyGarbage(c.s.number, there.garbage, to))
	}
	*there = refsRecord{live: there.live + 1, known: true}
	from.live = max(0, from.live-1)
	c.collect(m.From, from)
	h.bytes += m.Len - run.Len
	h.changed = true
	run.Segment, run.Off, run.Len = to, m.Off, m.Len
	c.set(keyRun(m.Catalog, run.Last), appendRun(nil, run))
	*stands = true
	return true, nil
}

// Drop takes old snapshots out of the registration.
func (x *Index) Drop(ctx context.Context, d engine.Drop) (int, error) {
	left, err := x.dropSnapshots(ctx, d)
	if err != nil {
		return 0, fmt.Errorf("drop snapshots of %q: %w", d.Catalog, err)
	}
	return left, nil
}

func (x *Index) dropSnapshots(ctx context.Context, d engine.Drop) (left int, err error) {
	if d.Limit < 1 {
		return 0, fmt.Errorf("%w: at most %d of them", engine.ErrInvalid, d.Limit)
	}
	if err := checkCatalog(d.Catalog); err != nil {
		return 0, err
	}
	err = x.change(ctx, d.Epoch, engine.Shard(d.Catalog), func(c *change) error {
		h, err := c.head(d.Catalog)
		if err != nil {
			return c.drop(err)
		}
		before := d.Before
		if h.snap.Stop.Less(before) {
			before = h.snap.Stop // the latest stays
		}
		dropped := 0
		err = x.scan(keySnapshot(d.Catalog, engine.Version{}), keySnapshot(d.Catalog, before), func(key, value []byte) (bool, error) {
			s, err := decodeSnapshot(key, value)
			if err != nil {
				return false, err
			}
			if dropped == d.Limit {
				left++
				return true, nil
			}
			c.delete(bytes.Clone(key))
			if !s.Purged() {
				c.set(keyDropped(c.s.number, c.discard(), d.Catalog, s.Start, s.Stop), nil)
			}
			dropped++
			return true, nil
		})
		if err != nil {
			return c.drop(err)
		}
		return c.end(dropped > 0)
	})
	return left, err
}

// keyDropped is a dropped snapshot's key in the garbage.
func keyDropped(shard int, since int64, catalog string, start, stop engine.Version) []byte {
	b := append(make([]byte, 0, 2+8+len(catalog)+1+16), tableDropped, byte(shard))
	b = binary.BigEndian.AppendUint64(b, uint64(max(0, since)))
	b = append(append(b, catalog...), 0)
	b = binary.BigEndian.AppendUint64(b, packVersion(start))
	return binary.BigEndian.AppendUint64(b, packVersion(stop))
}

func dropOfKey(key []byte) (catalog string, start, stop engine.Version, err error) {
	if len(key) > 10 {
		if name, rest, ok := strings.Cut(string(key[10:]), "\x00"); ok && len(rest) == 16 {
			return name, unpackVersion(binary.BigEndian.Uint64([]byte(rest))), unpackVersion(binary.BigEndian.Uint64([]byte(rest[8:]))), nil
		}
	}
	return "", start, stop, fmt.Errorf("%w: the index has the key %x, which names no snapshot", engine.ErrDamaged, key)
}

// Condemn takes the epoch from a shard. What it knows goes when it is fenced.
func (x *Index) Condemn(ctx context.Context, epoch uint64, shard int) error {
	if list, err := x.Epochs(ctx); err == nil && shard >= 0 && shard < len(list) && list[shard].N == 0 {
		return nil // a repetition
	}
	err := x.change(ctx, epoch, shard, func(c *change) error {
		c.rec.n, c.rec.open, c.rec.catalogs = 0, false, 0
		return c.commit(true)
	})
	if err != nil {
		return fmt.Errorf("condemn index shard %d: %w", shard, err)
	}
	return nil
}

// Empty removes what an opening shard knows.
func (x *Index) Empty(ctx context.Context, shard int, n uint64) error {
	return x.opening(ctx, "empty", shard, n, func(c *change) error {
		if err := c.drop(nil); err != nil || c.s.emptied == n {
			return err
		}
		if err := x.wipe(ctx, c.s); err != nil {
			return err
		}
		c.s.emptied = n
		return nil
	})
}

// wipe removes all of a shard but its record's epoch, floor and mark, leases and
// heartbeats. It may stop half way, and be repeated. The caller holds mu.
func (x *Index) wipe(ctx context.Context, s *shard) error {
	b := x.db.NewBatch()
	flush := func(least int) error {
		if b.Len() < least {
			return ctx.Err()
		}
		err := x.apply(b, false)
		b = x.db.NewBatch()
		return cmp.Or(err, ctx.Err())
	}
	// Ids, runs and snapshots stand under the names of their catalogs.
	err := x.scan(keyHead(""), successor(keyHead("")), func(key, _ []byte) (bool, error) {
		name := catalogOfHead(key)
		if engine.Shard(name) != s.number {
			return true, ctx.Err()
		}
		for _, table := range []byte{tableRun, tableSnapshot, tableID} {
			_ = b.DeleteRange(append(append([]byte{table}, name...), 0), endOf(table, name), nil)
		}
		_ = b.Delete(bytes.Clone(key), nil)
		return true, flush(1 << 20)
	})
	if err == nil {
		from, to := tableOf(tableReceipt, s.number)
		err = x.scan(from, to, func(key, _ []byte) (bool, error) {
			catalog, id, err := idOfReceipt(key)
			if err == nil {
				_ = b.Delete(keyID(catalog, id), nil)
				err = flush(1 << 20)
			}
			return true, err
		})
	}
	if err != nil {
		return errors.Join(err, b.Close())
	}
	for _, table := range []byte{tablePlan, tableUndecided, tableDecided, tableRefs, tableGarbage, tableDropped, tableOutbox, tableReceipt} {
		from, to := tableOf(table, s.number)
		_ = b.DeleteRange(from, to, nil)
	}
	rec := s.shardRecord
	rec.catalogs = 0
	_ = b.Set(keyShard(s.number), rec.append(nil), nil)
	if err := x.apply(b, true); err != nil {
		return err
	}
	s.shardRecord = rec
	s.oldest = s.entries + 1
	clear(s.undecided)
	clear(s.gates)
	s.plans, s.receipts = expiry{ttl: planTTL}, expiry{}
	s.plans.from, _ = tableOf(tableDecided, s.number)
	s.receipts.from, _ = tableOf(tableReceipt, s.number)
	return nil
}
