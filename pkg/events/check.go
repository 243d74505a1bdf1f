package events

import (
	"context"
	"fmt"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// A watch of many catalogs that nothing waits for compares the list of catalogs with
// what it has told. An event that the stream lost is noticed so although nothing
// comes after it. It lists a page at a time, pauses after each, and rests after a round for
// ten times as long as the round took: what it costs does not grow with the lake.
//
// Who is behind the stream in the list may be about to be told, by a relay that is late. So
// what looks lost is looked at again after WatchOptions.idle; only then the log is read.
type checks struct {
	page     time.Time // when the next page is due
	began    time.Time // the round
	after    string    // in the list; "" between rounds
	suspects map[string]suspect
}

type suspect struct {
	version engine.Version // that the list told
	since   time.Time
}

const (
	checkPage    = 1000 // catalogs
	maxSuspects  = 1000 // those beyond are found in a later round
	checkTimeout = 2 * time.Second
)

// due is how long until there is something to check; 0: never.
func (w *follower) due() time.Duration {
	if w.Kind != "" && w.Kind != engine.EventCommitted {
		return 0 // the list tells nothing of others
	}
	c := &w.checks
	if c.page.IsZero() {
		c.page = time.Now().Add(w.idle)
	}
	at := c.page
	for _, s := range c.suspects {
		if second := s.since.Add(w.idle); second.Before(at) {
			at = second
		}
	}
	return max(time.Until(at), time.Millisecond)
}

// look checks what is due.
func (w *follower) look(ctx context.Context) error {
	c := &w.checks
	for catalog, s := range c.suspects {
		if time.Since(s.since) < w.idle {
			continue
		}
		delete(c.suspects, catalog)
		last, known := w.last(catalog)
		if !known {
			last = w.mark.floor(catalog)
			w.saw(catalog, last)
		}
		if !last.Less(s.version) {
			continue
		}
		w.report(fmt.Errorf("watch: the stream has nothing of catalog %q after version %s, which is at %s: read from its log", catalog, last, s.version))
		if err := w.fill(ctx, catalog, s.version); err != nil {
			return err
		}
	}
	if time.Now().Before(c.page) {
		return nil
	}
	if c.after == "" {
		c.began = time.Now()
	}
	asking, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	list, err := w.feed.history.Catalogs(asking, w.Prefix, c.after, checkPage)
	if err != nil {
		// Live events need no list: it is not insisted on.
		w.report(fmt.Errorf("watch: list catalogs: %w", err))
		c.page = time.Now().Add(10 * w.idle)
		return ctx.Err()
	}
	for i := range list {
		w.compare(ctx, list[i].Catalog, list[i].Version)
	}
	if len(list) == checkPage {
		c.after = list[len(list)-1].Catalog
		c.page = time.Now().Add(w.idle / 60)
		return nil
	}
	c.after = ""
	c.page = time.Now().Add(max(w.idle, 10*time.Since(c.began)))
	return ctx.Err()
}

// compare suspects a catalog if neither the watch nor the stream has told of a version.
func (w *follower) compare(ctx context.Context, catalog string, v engine.Version) {
	last, known := w.last(catalog)
	if !known {
		if last = w.mark.floor(catalog); !last.Less(v) {
			return // not owed
		}
		// The watch has told what the stream has, or is not owed it.
		ev, found, err := lastUpTo(ctx, w.feed.js, w.feed.subjects, catalog, w.mark.place.seq)
		if err != nil {
			w.report(fmt.Errorf("watch: %w", err))
			return
		}
		if found {
			last = ev.Version
			w.saw(catalog, last)
		}
	}
	c := &w.checks
	if _, there := c.suspects[catalog]; there || !last.Less(v) || len(c.suspects) >= maxSuspects {
		return
	}
	if c.suspects == nil {
		c.suspects = map[string]suspect{}
	}
	c.suspects[catalog] = suspect{version: v, since: time.Now()}
}
