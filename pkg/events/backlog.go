package events

import (
	"context"
	"sync"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// backlog stands between the tail of the stream, which never waits, and a watch
// whose caller may be slow. It is bounded: when it is full the events of each
// catalog that wait in it become one, which covers them all; when even that
// does not help, because too many catalogs wait, it gives up what it has, and
// the watch reads the stream from its own place again.
type backlog struct {
	catalog string // the only one that is wanted; "" for all
	prefix  string
	kind    engine.EventKind
	limit   int // events

	mu     sync.Mutex
	wait   []queued
	bytes  int
	end    place // of what was pushed or passed over
	lost   bool  // messages before end never came
	over   bool  // it was too full: nothing is kept until it is reopened
	closed error // why the tail ended
	wake   chan struct{}
}

// queued is an event that waits.
type queued struct {
	ev     engine.Event
	first  uint64 // stream sequence of the first event in it
	merged int    // events in it; more than 1: conflated
}

// maxQueueBytes bounds what waits, together with the number of events: an
// author may be long.
const maxQueueBytes = 1 << 20

func (q *queued) size() int { return 256 + len(q.ev.Catalog) + len(q.ev.Author) + len(q.ev.Writer) }

func newBacklog(o *WatchOptions) *backlog {
	return &backlog{catalog: o.Catalog, prefix: o.Prefix, kind: o.Kind, limit: o.Buffer, wake: make(chan struct{}, 1)}
}

func (q *backlog) wants(ev *engine.Event) bool {
	switch {
	case ev.Kind == "", q.kind != "" && ev.Kind != q.kind:
		return false
	case q.catalog != "":
		return ev.Catalog == q.catalog
	default:
		return len(ev.Catalog) >= len(q.prefix) && ev.Catalog[:len(q.prefix)] == q.prefix
	}
}

func (q *backlog) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// push never blocks.
func (q *backlog) push(seq uint64, ev engine.Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.end.seq = seq
	if q.over || !q.wants(&ev) {
		return
	}
	e := queued{ev: ev, first: seq, merged: 1}
	q.wait = append(q.wait, e)
	q.bytes += e.size()
	if q.full() {
		q.conflate()
		// Half of it has to be free again, or each push would conflate.
		if len(q.wait) > q.limit/2 || q.bytes > maxQueueBytes/2 {
			q.over, q.wait, q.bytes = true, nil, 0
		}
	}
	q.poke()
}

func (q *backlog) full() bool { return len(q.wait) > q.limit || q.bytes > maxQueueBytes }

// conflate makes one event of all that wait of a catalog and kind, in the place
// of the first. Where a range is missing between two, the one covers it too:
// whoever wants more than the range reads the log in any case.
func (q *backlog) conflate() {
	at := make(map[seenKey]int, len(q.wait))
	kept := q.wait[:0]
	q.bytes = 0
	for _, e := range q.wait {
		key := seenKey{e.ev.Catalog, e.ev.Kind}
		i, found := at[key]
		if !found {
			at[key] = len(kept)
			kept = append(kept, e)
			continue
		}
		k := &kept[i]
		k.merged += e.merged
		if !k.ev.Version.Less(e.ev.Version) {
			continue // a double
		}
		first, prev, count, bytes := k.ev.First, k.ev.Prev, k.ev.Count, k.ev.Bytes
		k.ev = e.ev
		if e.ev.Kind == engine.EventCommitted {
			k.ev.First, k.ev.Prev = first, prev
			k.ev.Count += count
			k.ev.Bytes += bytes
		}
	}
	clear(q.wait[len(kept):])
	q.wait = kept
	for i := range q.wait {
		q.bytes += q.wait[i].size()
	}
}

// reset is told of messages that never came. What waits is older, and who reads
// the log now reads it there.
func (q *backlog) reset(at place) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.end, q.lost, q.wait, q.bytes = at, true, nil, 0
	q.poke()
}

// close tells that the tail has ended, and why.
func (q *backlog) close(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = err
	q.poke()
}

// news is what take found.
type news struct {
	queued
	some bool // there was an event
	// told is the last message of the stream up to which everything is told when
	// the event is.
	told uint64
	lost bool  // messages before at never came
	over bool  // events were given up, those up to at
	at   place // from here on nothing is missing
}

// take waits for an event, at most for d (0: for ever). It gives none when the
// time is over.
func (q *backlog) take(ctx context.Context, d time.Duration) (news, error) {
	var out <-chan time.Time
	for {
		n, found, err := q.next()
		if found || err != nil {
			return n, err
		}
		if d > 0 && out == nil {
			t := time.NewTimer(d)
			defer t.Stop()
			out = t.C
		}
		select {
		case <-q.wake:
		case <-out:
			return news{}, nil
		case <-ctx.Done():
			return news{}, ctx.Err()
		}
	}
}

func (q *backlog) next() (n news, found bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.lost, q.over:
		n = news{lost: q.lost, over: q.over, at: q.end}
		if len(q.wait) > 0 {
			n.at.seq = q.wait[0].first - 1 // what came after the loss
		}
		q.lost, q.over = false, false
		return n, true, nil
	case len(q.wait) > 0:
		n = news{queued: q.wait[0], some: true, told: q.end.seq}
		q.bytes -= q.wait[0].size()
		q.wait = q.wait[1:]
		if len(q.wait) > 0 {
			// What waits is in order of its first messages.
			n.told = q.wait[0].first - 1
		}
		return n, true, nil
	case q.closed != nil:
		return news{}, false, q.closed
	}
	return news{}, false, nil
}
