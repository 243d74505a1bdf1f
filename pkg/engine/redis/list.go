package redis

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/jsonlake/lake/pkg/engine"
)

// Snapshots lists the snapshots of a catalog that stop after after.
func (x *Index) Snapshots(ctx context.Context, epoch uint64, catalog string, after engine.Version, limit int) ([]engine.Snapshot, error) {
	if limit < 1 || !after.Valid() {
		return nil, fmt.Errorf("%w: list %d snapshots of %q after %s", engine.ErrInvalid, limit, catalog, after)
	}
	shard := engine.Shard(catalog)
	c := x.readCall(shard, epoch, x.keys[shard].snapOf(encodeName(catalog)), "open", "ZRANGEBYSCORE", "("+fixed(after), "+inf", "LIMIT", "0", strconv.Itoa(limit))
	x.run(ctx, x.work, []*call{c})
	if c.err != nil {
		return nil, fmt.Errorf("snapshots of %q: %w", catalog, c.err)
	}
	var list []engine.Snapshot
	for _, m := range c.texts(0) {
		s, err := parseSnapMember(m)
		if err != nil {
			return nil, damage(catalog, err.Error())
		}
		list = append(list, s)
	}
	return list, nil
}

// Catalogs lists catalogs by name: the names of each shard first, then the heads
// of those that are listed. A catalog belongs to one shard and is never taken
// off the list, so the two steps need not be one moment.
func (x *Index) Catalogs(ctx context.Context, epoch uint64, prefix, after string, limit int) ([]engine.CatalogInfo, error) {
	if limit < 1 {
		return nil, fmt.Errorf("%w: list at most %d catalogs", engine.ErrInvalid, limit)
	}
	low, high := "["+prefix, "+"
	if after >= prefix {
		low = "(" + after
	}
	if prefix == "" && after == "" {
		low = "-"
	}
	if next := successor(prefix); next != "" {
		high = "(" + next
	}
	names, err := x.names(ctx, epoch, low, high, limit)
	if err != nil {
		return nil, fmt.Errorf("list catalogs: %w", err)
	}
	if len(names) == 0 {
		return nil, nil
	}

	var fields [engine.Shards][]string
	for _, name := range names {
		s := engine.Shard(name)
		if fields[s] == nil {
			fields[s] = append(fields[s], epochField)
		}
		fields[s] = append(fields[s], encodeName(name))
	}
	var cmds [engine.Shards]*redis.SliceCmd
	pipe := x.work.Pipeline()
	for s, f := range fields {
		if f != nil {
			cmds[s] = pipe.HMGet(ctx, x.keys[s].heads, f...)
		}
	}
	_, _ = pipe.Exec(ctx) // every command keeps its own error
	var heads [engine.Shards][]any
	for s, cmd := range cmds {
		if cmd == nil {
			continue
		}
		values, err := cmd.Result()
		if err != nil {
			return nil, unavailable("list catalogs", err)
		}
		text, _ := values[0].(string)
		if err := openIn(text, epoch, s); err != nil {
			return nil, fmt.Errorf("list catalogs: %w", err)
		}
		heads[s] = values[1:]
	}
	list := make([]engine.CatalogInfo, 0, len(names))
	for _, name := range names {
		s := engine.Shard(name)
		text, _ := heads[s][0].(string)
		heads[s] = heads[s][1:]
		if text == "" {
			return nil, damage(name, "its head is lost")
		}
		h, err := parseHead(text)
		if err != nil {
			return nil, damage(name, err.Error())
		}
		list = append(list, engine.CatalogInfo{Catalog: name, Version: h.head, Bytes: h.snapshot.DocBytes, Deltas: h.deltas, Updated: h.head.Sec})
	}
	return list, nil
}

// names merges the names of the shards between low and high: the first limit.
// They spread evenly, so each shard is asked for its part and some more; one whose
// answer ends before the page does is asked again.
func (x *Index) names(ctx context.Context, epoch uint64, low, high string, limit int) ([]string, error) {
	part := limit/engine.Shards + 1
	n := min(limit, part+4*int(math.Ceil(math.Sqrt(float64(part)))))
	var names []string
	type question struct {
		shard int
		low   string
	}
	ask := make([]question, engine.Shards)
	for s := range ask {
		ask[s] = question{s, low}
	}
	for {
		calls := make([]*call, len(ask))
		for i, q := range ask {
			calls[i] = x.readCall(q.shard, epoch, x.keys[q.shard].catalogs, "open", "ZRANGEBYLEX", q.low, high, "LIMIT", "0", strconv.Itoa(n))
		}
		x.run(ctx, x.work, calls)
		if err := firstError(calls); err != nil {
			return nil, err
		}
		for _, c := range calls {
			names = append(names, c.texts(0)...)
		}
		slices.Sort(names)
		names = names[:min(limit, len(names))]
		var again []question
		for i, c := range calls {
			if got := c.texts(0); len(got) == n && (len(names) < limit || got[n-1] < names[limit-1]) {
				again = append(again, question{ask[i].shard, "(" + got[n-1]})
			}
		}
		if len(again) == 0 {
			return names, nil
		}
		ask, n = again, limit
	}
}

// successor is the least text greater than all that begin with prefix, "" when
// there is none. Names are compared by bytes.
func successor(prefix string) string {
	b := []byte(prefix)
	for len(b) > 0 && b[len(b)-1] == 0xff {
		b = b[:len(b)-1]
	}
	if len(b) > 0 {
		b[len(b)-1]++
	}
	return string(b)
}
