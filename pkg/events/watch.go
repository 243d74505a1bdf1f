package events

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jsonlake/lake/pkg/engine"
)

// History is what a watch reads of a lake: what the stream of events does not
// have, or not any more. *engine.Engine and *client.Client satisfy it.
type History interface {
	Log(ctx context.Context, req engine.LogRequest) (engine.LogPage, error)
	Read(ctx context.Context, req engine.ReadRequest) (engine.ReadResult, error)
	Catalogs(ctx context.Context, prefix, after string, limit int) ([]engine.CatalogInfo, error)
}

// Include says what an item holds besides the event.
type Include string

// The includes.
const (
	IncludeNothing  Include = ""         // metadata only
	IncludePatch    Include = "patch"    // the deltas, as the log tells them
	IncludeDocument Include = "document" // the document at the item's version, or the value at Path
)

// WatchOptions say what to watch, and from where. Without Since, Cursor and
// FromStart a watch tells what is committed from now on.
type WatchOptions struct {
	Catalog string // one catalog; "" for all
	Prefix  string // of all, only those whose names begin so
	// Path is a JSON Pointer (RFC 6901): only changes that can touch the value
	// there. A no-op never does. Without IncludeDocument a delta that wrote what
	// was there already is told, too; with it the values before and after the item
	// are compared, and equal ones are not told.
	Path string
	// SkipAuthor passes over deltas of this author: events that hold no others are
	// not told, and of the rest only the others are in Entries.
	SkipAuthor string
	Kind       engine.EventKind // events of one kind; "" for every kind

	// Since is the last version seen of Catalog: the watch begins after it.
	Since engine.Version
	// Cursor goes on after the item that had it: with the same Catalog or Prefix.
	Cursor string
	// FromStart begins with the first version that is kept.
	FromStart bool

	Include Include
	// Buffer is how many events may wait for a slow caller before those of a
	// catalog become one; default 1,024.
	Buffer int

	// OnError is told of what the watch has mended or passed over by itself: a
	// lost connection, a service that does not answer, a message that is not an
	// event. It may be called from another goroutine. nil: nobody is told.
	OnError func(error)

	heartbeat time.Duration // of the consumer; default pullHeartbeat
	check     time.Duration // default checkEvery
	idle      time.Duration // default idle
}

// Item is what a watch tells: a committed event, which covers the versions
// (Prev, Version] of its catalog, or an event of another kind.
//
// Its JSON is the event's, with "entries", "document", "absent", "gone", "conflated" and
// "cursor" beside.
type Item struct {
	engine.Event
	// Entries are the deltas in the range, in order, with IncludePatch: all of
	// them, or those that Path and SkipAuthor let through.
	Entries []engine.LogEntry `json:"entries,omitempty"`
	// Document is the document at Version, or the value at Path in it, with
	// IncludeDocument; none when it is Absent or Gone.
	Document json.RawMessage `json:"document,omitempty"`
	Absent   bool            `json:"absent,omitempty"` // there was nothing at Version
	Gone     bool            `json:"gone,omitempty"`   // what was at Version is not kept any more
	// Conflated is how many events are in this one because the caller was slow:
	// Document and the metadata are those of the last, Entries leaves nothing out.
	Conflated int `json:"conflated,omitempty"`
	// Cursor goes on after this item: a version when one catalog is watched, else
	// an opaque token, at most MaxCursorBytes of it, which fits into a URL.
	Cursor string `json:"cursor"`
}

// GoneError says that the versions (After, Prev] of a catalog are told by nobody
// any more: retention gave them up. The watch goes on with First, the oldest
// version that is still in the log.
type GoneError struct {
	Catalog            string
	After, Prev, First engine.Version
}

func (e *GoneError) Error() string {
	return fmt.Sprintf("the history of catalog %q after version %s up to %s is not kept any more: the watch goes on with version %s; read the document to have what was before",
		e.Catalog, e.After, e.Prev, e.First)
}

// Is makes errors.Is(err, engine.ErrHistoryGone) hold.
func (e *GoneError) Is(target error) bool {
	return target == engine.ErrHistoryGone || target == engine.ErrNotFound
}

// Watch yields what happens to catalogs, until ctx ends or the caller stops. Of
// one catalog every version is in exactly one item, and items come in order, also
// over a resumption by Cursor; docs/watch.md has the promises in full. What is
// older than the watch, or missing in the stream, comes from the log, one item
// a version; what is live comes as it was published, several versions in one
// item when they were written together.
//
// While NATS or the lake is away the watch waits; it goes on by itself, also when
// the stream was purged, or deleted and made again.
//
// With an item that has only a Catalog and a Cursor may come a *GoneError: history
// that is not kept any more; the watch goes on. Any other error comes without an
// item and is the last: the options are wrong, the connection is closed, the
// lake refuses (a document over the limit of a message, say), or at the
// beginning the stream did not exist (ErrNotApplied) or did not answer, as it
// does to a user who may not read it.
//
// A process with several watches makes one Feed of them.
func Watch(ctx context.Context, js jetstream.JetStream, history History, s Subjects, o WatchOptions) iter.Seq2[Item, error] {
	return NewFeed(js, history, s).Watch(ctx, o)
}

// Watch is the function Watch, with the feed's readers.
func (f *Feed) Watch(ctx context.Context, o WatchOptions) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		w := &follower{WatchOptions: o, feed: f, yield: yield}
		if err := w.prepare(); err != nil {
			yield(Item{}, err)
			return
		}
		if err := w.run(ctx); err != nil && ctx.Err() == nil && !w.stopped {
			yield(Item{}, err)
		}
	}
}

// prepare checks the options and sets defaults.
func (w *follower) prepare() error {
	o := &w.WatchOptions
	if err := w.feed.subjects.Validate(); err != nil {
		return err
	}
	if err := engine.ValidatePointer(o.Path); err != nil {
		return err
	}
	begins := 0
	for _, b := range []bool{!o.Since.IsZero(), o.Cursor != "", o.FromStart} {
		if b {
			begins++
		}
	}
	refuse := func(field, format string, args ...any) error {
		return engine.Invalid("invalid_watch", field, format, args...)
	}
	switch {
	case o.Catalog != "" && o.Prefix != "":
		return refuse("prefix", "a watch is of one catalog or of a prefix, not of both")
	case begins > 1:
		return refuse("since", "a watch begins since a version, from a cursor or from the start: name one of them")
	case !o.Since.IsZero() && o.Catalog == "":
		return refuse("since", "a watch since a version needs a catalog: versions of different catalogs cannot be compared")
	case !o.Since.Valid():
		return refuse("since", "%s is not a version", o.Since)
	case strings.ContainsAny(string(o.Kind), ".*> \t\r\n"):
		return refuse("kind", "%q is not a kind of event", o.Kind)
	case o.Include != IncludeNothing && o.Include != IncludePatch && o.Include != IncludeDocument:
		return refuse("include", "include is %q or %q, not %.50q", IncludePatch, IncludeDocument, o.Include)
	case o.Buffer < 0:
		return refuse("buffer", "a buffer of %d events cannot be", o.Buffer)
	}
	if o.Catalog != "" {
		if err := engine.ValidateCatalog(o.Catalog); err != nil {
			return err
		}
	}
	if o.Path == "/" {
		o.Path = ""
	}
	for _, d := range []struct {
		to  *time.Duration
		def time.Duration
	}{{&o.heartbeat, pullHeartbeat}, {&o.check, checkEvery}, {&o.idle, idle}} {
		if *d.to == 0 {
			*d.to = d.def
		}
	}
	if o.Buffer == 0 {
		o.Buffer = 1024
	}
	if o.Cursor == "" {
		return nil
	}
	if o.Catalog != "" {
		v, err := engine.ParseVersion(o.Cursor)
		if err != nil {
			return invalidCursor("the cursor of one catalog is a version such as \"1700000000_1\", not %.50q", o.Cursor)
		}
		o.Since = v
		return nil
	}
	b, err := parseBookmark(o.Cursor, o.Prefix)
	w.mark = b
	return err
}

func (o *WatchOptions) report(err error) {
	if o.OnError != nil && err != nil {
		o.OnError(err)
	}
}
