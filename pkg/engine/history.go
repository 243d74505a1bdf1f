package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jsonlake/lake/pkg/engine/codec"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

// past runs f on a view of a catalog with all its live runs. An object that is
// missing may have been folded and collected since: f runs again then, on a new
// view, as ReadList does. ErrNotFound when the catalog was never written.
func (e *Engine) past(ctx context.Context, catalog string, f func(n uint64, v View) error) error {
	var last View
	for again, adopted := false, false; ; again = true {
		if err := e.Ready(); err != nil {
			return err
		}
		n := e.lease.epoch()
		v, err := e.view(ctx, n, catalog, Version{})
		if err != nil {
			return err
		}
		if v.Head.IsZero() {
			return fmt.Errorf("%w: catalog %q was never written", ErrNotFound, catalog)
		}
		if err = f(n, v); !errors.Is(err, ErrNotExist) {
			return err
		}
		if again && needsAsMuch(v, last) {
			found := false
			if !adopted {
				var aerr error
				if found, aerr = e.adoptNewer(ctx, catalog, v.Snapshot.Stop); aerr != nil {
					return aerr
				}
			}
			if !found {
				return fmt.Errorf("%w: an object of catalog %q is not in the bucket any more: %w", ErrDamaged, catalog, err)
			}
			adopted = true
		}
		last = v
	}
}

// gone says that the history before s is not kept.
func (s Snapshot) gone(catalog string) *HistoryError {
	return &HistoryError{Catalog: catalog, Oldest: s.Stop, Purged: s.Purged()}
}

// stretch is a piece of a catalog's history: deltas with contiguous previous
// versions, from the live log or from a pack.
type stretch struct {
	start    Version // the base is the document at this version
	base     func(ctx context.Context) ([]byte, error)
	headers  []codec.Header
	deltas   []merge.Delta
	versions []Version       // of the deltas
	runs     []int32         // of each delta the run, its place in headers
	outcomes []merge.Outcome // nil until judged
	live     []byte          // the base of the live log
}

func (s *stretch) addRun(h codec.Header) {
	s.headers = append(s.headers, h)
	for i := range int(h.N) {
		s.versions = append(s.versions, versionOf(h.First).Add(i))
		s.runs = append(s.runs, int32(len(s.headers)-1))
	}
}

// upTo is how many of the deltas are not newer than bound.
func (s *stretch) upTo(bound Version) int {
	n, found := slices.BinarySearchFunc(s.versions, bound, Version.Compare)
	if found {
		n++
	}
	return n
}

// judge gives the live log its outcomes, which only merging it tells.
func (s *stretch) judge(lim merge.Limits) (err error) {
	if s.outcomes == nil {
		_, s.outcomes, err = merge.Merge(s.live, s.deltas, lim)
	}
	return err
}

// entry is delta i as the log tells it.
func (s *stretch) entry(i int) LogEntry {
	h, d := &s.headers[s.runs[i]], &s.deltas[i]
	prev := s.start
	if i > 0 {
		prev = s.versions[i-1]
	}
	id := ""
	switch k := int(s.versions[i].Sub(versionOf(h.First))); {
	case len(h.ID) == 1:
		id = h.ID[0].ID
	case k < len(h.ID):
		id = h.ID[k].ID
	}
	entry := LogEntry{
		Version: s.versions[i], Prev: prev, Path: d.Path, Merge: d.Type, Body: json.RawMessage(append([]byte(nil), d.Body...)),
		Author: h.Author, ID: id, Time: h.Created, NoAutoParents: d.Strict,
	}
	if s.outcomes != nil {
		entry.Outcome = s.outcomes[i]
	}
	return entry
}

// liveStretch loads runs of the live log.
func (e *Engine) liveStretch(ctx context.Context, catalog string, v View, runs []Run) (*stretch, error) {
	m, err := e.load(ctx, catalog, nil, v.Snapshot, runs, false)
	if err != nil {
		return nil, err
	}
	s := &stretch{start: v.Snapshot.Stop, deltas: m.deltas, live: m.base, base: func(context.Context) ([]byte, error) { return m.base, nil }}
	for i := range m.frames {
		s.addRun(m.frames[i].Header)
	}
	return s, nil
}

// packStretch loads a pack, but not its base.
func (e *Engine) packStretch(ctx context.Context, n uint64, catalog string, snap Snapshot) (*stretch, error) {
	s := &stretch{start: snap.Start, base: func(ctx context.Context) ([]byte, error) { return e.documentOf(ctx, n, catalog, snap) }}
	if snap.Purged() {
		s.start = Version{} // nothing is before it
	}
	var bad error
	err := e.packFrames(ctx, catalog, snap, func(f *codec.Frame) bool {
		ds, outcomes, err := decodePack(f)
		if err != nil {
			bad = fmt.Errorf("%w: %s: %w", ErrDamaged, PackKey(catalog, snap.Start, snap.Stop), err)
			return false
		}
		s.deltas, s.outcomes = append(s.deltas, ds...), append(s.outcomes, outcomes...)
		s.addRun(f.Header)
		return true
	})
	return s, cmp.Or(err, bad)
}

// back passes the history of a catalog that holds versions up to bound, newest
// stretch first, until pass wants no more. A stretch may hold versions above
// bound, too. It keeps one stretch at a time. *HistoryError when it comes to
// where the history is gone.
func (e *Engine) back(ctx context.Context, n uint64, catalog string, v View, bound Version, pass func(*stretch) (more bool, err error)) error {
	at := v.Snapshot
	switch {
	case at.Stop.Less(bound):
		s, err := e.liveStretch(ctx, catalog, v, runsUpTo(v.Runs, bound))
		if err != nil {
			return err
		}
		if more, err := pass(s); err != nil || !more {
			return err
		}
	case bound.Less(at.Stop):
		var err error
		if at, err = e.covering(ctx, n, catalog, bound); err != nil {
			return err
		}
	}
	for !at.Stop.IsZero() {
		s, err := e.packStretch(ctx, n, catalog, at)
		if err != nil {
			return err
		}
		if more, err := pass(s); err != nil || !more || at.Start.IsZero() {
			return err
		}
		if at.Purged() {
			return at.gone(catalog)
		}
		before, ok, err := e.stopsAt(ctx, n, catalog, at.Start)
		if err != nil {
			return err
		}
		if !ok {
			return at.gone(catalog)
		}
		at = before
	}
	return nil
}

// runsUpTo is the runs that hold versions up to bound.
func runsUpTo(runs []Run, bound Version) []Run {
	n, found := slices.BinarySearchFunc(runs, bound, func(r Run, v Version) int { return r.First.Compare(v) })
	if found {
		n++
	}
	return runs[:n]
}

// covering is the snapshot whose pack, (start, stop], holds a version, or
// would: the one that stops there, else the first that stops after it.
func (e *Engine) covering(ctx context.Context, n uint64, catalog string, v Version) (Snapshot, error) {
	snaps, err := e.snapshots(ctx, n, catalog, before(v), 1)
	if err != nil {
		return Snapshot{}, err
	}
	if len(snaps) == 0 {
		return Snapshot{}, fmt.Errorf("%w: the index tells of no snapshot of catalog %q after version %s any more", ErrUnavailable, catalog, v)
	}
	s := snaps[0]
	for v.Less(s.Start) {
		if s.Purged() {
			return Snapshot{}, s.gone(catalog)
		}
		before, ok, err := e.stopsAt(ctx, n, catalog, s.Start)
		if err != nil {
			return Snapshot{}, err
		}
		if !ok {
			return Snapshot{}, s.gone(catalog)
		}
		s = before
	}
	return s, nil
}

// before is the greatest version that can lie before v.
func before(v Version) Version {
	if v.ordinal() <= 0 {
		return Version{}
	}
	return v.Add(-1)
}

// snapshots lists registered snapshots with stop > after, ascending.
func (e *Engine) snapshots(ctx context.Context, n uint64, catalog string, after Version, limit int) ([]Snapshot, error) {
	ictx, cancel := context.WithTimeout(ctx, e.opts.IndexTimeout)
	defer cancel()
	snaps, err := e.index.Snapshots(ictx, n, catalog, after, limit)
	switch {
	case err != nil && e.sawEpoch(n, err):
		return nil, fmt.Errorf("%w: %w", ErrRecovering, err)
	case err != nil:
		return nil, unavailable(fmt.Errorf("list snapshots of %q: %w", catalog, err))
	case !e.lease.valid(n):
		return nil, errLeaseOut
	}
	return snaps, nil
}

// stopsAt finds the snapshot that stops at a version: the registered one, else
// what the bucket's packs tell of one.
func (e *Engine) stopsAt(ctx context.Context, n uint64, catalog string, v Version) (s Snapshot, ok bool, err error) {
	snaps, err := e.snapshots(ctx, n, catalog, before(v), 1)
	if err != nil {
		return Snapshot{}, false, err
	}
	if len(snaps) > 0 && snaps[0].Stop == v {
		return snaps[0], true, nil
	}
	dir, suffix := CatalogDir(catalog)+"/delta/", "~"+v.String()+".pack"
	for o, err := range e.objects.List(ctx, dir, "") {
		if err != nil {
			return Snapshot{}, false, unavailable(fmt.Errorf("list %s: %w", dir, err))
		}
		if start, ok := strings.CutSuffix(o.Key[len(dir):], suffix); ok {
			if start, err := ParseVersion(start); err == nil && !v.Less(start) {
				return Snapshot{Start: start, Stop: v, PackBytes: o.Size}, true, nil
			}
		}
	}
	return Snapshot{}, false, nil
}

// packFrames passes the frames of a pack, in order, until pass says false.
func (e *Engine) packFrames(ctx context.Context, catalog string, s Snapshot, pass func(*codec.Frame) bool) error {
	frames, err := e.store.pack(ctx, catalog, s)
	if errors.Is(err, ErrNotExist) {
		if gone := e.givenUp(ctx, catalog, s); gone != nil {
			return gone
		}
	}
	if err != nil {
		return err
	}
	for i := range frames {
		if !pass(&frames[i]) {
			return nil
		}
	}
	return nil
}

// givenUp tells of a pack that the bucket has not whether the retention took it,
// and the index, lost or fallen back meanwhile, does not know. The retention takes
// the oldest first and leaves the newest: there is no older pack then, and a newer
// one. nil when the pack is missing for another reason. What the retention leaves alone
// does not count as older: the snapshot of a purge, and a pack without a snapshot, of a
// fold that ended between the two.
func (e *Engine) givenUp(ctx context.Context, catalog string, s Snapshot) error {
	var oldest Version // stop of a pack that is kept
	older := map[string]bool{}
	dir := CatalogDir(catalog) + "/delta/"
	for o, err := range e.objects.List(ctx, dir, "") {
		if err != nil {
			return unavailable(fmt.Errorf("list %s: %w", dir, err))
		}
		name := strings.TrimSuffix(o.Key[len(dir):], ".pack")
		begin, end, _ := strings.Cut(name, "~")
		stop, err := ParseVersion(end)
		switch {
		case err != nil: // not ours
		case !s.Stop.Less(stop):
			older[name] = begin != end
		case oldest.IsZero() || stop.Less(oldest):
			oldest = stop
		}
	}
	if oldest.IsZero() {
		return nil
	}
	if len(older) > 0 {
		dir := CatalogDir(catalog) + "/snap/"
		for o, err := range e.objects.List(ctx, dir, "") {
			if err != nil {
				return unavailable(fmt.Errorf("list %s: %w", dir, err))
			}
			if older[strings.TrimSuffix(o.Key[len(dir):], ".snap")] {
				return nil
			}
		}
	}
	return &HistoryError{Catalog: catalog, Oldest: oldest}
}

// findID looks for a run by its id, in the live log and in packs whose stop is
// not older than IDTTL. ErrNotFound when it is in none.
func (e *Engine) findID(ctx context.Context, catalog, id string) (first Version, n int, err error) {
	epoch := e.lease.epoch()
	v, err := e.view(ctx, epoch, catalog, Version{})
	if err != nil {
		return Version{}, 0, err
	}
	found := false
	look := func(f *codec.Frame) bool {
		for _, have := range f.ID {
			if have.ID == id {
				first, n, found = versionOf(f.First), int(f.N), true
			}
		}
		return !found
	}
	m, err := e.load(ctx, catalog, &document{}, v.Snapshot, v.Runs, false)
	if err != nil {
		return Version{}, 0, err
	}
	for i := range m.frames {
		look(&m.frames[i])
	}
	after := Version{Sec: max(v.Now.Add(-IDTTL).Unix(), 0), Seq: 1}
	for !found && after.Less(v.Snapshot.Stop) {
		snaps, err := e.index.Snapshots(ctx, epoch, catalog, after, maxPage)
		if err != nil {
			return Version{}, 0, unavailable(fmt.Errorf("list snapshots of %q: %w", catalog, err))
		}
		for _, s := range snaps {
			if err := e.packFrames(ctx, catalog, s, look); err != nil && !errors.Is(err, ErrHistoryGone) {
				return Version{}, 0, err
			}
			after = s.Stop
		}
		if len(snaps) == 0 {
			break
		}
	}
	if !found {
		return Version{}, 0, fmt.Errorf("%w: no write with id %q in the history of catalog %q of the last 24 hours", ErrNotFound, id, catalog)
	}
	return first, n, nil
}
