package redis

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// garbageMember is the member of a piece of garbage.
func garbageMember(g engine.Garbage) string {
	if !g.Segment.IsZero() {
		return g.Segment.String()
	}
	return "snap|" + encodeName(g.Catalog) + "|" + g.Snapshot.Start.String() + "|" + g.Snapshot.Stop.String()
}

func parseGarbage(member string, since time.Time) (g engine.Garbage, err error) {
	g.Since = since
	rest, snap := strings.CutPrefix(member, "snap|")
	if !snap {
		g.Segment, err = engine.ParseSegmentID(member)
		return g, err
	}
	f := strings.Split(rest, "|")
	if len(f) != 3 {
		return g, fmt.Errorf("%q is not a dropped snapshot", member)
	}
	if g.Catalog, err = decodeName(f[0]); err == nil {
		g.Snapshot.Start, err = engine.ParseVersion(f[1])
	}
	if err == nil {
		g.Snapshot.Stop, err = engine.ParseVersion(f[2])
	}
	return g, err
}

// Garbage lists what a shard does not need any more.
func (x *Index) Garbage(ctx context.Context, epoch uint64, shard, limit int) ([]engine.Garbage, error) {
	if limit < 1 {
		return nil, fmt.Errorf("%w: list at most %d segments", engine.ErrInvalid, limit)
	}
	if err := validShard(shard); err != nil {
		return nil, err
	}
	k := &x.keys[shard]
	c := &call{
		script: x.scripts.Load().garbage, shard: shard, keys: []string{k.heads, k.garbage, k.outbox},
		args: []any{strconv.FormatUint(epoch, 10), strconv.Itoa(limit)},
	}
	x.run(ctx, x.work, []*call{c})
	if c.err != nil {
		return nil, fmt.Errorf("garbage of shard %x: %w", shard, c.err)
	}
	var list []engine.Garbage
	err := scored(c.texts(0), func(member string, at time.Time) error {
		g, err := parseGarbage(member, at)
		list = append(list, g)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("garbage of shard %x: %w: %w", shard, engine.ErrDamaged, err)
	}
	return list, nil
}

// Unused asks every shard whether it needs the segments, and since when not.
func (x *Index) Unused(ctx context.Context, epoch uint64, segments []engine.SegmentID) ([]engine.Usage, error) {
	const page = 1000
	usages := make([]engine.Usage, len(segments))
	for from := 0; from == 0 || from < len(segments); from += page {
		part := segments[from:min(from+page, len(segments))]
		args := make([]any, 1, 1+len(part))
		args[0] = strconv.FormatUint(epoch, 10)
		for _, s := range part {
			args = append(args, s.String())
		}
		if len(part) == 0 { // the epoch is checked all the same
			args = append(args, "")
		}
		calls := make([]*call, engine.Shards)
		for s := range calls {
			k := &x.keys[s]
			calls[s] = &call{script: x.scripts.Load().unused, shard: s, keys: []string{k.heads, k.refs, k.pending, k.garbage, k.outbox}, args: args}
		}
		x.run(ctx, x.work, calls)
		if err := firstError(calls); err != nil {
			return nil, fmt.Errorf("ask for references to segments: %w", err)
		}
		for s, c := range calls {
			answers := c.texts(0)
			if len(answers) < len(part) {
				return nil, fmt.Errorf("references in shard %x: %d answers for %d segments: %w", s, len(answers), len(part), engine.ErrUnavailable)
			}
			for i := range part {
				u := &usages[from+i]
				if u.Needed || answers[i] == "x" {
					*u = engine.Usage{Needed: true}
					continue
				}
				ms, err := strconv.ParseInt(answers[i], 10, 64)
				if err != nil {
					return nil, fmt.Errorf("%w: since when shard %x does not need %s: %w", engine.ErrDamaged, s, part[i], err)
				}
				if at := time.UnixMilli(ms).UTC(); ms > 0 && at.After(u.Since) {
					u.Since = at
				}
			}
		}
	}
	return usages, nil
}

// Abandon makes garbage of segments that a shard does not need.
func (x *Index) Abandon(ctx context.Context, epoch uint64, shard int, segments []engine.SegmentID) error {
	if err := validShard(shard); err != nil {
		return err
	}
	k := &x.keys[shard]
	for part := range slices.Chunk(segments, 1000) {
		c := &call{script: x.scripts.Load().abandon, shard: shard, keys: []string{k.heads, k.refs, k.pending, k.garbage}, args: []any{strconv.FormatUint(epoch, 10)}}
		for _, s := range part {
			c.args = append(c.args, s.String())
		}
		if x.run(ctx, x.work, []*call{c}); c.err != nil {
			return fmt.Errorf("abandon segments in shard %x: %w", shard, c.err)
		}
	}
	return nil
}

// Forget strikes entries from a shard's garbage.
func (x *Index) Forget(ctx context.Context, epoch uint64, shard int, list []engine.Garbage) error {
	if err := validShard(shard); err != nil {
		return err
	}
	for part := range slices.Chunk(list, 1000) {
		c := &call{
			script: x.scripts.Load().forget, shard: shard, keys: []string{x.keys[shard].heads, x.keys[shard].garbage},
			args: []any{strconv.FormatUint(epoch, 10)},
		}
		for _, g := range part {
			c.args = append(c.args, garbageMember(g))
		}
		if x.run(ctx, x.work, []*call{c}); c.err != nil {
			return c.err
		}
	}
	return nil
}

// Live lists segments with live runs, a page of the shard's segments at a time.
func (x *Index) Live(ctx context.Context, epoch uint64, shard int, older int64, limit int) ([]engine.SegmentID, error) {
	if limit < 1 {
		return nil, fmt.Errorf("%w: list at most %d segments", engine.ErrInvalid, limit)
	}
	if err := validShard(shard); err != nil {
		return nil, err
	}
	found := map[engine.SegmentID]bool{} // a scan may show one twice
	var list []engine.SegmentID
	for cursor := "0"; ; {
		c := x.readCall(shard, epoch, x.keys[shard].refs, "open", "HSCAN", cursor, "COUNT", "1000")
		x.run(ctx, x.work, []*call{c})
		if c.err != nil {
			return nil, fmt.Errorf("live segments of shard %x: %w", shard, c.err)
		}
		page, ok := c.page()
		if !ok {
			return nil, fmt.Errorf("live segments of shard %x: %w: not the reply of a scan", shard, engine.ErrUnavailable)
		}
		cursor = page[0]
		for i := 1; i+1 < len(page); i += 2 {
			id, err := engine.ParseSegmentID(page[i])
			if err != nil {
				return nil, fmt.Errorf("live segments of shard %x: %w: %w", shard, engine.ErrDamaged, err)
			}
			if page[i+1] != "0" && id.Unix < older && !found[id] {
				found[id] = true
				list = append(list, id)
			}
		}
		if cursor == "0" || len(list) >= limit {
			return list[:min(limit, len(list))], nil
		}
	}
}

// page is the reply of a scan: the cursor, then what it found.
func (c *call) page() ([]string, bool) {
	if len(c.reply) == 0 {
		return nil, false
	}
	parts, _ := c.reply[0].([]any)
	if len(parts) != 2 {
		return nil, false
	}
	cursor, ok1 := parts[0].(string)
	list, ok2 := parts[1].([]any)
	out := make([]string, 1, 1+len(list))
	out[0] = cursor
	for _, v := range list {
		s, _ := v.(string)
		out = append(out, s)
	}
	return out, ok1 && ok2
}

// Relocate says that live runs stand in another segment now.
func (x *Index) Relocate(ctx context.Context, r engine.Relocate) ([]bool, error) {
	stands := make([]bool, len(r.Runs))
	for from := 0; from < len(r.Runs); from += restorePage {
		part := r.Runs[from:min(from+restorePage, len(r.Runs))]
		g, err := group(len(part), func(i int) string { return part[i].Catalog })
		if err != nil {
			return nil, err
		}
		to := ""
		if !r.To.IsZero() {
			to = r.To.String()
		}
		calls := make([]*call, len(g.shards))
		for j, s := range g.shards {
			k := &x.keys[s.shard]
			c := &call{
				script: x.scripts.Load().relocate, shard: s.shard, keys: []string{k.heads, k.refs, k.garbage, k.pending},
				args: []any{strconv.FormatUint(r.Epoch, 10), to, strconv.Itoa(len(s.catalogs))},
			}
			for i := range s.catalogs {
				c.keys, c.args = append(c.keys, k.logOf(s.catalogs[i].b64)), append(c.args, s.catalogs[i].b64)
			}
			for n, i := range s.runs {
				m := &part[i]
				c.args = append(c.args, strconv.Itoa(s.of[n]+1), fixed(m.First), m.From.String(), strconv.FormatInt(m.Off, 10), strconv.FormatInt(m.Len, 10))
			}
			calls[j] = c
		}
		x.run(ctx, x.work, calls)
		if err := firstError(calls); err != nil {
			return nil, fmt.Errorf("relocate runs: %w", err)
		}
		for j, s := range g.shards {
			answer := calls[j].text(0)
			if len(answer) < len(s.runs) {
				return nil, fmt.Errorf("relocate runs: %d answers for %d: %w", len(answer), len(s.runs), engine.ErrUnavailable)
			}
			for n, i := range s.runs {
				stands[from+i] = answer[n] == '1'
			}
		}
	}
	return stands, nil
}

// Drop takes old snapshots out of the registration.
func (x *Index) Drop(ctx context.Context, d engine.Drop) (int, error) {
	if d.Limit < 1 {
		return 0, fmt.Errorf("%w: drop at most %d snapshots", engine.ErrInvalid, d.Limit)
	}
	if !d.Before.Valid() {
		d.Before = engine.Version{Sec: 9_999_999_999, Seq: engine.MaxSeq} // after all that there are
	}
	shard, b64 := engine.Shard(d.Catalog), encodeName(d.Catalog)
	k := &x.keys[shard]
	c := &call{
		script: x.scripts.Load().drop, shard: shard, keys: []string{k.heads, k.snapOf(b64), k.garbage},
		args: []any{strconv.FormatUint(d.Epoch, 10), b64, fixed(d.Before), strconv.Itoa(d.Limit)},
	}
	x.run(ctx, x.work, []*call{c})
	if c.err != nil {
		return 0, fmt.Errorf("drop snapshots of %q: %w", d.Catalog, c.err)
	}
	n, _ := c.reply[0].(int64)
	return int(n), nil
}

// Condemn takes the epoch from a shard; fencing it empties what is left.
func (x *Index) Condemn(ctx context.Context, epoch uint64, shard int) error {
	if err := validShard(shard); err != nil {
		return err
	}
	c := &call{script: x.scripts.Load().condemn, shard: shard, keys: []string{x.keys[shard].heads}, args: []any{strconv.FormatUint(epoch, 10)}}
	x.run(ctx, x.work, []*call{c})
	return c.err
}

// Empty rolls back what is undecided, which frees its ids, and removes the rest a
// page of catalogs at a time.
func (x *Index) Empty(ctx context.Context, shard int, n uint64) error {
	const page = 500
	open, err := x.Reservations(ctx, shard, n)
	if err != nil {
		return fmt.Errorf("empty shard %x: %w", shard, err)
	}
	for _, segment := range open {
		if err := x.Resolve(ctx, shard, n, segment, nil); err != nil {
			return fmt.Errorf("empty shard %x: %w", shard, err)
		}
	}
	k := &x.keys[shard]
	for {
		list := x.readCall(shard, n, k.catalogs, "opening", "ZRANGE", "0", strconv.Itoa(page-1))
		x.run(ctx, x.admin, []*call{list})
		if list.err != nil || list.status == "DONE" {
			return list.err
		}
		names, last := list.texts(0), "1"
		if len(names) == page {
			last = "0"
		}
		c := &call{
			script: x.scripts.Load().empty, shard: shard, keys: []string{k.heads, k.catalogs, k.pending, k.refs, k.garbage, k.outbox},
			args: []any{strconv.FormatUint(n, 10), last},
		}
		for _, name := range names {
			b64 := encodeName(name)
			c.keys = append(c.keys, k.logOf(b64), k.snapOf(b64))
			c.args = append(c.args, name)
		}
		x.run(ctx, x.admin, []*call{c})
		if c.err != nil || c.status == "DONE" || last == "1" {
			return c.err
		}
	}
}

// segments makes garbage of segments that the shard does not need.
func (x *Index) segments(ctx context.Context, shard int, n uint64, list []engine.SegmentID) error {
	k := &x.keys[shard]
	c := &call{script: x.scripts.Load().segments, shard: shard, keys: []string{k.heads, k.refs, k.pending, k.garbage}, args: []any{strconv.FormatUint(n, 10)}}
	for _, s := range list {
		c.args = append(c.args, s.String())
	}
	x.run(ctx, x.admin, []*call{c})
	return c.err
}
