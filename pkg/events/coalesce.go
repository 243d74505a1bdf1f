package events

import "github.com/jsonlake/lake/pkg/engine"

// history is what one round of the relay tells of a catalog, in order.
type history struct {
	events    []engine.Event
	committed int // index of the last committed event after the last purge, -1 when there is none
}

// coalesce merges the committed events of each catalog that follow one another
// into one that covers them all, and keeps everything else. Catalogs come in the
// order in which they are first heard of, events of a catalog in order, except
// that a fold between two merged commits now comes after both: who hears of a
// snapshot has heard of the versions in it. A purge stays where it is: what is
// committed after it is told after it.
//
// Entries of an outbox may overlap after an epoch was restored. An event whose
// range lies in the one before is dropped; one that overlaps it only in part, or
// leaves a gap, stays on its own: a range is never claimed that no entry covers,
// and none is lost.
func coalesce(batches []engine.OutboxBatch) []*history {
	var order []*history
	by := make(map[string]*history)
	for _, b := range batches {
		for _, ev := range b.Events {
			h := by[ev.Catalog]
			if h == nil {
				h = &history{committed: -1}
				by[ev.Catalog] = h
				order = append(order, h)
			}
			h.add(ev)
		}
	}
	return order
}

func (h *history) add(ev engine.Event) {
	if ev.Kind != engine.EventCommitted {
		h.events = append(h.events, ev)
		if ev.Kind == engine.EventPurged {
			h.committed = -1
		}
		return
	}
	if h.committed >= 0 {
		last := &h.events[h.committed]
		switch {
		case ev.Prev == last.Version:
			ev.First, ev.Prev = last.First, last.Prev
			ev.Count += last.Count
			ev.Bytes += last.Bytes
			*last = ev
			return
		case !ev.Prev.Less(last.Prev) && !last.Version.Less(ev.Version):
			return
		}
	}
	h.committed = len(h.events)
	h.events = append(h.events, ev)
}
