package events

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jsonlake/lake/pkg/engine"
)

// Feed is where the watches of a process come together: watches of the same
// filter share one reader of the stream, and when there are many filters one
// reader of everything serves the rest. So a thousand watches cost the server a
// few consumers, and none of them waits for another.
//
// A Feed is safe for concurrent use. It has no goroutines but while somebody
// watches.
type Feed struct {
	js       jetstream.JetStream
	history  History
	subjects Subjects

	mu      sync.Mutex
	readers map[string]*reader // by filter
}

// maxReaders is how many filters have a reader of their own. Each costs the
// server a consumer.
const maxReaders = 32

// NewFeed makes a feed of a lake's events, with the lake's history.
func NewFeed(js jetstream.JetStream, history History, subjects Subjects) *Feed {
	return &Feed{js: js, history: history, subjects: subjects, readers: make(map[string]*reader)}
}

// reader is one tail of the stream with the queues of those who watch it.
type reader struct {
	filter string
	users  int // guarded by the feed's mu
	stop   context.CancelFunc
	done   chan struct{} // closed when the tail has ended

	mu      sync.Mutex
	at      place
	placed  bool
	err     error // why it ended
	queues  map[*backlog]func(error)
	waiting []chan struct{}             // to be closed when it is placed or has ended
	byName  map[string]map[*backlog]any // queues of one catalog
	rest    map[*backlog]any            // those of many
}

// subscribe makes a queue that gets what comes after the place that it gives.
// Call leave in the end.
func (f *Feed) subscribe(ctx context.Context, o *WatchOptions) (q *backlog, at place, leave func(), err error) {
	q = newBacklog(o)
	filter := f.subjects.EveryEvent("")
	if o.Catalog != "" {
		filter = f.subjects.Event(o.Catalog, "")
	}
	r := f.join(filter, o)
	leave = func() {
		r.remove(q)
		f.leave(r)
	}
	if at, err = r.add(ctx, q, o.OnError); err != nil {
		leave()
		return nil, place{}, nil, err
	}
	return q, at, leave, nil
}

// join finds or makes the reader for a filter.
func (f *Feed) join(filter string, o *WatchOptions) *reader {
	f.mu.Lock()
	defer f.mu.Unlock()
	every := f.subjects.EveryEvent("")
	for _, filter := range []string{filter, every} {
		if r := f.readers[filter]; r != nil && !r.ended() {
			r.users++
			return r
		}
	}
	if len(f.readers) >= maxReaders {
		filter = every
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &reader{filter: filter, users: 1, stop: cancel, done: make(chan struct{}),
		queues: make(map[*backlog]func(error)), byName: make(map[string]map[*backlog]any), rest: make(map[*backlog]any)}
	t := &tail{js: f.js, subjects: f.subjects, filter: filter, heartbeat: o.heartbeat, check: o.check,
		attached: r.attached, take: r.take, lost: r.lost, report: r.report}
	f.readers[filter] = r
	go func() {
		defer close(r.done)
		r.end(t.run(ctx))
	}()
	return r
}

// leave ends a reader that nobody uses any more, and waits for it.
func (f *Feed) leave(r *reader) {
	f.mu.Lock()
	r.users--
	last := r.users == 0
	if last && f.readers[r.filter] == r {
		delete(f.readers, r.filter)
	}
	f.mu.Unlock()
	if last {
		r.stop()
		<-r.done
	}
}

// add enters a queue, as soon as the tail has its place.
func (r *reader) add(ctx context.Context, q *backlog, onError func(error)) (place, error) {
	r.mu.Lock()
	r.queues[q] = onError // what goes wrong at the beginning is told, too
	if !r.placed && r.err == nil {
		ready := make(chan struct{})
		r.waiting = append(r.waiting, ready)
		r.mu.Unlock()
		select {
		case <-ready:
		case <-ctx.Done():
			return place{}, ctx.Err()
		}
		r.mu.Lock()
	}
	defer r.mu.Unlock()
	if r.err != nil {
		return place{}, r.err
	}
	if q.catalog == "" {
		r.rest[q] = nil
	} else {
		if r.byName[q.catalog] == nil {
			r.byName[q.catalog] = make(map[*backlog]any)
		}
		r.byName[q.catalog][q] = nil
	}
	q.end = r.at
	return r.at, nil
}

func (r *reader) remove(q *backlog) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.queues, q)
	delete(r.rest, q)
	if of := r.byName[q.catalog]; of != nil {
		if delete(of, q); len(of) == 0 {
			delete(r.byName, q.catalog)
		}
	}
}

// ready lets those go on who wait for the place. The caller holds mu.
func (r *reader) ready() {
	for _, c := range r.waiting {
		close(c)
	}
	r.waiting = nil
}

func (r *reader) attached(at place) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at, r.placed = at, true
	r.ready()
}

func (r *reader) take(seq uint64, ev engine.Event) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at.seq = seq
	for q := range r.byName[ev.Catalog] {
		q.push(seq, ev)
	}
	for q := range r.rest {
		q.push(seq, ev)
	}
	return true
}

func (r *reader) lost(at place) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = at
	for q := range r.queues {
		q.reset(at)
	}
	return true
}

func (r *reader) report(err error) {
	r.mu.Lock()
	told := make([]func(error), 0, len(r.queues))
	for _, f := range r.queues {
		told = append(told, f)
	}
	r.mu.Unlock()
	for _, f := range told { // without the lock: a hook may be slow
		if f != nil {
			f(err)
		}
	}
}

func (r *reader) ended() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err != nil
}

// end tells everybody that the tail has ended, and why.
func (r *reader) end(err error) {
	if err == nil {
		err = context.Canceled // nobody is left to hear it
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	r.ready()
	for q := range r.queues {
		q.close(err)
	}
}

// replay gives the messages after a place up to another, which the stream may
// still hold; false when it does not.
func (f *Feed) replay(ctx context.Context, o *WatchOptions, from place, upTo place, take func(seq uint64, ev engine.Event) bool) (complete bool, err error) {
	if !from.created.Equal(upTo.created) || from.seq > upTo.seq {
		return false, nil
	}
	if from.seq == upTo.seq {
		return true, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	complete = true
	t := &tail{js: f.js, subjects: f.subjects, filter: f.subjects.EveryEvent(""), from: from.seq + 1, heartbeat: o.heartbeat, check: o.check,
		attached: func(at place) {
			if !at.created.Equal(from.created) || at.seq >= upTo.seq {
				complete = false
				cancel()
			}
		},
		take: func(seq uint64, ev engine.Event) bool { return take(seq, ev) && seq < upTo.seq },
		lost: func(place) bool {
			complete = false
			return false
		},
		report: o.report,
	}
	if err := t.run(ctx); err != nil {
		return false, fmt.Errorf("read the stream again after message %d: %w", from.seq, err)
	}
	return complete, nil
}

// idle is how long a watch hears nothing before it asks whether there was something
// to hear.
const idle = time.Minute
