package engine

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
)

// Cache is a cache shared between processes. What it keeps is immutable under
// its key, so it may forget anything at any time; an error is treated as a
// miss. It need not be trusted with correctness: every frame carries its own
// checksum.
type Cache interface {
	// Get gives the value of each key, nil where there is none.
	Get(ctx context.Context, keys []string) ([][]byte, error)
	// Set keeps values for ttl.
	Set(ctx context.Context, entries []CacheEntry, ttl time.Duration) error
	// Erase removes what is kept of objects: the entries whose key is one of the
	// object keys, or begins with one and a colon. It tells how many there were. It
	// may look at every entry: only a purge asks for it.
	Erase(ctx context.Context, objects []string) (int, error)
}

// CacheEntry is a value to be kept under a key. Nobody changes the value any
// more.
type CacheEntry struct {
	Key   string
	Value []byte
}

// document is a merged document at a version. It is immutable, but for latest:
// body is never written to after it was made, and never handed out.
type document struct {
	version Version
	body    []byte // nil: absent

	latest atomic.Pointer[moment] // when it was last known to be the newest
}

// moment is what a look at the index told of a document that was the newest.
type moment struct {
	at      time.Time // before the look
	pending bool
}

// RelaxedAge is how long a relaxed read may be answered with a document after the
// index was asked whether it is the newest.
const RelaxedAge = 100 * time.Millisecond

// confirm says that a look at the index which began at a time found the document
// to be the newest. Looks that follow each other closely need not all be told.
func (d *document) confirm(at time.Time, pending bool) {
	if m := d.latest.Load(); m == nil || m.pending != pending || at.Sub(m.at) > RelaxedAge/10 {
		d.latest.Store(&moment{at, pending})
	}
}

// recent is the last such look, nil when it is too old for a relaxed read.
func (d *document) recent() *moment {
	if m := d.latest.Load(); m != nil && within(m.at, RelaxedAge) {
		return m
	}
	return nil
}

// documents is the in-process cache of merged documents, bounded in bytes and
// keyed by catalog. It only ever moves a catalog forward.
type documents struct {
	c *otter.Cache[string, *document]
}

func newDocuments(maxBytes int64) *documents {
	if maxBytes < 0 {
		return &documents{}
	}
	const overhead = 128 // of an entry, bytes, roughly
	return &documents{c: otter.Must(&otter.Options[string, *document]{
		MaximumWeight: uint64(maxBytes),
		Weigher: func(catalog string, d *document) uint32 {
			return uint32(min(int64(len(catalog)+len(d.body)+overhead), 1<<32-1))
		},
	})}
}

func (d *documents) get(catalog string) *document {
	if d.c == nil {
		return nil
	}
	doc, _ := d.c.GetIfPresent(catalog)
	return doc
}

// put keeps doc unless a newer one is there.
func (d *documents) put(catalog string, doc *document) {
	if d.c == nil {
		return
	}
	d.c.Compute(catalog, func(old *document, found bool) (*document, otter.ComputeOp) {
		if found && doc.version.Less(old.version) {
			return old, otter.CancelOp
		}
		return doc, otter.WriteOp
	})
}

// drop forgets a catalog.
func (d *documents) drop(catalog string) {
	if d.c != nil {
		d.c.Invalidate(catalog)
	}
}
