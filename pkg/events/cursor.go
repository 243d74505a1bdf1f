package events

import (
	"fmt"

	"github.com/jsonlake/lake/pkg/engine"
)

// Cursor turns the events of a stream, which come at least once, into each
// version once, in order: the rules of the package comment. The zero value has
// seen nothing.
//
// It remembers the last version of the catalogs that were heard of lately,
// between 65,536 and 131,072 of them, so that its memory is bounded. The next
// event of a catalog that it has forgotten is taken as if it were the first: a
// double or a gap right there goes unnoticed.
//
// A Cursor is not safe for concurrent use.
type Cursor struct {
	recent, older map[cursorKey]engine.Version
}

type cursorKey struct {
	catalog string
	kind    engine.EventKind
}

const cursorGeneration = 1 << 16

// GapError says that the versions (After, Prev] of a catalog have no event in
// the stream any more. The log has them.
type GapError struct {
	Catalog     string
	After, Prev engine.Version
}

func (e *GapError) Error() string {
	return fmt.Sprintf("events of catalog %q after version %s up to %s are lost: read these versions from its log, then go on", e.Catalog, e.After, e.Prev)
}

// Start tells that everything of the catalog up to v was seen.
func (c *Cursor) Start(catalog string, v engine.Version) {
	c.put(cursorKey{catalog, engine.EventCommitted}, v)
}

// Take judges the next event of the stream: false when it was seen already. A
// committed event that was seen in part comes back with Prev at the last
// version seen and First above it; its Count and Bytes still tell of the whole.
// A *GapError comes with an event to take after the gap was filled.
func (c *Cursor) Take(ev engine.Event) (engine.Event, bool, error) {
	key := cursorKey{ev.Catalog, ev.Kind}
	last, known := c.get(key)
	if known && !last.Less(ev.Version) {
		return ev, false, nil
	}
	c.put(key, ev.Version)
	if !known || ev.Kind != engine.EventCommitted {
		return ev, true, nil
	}
	switch ev.Prev.Compare(last) {
	case -1:
		ev.Prev = last
		ev.First = engine.MaxVersion(ev.First, last.Add(1))
		return ev, true, nil
	case +1:
		return ev, true, &GapError{Catalog: ev.Catalog, After: last, Prev: ev.Prev}
	default:
		return ev, true, nil
	}
}

func (c *Cursor) get(key cursorKey) (engine.Version, bool) {
	if v, ok := c.recent[key]; ok {
		return v, true
	}
	v, ok := c.older[key]
	return v, ok
}

func (c *Cursor) put(key cursorKey, v engine.Version) {
	if c.recent == nil || len(c.recent) >= cursorGeneration {
		c.older, c.recent = c.recent, make(map[cursorKey]engine.Version)
	}
	c.recent[key] = v
}
