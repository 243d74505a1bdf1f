package engine

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jsonlake/lake/pkg/engine/codec"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

// LogRequest asks for a page of a catalog's history, oldest first.
type LogRequest struct {
	Catalog string  `json:"-"`
	After   Version `json:"after"` // versions greater than this
	Limit   int     `json:"limit"` // 1 to 1,000
}

// LogPage is a page of a catalog's history.
type LogPage struct {
	Items []LogEntry `json:"items"`
	// Next is the After of the next page; nil when this was the last.
	Next *Version `json:"next,omitempty"`
}

// LogEntry is one delta of a catalog's history.
type LogEntry struct {
	Version Version         `json:"version"`
	Prev    Version         `json:"prev"` // the version before, 0_0 for the first
	Path    string          `json:"path"`
	Merge   MergeType       `json:"merge"`
	Body    json.RawMessage `json:"body,omitempty"` // none of a delete
	Outcome merge.Outcome   `json:"outcome"`        // what it did to the document
	Author  string          `json:"author,omitempty"`
	ID      string          `json:"id"`
	Time    int64           `json:"time"` // index time of its reservation, unix milliseconds
	// NoAutoParents is kept with a JSON Patch.
	NoAutoParents bool `json:"no_auto_parents,omitempty"`
}

// Log gives a page of history: from the packs as far as the log is folded,
// from the live log after that.
func (e *Engine) Log(ctx context.Context, req LogRequest) (LogPage, error) {
	if err := ValidateCatalog(req.Catalog); err != nil {
		return LogPage{}, err
	}
	if req.Limit < 1 || req.Limit > maxPage {
		return LogPage{}, invalid("invalid_limit", "limit", "limit is 1 to %d, not %d", maxPage, req.Limit)
	}
	if err := e.Ready(); err != nil {
		return LogPage{}, err
	}
	n := e.lease.epoch()
	v, err := e.view(ctx, n, req.Catalog, Version{})
	if err != nil {
		return LogPage{}, err
	}
	if v.Head.IsZero() {
		return LogPage{}, fmt.Errorf("%w: catalog %q was never written", ErrNotFound, req.Catalog)
	}
	p := &pager{after: req.After, limit: req.Limit}
	if err := e.logPacks(ctx, n, req.Catalog, v.Snapshot.Stop, p); err != nil {
		return LogPage{}, err
	}
	if !p.full() && p.after.Less(v.Head) {
		if err := e.logLive(ctx, req.Catalog, v, p); err != nil {
			return LogPage{}, err
		}
	}
	page := LogPage{Items: p.items}
	if page.Items == nil {
		page.Items = []LogEntry{}
	}
	if k := len(page.Items); k > 0 && page.Items[k-1].Version.Less(v.Head) {
		page.Next = &page.Items[k-1].Version
	}
	return page, nil
}

// pager collects entries after a version up to a limit.
type pager struct {
	after Version
	limit int
	prev  Version // of the last delta passed
	items []LogEntry
}

func (p *pager) full() bool { return len(p.items) >= p.limit }

// frame passes the deltas of a run, but for those that were passed before: packs
// may overlap (two folds from one snapshot, both adopted by a rebuild), and a
// fold may register more between the view and the list of snapshots.
func (p *pager) frame(f *codec.Frame, ds []merge.Delta, outcomes []merge.Outcome) {
	id := ""
	for i, d := range ds {
		v := versionOf(f.First).Add(i)
		if !p.prev.Less(v) {
			continue
		}
		if len(f.ID) == 1 {
			id = f.ID[0].ID
		} else if i < len(f.ID) {
			id = f.ID[i].ID
		}
		if p.after.Less(v) && !p.full() {
			p.items = append(p.items, LogEntry{
				Version: v, Prev: p.prev, Path: d.Path, Merge: d.Type, Body: json.RawMessage(append([]byte(nil), d.Body...)), Outcome: outcomes[i],
				Author: f.Author, ID: id, Time: f.Created, NoAutoParents: d.Strict,
			})
		}
		p.prev = v
	}
}

func (e *Engine) logPacks(ctx context.Context, n uint64, catalog string, latest Version, p *pager) error {
	const packs = 100
	for after := p.after; after.Less(latest) && !p.full(); {
		snaps, err := e.index.Snapshots(ctx, n, catalog, after, packs)
		if err != nil {
			e.sawEpoch(n, err)
			return unavailable(fmt.Errorf("list snapshots of %q: %w", catalog, err))
		}
		if len(snaps) == 0 {
			return nil
		}
		for _, s := range snaps {
			if p.full() {
				return nil
			}
			p.prev = MaxVersion(p.prev, s.Start)
			if err := e.logPack(ctx, catalog, s, p); err != nil {
				return err
			}
			after = s.Stop
		}
	}
	return nil
}

func (e *Engine) logPack(ctx context.Context, catalog string, s Snapshot, p *pager) error {
	var bad error
	err := e.packFrames(ctx, catalog, s, func(f *codec.Frame) bool {
		ds, outcomes, err := decodePack(f)
		if err != nil {
			bad = fmt.Errorf("%w: %s: %w", ErrDamaged, PackKey(catalog, s.Start, s.Stop), err)
			return false
		}
		p.frame(f, ds, outcomes)
		return !p.full()
	})
	if err == nil {
		err = bad
	}
	return err
}

// packFrames passes the frames of a pack, in order, until pass says false.
func (e *Engine) packFrames(ctx context.Context, catalog string, s Snapshot, pass func(*codec.Frame) bool) error {
	key := PackKey(catalog, s.Start, s.Stop)
	b, err := e.objects.Get(ctx, key)
	if err != nil {
		return unavailable(fmt.Errorf("get %s: %w", key, err))
	}
	for f, err := range codec.Frames(b, codec.Options{MaxPayload: maxFramePayload}) {
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrDamaged, key, err)
		}
		if f.Kind != codec.KindPack || f.Catalog != catalog {
			return fmt.Errorf("%w: %s at byte %d holds %s of %q", ErrDamaged, key, f.Off, f.Kind, f.Catalog)
		}
		if !pass(&f.Frame) {
			return nil
		}
	}
	return nil
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
	m, err := e.load(ctx, catalog, &document{}, v.Snapshot, v.Runs)
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
			if err := e.packFrames(ctx, catalog, s, look); err != nil {
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

// logLive passes the live log. Its outcomes are known only by merging it.
func (e *Engine) logLive(ctx context.Context, catalog string, v View, p *pager) error {
	m, err := e.load(ctx, catalog, nil, v.Snapshot, v.Runs)
	if err != nil {
		return err
	}
	_, outcomes, err := merge.Merge(m.base, m.deltas, e.opts.Limits)
	if err != nil {
		return fmt.Errorf("merge catalog %q: %w", catalog, err)
	}
	p.prev = MaxVersion(p.prev, v.Snapshot.Stop)
	at := 0
	for i := range m.frames {
		n := int(m.frames[i].N)
		p.frame(&m.frames[i], m.deltas[at:at+n], outcomes[at:at+n])
		if at += n; p.full() {
			break
		}
	}
	return nil
}
