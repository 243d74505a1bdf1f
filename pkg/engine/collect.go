package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Collecting garbage:
//
//	retain    snapshots that the retention gives up lose their registration
//	compact   old segments that still have live runs are copied together
//	garbage   what no shard has needed for a grace: a record, the lease, then the deletions
//	purges    what a purge gave up goes sooner (erase.go)
//	strays    segments of sealed epochs that their seal does not know
//
// What is garbage the index tells, never a listing. An index that goes back to an
// older state does not know what was collected since. So before anything is
// deleted, _lake/collected/ says up to which index time garbage is being
// collected, and a new epoch empties every shard that has not seen that time
// (restore). The record comes before a look at the lease, and that before the
// deletions: an epoch that is opened later finds the record, because its opener
// waits until the lease is over. A collector that is stopped in between may go
// on at any time: what it deletes was not needed by an index that had seen the
// record's time, and never will be.
//
// A segment that turns out to be damaged, and was not accepted as lost, stops only
// what may depend on it: whatever it may have been copied from stays (mayBeCopied).

const (
	collectLease = time.Minute // of the collector; it saves work, nothing depends on it
	collectPage  = 1000        // entries of garbage at once
)

// Retention says which part of the history is given up.
type Retention struct {
	Prefix    string        // of the catalogs; of several that match the longest counts
	OlderThan time.Duration // at least IDTTL
}

// Collected tells what a collection did, or would do.
type Collected struct {
	Segments  int   `json:"segments"`  // deleted
	Snapshots int   `json:"snapshots"` // deleted, each with its pack
	Strays    int   `json:"strays"`    // deleted: segments that came after their epoch was sealed
	Waiting   int   `json:"waiting"`   // garbage that is younger than the grace, or stays for a damaged segment, as far as it was looked at
	Dropped   int   `json:"dropped"`   // snapshots that the retention gave up: garbage from now on
	Compacted int   `json:"compacted"` // segments whose live runs were copied
	Copied    int64 `json:"copied"`    // bytes of these runs
	Purged    int   `json:"purged"`    // purges that have come to their end: nothing of them is left
	Purging   int   `json:"purging"`   // purges that wait
}

// collector runs Collect every Options.CollectEvery, in one process at a time.
func (e *Engine) collector(ctx context.Context) {
	var retained time.Time
	var strays uint64 // the epoch in which strays were last looked for
	var listed time.Time
	var listedIn uint64 // the epoch in which purges were last listed, and when
	clean := cleanSegments{}
	for sleep(ctx, e.opts.CollectEvery+e.jitter(e.opts.CollectEvery/4+1)) == nil {
		n := e.lease.epoch()
		if !e.lease.valid(n) {
			continue
		}
		mine, err := e.acquire(ctx, "collect", collectLease)
		if err != nil || !mine {
			continue
		}
		c := collection{e: e, n: n, clean: clean}
		if c.retain = time.Since(retained) > max(time.Hour, e.opts.CollectEvery); c.retain {
			retained = time.Now()
		}
		if c.strays = strays != n; c.strays {
			strays = n
		}
		c.erases = listedIn != n || time.Since(listed) > max(time.Hour, e.opts.CollectEvery) || e.purgesNoted(ctx)
		if c.erases {
			listed, listedIn = time.Now(), n
		}
		if err := c.run(ctx); err != nil && !e.sawEpoch(n, err) && ctx.Err() == nil {
			e.opts.Hooks.trouble("collect garbage", err)
		}
		e.opts.Hooks.collected(c.did)
	}
}

func (e *Engine) acquire(ctx context.Context, name string, ttl time.Duration) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, e.opts.IndexTimeout)
	defer cancel()
	return e.index.Acquire(ctx, 0, name, e.writer, ttl)
}

// Collect makes one collection: it gives up what the retention says, compacts old
// segments and deletes what was garbage for longer than the grace. dry only
// counts. It may run beside others. Of an index that other processes use, only
// that goes which this engine has known for the grace: it has to be asked again.
func (e *Engine) Collect(ctx context.Context, dry bool) (Collected, error) {
	if err := e.Ready(); err != nil {
		return Collected{}, err
	}
	c := collection{e: e, n: e.lease.epoch(), dry: dry, retain: true, strays: true, erases: true, alone: e.index.Exclusive()}
	err := c.run(ctx)
	if err != nil && e.sawEpoch(c.n, err) {
		err = fmt.Errorf("%w: %w", ErrRecovering, err)
	}
	return c.did, unavailable(err)
}

// beat pairs a moment of this process's own clock with an index time: after it
// every shard's mark is at least that time.
type beat struct{ at, now time.Time }

// old tells the index time before which everything became garbage a grace (at most
// Options.Grace) ago, by
// the index's clock and by this process's own: what becomes garbage after a beat
// has a time that is not before it. Index time alone may jump, and a put that is
// under way must not find its place empty.
func (e *Engine) old(now time.Time, grace time.Duration) time.Time {
	e.beatsMu.Lock()
	defer e.beatsMu.Unlock()
	if n := len(e.beats); n == 0 || time.Since(e.beats[n-1].at) >= min(time.Second, e.opts.Grace/2) {
		e.beats = append(e.beats, beat{at: time.Now(), now: now})
	}
	// That of the grace, the longest that is asked for, and what is younger.
	for len(e.beats) > 1 && time.Since(e.beats[1].at) >= e.opts.Grace {
		e.beats = e.beats[1:]
	}
	var own time.Time
	for _, b := range e.beats {
		if time.Since(b.at) >= grace {
			own = b.now
		}
	}
	if by := now.Add(-grace); by.Before(own) {
		return by
	}
	return own
}

// collection is one pass.
type collection struct {
	e              *Engine
	n              uint64
	dry            bool
	retain, strays bool
	erases         bool      // goes on with purges
	now            time.Time // index time at its beginning
	old            time.Time // what became garbage before may go
	alone          bool      // nobody else can have a put under way
	began          time.Time
	deleted        int
	seen           map[SegmentID]bool // counted
	clean          cleanSegments      // of each purge, if the caller remembers them
	token          string             // of the lease of purges, while one is worked on
	past           bool               // what a purge gave up of snapshots and packs is gone
	damaged        []SegmentID        // that were to be compacted
	did            Collected
}

func (c *collection) run(ctx context.Context) (err error) {
	c.began, c.seen = time.Now(), map[SegmentID]bool{}
	if c.now, err = c.e.index.Heartbeat(ctx, c.n, c.e.writer); err != nil {
		return err
	}
	if c.old = c.e.old(c.now, c.e.opts.Grace); c.alone {
		c.old = c.now.Add(-c.e.opts.Grace)
	}
	if c.retain && len(c.e.opts.Retention) > 0 {
		if err := c.giveUp(ctx); err != nil {
			return fmt.Errorf("retention: %w", err)
		}
	}
	damage, err := c.compact(ctx)
	if err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	defer func() { err = errors.Join(damage, err) }()
	for shard := range Shards {
		if err := c.shard(ctx, shard); err != nil {
			return err
		}
	}
	if c.strays {
		if err := c.deleteStrays(ctx); err != nil {
			return err
		}
	}
	if c.dry || !c.erases {
		return nil
	}
	if err := c.purges(ctx); err != nil {
		return fmt.Errorf("purge: %w", err)
	}
	return nil
}

// shard deletes the garbage of a shard that is old enough, a page at a time.
func (c *collection) shard(ctx context.Context, shard int) error {
	for stays := 0; ; { // of the oldest garbage
		limit := collectPage + stays
		list, err := c.e.index.Garbage(ctx, c.n, shard, limit)
		if err != nil {
			return err
		}
		stays = 0
		for _, g := range list {
			if c.mayBeCopied(g.Segment) {
				stays++
			}
		}
		ripe, horizon, err := c.ripe(ctx, list)
		if err != nil {
			return err
		}
		if len(ripe) == 0 && len(list) == limit && limit < collectPage+stays {
			continue // what may go can only come after what stays
		}
		if c.dry || len(ripe) == 0 {
			c.count(list, ripe)
			return nil
		}
		if err := c.record(ctx, horizon); err != nil {
			return err
		}
		if err := c.delete(ctx, ripe); err != nil {
			return err
		}
		if err := c.forget(ctx, shard, ripe); err != nil {
			return err
		}
		c.count(list, ripe)
		if len(list) < limit {
			return nil
		}
	}
}

// mayBeCopied tells whether a damaged segment may hold copies of this one's runs, which
// then has the only sound ones that are left. What a copy is made from has a lesser key:
// see move. That garbage stays until the damaged segment was put back, or its loss
// accepted.
func (c *collection) mayBeCopied(s SegmentID) bool {
	return !s.IsZero() && slices.ContainsFunc(c.damaged, func(d SegmentID) bool { return newerSegment(d, s) < 0 })
}

// count counts what of a list is ripe, and what waits; a segment that several
// shards list counts once.
func (c *collection) count(list, ripe []Garbage) {
	taken := make(map[Garbage]bool, len(ripe))
	for _, g := range ripe {
		g.Since = time.Time{}
		taken[g] = true
	}
	for _, g := range list {
		g.Since = time.Time{}
		if !g.Segment.IsZero() {
			if c.seen[g.Segment] {
				continue
			}
			c.seen[g.Segment] = true
		}
		switch {
		case !taken[g]:
			c.did.Waiting++
		case g.Segment.IsZero():
			c.did.Snapshots++
		default:
			c.did.Segments++
		}
	}
}

// ripe picks what no shard has needed for the grace, and tells the latest time at
// which something of it became garbage.
func (c *collection) ripe(ctx context.Context, list []Garbage) (ripe []Garbage, horizon time.Time, err error) {
	var segments []SegmentID
	for _, g := range list {
		if !g.Segment.IsZero() {
			segments = append(segments, g.Segment)
		}
	}
	since := map[SegmentID]time.Time{}
	if len(segments) > 0 {
		usages, err := c.e.index.Unused(ctx, c.n, segments)
		if err != nil {
			return nil, horizon, err
		}
		for i, s := range segments {
			since[s] = usages[i].Since
		}
	}
	for _, g := range list {
		if !g.Segment.IsZero() {
			g.Since = since[g.Segment]
		}
		if g.Since.IsZero() || !g.Since.Before(c.old) || c.mayBeCopied(g.Segment) {
			continue
		}
		if g.Since.After(horizon) {
			horizon = g.Since
		}
		ripe = append(ripe, g)
	}
	return ripe, horizon, nil
}

// record says in the bucket up to which time garbage is collected, and makes sure
// that whoever opens a later epoch will see it.
func (c *collection) record(ctx context.Context, horizon time.Time) error {
	e := c.e
	ms := horizon.UnixMilli() + 1
	newest, err := e.collected(ctx)
	if err != nil {
		return err
	}
	if newest.UnixMilli() < ms {
		b, err := marshalControl(collectedObject{HorizonMillis: ms, Epoch: c.n, Writer: e.writer})
		if err != nil {
			return err
		}
		if err := e.objects.Put(ctx, collectedKey(ms), b); err != nil && !errors.Is(err, ErrExists) {
			return fmt.Errorf("put %s: %w", collectedKey(ms), err)
		}
		var older []string // say nothing any more
		for o, err := range e.objects.List(ctx, collectedPrefix, "") {
			if err != nil {
				return err
			}
			if t, ok := parseCollectedKey(o.Key); ok && t < ms {
				older = append(older, o.Key)
			}
		}
		for _, key := range older {
			if err := e.objects.Delete(ctx, key); err != nil {
				return fmt.Errorf("delete %s: %w", key, err)
			}
		}
	}
	if !e.lease.valid(c.n) {
		return errLeaseOut
	}
	return nil
}

// collectedObject is _lake/collected/{ms}.json.
type collectedObject struct {
	HorizonMillis int64  `json:"horizon_ms"`
	Epoch         uint64 `json:"epoch"`
	Writer        string `json:"writer"`
}

// collected is the index time up to which garbage was collected; zero when
// nothing was.
func (e *Engine) collected(ctx context.Context) (time.Time, error) {
	var newest int64
	for o, err := range e.objects.List(ctx, collectedPrefix, "") {
		if err != nil {
			return time.Time{}, err
		}
		if ms, ok := parseCollectedKey(o.Key); ok {
			newest = max(newest, ms)
		}
	}
	if newest == 0 {
		return time.Time{}, nil
	}
	return time.UnixMilli(newest), nil
}

// delete removes the objects, at most Options.CollectRate a second. The snapshots
// of a catalog go oldest first: wherever it stops, what is left of the history
// is its end, without a gap.
func (c *collection) delete(ctx context.Context, list []Garbage) error {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b Garbage) int {
		return cmp.Or(strings.Compare(a.Catalog, b.Catalog), a.Snapshot.Stop.Compare(b.Snapshot.Stop))
	})
	for part := range slices.Chunk(list, 100) {
		g, gctx := newTasks(ctx, c.e.opts.Loads)
		for i := 0; i < len(part); {
			n := 1
			for part[i].Segment.IsZero() && i+n < len(part) && part[i+n].Catalog == part[i].Catalog {
				n++
			}
			these := part[i : i+n]
			i += n
			g.add(func() error {
				for _, it := range these {
					if err := c.deletePiece(gctx, it); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := g.wait(); err != nil {
			return err
		}
		if err := c.pace(ctx, len(part)); err != nil {
			return err
		}
	}
	return nil
}

func (c *collection) deletePiece(ctx context.Context, it Garbage) error {
	if !it.Segment.IsZero() {
		return c.deleteObject(ctx, it.Segment.Key())
	}
	if err := c.deleteObject(ctx, PackKey(it.Catalog, it.Snapshot.Start, it.Snapshot.Stop)); err != nil {
		return err
	}
	return c.deleteObject(ctx, SnapshotKey(it.Catalog, it.Snapshot.Start, it.Snapshot.Stop))
}

func (c *collection) deleteObject(ctx context.Context, key string) error {
	if err := c.e.objects.Delete(ctx, key); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

// pace waits until n more deletions are within the rate, and keeps the
// collector's lease.
func (c *collection) pace(ctx context.Context, n int) error {
	c.deleted += n
	if err := c.hold(ctx); err != nil {
		return err
	}
	due := time.Duration(c.deleted) * time.Second / time.Duration(c.e.opts.CollectRate)
	return sleep(ctx, due-time.Since(c.began))
}

// hold keeps the lease of this work.
func (c *collection) hold(ctx context.Context) error {
	if c.token != "" {
		return c.holdPurge(ctx)
	}
	_, err := c.e.acquire(ctx, "collect", collectLease)
	return err
}

func (c *collection) forget(ctx context.Context, shard int, list []Garbage) error {
	var segments []Garbage
	for _, g := range list {
		if !g.Segment.IsZero() {
			segments = append(segments, g)
		}
	}
	for s := range Shards {
		part := segments // garbage in some shards, unknown to the others
		if s == shard {
			part = list
		}
		if len(part) == 0 {
			continue
		}
		if err := c.e.index.Forget(ctx, c.n, s, part); err != nil {
			return err
		}
	}
	return nil
}

// giveUp drops the snapshots that are older than the retention says, but for the
// newest of these: it is what later versions are read from.
func (c *collection) giveUp(ctx context.Context) error {
	for _, rule := range c.e.opts.Retention {
		after := ""
		for {
			page, err := c.e.index.Catalogs(ctx, c.n, rule.Prefix, after, maxPage)
			if err != nil {
				return err
			}
			for _, info := range page {
				if after = info.Catalog; c.e.retention(info.Catalog) != rule {
					continue
				}
				if err := c.giveUpOf(ctx, info.Catalog, c.now.Add(-rule.OlderThan)); err != nil {
					return fmt.Errorf("catalog %q: %w", info.Catalog, err)
				}
			}
			if len(page) < maxPage {
				break
			}
		}
	}
	return nil
}

// retention is the rule of a catalog; zero: everything is kept.
func (e *Engine) retention(catalog string) Retention {
	var rule Retention
	for _, r := range e.opts.Retention {
		if strings.HasPrefix(catalog, r.Prefix) && (rule.OlderThan == 0 || len(r.Prefix) >= len(rule.Prefix)) {
			rule = r
		}
	}
	return rule
}

func (c *collection) giveUpOf(ctx context.Context, catalog string, cutoff time.Time) error {
	var base, after Version // the newest stop before the cutoff
	older := 0
	for {
		snaps, err := c.e.index.Snapshots(ctx, c.n, catalog, after, maxPage)
		if err != nil {
			return err
		}
		for _, s := range snaps {
			if after = s.Stop; s.Stop.Sec < cutoff.Unix() {
				base = s.Stop
				older++
			}
		}
		if len(snaps) < maxPage || base != after {
			break
		}
	}
	if older < 2 {
		return nil
	}
	c.did.Dropped += older - 1
	for left := older - 1; left > 0 && !c.dry; {
		var err error
		if left, err = c.e.index.Drop(ctx, Drop{Epoch: c.n, Catalog: catalog, Before: base, Limit: maxPage}); err != nil {
			return err
		}
	}
	return nil
}

// deleteStrays removes segments of sealed epochs that their seal does not know.
// They came too late, count nowhere and never will.
func (c *collection) deleteStrays(ctx context.Context) error {
	for m := uint64(1); m < c.n; m++ {
		sealed, err := c.e.seal(ctx, m, c.n, true)
		if errors.Is(err, ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read the seal of epoch %d: %w", m, err)
		}
		_, strays, err := c.e.listSealed(ctx, m, sealed.Segments)
		if err != nil {
			return err
		}
		for _, key := range strays {
			if c.did.Strays++; c.dry {
				continue
			}
			if err := c.deleteObject(ctx, key); err != nil {
				return err
			}
		}
	}
	return nil
}
