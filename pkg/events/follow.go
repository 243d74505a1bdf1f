package events

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// follower is one watch. The log is the truth, the stream only tells when to
// look: the follower knows of each catalog the last version told (seen), and
// whatever an event covers beyond that is told, from the event itself where it
// follows at once, from the log where it does not.
//
//	attach   a queue gets what is published from a place in the stream on
//	begin    one catalog:  its head, or the version to begin after
//	         many:         replay the stream from the cursor's place to the queue's; if the
//	                       stream has lost that, or for a start from the beginning, sweep:
//	                       list the catalogs and read the logs of those that were written since
//	go on    with the queue; when something was lost or given up there, begin again with
//	         what is known now
//	check    when nothing comes: one catalog asks for its head, many compare the list (check.go)
//
// Since the queue is attached first, nothing can fall between the two.
type follower struct {
	WatchOptions
	feed    *Feed
	yield   func(Item, error) bool
	stopped bool // the caller wants no more

	queue  *backlog
	seen   lastSeen
	mark   *bookmark // of a watch of many catalogs
	checks checks    // the same
}

var errStopped = errors.New("the caller wants no more")

func (w *follower) run(ctx context.Context) error {
	q, at, leave, err := w.feed.subscribe(ctx, &w.WatchOptions)
	if err != nil {
		return err
	}
	defer leave()
	w.queue = q
	if w.Catalog != "" {
		return w.runOne(ctx)
	}
	return w.runMany(ctx, at)
}

// runOne watches one catalog.
func (w *follower) runOne(ctx context.Context) error {
	look := true // at the head: there may be more than the stream tells
	if w.Since.IsZero() && !w.FromStart && w.Cursor == "" {
		head, err := w.head(ctx, engine.Version{})
		if err != nil {
			return err
		}
		w.Since, look = head, false
	}
	w.saw(w.Catalog, w.Since)
	for {
		if look {
			last, _ := w.last(w.Catalog)
			head, err := w.head(ctx, last)
			if err != nil {
				return err
			}
			if err := w.fill(ctx, w.Catalog, head); err != nil {
				return err
			}
		}
		n, err := w.queue.take(ctx, w.idle)
		if err != nil {
			return err
		}
		if look = !n.some; look {
			continue
		}
		if err := w.event(ctx, n.queued); err != nil {
			return err
		}
	}
}

// head is the version of a catalog, 0_0 when it was never written. It costs
// little when it is the one that is known.
func (w *follower) head(ctx context.Context, known engine.Version) (v engine.Version, err error) {
	err = w.ask(ctx, "ask for the version of "+w.Catalog, func(ctx context.Context) error {
		// A part that is hardly there: what is asked for is the version alone.
		r, err := w.feed.history.Read(ctx, engine.ReadRequest{Catalog: w.Catalog, Pointer: "/-", IfNoneMatch: known})
		if v = r.Version; errors.Is(err, engine.ErrNotFound) {
			return nil
		}
		return err
	})
	return v, err
}

// runMany watches all catalogs, or those of a prefix.
func (w *follower) runMany(ctx context.Context, at place) error {
	switch {
	case w.mark != nil:
		for _, r := range w.mark.recent {
			w.saw(r.catalog, r.version)
		}
	case w.FromStart:
		w.mark = &bookmark{place: at, sweeping: true}
	default:
		w.mark = &bookmark{place: at}
		for i := range w.mark.horizons {
			w.mark.horizons[i] = at.now.Unix()
		}
	}
	for {
		if err := w.reach(ctx, at); err != nil {
			return err
		}
		for {
			n, err := w.queue.take(ctx, w.due())
			if err != nil {
				return err
			}
			if !n.some && !n.lost && !n.over {
				if err := w.look(ctx); err != nil {
					return err
				}
				continue
			}
			if !n.some {
				if at = n.at; n.lost {
					w.mark.search(at)
				}
				break
			}
			if err := w.event(ctx, n.queued); err != nil {
				return err
			}
			w.mark.place.seq = n.told
			if n.ev.Kind == engine.EventCommitted {
				w.mark.reached(&n.ev)
			}
		}
	}
}

// reach tells everything up to a place in the stream.
func (w *follower) reach(ctx context.Context, at place) error {
	for {
		if w.mark.sweeping {
			if err := w.sweep(ctx); err != nil {
				return err
			}
		}
		// A sweep may have been begun long ago, by who had the cursor before: what
		// was published since of catalogs that it had passed is in the stream.
		complete, err := w.replay(ctx, at)
		switch {
		case err != nil:
			return err
		case complete:
			w.mark.place = at
			return nil
		}
		w.report(fmt.Errorf("watch: the stream has lost messages after number %d: what they told is looked for in the catalogs' logs", w.mark.place.seq))
		w.mark.search(at)
	}
}

// replay tells what the stream has from the bookmark's place up to another;
// false when it has not all of it any more.
func (w *follower) replay(ctx context.Context, at place) (complete bool, err error) {
	var failed error
	complete, err = w.feed.replay(ctx, &w.WatchOptions, w.mark.place, at, func(seq uint64, ev engine.Event) bool {
		if ev.Kind != "" && w.queue.wants(&ev) {
			if failed = w.event(ctx, queued{ev: ev, first: seq, merged: 1}); failed != nil {
				return false
			}
			if ev.Kind == engine.EventCommitted {
				w.mark.reached(&ev)
			}
		}
		w.mark.place.seq = seq
		return true
	})
	return complete, cmp.Or(failed, err, ctx.Err())
}

// sweep finds what was written since the bookmark without the stream.
func (w *follower) sweep(ctx context.Context) error {
	fresh := w.mark.swept == ""
	const page = 1000
	var newest int64 // second of the index's clock at which the sweep had begun, or before
	for first := true; ; first = false {
		var list []engine.CatalogInfo
		err := w.ask(ctx, "list catalogs", func(ctx context.Context) (err error) {
			list, err = w.feed.history.Catalogs(ctx, w.Prefix, w.mark.swept, page)
			return err
		})
		if err != nil {
			return err
		}
		for _, c := range list {
			if first && fresh {
				newest = max(newest, c.Version.Sec)
			}
			last, known := w.last(c.Catalog)
			if !known {
				last = w.mark.floor(c.Catalog)
			}
			if last.Less(c.Version) {
				w.saw(c.Catalog, last)
				if err := w.fill(ctx, c.Catalog, c.Version); err != nil {
					return err
				}
			}
			w.mark.swept = c.Catalog
		}
		if len(list) < page {
			break
		}
	}
	for i := range w.mark.horizons {
		w.mark.horizons[i] = max(w.mark.horizons[i], newest)
	}
	w.mark.sweeping, w.mark.swept = false, ""
	return nil
}

// last is the last version told of a catalog.
func (w *follower) last(catalog string) (engine.Version, bool) {
	return w.seen.get(catalog, engine.EventCommitted)
}

// saw says that everything of a catalog up to a version was told, or is not owed.
func (w *follower) saw(catalog string, v engine.Version) {
	w.seen.put(catalog, engine.EventCommitted, v)
}

// event tells what an event covers that was not told yet.
func (w *follower) event(ctx context.Context, q queued) error {
	ev := q.ev
	if ev.Kind != engine.EventCommitted {
		if last, known := w.seen.get(ev.Catalog, ev.Kind); known && !last.Less(ev.Version) {
			return nil
		}
		w.seen.put(ev.Catalog, ev.Kind, ev.Version)
		if w.Path != "" {
			return nil
		}
		return w.tell(Item{Event: ev})
	}
	last, known := w.last(ev.Catalog)
	if !known && q.first > 1 {
		// Everything before this message was told, or is not owed.
		before, found, err := lastUpTo(ctx, w.feed.js, w.feed.subjects, ev.Catalog, q.first-1)
		if err != nil {
			w.report(fmt.Errorf("watch: an event of catalog %q may be told twice: %w", ev.Catalog, err))
		}
		if found {
			last, known = before.Version, true
			w.saw(ev.Catalog, last)
		}
	}
	if known && last.Less(ev.Prev) && q.merged == 1 {
		if err := w.fill(ctx, ev.Catalog, ev.Prev); err != nil {
			return err
		}
		last, _ = w.last(ev.Catalog)
	}
	if known && !last.Less(ev.Version) {
		return nil
	}
	whole := true
	if known && last != ev.Prev {
		ev.Prev, whole = last, false
		ev.First = engine.MaxVersion(ev.First, last.Add(1))
	}
	conflated := 0
	if q.merged > 1 {
		conflated, whole = q.merged, false
	}
	if w.SkipAuthor != "" && whole && ev.Count == 1 && ev.Author == w.SkipAuthor {
		w.told(ev.Catalog, ev.Version)
		return nil
	}
	if w.Include != IncludePatch && w.Path == "" && (w.SkipAuthor == "" || ev.Author != w.SkipAuthor) {
		return w.deliver(ctx, Item{Event: ev, Conflated: conflated})
	}
	return w.read(ctx, ev.Catalog, ev.Prev, ev.Version, &ev, conflated)
}

// fill tells the versions of a catalog up to one from its log, one item each.
func (w *follower) fill(ctx context.Context, catalog string, upTo engine.Version) error {
	last, _ := w.last(catalog)
	return w.read(ctx, catalog, last, upTo, nil, 0)
}

// logPage is how many deltas are read of a log at once, and the most that an
// item holds; logPageBytes the same in bytes of their bodies, but for one delta that
// is larger.
const (
	logPage      = 100
	logPageBytes = 4 << 20
)

// read tells the versions (after, upTo] of a catalog from its log: one item a
// page for a range that an event told of, else one item a version.
func (w *follower) read(ctx context.Context, catalog string, after, upTo engine.Version, ev *engine.Event, conflated int) error {
	if w.Kind != "" && w.Kind != engine.EventCommitted {
		return nil // a watch of others: the log has none of them
	}
	for tries := 0; after.Less(upTo); {
		page, err := w.page(ctx, catalog, &after)
		if err != nil {
			return err
		}
		items := page.Items
		for i := range items {
			if upTo.Less(items[i].Version) {
				items = items[:i]
				break
			}
		}
		if len(items) == 0 {
			// The stream tells of what the log has not: the one may be served by a
			// process that lags for a moment, the other may be wrong.
			if tries++; tries > 5 {
				w.report(fmt.Errorf("watch: catalog %q was told to be at version %s, but its log ends at %s", catalog, upTo, after))
				return nil
			}
			sleep(ctx, 100*time.Millisecond<<tries)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			continue
		}
		tries = 0
		if ev != nil {
			item := Item{Event: *ev, Conflated: conflated, Entries: items}
			last := &items[len(items)-1]
			item.Prev, item.First, item.Version, item.Author = after, items[0].Version, last.Version, last.Author
			if item.Count = int64(len(items)); item.Count != ev.Count {
				item.Bytes = sizeOf(items)
			}
			if err := w.deliver(ctx, item); err != nil {
				return err
			}
		} else {
			for i := range items {
				if err := w.deliver(ctx, itemOf(catalog, after, items[i:i+1])); err != nil {
					return err
				}
				after = items[i].Version
			}
		}
		after = items[len(items)-1].Version
	}
	return nil
}

// itemOf is the item of a delta in the log. Its Bytes are those of the body.
func itemOf(catalog string, prev engine.Version, entry []engine.LogEntry) Item {
	e := &entry[0]
	return Item{Entries: entry, Event: engine.Event{
		V: SchemaVersion, Catalog: catalog, Kind: engine.EventCommitted, First: e.Version, Version: e.Version, Prev: prev,
		Count: 1, Bytes: sizeOf(entry), Author: e.Author, Time: e.Time,
	}}
}

func sizeOf(entries []engine.LogEntry) (n int64) {
	for i := range entries {
		n += int64(len(entries[i].Body))
	}
	return n
}

// page reads a page of a log after a version. When that is not kept any more it
// says so to the caller, and moves after to where the log begins.
func (w *follower) page(ctx context.Context, catalog string, after *engine.Version) (page engine.LogPage, err error) {
	from, limit := *after, logPage
	for {
		err = w.ask(ctx, "read the log of "+catalog, func(ctx context.Context) (err error) {
			page, err = w.feed.history.Log(ctx, engine.LogRequest{Catalog: catalog, After: from, Limit: limit, MaxBytes: logPageBytes})
			return err
		})
		switch {
		case errors.Is(err, engine.ErrHistoryGone) && !from.IsZero():
			from = engine.Version{} // what is kept, from its beginning
			continue
		case errors.Is(err, engine.ErrNotFound):
			return engine.LogPage{}, nil // nothing was ever written
		case err != nil || len(page.Items) == 0:
			return page, err
		}
		first := &page.Items[0]
		if !after.Less(first.Prev) {
			return page, nil
		}
		gone := &GoneError{Catalog: catalog, After: *after, Prev: first.Prev, First: first.Version}
		*after = first.Prev
		w.told(catalog, *after)
		if !w.yield(Item{Event: engine.Event{Catalog: catalog}, Cursor: w.cursor()}, gone) {
			w.stopped = true
			return engine.LogPage{}, errStopped
		}
		return page, nil
	}
}

// deliver tells an item if it is wanted: it judges the deltas, and reads the
// document.
func (w *follower) deliver(ctx context.Context, item Item) error {
	wanted, err := w.judge(&item)
	if err != nil {
		return err
	}
	if wanted && w.Include == IncludeDocument {
		wanted, err = w.document(ctx, &item)
		if err != nil {
			return err
		}
	}
	if w.Include != IncludePatch {
		item.Entries = nil
	}
	w.told(item.Catalog, item.Version)
	if !wanted {
		return nil
	}
	return w.tell(item)
}

// judge leaves the deltas that are wanted in an item that has its deltas.
func (w *follower) judge(item *Item) (wanted bool, err error) {
	if item.Entries == nil || w.Path == "" && w.SkipAuthor == "" {
		return true, nil
	}
	var kept []engine.LogEntry
	for _, e := range item.Entries {
		touches := w.Path == ""
		if !touches {
			if touches, err = e.Touches(w.Path); err != nil {
				return false, err
			}
		}
		if touches && (w.SkipAuthor == "" || e.Author != w.SkipAuthor) {
			kept = append(kept, e)
		}
	}
	item.Entries = kept
	return len(kept) > 0, nil
}

// document reads the document at the item's version, or the value at Path. One
// that is the same as before the item is not wanted.
func (w *follower) document(ctx context.Context, item *Item) (wanted bool, err error) {
	item.Document, item.Absent, err = w.value(ctx, item.Catalog, item.Version)
	if errors.Is(err, engine.ErrHistoryGone) {
		item.Gone = true
		return true, nil
	}
	if err != nil || w.Path == "" {
		return true, err
	}
	if item.Prev.IsZero() {
		return !item.Absent, nil
	}
	before, absent, err := w.value(ctx, item.Catalog, item.Prev)
	if errors.Is(err, engine.ErrHistoryGone) {
		return true, nil // it cannot be compared any more
	}
	return absent != item.Absent || string(before) != string(item.Document), err
}

func (w *follower) value(ctx context.Context, catalog string, v engine.Version) (body []byte, absent bool, err error) {
	err = w.ask(ctx, "read "+catalog, func(ctx context.Context) error {
		r, err := w.feed.history.Read(ctx, engine.ReadRequest{Catalog: catalog, Pointer: w.Path, At: engine.AtVersion(v)})
		if absent = errors.Is(err, engine.ErrNotFound) && !errors.Is(err, engine.ErrHistoryGone); absent {
			return nil
		}
		body = r.Body
		return err
	})
	return body, absent, err
}

// told moves on: the cursor of what comes next stands after this.
func (w *follower) told(catalog string, v engine.Version) {
	w.saw(catalog, v)
	if w.mark != nil {
		w.mark.told(catalog, v)
	}
}

func (w *follower) cursor() string {
	if w.mark != nil {
		return w.mark.encode(w.Prefix)
	}
	v, _ := w.last(w.Catalog)
	return v.String()
}

func (w *follower) tell(item Item) error {
	item.Cursor = w.cursor()
	if w.yield(item, nil) {
		return nil
	}
	w.stopped = true
	return errStopped
}

// askTimeout bounds one request to the lake.
const askTimeout = 10 * time.Second

// ask repeats a request to the lake until it is answered. What only time can
// mend is reported and tried again; what the lake refuses is an error.
func (w *follower) ask(ctx context.Context, what string, f func(ctx context.Context) error) error {
	for failures := 0; ; failures++ {
		asking, cancel := context.WithTimeout(ctx, askTimeout)
		err := f(asking)
		cancel()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case w.feed.js.Conn().IsClosed(), !temporary(err):
			return fmt.Errorf("watch: %s: %w", strings.TrimSpace(what), err)
		}
		w.report(fmt.Errorf("watch: %s: %w", what, err))
		sleep(ctx, min(50*time.Millisecond<<min(failures, 10), 5*time.Second))
	}
}

func temporary(err error) bool {
	switch engine.Code(err).HTTP {
	case 429, 503, 504:
		return true
	default:
		return false
	}
}
