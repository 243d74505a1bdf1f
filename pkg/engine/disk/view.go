package disk

import (
	"context"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"github.com/jsonlake/lake/pkg/engine"
)

// View is one moment of a catalog. When nothing is newer than after it is one
// read.
func (x *Index) View(ctx context.Context, epoch uint64, catalog string, after engine.Version) (engine.View, error) {
	v, err := x.view(ctx, epoch, catalog, after)
	if err != nil {
		return engine.View{}, fmt.Errorf("view of %q: %w", catalog, err)
	}
	return v, nil
}

func (x *Index) view(ctx context.Context, epoch uint64, catalog string, after engine.Version) (engine.View, error) {
	now, end, err := x.enter(ctx)
	if err != nil {
		return engine.View{}, err
	}
	defer end()
	var h headRecord
	var runs *pebble.Iterator
	from := after
	s := x.shards[engine.Shard(catalog)]
	err = s.look(epoch, func() error {
		if _, err := x.read(keyHead(catalog), h.decode); err != nil {
			return err
		}
		if h.runs == 0 || !after.Less(h.head) {
			return nil
		}
		// The live log holds nothing at or below the snapshot, but the remains of
		// what was deleted there: they are stepped over by the bound.
		from = engine.MaxVersion(after, h.snap.Stop)
		var err error
		runs, err = x.db.NewIter(&pebble.IterOptions{LowerBound: append(keyRun(catalog, from), 0), UpperBound: endOf(tableRun, catalog)})
		return err
	})
	if err != nil {
		return engine.View{}, err
	}
	v := engine.View{Head: h.head, Snapshot: h.snap, Deltas: h.deltas, Bytes: h.bytes, Now: fromMillis(now)}
	if len(h.open) > 0 {
		v.Pending, v.PendingSince = true, fromMillis(h.open[0].since)
	}
	if runs == nil {
		return v, nil
	}
	if !h.snap.Stop.Less(after) {
		v.Runs = make([]engine.Run, 0, min(h.runs, 1<<16))
	}
	seen := int64(0)
	err = scanIter(runs, func(key, value []byte) (bool, error) {
		if seen++; seen%1024 == 0 && ctx.Err() != nil {
			return false, ctx.Err()
		}
		r, err := decodeRun(key, value)
		if err == nil && after.Less(r.First) {
			v.Runs = append(v.Runs, r)
		}
		return true, err
	})
	if err == nil && from == h.snap.Stop && seen != h.runs {
		err = fmt.Errorf("%w: the index has %d runs of the catalog and counts %d; rebuild it", engine.ErrDamaged, seen, h.runs)
	}
	if err != nil {
		return engine.View{}, err
	}
	if len(v.Runs) == 0 {
		v.Runs = nil
	}
	return v, nil
}

// TellHead reads the head at once: it is in memory when it is asked for often.
func (x *Index) TellHead(epoch uint64, catalog string, at engine.Version, f func(unchanged, pending bool)) bool {
	_, end, err := x.enter(context.Background())
	if err != nil {
		f(false, false)
		return true
	}
	defer end()
	var h headRecord
	err = x.shards[engine.Shard(catalog)].look(epoch, func() error {
		_, err := x.read(keyHead(catalog), h.decode)
		return err
	})
	f(err == nil && h.head == at && !at.IsZero(), err == nil && len(h.open) > 0)
	return true
}

// Snapshots lists the snapshots of a catalog that stop after after.
func (x *Index) Snapshots(ctx context.Context, epoch uint64, catalog string, after engine.Version, limit int) ([]engine.Snapshot, error) {
	var list []engine.Snapshot
	err := x.list(ctx, limit, func(int64) error {
		return x.shards[engine.Shard(catalog)].look(epoch, func() error {
			from := append(keySnapshot(catalog, after), 0)
			return x.scan(from, endOf(tableSnapshot, catalog), func(key, value []byte) (bool, error) {
				s, err := decodeSnapshot(key, value)
				list = append(list, s)
				return len(list) < limit, err
			})
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list snapshots of %q: %w", catalog, err)
	}
	return list, nil
}

// Outcome tells what is known of an idempotency id.
func (x *Index) Outcome(ctx context.Context, epoch uint64, catalog, id string) (engine.IDState, error) {
	now, end, err := x.enter(ctx)
	if err != nil {
		return engine.IDState{}, fmt.Errorf("outcome of an id of %q: %w", catalog, err)
	}
	defer end()
	var r idRecord
	err = x.shards[engine.Shard(catalog)].look(epoch, func() error {
		if id == "" {
			return nil
		}
		_, err := x.read(keyID(catalog, id), r.decode)
		return err
	})
	if err != nil {
		return engine.IDState{}, fmt.Errorf("outcome of an id of %q: %w", catalog, err)
	}
	return r.at(now), nil
}

// Catalogs lists catalogs that have a committed run, by name, at one moment.
func (x *Index) Catalogs(ctx context.Context, epoch uint64, prefix, after string, limit int) ([]engine.CatalogInfo, error) {
	var list []engine.CatalogInfo
	err := x.list(ctx, limit, func(int64) error {
		for _, s := range x.shards {
			if err := s.look(epoch, func() error { return nil }); err != nil {
				return err
			}
		}
		from, to := keyHead(prefix), successor(keyHead(prefix))
		if after >= prefix {
			from = append(keyHead(after), 0)
		}
		if after > prefix && !strings.HasPrefix(after, prefix) {
			return nil // all names with the prefix come before
		}
		seen := 0
		return x.scan(from, to, func(key, value []byte) (bool, error) {
			if seen++; seen%1024 == 0 && ctx.Err() != nil {
				return false, ctx.Err()
			}
			var h headRecord
			if err := h.decode(value); err != nil || h.head.IsZero() {
				return true, err
			}
			list = append(list, engine.CatalogInfo{
				Catalog: catalogOfHead(key), Version: h.head, Bytes: h.snap.DocBytes, Deltas: h.deltas, Updated: h.head.Sec,
			})
			return len(list) < limit, nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list catalogs: %w", err)
	}
	return list, nil
}

// list is the frame of an operation that answers at most limit things.
func (x *Index) list(ctx context.Context, limit int, f func(now int64) error) error {
	if limit < 1 {
		return fmt.Errorf("%w: at most %d of them", engine.ErrInvalid, limit)
	}
	now, end, err := x.enter(ctx)
	if err != nil {
		return err
	}
	defer end()
	return f(now)
}
