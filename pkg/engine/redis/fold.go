package redis

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jsonlake/lake/pkg/engine"
)

// Fold registers a snapshot. One script registers it and trims up to 1,000 runs;
// what more a very long log has is trimmed by further scripts, unseen: runs at or
// below the latest snapshot's stop are in no view. Should that be cut short, the
// next fold of the catalog, or a repetition of this one, goes on with it.
func (x *Index) Fold(ctx context.Context, f engine.Fold) error {
	s := f.Snapshot
	if !s.Start.Valid() || !s.Stop.Valid() || s.DocBytes < 0 || s.PackBytes < 0 {
		return fmt.Errorf("%w: fold %q with snapshot %+v", engine.ErrInvalid, f.Catalog, s)
	}
	shard, b64 := engine.Shard(f.Catalog), encodeName(f.Catalog)
	k := &x.keys[shard]
	counted := ""
	// A second try counts first, a third trims first; more would be another
	// fold's doing.
	for range 4 {
		c := &call{
			script: x.scripts.Load().fold, shard: shard,
			keys: []string{k.heads, k.logOf(b64), k.snapOf(b64), k.refs, k.garbage, k.pending, k.outbox, k.catalogs},
			args: []any{
				strconv.FormatUint(f.Epoch, 10), b64, f.Catalog, fixed(s.Start), fixed(s.Stop), strconv.FormatInt(s.DocBytes, 10),
				strconv.FormatInt(s.PackBytes, 10), snapMember(s), counted, fmt.Sprintf("snap|%s|%s|", s.Start, s.Stop),
			},
		}
		x.run(ctx, x.work, []*call{c})
		switch {
		case c.err != nil:
			return fmt.Errorf("fold %q at %s: %w", f.Catalog, s.Stop, c.err)
		case c.status == "STALE":
			return fmt.Errorf("fold %q at %s: %w", f.Catalog, s.Stop, engine.ErrStale)
		case c.status == "DAMAGED":
			return damage(f.Catalog, c.text(0))
		case c.status == "COUNT":
			n, err := x.countDeltas(ctx, shard, f.Epoch, b64, s)
			if err != nil {
				return fmt.Errorf("fold %q at %s: %w", f.Catalog, s.Stop, err)
			}
			counted = strconv.FormatInt(n, 10)
		case c.status == "TRIM":
			if err := x.trim(ctx, shard, f.Epoch, b64); err != nil {
				return fmt.Errorf("fold %q: finish an earlier fold: %w", f.Catalog, err)
			}
		case c.text(0) != "":
			if err := x.trim(ctx, shard, f.Epoch, b64); err != nil {
				return fmt.Errorf("fold %q at %s: it is registered, its runs are not all trimmed: %w", f.Catalog, s.Stop, err)
			}
			return nil
		default:
			return nil
		}
	}
	return fmt.Errorf("fold %q at %s: %w", f.Catalog, s.Stop, engine.ErrStale)
}

// trim takes folded runs out of a live log until none is left.
func (x *Index) trim(ctx context.Context, shard int, epoch uint64, b64 string) error {
	k := &x.keys[shard]
	for {
		c := &call{
			script: x.scripts.Load().trim, shard: shard, keys: []string{k.heads, k.logOf(b64), k.refs, k.garbage, k.pending},
			args: []any{strconv.FormatUint(epoch, 10), b64},
		}
		x.run(ctx, x.admin, []*call{c}) // the script asks for the server itself
		if c.err != nil || c.text(0) == "" {
			return c.err
		}
	}
}

// countDeltas counts the live deltas up to stop by pages; what earlier folds took has
// been trimmed. Runs below a fold's stop stay where they are, unless another
// fold takes them, which then wins.
func (x *Index) countDeltas(ctx context.Context, shard int, epoch uint64, b64 string, s engine.Snapshot) (n int64, err error) {
	const page = 5000
	for from := 0; ; from += page {
		c := x.readCall(shard, epoch, x.keys[shard].logOf(b64), "open", "LRANGE", strconv.Itoa(from), strconv.Itoa(from+page-1))
		x.run(ctx, x.work, []*call{c})
		if c.err != nil {
			return 0, c.err
		}
		entries := c.texts(0)
		for _, entry := range entries {
			r, err := parseRun(entry)
			if err != nil {
				return 0, fmt.Errorf("%w: %w", engine.ErrDamaged, err)
			}
			if s.Stop.Less(r.Last) {
				return n, nil
			}
			n += int64(r.N)
		}
		if len(entries) < page {
			return n, nil
		}
	}
}

// readCall is one reading command under the epoch's guard.
func (x *Index) readCall(shard int, epoch uint64, key, state, command string, args ...string) *call {
	all := make([]any, 0, 3+len(args))
	all = append(all, strconv.FormatUint(epoch, 10), state, command)
	for _, a := range args {
		all = append(all, a)
	}
	return &call{script: x.scripts.Load().read, shard: shard, keys: []string{x.keys[shard].heads, key}, args: all}
}
