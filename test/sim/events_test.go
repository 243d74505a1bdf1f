package sim

import (
	"context"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// stream is what a consumer has heard of a catalog: a relay that looks at the
// outbox from one process or another, trims it or forgets to, and a consumer
// that drops what it knows.
type stream struct {
	head engine.Version
	gaps []gap
}

// gap is an event that did not begin where the one before ended.
type gap struct {
	engine.Event
	heard engine.Version
}

var allShards = func() (s []int) {
	for i := range engine.Shards {
		s = append(s, i)
	}
	return s
}()

func (w *world) relay() {
	w.at(w.between(100*time.Millisecond, 900*time.Millisecond), "relay", func() {
		if p := w.procs[w.rnd.IntN(len(w.procs))]; p != nil && !p.dead.Load() && p.engine != nil && !p.isPaused() && p.server.alive {
			w.relayOnce(p, 5, w.chance(0.7))
		}
		if w.rebuilt == nil && w.respawn {
			w.relay()
		}
	})
}

func (w *world) relayOnce(p *process, limit int, trim bool) (more bool) {
	ctx, epoch := context.Background(), p.engine.Epoch()
	batches, err := p.server.Next(ctx, epoch, allShards, limit)
	if err != nil {
		return false
	}
	for _, b := range batches {
		for _, ev := range b.Events {
			if ev.Kind == engine.EventCommitted {
				w.hear(ev)
			}
		}
		if trim && b.UpTo != "" {
			more = true
			_ = p.server.Trim(ctx, epoch, b.Shard, b.UpTo)
		}
	}
	return more
}

func (w *world) hear(ev engine.Event) {
	s := w.published[ev.Catalog]
	if s == nil {
		s = &stream{}
		w.published[ev.Catalog] = s
	}
	if !s.head.Less(ev.Version) {
		w.counters.add("event heard again")
		return
	}
	if s.head.Less(ev.Prev) {
		s.gaps = append(s.gaps, gap{ev, s.head})
	}
	s.head = ev.Version
}

func (w *world) drainEvents(p *process) {
	for w.relayOnce(p, 100, true) {
	}
}

// before is the version before the run that begins at first.
func (t *truth) before(first engine.Version) (prev engine.Version) {
	for _, r := range t.runs {
		if !r.first.Less(first) {
			break
		}
		prev = r.last
	}
	return prev
}

// checkEvents: I9. Every version's event came, each beginning where the one before ended.
func (w *world) checkEvents(name string, t *truth) {
	s := w.published[name]
	if s == nil {
		s = &stream{}
	}
	for _, ev := range s.gaps {
		if ev.Prev == ev.First.Add(-1) && w.mix.Retain && t.before(ev.First) == ev.heard {
			// Published again after a lost index, and the pack that tells what came before is
			// given up, or too old to be read: a listener looks in the log, and misses nothing.
			w.counters.add("events that do not know the one before")
			continue
		}
		w.violate("I9", "gap in the events of %s: (%s, %s] came when %s was heard last", name, ev.Prev, ev.Version, ev.heard)
		if !t.heads[ev.Prev] || !t.heads[ev.Version] {
			w.violate("I9", "an event of %s tells of (%s, %s], which is not in the history", name, ev.Prev, ev.Version)
		}
	}
	if len(t.runs) > 0 && s.head.Less(t.runs[len(t.runs)-1].last) {
		w.violate("I9", "the events of %s end at %s, its history at %s", name, s.head, t.runs[len(t.runs)-1].last)
	}
}
