package sim

import (
	"context"
	"slices"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// retained is how old history must be before retention gives it up. It is in
// index time: histories that have a retention have a clock that jumps by more.
const retained = engine.IDTTL

// jumps is how often the clock jumps by more than the retention's age.
func (m *mix) jumps() int {
	if m.Retain {
		return 2
	}
	return 0
}

// registered lists the snapshots that an index knows of a catalog.
func registered(s *server, epoch uint64, catalog string) []engine.Snapshot {
	list, _ := s.Snapshots(context.Background(), epoch, catalog, engine.Version{}, 1000)
	return list
}

// dropped notes what a Drop that landed gave up, and holds it against the rule:
// each is older than the retention, the newest that is so old stays. A purge that
// is registered gives up all that is before it.
func (w *world) dropped(d engine.Drop, before, after []engine.Snapshot) {
	catalog := d.Catalog
	if slices.ContainsFunc(before, func(s engine.Snapshot) bool { return s.Purged() && s.Stop == d.Before }) {
		for _, s := range before {
			if !slices.Contains(after, s) && !s.Stop.Less(d.Before) {
				w.violate("purge", "%s: the snapshot at %s was given up for the purge at %s", catalog, s.Stop, d.Before)
			}
		}
		return
	}
	cutoff := time.Now().Add(w.furthest - retained).Unix()
	for _, s := range before {
		if slices.Contains(after, s) {
			continue
		}
		w.counters.add("snapshots given up by retention")
		stays := slices.ContainsFunc(after, func(o engine.Snapshot) bool { return s.Stop.Less(o.Stop) && o.Stop.Sec < cutoff })
		if s.Stop.Sec >= cutoff || !stays {
			w.violate("retention", "%s: the snapshot at %s was given up, the cutoff is %d, what stays is %v", catalog, s.Stop, cutoff, after)
		}
		w.gaveUp[catalog] = append(w.gaveUp[catalog], loss{w.step, s.Stop, d.Before})
	}
}

// loss is history up to stop that may be missing from a step on: no document
// before base can be told any more.
type loss struct {
	step       int
	stop, base engine.Version
}

// gone tells up to where the history of a catalog may be missing by a step.
func (w *world) gone(catalog string, by int) (stop engine.Version) {
	for _, l := range w.gaveUp[catalog] {
		if l.step <= by {
			stop = engine.MaxVersion(stop, l.stop)
		}
	}
	return stop
}

// goneBefore tells before which version no document may be left by a step.
func (w *world) goneBefore(catalog string, by int) (base engine.Version) {
	for _, l := range w.gaveUp[catalog] {
		if l.step <= by {
			base = engine.MaxVersion(base, l.base)
		}
	}
	return base
}
