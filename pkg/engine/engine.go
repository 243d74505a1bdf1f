package engine

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// Engine is a lake: it writes, reads and folds documents over an index and a
// bucket. Any number of engines, in any number of processes, may work on the
// same index and bucket. It is safe for concurrent use.
type Engine struct {
	index   IndexAdapter
	objects Objects
	opts    Options
	writer  string // this engine's name in segment keys, heartbeats and events

	lease     lease
	condemned atomic.Pointer[time.Time] // when a shard of the index was last given up
	beatsMu   sync.Mutex
	beats     []beat // of the collector
	group     *group
	deciding  sync.Map // SegmentID → true: segments that decideAll is deciding
	turns     turns
	docs      *documents
	store     *store
	flights   flights
	folder    *folder

	stop    context.CancelFunc
	workers *workerPool
	done    chan struct{}
	once    sync.Once
}

// New joins the lake of an index and a bucket, or makes it if both are empty,
// and starts the engine's background work: the epoch lease, and what the
// options ask for. It waits while another process opens an epoch. ctx bounds
// the joining only. The engine does not own the index; close it after the
// engine.
func New(ctx context.Context, index IndexAdapter, objects Objects, opts Options) (*Engine, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	e := &Engine{index: index, objects: objects, opts: opts, workers: newWorkerPool(), done: make(chan struct{})}
	e.writer = e.randomName(8)
	e.docs = newDocuments(opts.DocumentCache)
	e.store = newStore(objects, &e.opts)
	e.group = newGroup(e)
	e.turns = newTurns()
	e.lease.poke = make(chan struct{}, 1)
	if err := e.checkFormat(ctx); err != nil {
		return nil, err
	}
	if err := e.checkLosses(ctx); err != nil {
		return nil, err
	}
	if err := e.join(ctx, opts.NewEpoch); err != nil {
		return nil, fmt.Errorf("join the lake: %w", err)
	}
	e.opts.Rebuild, e.opts.AcceptLoss = false, nil              // later epochs begin as they need
	run, stop := context.WithCancel(context.WithoutCancel(ctx)) // the engine outlives its opening
	e.stop = stop
	e.start(run, e.keepLease)
	e.start(run, e.group.run)
	if opts.Cache != nil {
		e.start(run, e.store.run)
	}
	if opts.Sweep {
		e.start(run, e.sweep)
	}
	if opts.Collect {
		e.start(run, e.collector)
	}
	if opts.FoldWorkers > 0 {
		e.folder = newFolder(e, opts.FoldWorkers)
		e.start(run, e.folder.run)
	}
	return e, nil
}

func (e *Engine) start(ctx context.Context, f func(context.Context)) {
	e.workers.start(func() { f(ctx) })
}

// Close refuses new writes, waits until those that were taken are answered or
// ctx ends, and stops the background work. It may be called more than once.
func (e *Engine) Close(ctx context.Context) error {
	var err error
	e.once.Do(func() {
		close(e.done)
		err = e.group.drain(ctx)
		e.stop()
		e.workers.wait()
	})
	return err
}

// Epoch is the epoch in which this engine works; 0 while it joins one.
func (e *Engine) Epoch() uint64 { return e.lease.epoch() }

// Valid tells whether the epoch lease is valid at this moment: whether what the
// index says now counts.
func (e *Engine) Valid() bool { return e.lease.valid(e.lease.epoch()) }

// Writer is this engine's name in segments and events.
func (e *Engine) Writer() string { return e.writer }

// Policy is the snapshot policy in force.
func (e *Engine) Policy() Policy { return e.opts.Policy }

// Ready tells whether the engine can answer: nil, ErrRecovering or
// ErrUnavailable with the cause.
func (e *Engine) Ready() error {
	select {
	case <-e.done:
		return ErrClosed
	default:
		return e.lease.ready()
	}
}

// randomName draws n lower-case base32 characters: eight for a writer, sixteen
// for the id of a write whose client gave none.
func (e *Engine) randomName(n int) string {
	b := make([]byte, n)
	_, _ = io.ReadFull(e.opts.Random, b) // Random never fails
	for i := range b {
		b[i] = "abcdefghijklmnopqrstuvwxyz234567"[b[i]%32]
	}
	return string(b)
}

// drawer is crypto/rand, asked for more than one number at a time: each question is
// a system call where the kernel has no faster way.
type drawer struct {
	mu   sync.Mutex
	left []byte
}

func (d *drawer) Read(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(b) > len(d.left) {
		d.left = make([]byte, 2048+len(b))
		if _, err := rand.Read(d.left); err != nil {
			return 0, err
		}
	}
	n := copy(b, d.left)
	clear(d.left[:n])
	d.left = d.left[n:]
	return n, nil
}

// jitter draws a duration below d.
func (e *Engine) jitter(d time.Duration) time.Duration {
	var b [8]byte
	_, _ = io.ReadFull(e.opts.Random, b[:])
	return time.Duration(binary.LittleEndian.Uint64(b[:]) % uint64(d))
}
