package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/jsonlake/lake/pkg/engine"
)

// coalescer makes batches of writes that would wait for each other anyway. At most
// one request of a catalog is under way at a time: so writes keep the order in
// which they were handed in, and a batch grows with the load by itself, as the
// group commit behind it does.
//
//	no request of the catalog under way → the write leaves at once, alone
//	one is under way                    → the write joins the queue; when the answer comes,
//	                                      as many of the queue as fit leave as one batch
type coalescer struct {
	c    *Client
	room *semaphore.Weighted // bytes of writes that wait or are under way in batches

	mu     sync.Mutex
	queues map[string]*queue // by catalog; there while a request is under way
	closed bool
	work   sync.WaitGroup // goroutines that empty queues
}

type queue struct{ waiting []*Future }

// Bounds of a batch and of what waits.
const (
	maxBatchDeltas = 10_000    // the engine's default
	maxBatchBytes  = 900 << 10 // below NATS's default max_payload of 1 MiB
	maxRoom        = 64 << 20  // bytes
	futureOverhead = 256       // of a write that waits, bytes, so that their number is bounded too
)

func newCoalescer(c *Client) *coalescer {
	return &coalescer{c: c, room: semaphore.NewWeighted(maxRoom), queues: map[string]*queue{}}
}

// Future is a write that has been handed over. Its answer comes later.
type Future struct {
	req      engine.WriteRequest
	line     []byte
	deadline time.Time
	q        *coalescer

	taken bool   // by a batch; under coalescer.mu
	id    string // of that batch; under coalescer.mu
	done  chan struct{}
	res   engine.WriteResult
	err   error
}

// WriteAsync hands a write over and returns before it is answered: writes of one
// goroutine to one catalog that are handed over one after the other are committed in that
// order, many of them in one batch. It waits only when 64 MiB of writes are not
// answered yet. The deadline of ctx, or the client's timeout, bounds the write itself.
// A write with an id or a condition does not share a batch: use Write.
func (c *Client) WriteAsync(ctx context.Context, req engine.WriteRequest) (*Future, error) {
	switch {
	case req.WriteOptions != (engine.WriteOptions{}):
		return nil, engine.Invalid("invalid_write", "id", "a write with an id or a condition does not share a batch: use Write")
	case c.coalesce == nil:
		return nil, errors.New("the client does not coalesce (WithoutCoalescing): use Write")
	}
	f, err := c.coalesce.future(ctx, &req)
	if err != nil {
		return nil, err
	}
	if c.coalesce.join(f) {
		c.coalesce.start(req.Catalog)
	}
	return f, nil
}

// Wait gives the answer, as Write would. When ctx ends first, a write that has not
// left is withdrawn (engine.ErrBusy: nothing was sent); of one that has left the
// error is engine.ErrUnknown, and Wait may be called again.
func (f *Future) Wait(ctx context.Context) (engine.WriteResult, error) {
	select {
	case <-f.done:
		return f.res, f.err
	case <-ctx.Done():
	}
	id, withdrawn := f.q.withdraw(f)
	if withdrawn {
		return engine.WriteResult{}, fmt.Errorf("%w: the write waited for others of catalog %q; nothing was sent: %w", engine.ErrBusy, f.req.Catalog, ctx.Err())
	}
	select {
	case <-f.done:
		return f.res, f.err
	default:
		return engine.WriteResult{}, &engine.UnknownError{ID: id, Err: fmt.Errorf("no answer came yet: %w", ctx.Err())}
	}
}

// write is Client.Write.
func (q *coalescer) write(ctx context.Context, req *engine.WriteRequest) (engine.WriteResult, error) {
	q.mu.Lock()
	if q.queues[req.Catalog] == nil {
		q.queues[req.Catalog] = &queue{}
		q.mu.Unlock()
		defer q.release(req.Catalog)
		return q.c.writeOne(ctx, req)
	}
	q.mu.Unlock()
	f, err := q.future(ctx, req)
	if err != nil {
		return engine.WriteResult{}, err
	}
	if q.join(f) {
		q.start(req.Catalog)
	}
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, f.deadline)
		defer cancel()
	}
	return f.Wait(ctx)
}

// future checks a write, so that a bad one fails alone, and waits for room.
func (q *coalescer) future(ctx context.Context, req *engine.WriteRequest) (*Future, error) {
	if err := engine.ValidateCatalog(req.Catalog); err != nil {
		return nil, err
	}
	if req.Author != "" {
		if err := checkValue("author", req.Author); err != nil {
			return nil, err
		}
	}
	line, err := appendLine(nil, req)
	if err != nil {
		return nil, err
	}
	f := &Future{req: *req, line: line, q: q, done: make(chan struct{})}
	f.req.Body = nil // the line has it, and the caller may use it again
	var bounded bool
	if f.deadline, bounded = ctx.Deadline(); !bounded {
		f.deadline = time.Now().Add(q.c.timeout)
	}
	if f.size() > maxRoom {
		return nil, fmt.Errorf("%w: the write has %d bytes", engine.ErrTooLarge, len(line))
	}
	if err := q.room.Acquire(ctx, f.size()); err != nil {
		return nil, fmt.Errorf("%w: %d bytes of writes are not answered yet; nothing was sent: %w", engine.ErrBusy, maxRoom, err)
	}
	return f, nil
}

func (f *Future) size() int64 { return int64(len(f.line)) + futureOverhead }

func (f *Future) answer(res engine.WriteResult, err error) {
	f.res, f.err = res, err
	f.q.room.Release(f.size())
	close(f.done)
}

// join queues a write; true when nobody is there to empty the queue.
func (q *coalescer) join(f *Future) (first bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.queues[f.req.Catalog]
	if first = w == nil; first {
		w = &queue{}
		q.queues[f.req.Catalog] = w
	}
	w.waiting = append(w.waiting, f)
	return first
}

// withdraw takes a write back that has not left. One that has left has the id of
// its batch.
func (q *coalescer) withdraw(f *Future) (id string, withdrawn bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if f.taken {
		return f.id, false
	}
	f.taken = true
	w := q.queues[f.req.Catalog]
	w.waiting = slices.DeleteFunc(w.waiting, func(o *Future) bool { return o == f })
	f.answer(engine.WriteResult{}, context.Canceled)
	return "", true
}

// release ends the turn of a lone write: what came meanwhile leaves now.
func (q *coalescer) release(catalog string) {
	q.mu.Lock()
	w := q.queues[catalog]
	idle := len(w.waiting) == 0
	if idle {
		delete(q.queues, catalog)
	}
	q.mu.Unlock()
	if !idle {
		q.start(catalog)
	}
}

// start empties the queue of a catalog. The caller has its turn.
func (q *coalescer) start(catalog string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		for _, f := range q.queues[catalog].waiting {
			f.taken = true
			f.answer(engine.WriteResult{}, errClosed)
		}
		delete(q.queues, catalog)
		return
	}
	q.work.Go(func() {
		for batch := q.next(catalog); len(batch) > 0; batch = q.next(catalog) {
			q.send(catalog, batch)
		}
	})
}

// next takes what leaves next: writes from the front of the queue, of one author,
// as many as one batch holds. When there are none the catalog is idle.
func (q *coalescer) next(catalog string) []*Future {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.queues[catalog]
	n, size, id := 0, int64(0), rand.Text()
	most := min(maxBatchBytes, q.c.nc.MaxPayload()*7/8)
	for _, f := range w.waiting {
		size += int64(len(f.line))
		if n > 0 && (n == maxBatchDeltas || size > most || f.req.Author != w.waiting[0].req.Author) {
			break
		}
		f.taken, f.id = true, id
		n++
	}
	if n == 0 {
		delete(q.queues, catalog)
		return nil
	}
	batch := slices.Clone(w.waiting[:n])
	w.waiting = slices.Delete(w.waiting, 0, n)
	return batch
}

// send sends a batch and answers its writes.
func (q *coalescer) send(catalog string, batch []*Future) {
	latest, size := batch[0].deadline, 0
	for _, f := range batch {
		size += len(f.line)
		if f.deadline.After(latest) {
			latest = f.deadline
		}
	}
	lines := make([]byte, 0, size)
	for _, f := range batch {
		lines = append(lines, f.line...)
	}
	// The batch belongs to all its writes, so to no caller's context.
	ctx, cancel := context.WithDeadline(context.Background(), latest)
	defer cancel()
	id := batch[0].id
	res, err := q.c.sendLines(ctx, catalog, lines, batch[0].req.Author, engine.WriteOptions{ID: id})
	if err == nil && res.Count != len(batch) {
		err = &engine.UnknownError{ID: id, Err: fmt.Errorf("the answer tells of %d deltas, the batch has %d", res.Count, len(batch))}
	}
	switch {
	case err == nil:
		for i, f := range batch {
			v := res.First.Add(i)
			f.answer(engine.WriteResult{Version: v, First: v, Count: 1}, nil)
		}
	case len(batch) > 1 && refused(err):
		// One of them may be to blame, or all of them together are too much.
		for _, f := range batch {
			q.mu.Lock()
			f.id = rand.Text()
			q.mu.Unlock()
			q.send(catalog, []*Future{f})
		}
	default:
		for _, f := range batch {
			f.answer(engine.WriteResult{}, err)
		}
	}
}

// refused tells that the service did not take what was sent, and will not.
func refused(err error) bool {
	return errors.Is(err, engine.ErrInvalid) || errors.Is(err, engine.ErrTooLarge)
}

// close waits until nobody works any more. The connection is closed already, so
// that requests fail.
func (q *coalescer) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.work.Wait()
}
