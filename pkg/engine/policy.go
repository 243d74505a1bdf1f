package engine

import (
	"hash/fnv"
	"time"
)

// Policy tells when a snapshot of a catalog is due. Reading costs a merge of
// everything since the latest snapshot, folding costs two objects and a snapshot as
// large as the document: so the threshold grows with the document, and is not too
// small where the document is.
//
// Each catalog has a threshold of its own, up to a quarter below what is said here:
// catalogs that are written in turn, a fleet's devices, would else all be due in the
// same second.
type Policy struct {
	MinDeltas int64         // due at max(MinDeltas, document bytes / 256) deltas; default 512
	MinBytes  int64         // due at max(MinBytes, document bytes / 4) frame bytes; default 128 KiB
	MaxAge    time.Duration // due when the oldest run is older; default 24 h
}

func (p Policy) withDefaults() Policy {
	if p.MinDeltas <= 0 {
		p.MinDeltas = 512
	}
	if p.MinBytes <= 0 {
		p.MinBytes = 128 << 10
	}
	if p.MaxAge <= 0 {
		p.MaxAge = 24 * time.Hour
	}
	return p
}

// ofItsOwn is a threshold as it is for one catalog.
func ofItsOwn(catalog string, threshold int64) int64 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(catalog)) // never an error
	return threshold - int64(float64(threshold)/4*float64(h.Sum32())/(1<<32))
}

// Due tells whether a catalog with so many live deltas, of so many frame
// bytes, over a document of docBytes at its latest snapshot, whose oldest live
// run is age old (0: not known), should be folded.
func (p Policy) Due(catalog string, deltas, bytes, docBytes int64, age time.Duration) bool {
	p = p.withDefaults()
	return deltas > 0 &&
		(deltas >= ofItsOwn(catalog, max(p.MinDeltas, docBytes/256)) || bytes >= ofItsOwn(catalog, max(p.MinBytes, docBytes/4)) || age > p.MaxAge)
}

// DueEvent is Due as an event of the outbox tells it.
func (p Policy) DueEvent(ev Event) bool {
	return ev.Kind == EventCommitted && p.Due(ev.Catalog, ev.LiveDeltas, ev.LiveBytes, ev.DocBytes, 0)
}
