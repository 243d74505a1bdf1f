package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/jsonlake/lake/pkg/engine"
)

// Epochs tells what each shard believes, whatever its state.
func (x *Index) Epochs(ctx context.Context) ([]engine.ShardEpoch, error) {
	calls := make([]*call, engine.Shards)
	for s := range calls {
		calls[s] = &call{script: x.scripts.Load().epochs, shard: s, keys: []string{x.keys[s].heads, x.keys[s].catalogs}}
	}
	x.run(ctx, x.admin, calls)
	if err := firstError(calls); err != nil {
		return nil, fmt.Errorf("ask for epochs: %w", err)
	}
	list := make([]engine.ShardEpoch, engine.Shards)
	for s, c := range calls {
		e, err := parseEpochs(c.reply)
		if err != nil {
			return nil, fmt.Errorf("epoch of shard %x: %w: %w", s, engine.ErrDamaged, err)
		}
		list[s] = e
	}
	return list, nil
}

// parseEpochs reads the reply of lua/epochs.lua behind its status.
func parseEpochs(reply []any) (engine.ShardEpoch, error) {
	if len(reply) != 4 {
		return engine.ShardEpoch{}, fmt.Errorf("a reply of %d parts", len(reply))
	}
	text, _ := reply[0].(string)
	role, _ := reply[1].(string)
	replid, _ := reply[2].(string)
	catalogs, _ := reply[3].(int64)
	if text == "" {
		return engine.ShardEpoch{}, nil
	}
	e, fenced, err := parseEpoch(text)
	if err != nil {
		return engine.ShardEpoch{}, err
	}
	e.Same = role == "master" && fenced == replid
	e.Empty = catalogs == 0
	return e, nil
}

// Fence moves a shard to epoch n on the server where it is now. A shard that has
// lost its epoch but not all else is emptied first: what is left of it cannot be
// told from what is missing.
func (x *Index) Fence(ctx context.Context, shard int, n uint64) error {
	if err := validShard(shard); err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%w: fence shard %x at epoch 0: epochs count from 1", engine.ErrInvalid, shard)
	}
	k := &x.keys[shard]
	for {
		c := &call{
			script: x.scripts.Load().fence, shard: shard, keys: []string{k.heads, k.catalogs, k.pending, k.refs},
			args: []any{strconv.FormatUint(n, 10)},
		}
		x.run(ctx, x.admin, []*call{c})
		if c.err != nil {
			return fmt.Errorf("fence shard %x at epoch %d: %w", shard, n, c.err)
		}
		if c.status != "REMAINS" {
			return nil
		}
		if err := x.purge(ctx, shard); err != nil {
			return fmt.Errorf("fence shard %x at epoch %d: empty what is left of it: %w", shard, n, err)
		}
	}
}

// purge removes all of a shard that has no epoch. Every step makes sure of that,
// so that it may be done by two at once, or late.
func (x *Index) purge(ctx context.Context, shard int) error {
	const page = 500
	k := &x.keys[shard]
	for {
		names, err := x.admin.ZRange(ctx, k.catalogs, 0, page-1).Result()
		if err != nil {
			return unavailable("list catalogs", err)
		}
		segments, err := x.admin.ZRange(ctx, k.pending, 0, page-1).Result()
		if err != nil {
			return unavailable("list undecided segments", err)
		}
		last := "1"
		if len(names) == page {
			last = "0"
		}
		c := &call{script: x.scripts.Load().purge, shard: shard, keys: []string{k.heads, k.catalogs, k.pending, k.refs, k.garbage}, args: []any{last}}
		for _, name := range names {
			b64 := encodeName(name)
			c.keys = append(c.keys, k.logOf(b64), k.snapOf(b64))
			c.args = append(c.args, name)
		}
		ids, err := x.plannedIDs(ctx, shard, segments)
		if err != nil {
			return err
		}
		for _, s := range segments {
			c.keys = append(c.keys, k.planOf(s))
		}
		c.keys = append(c.keys, ids...)
		x.run(ctx, x.admin, []*call{c})
		if c.err != nil || c.status == "DONE" || last == "1" {
			return c.err
		}
	}
}

// plannedIDs are the keys of ids that are pending for undecided segments: those of
// plans that go must not stay, or their runs could never be tried again.
func (x *Index) plannedIDs(ctx context.Context, shard int, segments []string) ([]string, error) {
	k := &x.keys[shard]
	var keys []string
	for _, segment := range segments {
		plan, err := x.admin.Get(ctx, k.planOf(segment)).Result()
		if errors.Is(err, redis.Nil) {
			continue
		}
		if err != nil {
			return nil, unavailable("read a plan", err)
		}
		_, lines, _ := strings.Cut(plan, "\n")
		for line := range strings.Lines(lines) {
			f := strings.SplitN(strings.TrimSuffix(line, "\n"), "|", 4) // catalog|n|first|id
			if len(f) < 4 || f[3] == "" {
				continue
			}
			key := k.idOf(f[0], f[3])
			v, err := x.admin.Get(ctx, key).Result()
			if err != nil && !errors.Is(err, redis.Nil) {
				return nil, unavailable("read an id", err)
			}
			if strings.HasPrefix(v, "p|") {
				keys = append(keys, key)
			}
		}
	}
	return keys, nil
}

// Restore adopts snapshots, then inserts runs, in scripts of bounded size.
func (x *Index) Restore(ctx context.Context, shard int, n uint64, r engine.Restore) error {
	if err := validShard(shard); err != nil {
		return err
	}
	for _, e := range r.Snapshots {
		if s := e.Snapshot; engine.Shard(e.Catalog) != shard || !s.Start.Valid() || !s.Stop.Valid() || s.DocBytes < 0 || s.PackBytes < 0 {
			return fmt.Errorf("%w: restore snapshot %+v of %q in shard %x", engine.ErrInvalid, s, e.Catalog, shard)
		}
	}
	for _, e := range r.Runs {
		if engine.Shard(e.Catalog) != shard || e.Run.N < 1 || !e.Run.First.Valid() || !e.Run.Last.Valid() {
			return fmt.Errorf("%w: restore run %+v of %q in shard %x", engine.ErrInvalid, e.Run, e.Catalog, shard)
		}
	}
	ids := make([]engine.RestoreID, 0, len(r.IDs))
	for _, e := range r.Runs {
		if id := e.ID; id.ID != "" {
			id.Catalog = e.Catalog
			ids = append(ids, id)
		}
	}
	ids = append(ids, r.IDs...)
	for _, id := range ids {
		if engine.Shard(id.Catalog) != shard || len(id.ID) > engine.MaxID || !id.First.Valid() || id.N < 0 {
			return fmt.Errorf("%w: restore id %q of %q in shard %x", engine.ErrInvalid, id.ID, id.Catalog, shard)
		}
	}
	if len(r.Runs)+len(r.Snapshots)+len(ids)+len(r.Segments) == 0 { // the epoch is checked all the same
		_, err := x.Reservations(ctx, shard, n)
		return err
	}
	for at := 0; at < len(r.Snapshots); at += restorePage {
		if err := x.adopt(ctx, shard, n, r.Snapshots[at:min(at+restorePage, len(r.Snapshots))]); err != nil {
			return fmt.Errorf("adopt snapshots in shard %x: %w", shard, err)
		}
	}
	for at := 0; at < len(r.Runs); at += restorePage {
		if err := x.restore(ctx, shard, n, r.Runs[at:min(at+restorePage, len(r.Runs))], r.Republish); err != nil {
			return fmt.Errorf("restore runs in shard %x: %w", shard, err)
		}
	}
	for at := 0; at < len(ids); at += restorePage {
		if err := x.receipts(ctx, shard, n, ids[at:min(at+restorePage, len(ids))]); err != nil {
			return fmt.Errorf("restore ids in shard %x: %w", shard, err)
		}
	}
	for part := range slices.Chunk(r.Segments, restorePage) {
		if err := x.segments(ctx, shard, n, part); err != nil {
			return fmt.Errorf("restore segments in shard %x: %w", shard, err)
		}
	}
	return nil
}

const restorePage = 500

func (x *Index) adopt(ctx context.Context, shard int, n uint64, list []engine.RestoreSnapshot) error {
	g, err := group(len(list), func(i int) string { return list[i].Catalog })
	if err != nil {
		return err
	}
	s, k := g.shards[0], &x.keys[shard]
	c := x.restoreCall(x.scripts.Load().adopt, n, s, k.heads, k.refs, k.garbage, k.pending, k.catalogs)
	for i := range s.catalogs {
		c.keys = append(c.keys, k.logOf(s.catalogs[i].b64), k.snapOf(s.catalogs[i].b64))
	}
	for j, e := range list {
		c.args = append(c.args, strconv.Itoa(s.of[j]+1), fixed(e.Snapshot.Start), fixed(e.Snapshot.Stop),
			strconv.FormatInt(e.Snapshot.DocBytes, 10), strconv.FormatInt(e.Snapshot.PackBytes, 10), snapMember(e.Snapshot))
	}
	x.run(ctx, x.admin, []*call{c})
	if c.err != nil || c.status == "DONE" {
		return c.err
	}
	for _, cat := range strings.Fields(c.text(0)) {
		if err := x.trim(ctx, shard, n, cat); err != nil {
			return err
		}
	}
	return nil
}

func (x *Index) restore(ctx context.Context, shard int, n uint64, list []engine.RestoreRun, republish bool) error {
	g, err := group(len(list), func(i int) string { return list[i].Catalog })
	if err != nil {
		return err
	}
	s, k := g.shards[0], &x.keys[shard]
	c := x.restoreCall(x.scripts.Load().restore, n, s, k.heads, k.refs, k.garbage, k.catalogs, k.outbox)
	for i := range s.catalogs {
		c.keys = append(c.keys, k.logOf(s.catalogs[i].b64))
	}
	for j := range list {
		e := &list[j]
		segment, first, last := e.Run.Segment.String(), fixed(e.Run.First), fixed(e.Run.Last)
		prev := ""
		if republish {
			prev = fixed(e.Prev)
		}
		c.args = append(c.args, strconv.Itoa(s.of[j]+1), first, last, strconv.Itoa(e.Run.N), strconv.FormatInt(e.Run.Len, 10), segment,
			string(appendRun(nil, &e.Run, segment)),
			string(appendEvent(nil, s.catalogs[s.of[j]].b64, e.Run.First, e.Run.Last, int64(e.Run.N), e.Run.Len, e.Run.Segment.Writer, e.Author)), prev)
	}
	x.run(ctx, x.admin, []*call{c})
	return c.err
}

// restoreCall has the arguments that both scripts begin with.
func (x *Index) restoreCall(sc *script, n uint64, s *shardGroup, keys ...string) *call {
	c := &call{script: sc, shard: s.shard, keys: keys, args: []any{strconv.FormatUint(n, 10), s.names(), strconv.Itoa(len(s.catalogs))}}
	for i := range s.catalogs {
		c.args = append(c.args, s.catalogs[i].b64)
	}
	return c
}

// Reservations lists the segments that are undecided in the shard.
func (x *Index) Reservations(ctx context.Context, shard int, n uint64) ([]engine.SegmentID, error) {
	if err := validShard(shard); err != nil {
		return nil, err
	}
	c := x.readCall(shard, n, x.keys[shard].pending, "opening", "ZRANGE", "0", "-1")
	x.run(ctx, x.admin, []*call{c})
	if c.err != nil || c.status == "DONE" {
		return nil, c.err
	}
	var list []engine.SegmentID
	for _, m := range c.texts(0) {
		id, err := engine.ParseSegmentID(m)
		if err != nil {
			return nil, fmt.Errorf("undecided segments of shard %x: %w: %w", shard, engine.ErrDamaged, err)
		}
		list = append(list, id)
	}
	return list, nil
}

// Resolve decides what a segment of an older epoch left open.
func (x *Index) Resolve(ctx context.Context, shard int, n uint64, segment engine.SegmentID, committed []engine.RunKey) error {
	if err := validShard(shard); err != nil {
		return err
	}
	runs := make([]string, len(committed))
	for i, k := range committed {
		runs[i] = encodeName(k.Catalog) + "|" + fixed(k.First)
	}
	c := x.decideCall(x.scripts.Load().resolve, shard, n, segment, nil, runs)
	x.run(ctx, x.admin, []*call{c})
	if c.status == "IDS" {
		c = x.decideCall(c.script, shard, n, segment, strings.Fields(c.text(0)), runs)
		x.run(ctx, x.admin, []*call{c})
	}
	return c.err
}

// Open opens a fenced shard.
func (x *Index) Open(ctx context.Context, shard int, n uint64, floor int64) error {
	if err := validShard(shard); err != nil {
		return err
	}
	c := &call{
		script: x.scripts.Load().open, shard: shard, keys: []string{x.keys[shard].heads},
		args: []any{strconv.FormatUint(n, 10), strconv.FormatInt(max(floor, 0), 10)},
	}
	x.run(ctx, x.admin, []*call{c})
	return c.err
}
