package memory

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jsonlake/lake/pkg/engine"
)

// View is one moment of a catalog.
func (x *Index) View(ctx context.Context, epoch uint64, catalog string, after engine.Version) (engine.View, error) {
	now, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return engine.View{}, err
	}
	s, err := x.working(engine.Shard(catalog), epoch)
	if err != nil {
		return engine.View{}, err
	}
	c := s.catalogs[catalog]
	if c == nil {
		return engine.View{Now: now}, nil
	}
	v := engine.View{Head: c.head, Snapshot: c.snapshot(), Now: now}
	v.Deltas, v.Bytes = c.live()
	for _, r := range c.runs {
		if after.Less(r.First) {
			v.Runs = append(v.Runs, r)
		}
	}
	if len(c.open) > 0 {
		v.Pending, v.PendingSince = true, s.plans[c.open[0]].since
	}
	return v, nil
}

// TellHead asks View.
func (x *Index) TellHead(epoch uint64, catalog string, at engine.Version, f func(unchanged, pending bool)) bool {
	v, err := x.View(context.Background(), epoch, catalog, at)
	f(err == nil && v.Head == at && !at.IsZero(), err == nil && v.Pending)
	return true
}

// Snapshots lists the snapshots of a catalog that stop after after.
func (x *Index) Snapshots(ctx context.Context, epoch uint64, catalog string, after engine.Version, limit int) ([]engine.Snapshot, error) {
	if limit < 1 {
		return nil, fmt.Errorf("list at most %d snapshots: %w", limit, engine.ErrInvalid)
	}
	_, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return nil, err
	}
	s, err := x.working(engine.Shard(catalog), epoch)
	if err != nil {
		return nil, err
	}
	c := s.catalogs[catalog]
	if c == nil {
		return nil, nil
	}
	var list []engine.Snapshot
	for _, snapshot := range c.snaps {
		if after.Less(snapshot.Stop) && len(list) < limit {
			list = append(list, snapshot)
		}
	}
	return list, nil
}

// Catalogs lists catalogs that have a committed run, by name.
func (x *Index) Catalogs(ctx context.Context, epoch uint64, prefix, after string, limit int) ([]engine.CatalogInfo, error) {
	if limit < 1 {
		return nil, fmt.Errorf("list at most %d catalogs: %w", limit, engine.ErrInvalid)
	}
	_, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return nil, err
	}
	var list []engine.CatalogInfo
	for number := range x.shards {
		s, err := x.working(number, epoch)
		if err != nil {
			return nil, err
		}
		for name, c := range s.catalogs {
			if c.head.IsZero() || !strings.HasPrefix(name, prefix) || name <= after {
				continue
			}
			deltas, _ := c.live()
			list = append(list, engine.CatalogInfo{
				Catalog: name, Version: c.head, Bytes: c.snapshot().DocBytes, Deltas: deltas, Updated: c.head.Sec,
			})
		}
	}
	slices.SortFunc(list, func(a, b engine.CatalogInfo) int { return strings.Compare(a.Catalog, b.Catalog) })
	return list[:min(limit, len(list))], nil
}
