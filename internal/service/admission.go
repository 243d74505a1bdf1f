package service

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alitto/pond/v2"

	"github.com/jsonlake/lake/pkg/engine"
)

// Admission under more load than can be worked on. What waits is bounded three
// ways: by bytes (MaxPendingBytes), by number (Queue), and by time: while the request at
// the head of the line has waited for longer than MaxWait and the line is as long as
// there are workers, whoever comes is refused. So a burst may fill the queue, but a line
// that does not get shorter is worked off in the time of two rounds of the workers,
// however slow these are at the moment. Less would leave workers without work: a group
// commit sets many of them free at once.
//
// Small writes need no worker: as many as there would be workers are in the group commit
// at once, and the others wait in a line of their own (turns) under the same rules. So a
// write that had to wait is as cheap as one that had not.
//
// Refusing happens before anything is looked at but the message's size, and its
// answer is made once for many: it has to be far cheaper than a write, or the refused
// would take the time of the admitted.

// line is when each request came that is admitted and waits for a worker, in the
// order of the pool's queue.
type line struct {
	mu   sync.Mutex
	came []time.Time // a ring
	head int
	n    int
}

func newLine(most int) *line { return &line{came: make([]time.Time, most)} }

// join adds a request. It is false when the line is as long as it may be.
func (l *line) join(came time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n == len(l.came) {
		return false
	}
	l.came[(l.head+l.n)%len(l.came)] = came
	l.n++
	return true
}

// leave takes the head off: a worker has it.
func (l *line) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.head = (l.head + 1) % len(l.came)
	l.n--
}

// giveUp takes the last off again, which joined and was not let in.
func (l *line) giveUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n--
}

// waiting is how many wait, and how long the first of them has at a moment.
func (l *line) waiting(now time.Time) (n int, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n == 0 {
		return 0, 0
	}
	return l.n, now.Sub(l.came[l.head])
}

// turns are the requests that are answered without a worker: how many are under way,
// and those that wait for one of them to end, in order.
type turns struct {
	mu       sync.Mutex
	most     int // under way at once
	underWay int
	closed   bool
	waits    []*request // a ring
	head     int
	n        int
	open     sync.WaitGroup // all of them
}

func newTurns(most, room int) *turns { return &turns{most: most, waits: make([]*request, room)} }

// join gives a request its turn, or a place in line, or neither.
func (t *turns) join(r *request) (begins, waits bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return false, false
	case t.underWay < t.most && t.n == 0:
		t.underWay++
		begins = true
	case t.n < len(t.waits):
		t.waits[(t.head+t.n)%len(t.waits)] = r
		t.n++
		waits = true
	default:
		return false, false
	}
	t.open.Add(1)
	return begins, waits
}

// next says that a turn has ended, and gives the request whose turn it is now.
func (t *turns) next() *request {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == 0 {
		t.underWay--
		return nil
	}
	r := t.waits[t.head]
	t.waits[t.head] = nil
	t.head = (t.head + 1) % len(t.waits)
	t.n--
	return r
}

// close lets nobody join any more.
func (t *turns) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}

// waiting is how many wait, and how long the first of them has at a moment.
func (t *turns) waiting(now time.Time) (n int, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == 0 {
		return 0, 0
	}
	return t.n, now.Sub(t.waits[t.head].arrived)
}

// refusal is a 429 with its answer.
type refusal struct {
	*engine.Problem
	reply *reply
	made  time.Time
}

// refusalFresh is how long the answer of a refusal is used again.
const refusalFresh = 10 * time.Millisecond

// minRetry and maxRetry bound the pause that the refused are asked to make.
const (
	minRetry = 100 * time.Millisecond
	maxRetry = 2 * time.Second
)

// refuse gives the answer of a refusal of one kind, made anew when it is not fresh.
func (d *door) refuse(kind *atomic.Pointer[refusal], r *request, detail func() string) error {
	if made := kind.Load(); made != nil && r.arrived.Sub(made.made) < refusalFresh {
		return made
	}
	p := problem(fmt.Errorf("%w: %s; try again after a pause", engine.ErrBusy, detail()), "")
	_, wait := d.line.waiting(r.arrived)
	_, turn := d.turns.waiting(r.arrived)
	p.RetryAfter = min(max(wait, turn, minRetry), maxRetry).Milliseconds()
	made := &refusal{Problem: p, reply: problemReply(nil, p), made: r.arrived}
	kind.Store(made)
	return made
}

// admit lets a request in or refuses it.
func (e *endpoint) admit(r *request) error {
	d := e.door
	if err := d.ready(); err != nil {
		return err
	}
	if e.soon != nil {
		n, wait := d.turns.waiting(r.arrived)
		switch {
		case d.late(n, wait):
			return d.refuseLate(r, n, wait)
		case n > 0 && n == d.Queue:
			return d.refuseMany(r)
		}
	}
	size := int64(len(r.body))
	if all := d.pending.Add(size); all > d.MaxPendingBytes && all > size {
		d.pending.Add(-size)
		return d.refuse(&d.tooMuch, r, func() string { return fmt.Sprintf("bodies of %d bytes are waiting", all-size) })
	}
	e.inFlight.Add(1)
	e.metrics.Admitted()
	if e.soon != nil && e.trySoon(r) {
		return nil
	}
	return e.enqueue(r)
}

// leave says that an admitted request is answered next: who has the answer may
// ask for more.
func (e *endpoint) leave(r *request) {
	e.door.pending.Add(-int64(len(r.body)))
	e.inFlight.Add(-1)
	e.metrics.Left()
}

// enqueue gives an admitted request to the workers.
func (e *endpoint) enqueue(r *request) error {
	d := e.door
	err := e.queue(r)
	if err == nil {
		return nil
	}
	e.leave(r)
	switch {
	case errors.Is(err, errTooLate):
		n, wait := d.line.waiting(r.arrived)
		return d.refuseLate(r, n, wait)
	case errors.Is(err, pond.ErrQueueFull):
		return d.refuseMany(r)
	default:
		return errStopping
	}
}

// late tells whether a line of n, whose head has waited for so long, is closed to
// whoever comes.
func (d *door) late(n int, wait time.Duration) bool {
	return d.MaxWait > 0 && n >= d.Workers && wait > d.MaxWait
}

func (d *door) refuseLate(r *request, n int, wait time.Duration) error {
	return d.refuse(&d.tooLate, r, func() string {
		return fmt.Sprintf("%d requests are being worked on and %d have waited for up to %v", d.Workers, n, wait.Round(time.Millisecond))
	})
}

func (d *door) refuseMany(r *request) error {
	return d.refuse(&d.tooMany, r, func() string {
		return fmt.Sprintf("%d requests are being worked on and %d wait", d.Workers, d.Queue)
	})
}

var errTooLate = errors.New("the head of the line has waited too long")

// queue puts a request into the pool's queue, and in line.
func (e *endpoint) queue(r *request) error {
	d := e.door
	if n, wait := d.line.waiting(r.arrived); d.late(n, wait) {
		return errTooLate
	}
	d.queueing.Lock() // the line has the order of the pool's queue
	defer d.queueing.Unlock()
	if !d.line.join(r.arrived) {
		return pond.ErrQueueFull
	}
	err := d.pool.Go(func() {
		d.line.leave()
		rep, err := e.serve(r)
		e.leave(r)
		e.finish(r, rep, err)
	})
	if err != nil {
		d.line.giveUp()
	}
	return err
}
