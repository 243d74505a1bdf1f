package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jsonlake/lake/pkg/engine/codec"
)

// compactSegments is how many segments one collection compacts.
const compactSegments = 256

// compact copies the live runs of old segments together into new ones, so that
// the log stays short to list and the old segments can go. A frame keeps all it
// says; only where it stands changes, in the bucket first and then in the index. Damaged
// segments are passed over, and told.
func (c *collection) compact(ctx context.Context) (damage, err error) {
	old := map[SegmentID]bool{}
	for shard := range Shards {
		list, err := c.e.index.Live(ctx, c.n, shard, c.now.Add(-c.e.opts.CompactAfter).Unix(), compactSegments)
		if err != nil {
			return nil, err
		}
		for _, s := range list {
			old[s] = true
		}
	}
	if len(old) < 2 {
		return nil, nil // nothing to put together
	}
	order := make([]SegmentID, 0, len(old))
	for s := range old {
		order = append(order, s)
	}
	slices.SortFunc(order, func(a, b SegmentID) int { return strings.Compare(a.Key(), b.Key()) })
	var into compacted
	for _, s := range order[:min(len(order), compactSegments)] {
		err := c.copyLive(ctx, s, &into)
		if errors.Is(err, errSegmentDamaged) {
			c.damaged = append(c.damaged, s)
			damage = errors.Join(damage, fmt.Errorf("%w; garbage that it may be a copy of stays until it is put back, or its loss accepted", err))
			continue
		}
		if err == nil && c.full(&into) {
			err = c.flush(ctx, &into)
		}
		if err != nil {
			return damage, err
		}
	}
	return damage, c.flush(ctx, &into)
}

// compacted is a segment that is being put together.
type compacted struct {
	frames   []codec.Frame
	runs     []Relocation
	bytes    int64 // as they stand in their old segments
	segments int
}

// copyLive takes the live runs of a segment, unless nearly all of a large one is
// live: copying it would win nothing.
func (c *collection) copyLive(ctx context.Context, s SegmentID, into *compacted) error {
	live, whole, err := c.live(ctx, s)
	if errors.Is(err, ErrNotExist) {
		return nil // folded and collected since it was listed, by another collection
	}
	if err != nil {
		return err
	}
	if live.bytes >= c.e.opts.MaxGroupBytes/2 && live.bytes*4 >= whole*3 {
		return nil
	}
	into.add(live)
	return nil
}

// errSegmentDamaged is of a segment's bytes, not of the index.
var errSegmentDamaged = errors.New("a segment is damaged")

// live reads the runs of a segment that stand in it, and tells how large all of it is.
func (c *collection) live(ctx context.Context, s SegmentID) (live compacted, whole int64, err error) {
	b, err := c.e.getObject(ctx, s.Key())
	if err != nil {
		return live, 0, fmt.Errorf("get %s: %w", s.Key(), err)
	}
	var ask []Relocation
	frames, _, err := c.e.frames(ctx, s.Key(), b)
	if errors.Is(err, ErrDamaged) {
		return live, 0, fmt.Errorf("%w: %w", errSegmentDamaged, err)
	}
	if err != nil {
		return live, 0, err
	}
	for _, f := range frames {
		ask = append(ask, Relocation{Catalog: f.Catalog, First: versionOf(f.First), From: s})
	}
	stands, err := c.e.index.Relocate(ctx, Relocate{Epoch: c.n, Runs: ask})
	if err != nil {
		return live, 0, err
	}
	for i := range frames {
		if stands[i] {
			live.frames, live.runs = append(live.frames, frames[i].Frame), append(live.runs, ask[i])
			live.bytes += frames[i].Len
		}
	}
	live.segments = 1
	return live, int64(len(b)), nil
}

func (p *compacted) add(o compacted) {
	p.frames, p.runs = append(p.frames, o.frames...), append(p.runs, o.runs...)
	p.bytes += o.bytes
	p.segments += o.segments
}

// full tells that what was put together is enough for a segment.
func (c *collection) full(p *compacted) bool {
	return p.bytes >= c.e.opts.MaxGroupBytes || len(p.frames) >= maxRunsPerShard
}

func (c *collection) flush(ctx context.Context, into *compacted) error {
	defer func() { *into = compacted{} }()
	if into.segments < 2 {
		return nil
	}
	c.did.Compacted += into.segments
	c.did.Copied += into.bytes
	if c.dry {
		return nil
	}
	return c.move(ctx, into)
}

// move puts a segment of live runs and makes them stand there.
func (c *collection) move(ctx context.Context, into *compacted) error {
	if len(into.frames) == 0 {
		return nil
	}
	var b []byte
	for i := range into.frames {
		f := &into.frames[i]
		f.More = i < len(into.frames)-1
		off := len(b)
		var err error
		if b, err = codec.Append(b, f, codec.Options{Compression: codec.S2, MaxPayload: maxFramePayload}); err != nil {
			return err
		}
		into.runs[i].Off, into.runs[i].Len = int64(off), int64(len(b)-off)
	}
	// A copy's key is greater than those of what it was copied from, whatever the clock
	// did: a rebuild tells by that which of the two counts.
	now := c.now
	for _, r := range into.runs {
		now = later(now, time.Unix(r.From.Unix+1, 0))
	}
	to := c.e.group.nextSegment(c.n, now)
	if err := c.e.objects.Put(ctx, to.Key(), b); err != nil && !errors.Is(err, ErrExists) {
		return fmt.Errorf("put %s: %w", to.Key(), err)
	} else if err != nil { // an earlier try of the store's client came through
		there, err := c.e.getObject(ctx, to.Key())
		if err != nil {
			return fmt.Errorf("get %s: %w", to.Key(), err)
		}
		if same, err := sameContent(there, b); err != nil || !same {
			return fmt.Errorf("%w: %s exists with another content (%w)", ErrDamaged, to.Key(), err)
		}
	}
	if !c.e.lease.valid(c.n) { // a new epoch may have been sealed without it
		return errLeaseOut
	}
	_, err := c.e.index.Relocate(ctx, Relocate{Epoch: c.n, To: to, Runs: into.runs})
	return err
}
