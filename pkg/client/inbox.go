package client

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jsonlake/lake/pkg/engine"
)

// inbox takes in the answers to a client's requests, on one subscription. nats.go
// has such a one for its own requests; with this one a request costs no
// context with a timer that waits in the lists of two others, no random subject and no
// channel of its own: a fifth of what a small read costs its client.
type inbox struct {
	nc *nats.Conn

	mu      sync.Mutex
	sub     *nats.Subscription // since the first request
	prefix  string             // of the reply subjects; what follows is the number of the request
	last    uint64
	waiting map[uint64]*waiter
	closed  bool
}

// waiter waits for one answer, then for that to another request.
type waiter struct {
	answer chan *nats.Msg // holds one; nil: the connection was lost
	timer  *time.Timer
}

var waiters = sync.Pool{New: func() any {
	w := &waiter{answer: make(chan *nats.Msg, 1), timer: time.NewTimer(time.Hour)}
	w.timer.Stop()
	return w
}}

// replyBase is that of the numbers in reply subjects.
const replyBase = 36

// expect prepares for the answer to a request, which has to name the reply
// subject. wait or forget ends it.
func (b *inbox) expect() (id uint64, reply string, w *waiter, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, "", nil, errClosed
	}
	if b.sub == nil {
		prefix := b.nc.NewInbox() + "."
		if b.sub, err = b.nc.Subscribe(prefix+"*", b.receive); err != nil {
			return 0, "", nil, fmt.Errorf("%w: subscribe to answers; nothing was sent: %w", engine.ErrUnavailable, err)
		}
		if err = b.sub.SetPendingLimits(-1, -1); err != nil { // an answer for each that waits: they are the bound
			return 0, "", nil, fmt.Errorf("%w: subscribe to answers; nothing was sent: %w", engine.ErrUnavailable, err)
		}
		b.prefix, b.waiting = prefix, map[uint64]*waiter{}
	}
	b.last++
	w = waiters.Get().(*waiter)
	b.waiting[b.last] = w
	var number [13]byte
	return b.last, b.prefix + string(strconv.AppendUint(number[:0], b.last, replyBase)), w, nil
}

// receive hands an answer to who waits for it. Where nobody does any more, or the
// answer is the second one, it is dropped.
func (b *inbox) receive(m *nats.Msg) {
	number, _ := strings.CutPrefix(m.Subject, b.prefix)
	id, err := strconv.ParseUint(number, replyBase, 64)
	if err != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if w := b.waiting[id]; w != nil {
		delete(b.waiting, id)
		w.answer <- m
	}
}

// forget ends the waiting for an answer. came says that there is one all the same,
// m.
func (b *inbox) forget(id uint64, w *waiter) (m *nats.Msg, came bool) {
	b.mu.Lock()
	_, waits := b.waiting[id]
	delete(b.waiting, id)
	b.mu.Unlock()
	if !waits {
		m, came = <-w.answer, true
	}
	waiters.Put(w)
	return m, came
}

// wait waits for the answer to a request that has been sent, until ctx ends, and
// at most for a time if ctx has no deadline, and so no timer. The error is that of ctx,
// context.DeadlineExceeded, errLost or nats.ErrNoResponders.
func (b *inbox) wait(ctx context.Context, id uint64, w *waiter, most time.Duration) (m *nats.Msg, err error) {
	var late <-chan time.Time
	if _, bounded := ctx.Deadline(); !bounded {
		w.timer.Reset(most)
		late = w.timer.C
	}
	select {
	case m = <-w.answer:
	case <-late:
		err = context.DeadlineExceeded
	case <-ctx.Done():
		err = ctx.Err()
	}
	if late != nil {
		w.timer.Stop()
	}
	if err == nil {
		waiters.Put(w)
	} else {
		var came bool
		if m, came = b.forget(id, w); !came {
			return nil, err
		}
	}
	switch {
	case m == nil:
		return nil, errLost
	case len(m.Data) == 0 && m.Header.Get("Status") == "503":
		return nil, nats.ErrNoResponders
	}
	return m, nil
}

// lose ends all waiting: the connection was lost, and the answers with it. NATS
// itself does not tell.
func (b *inbox) lose(forGood bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = b.closed || forGood
	for _, w := range b.waiting {
		w.answer <- nil
	}
	clear(b.waiting)
}

// close ends the subscription, of a connection that goes on.
func (b *inbox) close() {
	b.lose(true)
	if b.sub != nil { // nobody sets it any more
		_ = b.sub.Unsubscribe()
	}
}
