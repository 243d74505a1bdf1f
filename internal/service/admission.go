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
	p.RetryAfter = min(max(wait, minRetry), maxRetry).Milliseconds()
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
		return d.refuse(&d.tooLate, r, func() string {
			n, wait := d.line.waiting(r.arrived)
			return fmt.Sprintf("%d requests are being worked on and %d have waited for up to %v", d.Workers, n, wait.Round(time.Millisecond))
		})
	case errors.Is(err, pond.ErrQueueFull):
		return d.refuse(&d.tooMany, r, func() string {
			return fmt.Sprintf("%d requests are being worked on and %d wait", d.Workers, d.Queue)
		})
	default:
		return errStopping
	}
}

var errTooLate = errors.New("the head of the line has waited too long")

// queue puts a request into the pool's queue, and in line.
func (e *endpoint) queue(r *request) error {
	d := e.door
	if d.MaxWait > 0 {
		if n, wait := d.line.waiting(r.arrived); n >= d.Workers && wait > d.MaxWait {
			return errTooLate
		}
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
