package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jsonlake/lake/pkg/engine/codec"
)

// Erasing what lies below a purge that is folded, a pass at a time:
//
//	drop       the registration of older snapshots
//	history    every snapshot and pack of the catalog below the purge goes, registered or not: a fold that was late may have put one
//	segments   all of wal/ is read for deltas from before. Live runs in such a segment move to a new one, so that no shard needs it; then it goes.
//	           A copy that nobody moved anything to is folded and abandoned first
//	caches     what the shared cache keeps of these objects
//	record     goes when a pass has found nothing, and nobody can be late any more
//
// Deletions obey the collector's order: the record in _lake/collected/, the lease,
// the deletion. Only the grace is shorter: a writer whose put was not answered takes an
// empty place for "never" within neverWithin, a fold ends within foldLimit; an index
// that falls back to before the purge is refilled, which it would be anyway after a
// collection.

const (
	purgeWait  = 6 * time.Minute  // the longest neverWithin, foldLimit, and a minute for clocks that run differently
	purgeLease = 15 * time.Second // of whoever erases; it saves work, nothing depends on it
)

// purgeObject is _lake/purge/{enc}/{stop}.json.
type purgeObject struct {
	Catalog       string  `json:"catalog"`
	Version       Version `json:"version"`
	CreatedMillis int64   `json:"created_ms"` // index time
	Epoch         uint64  `json:"epoch"`
	Writer        string  `json:"writer"`
}

func (e *Engine) recordPurge(ctx context.Context, o purgeObject) error {
	b, err := marshalControl(o)
	if err != nil {
		return err
	}
	if err := e.notePurge(ctx); err != nil {
		return fmt.Errorf("note a purge: %w", err)
	}
	key := purgeKey(o.Catalog, o.Version)
	if err := e.objects.Put(ctx, key, b); err != nil && !errors.Is(err, ErrExists) {
		return unavailable(fmt.Errorf("put %s: %w", key, err))
	}
	if err := e.notePurge(ctx); err != nil {
		return fmt.Errorf("note a purge: %w", err)
	}
	return nil
}

// Collectors do not list purges in vain: whoever records one leaves a note of it in the
// index, before and after the record is put. A collector lists when it has not yet
// in its epoch, when there is a note, and once an hour for a note that was
// lost with its writer between the two.
const (
	purgeNote    = "purges" // a lease that nobody holds to exclude others
	purgeNoted   = "noted"  // its token
	purgeNoteFor = 2 * time.Hour
)

// notePurge says that there is a purge to go on with. A collector that looks for a note
// holds the lease for a moment; one that died doing so leaves it held, which is a
// note as well.
func (e *Engine) notePurge(ctx context.Context) error {
	for range 10 {
		ictx, cancel := context.WithTimeout(ctx, e.opts.IndexTimeout)
		mine, err := e.index.Acquire(ictx, 0, purgeNote, purgeNoted, purgeNoteFor)
		cancel()
		if err != nil || mine {
			return err
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// purgesNoted tells whether there may be a purge to go on with.
func (e *Engine) purgesNoted(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, e.opts.IndexTimeout)
	defer cancel()
	token := e.randomName(16) // a new one each time: if it stays, it counts as a note
	free, err := e.index.Acquire(ctx, 0, purgeNote, token, purgeNoteFor)
	return err != nil || !free || e.index.Release(ctx, 0, purgeNote, token) != nil
}

// cleanSegments remembers, by the record of a purge, segments that hold nothing of
// it: an object never changes, it needs to be read once.
type cleanSegments map[string]map[SegmentID]bool

// purges goes on with every purge that has a record.
func (c *collection) purges(ctx context.Context) error {
	// The note goes before the list: a record that is put later is noted later.
	if err := c.e.index.Release(ctx, 0, purgeNote, purgeNoted); err != nil {
		return err
	}
	var jobs []PurgeReceipt
	known := map[string]bool{}
	for o, err := range c.e.objects.List(ctx, purgePrefix, "") {
		if err != nil {
			return err
		}
		if catalog, at, ok := parsePurgeKey(o.Key); ok {
			jobs = append(jobs, PurgeReceipt{Catalog: catalog, Version: at})
			known[o.Key] = true
		}
	}
	if len(jobs) > 0 {
		if err := c.e.notePurge(ctx); err != nil {
			return err
		}
	}
	for key := range c.clean {
		if !known[key] {
			delete(c.clean, key)
		}
	}
	var errs []error
	for i := range jobs {
		r := &jobs[i]
		err := c.e.foldTo(ctx, c.n, r.Catalog, r.Version)
		if err == nil {
			err = c.erase(ctx, r, false)
		}
		if err == nil && !r.Complete && r.Waiting == 0 { // all of it went just now: look whether that is so
			err = c.erase(ctx, r, false)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("catalog %q at version %s: %w", r.Catalog, r.Version, err))
		}
		if r.Complete {
			c.did.Purged++
		} else {
			c.did.Purging++
		}
		c.e.opts.Hooks.purged(*r)
	}
	return errors.Join(errs...)
}

// eraseNow erases what can go at once. past tells that snapshots and packs are gone,
// and that no older index brings them back.
func (e *Engine) eraseNow(ctx context.Context, n uint64, r *PurgeReceipt) (past bool, err error) {
	c := collection{e: e, n: n, began: time.Now(), clean: cleanSegments{}}
	const passes, pause = 10, 200 * time.Millisecond
	defer func() { e.opts.Hooks.purged(*r) }()
	for pass := 1; ; pass++ {
		waited := r.Waiting
		if err := c.erase(ctx, r, true); err != nil || r.Complete {
			return c.past, err
		}
		// What waits for events to be published, or for a put of this process, does not
		// wait long; what waits for a time does.
		if pass == passes || pass > 1 && !e.index.Exclusive() && r.Waiting >= waited {
			return c.past, nil
		}
		if err := sleep(ctx, pause); err != nil {
			return c.past, err
		}
	}
}

// erase makes one pass. wait: another process that erases is waited for, else left
// to it.
func (c *collection) erase(ctx context.Context, r *PurgeReceipt, wait bool) (err error) {
	e := c.e
	c.token = e.randomName(16)
	defer func() { c.token = "" }()
	mine, err := e.purgeTurn(ctx, c.token, wait)
	if err != nil || !mine {
		return err
	}
	defer func() {
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = e.index.Release(rctx, 0, "purge", c.token) // it would expire by itself
	}()
	key := purgeKey(r.Catalog, r.Version)
	var record purgeObject // none: an earlier pass came to the end
	b, err := e.objects.Get(ctx, key)
	if err == nil {
		err = unmarshalControl(key, b, &record)
	}
	if err != nil && !errors.Is(err, ErrNotExist) {
		return err
	}
	if c.now, err = e.index.Heartbeat(ctx, c.n, e.writer); err != nil {
		return err
	}
	grace := min(e.opts.Grace, purgeWait)
	c.old = e.old(c.now, grace)
	settled := e.index.Exclusive() || record.CreatedMillis == 0 || time.UnixMilli(record.CreatedMillis).Before(c.old)

	gone, err := c.eraseHistory(ctx, r)
	if err != nil {
		return err
	}
	c.past = true
	found, err := c.holding(ctx, r.Catalog, r.Version)
	if err != nil {
		return err
	}
	r.Waiting = len(found)
	segments, latest, err := c.eraseSegments(ctx, r, found)
	if err != nil {
		return err
	}
	if !settled {
		latest = later(latest, time.UnixMilli(record.CreatedMillis))
	}
	r.Waiting = len(found) - len(segments)
	e.store.forgetAll()
	if e.opts.Cache != nil {
		keys := append(gone, segments...)
		for _, o := range found {
			keys = append(keys, o.Key)
		}
		n, err := e.opts.Cache.Erase(ctx, keys)
		if r.Cached += n; err != nil {
			e.opts.Hooks.trouble("shared cache", err) // what it keeps expires, and nobody asks for it
		}
	}
	r.Until = nil
	if !latest.IsZero() {
		until := latest.Add(grace).UTC()
		r.Until = &until
	}
	if !settled || len(gone)+len(found) > 0 {
		return nil
	}
	if err := e.objects.Delete(ctx, key); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	r.Complete = true
	return nil
}

// purgeTurn takes the lease of who erases.
func (e *Engine) purgeTurn(ctx context.Context, token string, wait bool) (bool, error) {
	for {
		ictx, cancel := context.WithTimeout(ctx, e.opts.IndexTimeout)
		mine, err := e.index.Acquire(ictx, 0, "purge", token, purgeLease)
		cancel()
		if err != nil || mine || !wait {
			return mine, err
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return false, fmt.Errorf("another process erases: %w", err)
		}
	}
}

func (c *collection) holdPurge(ctx context.Context) error {
	_, err := c.e.purgeTurn(ctx, c.token, false)
	return err
}

// history lists the snapshots and packs of a catalog from before a version.
func (e *Engine) history(ctx context.Context, catalog string, at Version) ([]ObjectInfo, error) {
	var list []ObjectInfo
	for o, err := range e.objects.List(ctx, CatalogDir(catalog)+"/", "") {
		if err != nil {
			return nil, err
		}
		if s, ok := parseHistoryKey(catalog, o.Key); ok && (s.Stop.Less(at) || s.Start.Less(at) && s.Stop == at) {
			list = append(list, o)
		}
	}
	return list, nil
}

// eraseHistory deletes the snapshots and packs below a purge that is folded, and
// gives their keys.
func (c *collection) eraseHistory(ctx context.Context, r *PurgeReceipt) (keys []string, err error) {
	e := c.e
	if err := e.dropPast(ctx, c.n, r.Catalog, r.Version); err != nil {
		return nil, err
	}
	// What was folded and dropped became garbage at a time that no mark is behind of
	// now. An index that has not seen it must be refilled even if nothing is deleted:
	// it would show what was before as not folded.
	marks, err := e.epochs(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.record(ctx, marks[Shard(r.Catalog)].Mark); err != nil {
		return nil, err
	}
	list, err := e.history(ctx, r.Catalog, r.Version)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	var dropped []Garbage
	for _, o := range list {
		if err := c.deleteObject(ctx, o.Key); err != nil {
			return nil, err
		}
		s, _ := parseHistoryKey(r.Catalog, o.Key)
		if o.Key == SnapshotKey(r.Catalog, s.Start, s.Stop) {
			r.Snapshots++
			dropped = append(dropped, Garbage{Catalog: r.Catalog, Snapshot: s})
		} else {
			r.Packs++
		}
		r.Bytes += o.Size
		keys = append(keys, o.Key)
		if err := c.pace(ctx, 1); err != nil {
			return nil, err
		}
	}
	return keys, c.forget(ctx, Shard(r.Catalog), dropped)
}

// overtaken erases what a fold has put that a purge overtook: it was read before the
// purge, and put after the erasure had begun.
func (e *Engine) overtaken(ctx context.Context, n uint64, catalog string, s Snapshot) {
	snaps, err := e.snapshots(ctx, n, catalog, before(s.Stop), 1)
	if err == nil && len(snaps) > 0 && snaps[0].Purged() {
		c := collection{e: e, n: n, began: time.Now()}
		_, err = c.eraseHistory(ctx, &PurgeReceipt{Catalog: catalog, Version: snaps[0].Stop})
	}
	e.opts.Hooks.trouble("erase a fold that a purge overtook", err)
}

// holding reads all segments and gives those that hold deltas of a catalog from
// before a version.
func (c *collection) holding(ctx context.Context, catalog string, at Version) ([]ObjectInfo, error) {
	clean := c.clean[purgeKey(catalog, at)]
	still := map[SegmentID]bool{}
	var list, found []ObjectInfo
	for o, err := range c.e.objects.List(ctx, walPrefix, "") {
		if err != nil {
			return nil, err
		}
		id, err := ParseSegmentKey(o.Key)
		if err != nil {
			continue // not ours
		}
		if clean[id] {
			still[id] = true
			continue
		}
		list = append(list, o)
	}
	var mu sync.Mutex
	for part := range slices.Chunk(list, 256) {
		g, gctx := newTasks(ctx, c.e.opts.Loads)
		for _, o := range part {
			g.add(func() error {
				holds, err := c.holds(gctx, o.Key, catalog, at)
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				if holds {
					found = append(found, o)
				} else if id, err := ParseSegmentKey(o.Key); err == nil {
					still[id] = true
				}
				return nil
			})
		}
		if err := g.wait(); err != nil {
			return nil, err
		}
		if err := c.hold(ctx); err != nil {
			return nil, err
		}
	}
	if c.clean != nil {
		c.clean[purgeKey(catalog, at)] = still
	}
	slices.SortFunc(found, func(a, b ObjectInfo) int { return strings.Compare(a.Key, b.Key) })
	return found, nil
}

func (c *collection) holds(ctx context.Context, key, catalog string, at Version) (bool, error) {
	b, err := c.e.getObject(ctx, key)
	if errors.Is(err, ErrNotExist) {
		return false, nil // collected since it was listed
	}
	if err != nil {
		return false, fmt.Errorf("get %s: %w", key, err)
	}
	frames, lost, err := c.e.frames(ctx, key, b)
	if err != nil {
		return false, err
	}
	if lost != nil && lost.mayHold(catalog) {
		return true, nil // nothing counts of what cannot be read: all of it may go
	}
	for _, f := range frames {
		if f.Kind == codec.KindRun && f.Catalog == catalog && versionOf(f.First).Less(at) {
			return true, nil
		}
	}
	return false, nil
}

// eraseSegments moves the live runs of segments elsewhere and deletes those that
// may go. It gives their keys, and the latest time at which one that waits became
// garbage.
func (c *collection) eraseSegments(ctx context.Context, r *PurgeReceipt, found []ObjectInfo) (keys []string, waits time.Time, err error) {
	e := c.e
	var into compacted
	var ids []SegmentID
	for _, o := range found {
		id, err := ParseSegmentKey(o.Key)
		if err != nil {
			return nil, waits, err
		}
		ids = append(ids, id)
		live, _, err := c.live(ctx, id)
		if errors.Is(err, ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, waits, err
		}
		if len(live.frames) == 0 {
			continue
		}
		r.Rewritten++
		if into.add(live); c.full(&into) {
			if err := c.move(ctx, &into); err != nil {
				return nil, waits, err
			}
			into = compacted{}
		}
	}
	if err := c.move(ctx, &into); err != nil || len(ids) == 0 {
		return nil, waits, err
	}
	usages, err := c.usages(ctx, Shard(r.Catalog), ids)
	if err != nil {
		return nil, waits, err
	}
	var ripe []Garbage
	var horizon time.Time
	strays := false
	for i, id := range ids {
		switch at := usages[i].Since; {
		case at.IsZero(): // needed still, or of an epoch that is sealed and nobody knows it
			strays = strays || id.Epoch < c.n
		case e.index.Exclusive() && e.group.mayPut(id), !e.index.Exclusive() && !at.Before(c.old):
			waits = later(waits, at)
		default:
			ripe = append(ripe, Garbage{Segment: id})
			horizon = later(horizon, at)
			keys = append(keys, found[i].Key)
			r.Bytes += found[i].Size
		}
	}
	if strays {
		if err := c.deleteStrays(ctx); err != nil {
			return nil, waits, err
		}
	}
	if len(ripe) == 0 {
		return nil, waits, nil
	}
	if err := c.record(ctx, horizon); err != nil {
		return nil, waits, err
	}
	if err := c.delete(ctx, ripe); err != nil {
		return nil, waits, err
	}
	r.Segments += len(ripe)
	return keys, waits, c.forget(ctx, Shard(r.Catalog), ripe)
}

// usages asks for the usage of segments, after it has abandoned those that nobody
// knows.
func (c *collection) usages(ctx context.Context, shard int, ids []SegmentID) ([]Usage, error) {
	usages, err := c.e.index.Unused(ctx, c.n, ids)
	if err != nil {
		return nil, err
	}
	var unknown []SegmentID
	for i, u := range usages {
		if ids[i].Epoch == c.n && !u.Needed && u.Since.IsZero() {
			unknown = append(unknown, ids[i])
		}
	}
	if len(unknown) == 0 {
		return usages, nil
	}
	for _, id := range unknown {
		if err := c.foldCopies(ctx, id); err != nil {
			return nil, err
		}
	}
	if err := c.e.index.Abandon(ctx, c.n, shard, unknown); err != nil {
		return nil, err
	}
	return c.e.index.Unused(ctx, c.n, ids)
}

// foldCopies folds what a compacted copy holds to which nothing was moved: its collector
// died, or all of it was folded meanwhile. Then nothing can be moved to it any more,
// however late, and no rebuild takes a run from it.
func (c *collection) foldCopies(ctx context.Context, id SegmentID) error {
	b, err := c.e.getObject(ctx, id.Key())
	if errors.Is(err, ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get %s: %w", id.Key(), err)
	}
	frames, _, err := c.e.frames(ctx, id.Key(), b)
	if err != nil {
		return err
	}
	last := make(map[string]Version, len(frames))
	for _, f := range frames {
		if v := lastOf(&f.Frame); last[f.Catalog].Less(v) {
			last[f.Catalog] = v
		}
	}
	for _, catalog := range slices.Sorted(maps.Keys(last)) {
		if err := c.e.foldPast(ctx, catalog, last[catalog]); err != nil {
			return err
		}
		if err := c.hold(ctx); err != nil {
			return err
		}
	}
	return nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
