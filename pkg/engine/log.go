package engine

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"

	"github.com/jsonlake/lake/pkg/engine/merge"
)

// Order is the direction of a page of history.
type Order string

// The orders.
const (
	Ascending  Order = "asc"  // oldest first
	Descending Order = "desc" // newest first
)

// LogRequest asks for a page of a catalog's history.
type LogRequest struct {
	Catalog string `json:"-"`
	// After is the cursor: ascending, versions greater than this; descending, less
	// than this, or from the newest when it is 0_0.
	After Version `json:"after"`
	Limit int     `json:"limit"` // 1 to 1,000
	// MaxBytes bounds the bodies of a page, but for its first entry; 0: they are not
	// bounded. A service bounds what it answers in any case, by what a message
	// may hold.
	MaxBytes int64 `json:"-"`
	Order    Order `json:"order,omitempty"` // "" is Ascending
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
// from the live log after that. From either end it gives what is kept; a
// cursor before that is ErrHistoryGone.
func (e *Engine) Log(ctx context.Context, req LogRequest) (LogPage, error) {
	if err := ValidateCatalog(req.Catalog); err != nil {
		return LogPage{}, err
	}
	switch {
	case req.Limit < 1 || req.Limit > maxPage:
		return LogPage{}, invalid("invalid_limit", "limit", "limit is 1 to %d, not %d", maxPage, req.Limit)
	case req.Order != "" && req.Order != Ascending && req.Order != Descending:
		return LogPage{}, invalid("invalid_order", "order", "order is \"asc\" or \"desc\", not %.50q", req.Order)
	case !req.After.Valid():
		return LogPage{}, invalid("invalid_version", "after", "the version %s cannot be one", req.After)
	}
	page := LogPage{}
	err := e.past(ctx, req.Catalog, func(n uint64, v View) (err error) {
		if req.Order == Descending {
			page, err = e.logBack(ctx, n, v, req)
		} else {
			page, err = e.logOn(ctx, n, v, req)
		}
		return err
	})
	return page, err
}

// logOn gives a page in ascending order.
func (e *Engine) logOn(ctx context.Context, n uint64, v View, req LogRequest) (LogPage, error) {
	p := newPager(req)
	if err := e.logPacks(ctx, n, req.Catalog, v.Snapshot.Stop, p); err != nil {
		return LogPage{}, err
	}
	if !p.full() && p.after.Less(v.Head) && len(v.Runs) > 0 {
		s, err := e.liveStretch(ctx, req.Catalog, v, v.Runs)
		if err != nil {
			return LogPage{}, err
		}
		if err := s.judge(e.opts.Limits); err != nil {
			return LogPage{}, err
		}
		p.add(s)
	}
	page := LogPage{Items: p.items}
	if k := len(page.Items); k > 0 && page.Items[k-1].Version.Less(v.Head) {
		page.Next = &page.Items[k-1].Version
	}
	return page, nil
}

// pager collects entries after a version up to limits.
type pager struct {
	after Version
	limit int
	bytes int64   // that are left
	prev  Version // of the last delta passed
	items []LogEntry
	over  bool // the next entry was too large
}

func newPager(req LogRequest) *pager {
	p := &pager{after: req.After, limit: req.Limit, bytes: req.MaxBytes, items: []LogEntry{}}
	if p.bytes <= 0 {
		p.bytes = math.MaxInt64
	}
	return p
}

func (p *pager) full() bool { return p.over || len(p.items) >= p.limit }

// take adds an entry, if there is room for it.
func (p *pager) take(s *stretch, i int) bool {
	size := int64(len(s.deltas[i].Body))
	if p.over = size > p.bytes && len(p.items) > 0; p.over {
		return false
	}
	p.bytes -= size
	p.items = append(p.items, s.entry(i))
	return true
}

// add passes the deltas of a stretch, but for those that were passed before:
// packs may overlap (two folds from one snapshot, both adopted by a rebuild), and
// a fold may register more between the view and the list of snapshots.
func (p *pager) add(s *stretch) {
	p.prev = MaxVersion(p.prev, s.start)
	for i, v := range s.versions {
		if p.full() {
			return
		}
		if !p.prev.Less(v) {
			continue
		}
		if p.after.Less(v) {
			if !p.take(s, i) {
				return
			}
			p.items[len(p.items)-1].Prev = p.prev
		}
		p.prev = v
	}
}

func (e *Engine) logPacks(ctx context.Context, n uint64, catalog string, latest Version, p *pager) error {
	const packs = 100
	for after := p.after; after.Less(latest) && !p.full(); {
		snaps, err := e.snapshots(ctx, n, catalog, after, packs)
		if err != nil || len(snaps) == 0 {
			return err
		}
		for _, s := range snaps {
			if p.full() {
				return nil
			}
			// First, since what is before a pack that is gone does not count either.
			pack, gone, err := e.logPack(ctx, n, catalog, s, p)
			if err != nil {
				return err
			}
			if !gone {
				missing, err := e.unregistered(ctx, n, catalog, after, s)
				if err != nil {
					return err
				}
				for _, m := range missing {
					if p.full() {
						return nil
					}
					before, gone, err := e.logPack(ctx, n, catalog, m, p)
					if err != nil {
						return err
					}
					if !gone {
						p.add(before)
					}
				}
				if p.full() {
					return nil
				}
				p.add(pack)
			}
			after = MaxVersion(after, s.Stop)
		}
	}
	return nil
}

// logPack loads a pack for the log. gone: the log begins after it.
func (e *Engine) logPack(ctx context.Context, n uint64, catalog string, s Snapshot, p *pager) (pack *stretch, gone bool, err error) {
	pack, err = e.packStretch(ctx, n, catalog, s)
	if errors.Is(err, ErrHistoryGone) && p.after.IsZero() && len(p.items) == 0 {
		return nil, true, nil
	}
	return pack, false, err
}

// unregistered finds the packs between a version and the beginning of a
// snapshot, which the index does not know: it was rebuilt when the bucket had
// lost a snapshot, whose pack stands there still. Without them the history
// before s is gone, which is an error unless it is read from its beginning.
func (e *Engine) unregistered(ctx context.Context, n uint64, catalog string, after Version, s Snapshot) ([]Snapshot, error) {
	var found []Snapshot
	for oldest := s; after.Less(oldest.Start); {
		if oldest.Purged() {
			if !after.IsZero() {
				return nil, oldest.gone(catalog)
			}
			break
		}
		before, ok, err := e.stopsAt(ctx, n, catalog, oldest.Start)
		if err != nil {
			return nil, err
		}
		if !ok {
			if !after.IsZero() {
				return nil, oldest.gone(catalog)
			}
			break
		}
		found, oldest = append(found, before), before
	}
	slices.Reverse(found)
	return found, nil
}

// logBack gives a page in descending order.
func (e *Engine) logBack(ctx context.Context, n uint64, v View, req LogRequest) (LogPage, error) {
	bound := v.Head
	if !req.After.IsZero() {
		bound = before(req.After)
	}
	p := newPager(req)
	began := false
	err := e.back(ctx, n, req.Catalog, v, bound, func(s *stretch) (bool, error) {
		began = true
		if err := s.judge(e.opts.Limits); err != nil {
			return false, err
		}
		for i := s.upTo(bound) - 1; i >= 0 && !p.full(); i-- {
			p.take(s, i)
		}
		return !p.full(), nil
	})
	page := LogPage{Items: p.items}
	var gone *HistoryError
	switch {
	case errors.As(err, &gone) && began:
		return page, nil // that was all that is kept
	case err != nil:
		return LogPage{}, err
	}
	if k := len(page.Items); k > 0 && !page.Items[k-1].Prev.IsZero() {
		page.Next = &page.Items[k-1].Version
	}
	return page, nil
}
