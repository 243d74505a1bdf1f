package engine

import "time"

// Policy tells when a snapshot of a catalog is due. Reading costs a merge of
// everything since the latest snapshot, folding costs a snapshot as large as
// the document: so the threshold grows with the document.
type Policy struct {
	MinDeltas int64         // due at max(MinDeltas, document bytes / 256) deltas; default 256
	MinBytes  int64         // due at max(MinBytes, document bytes / 4) frame bytes; default 64 KiB
	MaxAge    time.Duration // due when the oldest run is older; default 24 h
}

func (p Policy) withDefaults() Policy {
	if p.MinDeltas <= 0 {
		p.MinDeltas = 256
	}
	if p.MinBytes <= 0 {
		p.MinBytes = 64 << 10
	}
	if p.MaxAge <= 0 {
		p.MaxAge = 24 * time.Hour
	}
	return p
}

// Due tells whether a catalog with so many live deltas, of so many frame
// bytes, over a document of docBytes at its latest snapshot, whose oldest live
// run is age old (0: not known), should be folded.
func (p Policy) Due(deltas, bytes, docBytes int64, age time.Duration) bool {
	p = p.withDefaults()
	return deltas > 0 &&
		(deltas >= max(p.MinDeltas, docBytes/256) || bytes >= max(p.MinBytes, docBytes/4) || age > p.MaxAge)
}

// DueEvent is Due as an event of the outbox tells it.
func (p Policy) DueEvent(ev Event) bool {
	return ev.Kind == EventCommitted && p.Due(ev.LiveDeltas, ev.LiveBytes, ev.DocBytes, 0)
}
