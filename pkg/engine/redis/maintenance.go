package redis

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// Heartbeat tells every shard that a writer lives, and is told by each whether
// it is still the one that was fenced.
func (x *Index) Heartbeat(ctx context.Context, epoch uint64, writer string) (now time.Time, err error) {
	calls := make([]*call, engine.Shards)
	for s := range calls {
		calls[s] = &call{
			script: x.scripts.Load().heartbeat, shard: s, keys: []string{x.keys[s].heads, x.keys[s].writers},
			args: []any{strconv.FormatUint(epoch, 10), writer},
		}
	}
	x.run(ctx, x.work, calls)
	if err := firstError(calls); err != nil {
		return time.Time{}, fmt.Errorf("heartbeat of %s: %w", writer, err)
	}
	for _, c := range calls {
		t, err := x.clock.saw(c.text(0), c.text(1))
		if err != nil {
			return time.Time{}, fmt.Errorf("heartbeat of %s: %w", writer, err)
		}
		if t.After(now) {
			now = t
		}
	}
	return now, nil
}

// Stuck lists the undecided segments of all shards.
func (x *Index) Stuck(ctx context.Context, epoch uint64) ([]engine.Stuck, error) {
	calls := make([]*call, engine.Shards)
	for s := range calls {
		calls[s] = &call{
			script: x.scripts.Load().stuck, shard: s, keys: []string{x.keys[s].heads, x.keys[s].pending, x.keys[s].writers},
			args: []any{strconv.FormatUint(epoch, 10)},
		}
	}
	x.run(ctx, x.work, calls)
	if err := firstError(calls); err != nil {
		return nil, fmt.Errorf("list undecided segments: %w", err)
	}
	found := map[string]*engine.Stuck{}
	beats := map[string]time.Time{}
	var latest time.Time
	for s, c := range calls {
		now, err := x.clock.saw(c.text(0), c.text(1))
		if err != nil {
			return nil, fmt.Errorf("list undecided segments: %w", err)
		}
		if now.After(latest) {
			latest = now
		}
		err = scored(c.texts(2), func(member string, at time.Time) error {
			st := found[member]
			if st == nil {
				id, err := engine.ParseSegmentID(member)
				if err != nil {
					return err
				}
				st = &engine.Stuck{Segment: id, Since: at}
				found[member] = st
			}
			st.Shards = append(st.Shards, s)
			if at.Before(st.Since) {
				st.Since = at
			}
			return nil
		})
		if err == nil {
			err = scored(c.texts(3), func(writer string, at time.Time) error {
				if at.After(beats[writer]) {
					beats[writer] = at
				}
				return nil
			})
		}
		if err != nil {
			return nil, fmt.Errorf("undecided segments of shard %x: %w: %w", s, engine.ErrDamaged, err)
		}
	}
	var list []engine.Stuck
	for _, st := range found {
		st.Now, st.Heartbeat = latest, beats[st.Segment.Writer]
		list = append(list, *st)
	}
	slices.SortFunc(list, func(a, b engine.Stuck) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Segment.String(), b.Segment.String()))
	})
	return list, nil
}

// scored walks over members and scores in milliseconds.
func scored(pairs []string, visit func(member string, at time.Time) error) error {
	for i := 0; i+1 < len(pairs); i += 2 {
		ms, err := strconv.ParseInt(pairs[i+1], 10, 64)
		if err != nil {
			return fmt.Errorf("time of %q: %w", pairs[i], err)
		}
		if err := visit(pairs[i], time.UnixMilli(ms).UTC()); err != nil {
			return err
		}
	}
	return nil
}

// Plan is what a segment has planned in a shard.
func (x *Index) Plan(ctx context.Context, epoch uint64, shard int, segment engine.SegmentID) ([]engine.Planned, error) {
	if err := validShard(shard); err != nil {
		return nil, err
	}
	c := x.readCall(shard, epoch, x.keys[shard].planOf(segment.String()), "open", "GET")
	x.run(ctx, x.work, []*call{c})
	if c.err != nil {
		return nil, fmt.Errorf("plan of %s: %w", segment, c.err)
	}
	lines, err := parsePlan(c.text(0))
	var list []engine.Planned
	for i := 0; err == nil && i < len(lines); i++ {
		var p engine.Planned
		p, err = lines[i].planned()
		list = append(list, p)
	}
	if err != nil {
		return nil, fmt.Errorf("plan of %s in shard %x: %w: %w", segment, shard, engine.ErrDamaged, err)
	}
	return list, nil
}
