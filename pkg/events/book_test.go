package events

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

// book is a History on plain maps: of each catalog a delta for every version up
// to its head. The document at a version is the number of the version.
type book struct {
	mu    sync.Mutex
	heads map[string]int
	kept  map[string]int    // the first version that the log still has
	by    map[string]string // authors, by catalog and version
	asked int               // pages of the log

	listed int   // pages of catalogs
	fail   error // what every request answers
}

// wrote moves catalogs to the ends of events.
func (b *book) wrote(events ...engine.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.heads == nil {
		b.heads, b.kept, b.by = make(map[string]int), make(map[string]int), make(map[string]string)
	}
	for _, ev := range events {
		if ev.Kind != engine.EventCommitted {
			continue
		}
		n := int(ev.Version.Sub(engine.Version{}))
		for v := b.heads[ev.Catalog] + 1; v <= n; v++ {
			b.by[fmt.Sprint(ev.Catalog, v)] = ev.Author
		}
		b.heads[ev.Catalog] = max(b.heads[ev.Catalog], n)
	}
}

// begin makes a catalog whose log begins, and ends, with a version.
func (b *book) begin(catalog string, n int) {
	b.wrote()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.heads[catalog], b.kept[catalog] = n, n
}

// forget gives up the history before a version.
func (b *book) forget(catalog string, first int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept[catalog] = first
}

func (b *book) Log(_ context.Context, req engine.LogRequest) (engine.LogPage, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked++
	if b.fail != nil {
		return engine.LogPage{}, b.fail
	}
	head := b.heads[req.Catalog]
	if head == 0 {
		return engine.LogPage{}, engine.ErrNotFound
	}
	after := int(req.After.Sub(engine.Version{}))
	first := max(b.kept[req.Catalog], 1)
	if after+1 < first {
		if after > 0 {
			return engine.LogPage{}, &engine.HistoryError{Catalog: req.Catalog, Oldest: versionOf(first)}
		}
		after = first - 1
	}
	var page engine.LogPage
	for v := after + 1; v <= head && len(page.Items) < req.Limit; v++ {
		page.Items = append(page.Items, engine.LogEntry{Version: versionOf(v), Prev: versionOf(v - 1), Path: fmt.Sprintf("/p%d", v%3),
			Merge: engine.MergeTypeReplace, Body: fmt.Append(nil, v), Outcome: merge.Outcome{Status: merge.Applied, Op: -1}, Author: b.by[fmt.Sprint(req.Catalog, v)]})
	}
	if k := len(page.Items); k > 0 && page.Items[k-1].Version.Less(versionOf(head)) {
		page.Next = &page.Items[k-1].Version
	}
	return page, nil
}

func (b *book) Read(_ context.Context, req engine.ReadRequest) (engine.ReadResult, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return engine.ReadResult{}, b.fail
	}
	res := engine.ReadResult{Version: versionOf(b.heads[req.Catalog])}
	switch {
	case req.At != nil:
		res.Version = req.At.Version
		res.Body = fmt.Append(nil, res.Version.Sub(engine.Version{}))
	case req.IfNoneMatch == res.Version && !res.Version.IsZero():
		res.NotModified = true
	default:
		return res, engine.ErrNotFound
	}
	return res, nil
}

func (b *book) Catalogs(_ context.Context, prefix, after string, limit int) ([]engine.CatalogInfo, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.listed++; b.fail != nil {
		return nil, b.fail
	}
	var all []engine.CatalogInfo
	for _, name := range slices.Sorted(maps.Keys(b.heads)) {
		if strings.HasPrefix(name, prefix) && cmp.Less(after, name) && len(all) < limit {
			v := versionOf(b.heads[name])
			all = append(all, engine.CatalogInfo{Catalog: name, Version: v, Updated: v.Sec})
		}
	}
	return all, nil
}
