package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jsonlake/lake/pkg/engine/codec"
)

// adopted is what an emptied shard took from the bucket's snapshots.
type adopted struct {
	snapshots []RestoreSnapshot // by catalog and stop
	youngest  int64             // the greatest second of a stop
}

// adoptSnapshots registers the snapshots that the bucket has of a shard which
// knows nothing. Only true prefixes are ever visible, so every snapshot ever
// put is true.
func (e *Engine) adoptSnapshots(ctx context.Context, n uint64, shard int, saw func(int64), progress *counter) (*adopted, error) {
	a, err := e.listSnapshots(ctx, shard)
	if err != nil {
		return nil, err
	}
	saw(a.youngest)
	for chunk := range slices.Chunk(a.snapshots, restoreChunk) {
		if err := e.index.Restore(ctx, shard, n, Restore{Snapshots: chunk}); err != nil {
			return nil, err
		}
		progress.add(len(chunk))
	}
	return a, nil
}

// listSnapshots lists the snapshots that the bucket has of a shard.
func (e *Engine) listSnapshots(ctx context.Context, shard int) (*adopted, error) {
	a := &adopted{}
	packs := map[string]int64{}
	for o, err := range e.objects.List(ctx, fmt.Sprintf("%x", shard), "") {
		if err != nil {
			return nil, err
		}
		if strings.HasSuffix(o.Key, ".pack") {
			packs[o.Key] = o.Size
			continue
		}
		catalog, start, stop, err := ParseSnapshotKey(o.Key)
		if err != nil {
			continue // not ours
		}
		a.youngest = max(a.youngest, stop.Sec)
		// The size of the stored snapshot stands in for the document's until the
		// next fold; it only serves the policy.
		a.snapshots = append(a.snapshots, RestoreSnapshot{Catalog: catalog, Snapshot: Snapshot{Start: start, Stop: stop, DocBytes: o.Size}})
	}
	for i, s := range a.snapshots {
		a.snapshots[i].Snapshot.PackBytes = packs[PackKey(s.Catalog, s.Snapshot.Start, s.Snapshot.Stop)]
	}
	slices.SortFunc(a.snapshots, func(a, b RestoreSnapshot) int {
		if c := strings.Compare(a.Catalog, b.Catalog); c != 0 {
			return c
		}
		return a.Snapshot.Stop.Compare(b.Snapshot.Stop)
	})
	a.snapshots = afterPurges(a.snapshots)
	return a, nil
}

// adoptNewer registers what the bucket has of a catalog's snapshots above a
// version, that of the latest one of the index: with this index a reader has twice
// not found what it needs, so that another index has registered a newer one, and
// collected. Every snapshot ever put is true, and each is registered on the one before, as
// its fold was: whoever is faster wins. It tells whether there is anything new.
func (e *Engine) adoptNewer(ctx context.Context, catalog string, latest Version) (bool, error) {
	if err := e.Ready(); err != nil {
		return false, err
	}
	n := e.lease.epoch()
	type span struct{ start, stop Version }
	found := map[span]*Snapshot{}
	var listed []span
	var newest []Snapshot // that have a document
	for o, err := range e.objects.List(ctx, CatalogDir(catalog)+"/", "") {
		if err != nil {
			return false, unavailable(fmt.Errorf("list %s: %w", CatalogDir(catalog), err))
		}
		s, ok := parseHistoryKey(catalog, o.Key)
		if !ok || !latest.Less(s.Stop) {
			continue
		}
		have := found[span{s.Start, s.Stop}]
		if have == nil {
			have = &s
			found[span{s.Start, s.Stop}] = have
			listed = append(listed, span{s.Start, s.Stop})
		}
		if o.Key == SnapshotKey(catalog, s.Start, s.Stop) {
			have.DocBytes = o.Size // as in adoptSnapshots
			newest = append(newest, s)
		} else {
			have.PackBytes = o.Size
		}
	}
	slices.SortFunc(newest, func(a, b Snapshot) int { return b.Stop.Compare(a.Stop) })
	var way func(s *Snapshot) []*Snapshot // from the latest one to s
	way = func(s *Snapshot) []*Snapshot {
		if s.Purged() || s.Start == latest {
			return []*Snapshot{s}
		}
		for _, k := range listed {
			if k.stop == s.Start {
				if w := way(found[k]); w != nil {
					return append(w, s)
				}
			}
		}
		return nil
	}
	for _, s := range newest {
		for _, next := range way(found[span{s.Start, s.Stop}]) {
			err := e.register(ctx, n, catalog, *next)
			if errors.Is(err, ErrStale) {
				return true, nil // another one was faster: look what there is
			}
			if err != nil {
				return false, err
			}
			e.opts.Hooks.trouble("snapshot", fmt.Errorf("%s was not known to the index, and is registered again", SnapshotKey(catalog, next.Start, next.Stop)))
			latest = next.Stop
		}
		if latest == s.Stop {
			return true, nil
		}
	}
	return false, nil
}

// afterPurges leaves out what lies below a purge, of snapshots by catalog and stop: it
// does not count any more, although it may still be there. The snapshot of a
// purge itself is left out where the retention has given up what followed it, be it
// that its pack only is gone yet.
func afterPurges(all []RestoreSnapshot) []RestoreSnapshot {
	kept := make([]RestoreSnapshot, 0, len(all))
	first := 0 // of the catalog, in kept
	for i, s := range all {
		if i == 0 || s.Catalog != all[i-1].Catalog {
			first = len(kept)
		}
		last, latest := len(kept)-1, i == len(all)-1 || all[i+1].Catalog != s.Catalog
		switch {
		case s.Snapshot.Purged():
			kept = kept[:first]
		case last == first && kept[last].Snapshot.Purged() && (s.Snapshot.Start != kept[last].Snapshot.Stop || s.Snapshot.PackBytes == 0 && !latest):
			kept = kept[:last]
		}
		kept = append(kept, s)
	}
	return kept
}

// young are the snapshots whose packs may know idempotency ids that are kept still.
func (a *adopted) young() []RestoreSnapshot {
	return slices.DeleteFunc(slices.Clone(a.snapshots), func(s RestoreSnapshot) bool {
		return s.Snapshot.PackBytes == 0 || s.Snapshot.Stop.Sec < a.youngest-int64(IDTTL.Seconds())
	})
}

// notPurged leaves out the runs from before a purge. They are folded, and not even
// their events are told again: the purge's event covers them.
func (a *adopted) notPurged(runs []RestoreRun) []RestoreRun {
	purged := map[string]Version{}
	for _, s := range a.snapshots {
		if s.Snapshot.Purged() {
			purged[s.Catalog] = s.Snapshot.Stop
		}
	}
	return slices.DeleteFunc(runs, func(r RestoreRun) bool { return r.Run.Last.Less(purged[r.Catalog]) })
}

// adoptPacks reads the packs that are younger than IDTTL, counted from the
// youngest, for what only they know: the idempotency ids of runs that no segment
// has any more, and what came before a folded run whose segment is still there
// and whose event is published again. A run of which no pack tells gets the
// version right before its first: a listener then looks for a gap where there may be
// none, and never misses one.
func (e *Engine) adoptPacks(ctx context.Context, n uint64, shard int, a *adopted, runs []RestoreRun, lost *losses) error {
	folded := make(map[RunKey]int, len(runs))
	for i := range runs {
		folded[RunKey{Catalog: runs[i].Catalog, First: runs[i].Run.First}] = i
		runs[i].Prev = runs[i].Run.First.Add(-1)
	}
	young := a.young()
	type told struct { // by one pack
		ids  []RestoreID
		prev map[int]Version // of folded runs, by their place
	}
	for part := range slices.Chunk(young, restoreTold) {
		packs := make([]told, len(part))
		g, gctx := newTasks(ctx, restorePacks)
		for k, s := range part {
			g.add(func() error {
				prev, t := s.Snapshot.Start, &packs[k]
				if s.Snapshot.Purged() { // its event covers all that was before
					prev = Version{}
				}
				t.prev = map[int]Version{}
				err := e.packFrames(gctx, s.Catalog, s.Snapshot, func(f *codec.Frame) bool {
					if id := givenID(f); id.ID != "" {
						t.ids = append(t.ids, id)
					}
					first := versionOf(f.First)
					if i, there := folded[RunKey{Catalog: s.Catalog, First: first}]; there {
						t.prev[i] = prev
					}
					prev = first.Add(int(f.N) - 1)
					return true
				})
				if errors.Is(err, ErrNotExist) || errors.Is(err, ErrHistoryGone) {
					return nil // given up by the retention meanwhile
				}
				if errors.Is(err, ErrDamaged) {
					*t = told{}
					return e.acceptPack(gctx, n, s.Catalog, s.Snapshot, err, lost)
				}
				return err
			})
		}
		if err := g.wait(); err != nil {
			return err
		}
		var ids []RestoreID
		for _, t := range packs { // in order: packs may overlap
			ids = append(ids, t.ids...)
			for i, prev := range t.prev {
				runs[i].Prev = prev
			}
		}
		for chunk := range slices.Chunk(ids, restoreChunk) {
			if err := e.index.Restore(ctx, shard, n, Restore{IDs: chunk}); err != nil {
				return err
			}
		}
	}
	return nil
}
