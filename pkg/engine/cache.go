package engine

import (
	"context"
	"time"

	"github.com/maypok86/otter/v2"
)

// Cache is a cache shared between processes. What it keeps is immutable under
// its key, so it may forget anything at any time; an error is treated as a
// miss. It need not be trusted with correctness: every frame carries its own
// checksum.
type Cache interface {
	Get(ctx context.Context, key string) (value []byte, found bool, err error)
	Set(ctx context.Context, key string, value []byte, ttl time.Duration) error
}

// document is a merged document at a version. It is immutable: body is never
// written to after it was made, and never handed out.
type document struct {
	version Version
	body    []byte // nil: absent
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
