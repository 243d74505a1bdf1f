package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jsonlake/lake/pkg/engine/codec"
)

// run is a write on its way: n deltas of one catalog.
type run struct {
	catalog string
	n       int
	typ     MergeType // of a run of one
	path    string    // of a run of one
	payload []byte
	author  string
	id      string

	given       bool     // the id is the client's, and the index keeps it
	fingerprint [16]byte // of a given id
	expect      *Version // the head that the write is conditional on

	tries     int // segments it was part of that never were
	undecided int // how often its condition could not be judged
	first     Version
	off, len  int64

	// Under group.mu:
	taken bool  // by a segment
	gone  bool  // withdrawn
	why   error // what it waits for, if not its turn

	duplicate bool
	err       error
	done      chan struct{} // closed when first or err is the answer
}

// renew is the same write as a run that was never queued.
func (r *run) renew() *run {
	return &run{
		catalog: r.catalog, n: r.n, typ: r.typ, path: r.path, payload: r.payload, author: r.author,
		id: r.id, given: r.given, fingerprint: r.fingerprint, done: make(chan struct{}),
	}
}

// reserve is what the index is asked for. A conditional write that met open
// reservations three times closes the catalog's gate to others.
func (r *run) reserve() Reserve {
	q := Reserve{Catalog: r.catalog, N: r.n, Type: r.typ, Path: r.path, Expect: r.expect}
	if r.given {
		q.ID, q.Fingerprint = r.id, r.fingerprint
	}
	if r.expect != nil && r.undecided >= 3 {
		q.Gate = r.id
	}
	return q
}

// group is the self-clocking group commit. Writes queue up; a group leaves as
// soon as fewer than MaxInflight segments are on their way to the bucket. A
// lone write therefore leaves at once, and under load a segment holds whatever
// came in while the ones before it were travelling.
//
//	add → queue ─(run: one at a time)→ PreCommit ─(a goroutine each)→ put → commit → answer
//
// One goroutine reserves, so that this process's segments are reserved in a
// known order, which is also the order in which they are committed where they
// share a catalog.
type group struct {
	e *Engine

	mu       sync.Mutex
	queue    []*run
	held     map[string][]*run // catalogs that are paced, and what waits behind them
	inflight int               // segments reserved and not yet put
	writes   int               // not answered yet
	bytes    int64             // of their payloads
	closed   bool
	latest   map[string]*segment // the latest undecided segment of this process, by catalog
	now      time.Time           // index time as last seen
	count    uint64

	wake chan struct{}
	idle chan struct{} // signalled when writes reaches 0
}

// segment is a group on its way.
type segment struct {
	id      SegmentID
	created int64 // index time, ms
	runs    []*run
	after   []*segment    // segments of this process to be committed before, as they share a catalog
	decided chan struct{} // closed when no run of it is open any more, as far as this process can do
}

func newGroup(e *Engine) *group {
	return &group{
		e: e, held: map[string][]*run{}, latest: map[string]*segment{}, now: time.Now(),
		wake: make(chan struct{}, 1), idle: make(chan struct{}, 1),
	}
}

// add queues a run. It refuses when too much is waiting already.
func (g *group) add(r *run) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	size := int64(len(r.payload))
	switch {
	case g.closed:
		return ErrClosed
	case g.writes >= g.e.opts.MaxPendingWrites:
		return fmt.Errorf("%w: %d writes are waiting to be committed; try again after a pause", ErrBusy, g.writes)
	case g.bytes+size > g.e.opts.MaxPendingBytes && g.writes > 0:
		return fmt.Errorf("%w: %d bytes are waiting to be committed; try again after a pause", ErrBusy, g.bytes)
	}
	g.writes++
	g.bytes += size
	if behind, paced := g.held[r.catalog]; paced {
		g.held[r.catalog] = append(behind, r)
		return nil
	}
	g.queue = append(g.queue, r)
	g.poke()
	return nil
}

// errNoTurn: a write's deadline came before its turn.
var errNoTurn = fmt.Errorf("%w: the write did not get its turn before its deadline; nothing was stored", ErrUnavailable)

// withdraw takes back a run that no segment has taken yet, and says what it
// waited for.
func (g *group) withdraw(r *run) (why error, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.taken {
		return nil, false
	}
	is := func(o *run) bool { return o == r }
	g.queue = slices.DeleteFunc(g.queue, is)
	if behind, paced := g.held[r.catalog]; paced {
		g.held[r.catalog] = slices.DeleteFunc(behind, is)
	}
	r.taken, r.gone = true, true // nobody else answers it
	g.forget(r)
	if r.why == nil {
		return errNoTurn, true
	}
	return r.why, true
}

// answer gives a run its outcome.
func (g *group) answer(r *run, err error) {
	r.err = err
	close(r.done)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forget(r)
}

func (g *group) forget(r *run) {
	g.writes--
	g.bytes -= int64(len(r.payload))
	if g.writes == 0 {
		select {
		case g.idle <- struct{}{}:
		default:
		}
	}
}

func (g *group) poke() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// drain refuses new runs and waits for those that are under way.
func (g *group) drain(ctx context.Context) error {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	for {
		g.mu.Lock()
		left := g.writes
		g.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-g.idle:
		case <-ctx.Done():
			return fmt.Errorf("%d writes were still under way: %w", left, ctx.Err())
		}
	}
}

func (g *group) sawTime(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now.After(g.now) {
		g.now = now
	}
}

// run is the goroutine that forms groups and reserves them.
func (g *group) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.wake:
		}
		for {
			if g.e.opts.Linger > 0 && sleep(ctx, g.e.opts.Linger) != nil {
				return
			}
			s := g.take()
			if s == nil {
				break
			}
			g.reserve(ctx, s)
		}
	}
}

// take forms a segment of what waits, or nil when there is nothing to do or no
// room on the way to the bucket.
func (g *group) take() *segment {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.queue) == 0 || g.inflight >= g.e.opts.MaxInflight {
		return nil
	}
	var perShard [Shards]int
	var size int64
	n := 0
	for _, r := range g.queue {
		s := Shard(r.catalog)
		size += int64(len(r.payload))
		if n > 0 && (size > g.e.opts.MaxGroupBytes || perShard[s] == maxRunsPerShard) {
			break
		}
		perShard[s]++
		r.taken = true
		n++
	}
	s := &segment{runs: slices.Clone(g.queue[:n]), decided: make(chan struct{})}
	g.queue = slices.Delete(g.queue, 0, n)
	g.inflight++
	g.count++
	s.id = SegmentID{Epoch: g.e.lease.epoch(), Unix: max(g.now.Unix(), 0), Writer: g.e.writer, N: g.count}
	return s
}

// reserve pre-commits a segment and sends it on its way.
func (g *group) reserve(ctx context.Context, s *segment) {
	p := PreCommit{Epoch: s.id.Epoch, Segment: s.id, Runs: make([]Reserve, len(s.runs))}
	for i, r := range s.runs {
		p.Runs[i] = r.reserve()
	}
	res, err := g.e.preCommit(ctx, p)
	s.created = res.Now.UnixMilli()
	g.sawTime(res.Now)

	kept := s.runs[:0]
	var paced []*run
	lost := map[int]bool{} // shards whose reservation nobody knows of
	for i, r := range s.runs {
		rerr := err
		if err == nil {
			rerr = res.Runs[i].Err
		}
		switch {
		case rerr != nil && g.e.sawEpoch(s.id.Epoch, rerr):
			g.answer(r, fmt.Errorf("%w: %w; nothing was stored", ErrRecovering, rerr))
		case rerr != nil:
			// The reservation may exist, but no segment will ever hold this run: the
			// answer is definite.
			lost[Shard(r.catalog)] = true
			if !errors.Is(rerr, ErrUnavailable) {
				rerr = fmt.Errorf("%w: %w", ErrUnavailable, rerr)
			}
			g.answer(r, fmt.Errorf("reserve versions (nothing was stored): %w", rerr))
		case res.Runs[i].State == ReserveOK:
			r.first = res.Runs[i].First
			kept = append(kept, r)
		case res.Runs[i].State == ReservePaced:
			paced = append(paced, r)
		default:
			g.refused(ctx, s.id.Epoch, r, res.Runs[i])
		}
	}
	s.runs = kept
	g.hold(ctx, paced)
	if len(lost) > 0 {
		g.e.start(ctx, func(ctx context.Context) { g.e.rollBackShards(ctx, s.id, lost) })
	}
	if len(kept) == 0 {
		g.left()
		return
	}
	g.mu.Lock()
	for _, r := range kept {
		if before := g.latest[r.catalog]; before != nil && before != s && !slices.Contains(s.after, before) {
			s.after = append(s.after, before)
		}
		g.latest[r.catalog] = s
	}
	g.mu.Unlock()
	g.e.start(ctx, func(ctx context.Context) { g.e.finish(ctx, s) })
}

// refused deals with a run that the index did not reserve because of its id or
// its condition. A definite answer needs a valid lease, like any.
func (g *group) refused(ctx context.Context, epoch uint64, r *run, a Reserved) {
	switch a.State {
	case ReserveInFlight:
		g.later(ctx, r, fmt.Errorf("%w: another write with id %q is being committed; ask for its outcome, or write again with the same id", ErrInFlight, r.id))
		return
	case ReserveUndecided:
		r.undecided++
		g.later(ctx, r, fmt.Errorf("%w: writes to catalog %q are being committed all the time; try again", ErrContended, r.catalog))
		return
	}
	switch {
	case !g.e.lease.valid(epoch):
		g.answer(r, &UnknownError{ID: r.id, Err: errors.New("the epoch lease ran out while the index answered")})
	case a.State == ReserveDuplicate:
		r.first, r.n, r.duplicate = a.First, a.N, true
		g.answer(r, nil)
	case a.State == ReserveReused:
		g.answer(r, reused(r.id))
	default:
		g.answer(r, &VersionError{Current: a.Head})
	}
}

// later queues a run again after a pause, unless it is withdrawn meanwhile.
func (g *group) later(ctx context.Context, r *run, why error) {
	g.mu.Lock()
	r.taken, r.why = false, why
	g.mu.Unlock()
	g.e.start(ctx, func(ctx context.Context) {
		_ = sleep(ctx, 10*time.Millisecond+g.e.jitter(20*time.Millisecond))
		g.again([]*run{r})
	})
}

// left says that a segment is not on its way to the bucket any more.
func (g *group) left() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inflight--
	g.poke()
}

// settled says that this process has done with a segment.
func (g *group) settled(s *segment) {
	g.mu.Lock()
	for _, r := range s.runs {
		if g.latest[r.catalog] == s {
			delete(g.latest, r.catalog)
		}
	}
	g.mu.Unlock()
	close(s.decided)
}

// hold keeps runs of catalogs that are paced, and whatever comes behind them
// in the queue, for a moment.
func (g *group) hold(ctx context.Context, paced []*run) {
	if len(paced) == 0 {
		return
	}
	const moment = 50 * time.Millisecond
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range paced {
		r.taken = false
		g.held[r.catalog] = append(g.held[r.catalog], r)
	}
	g.queue = slices.DeleteFunc(g.queue, func(r *run) bool {
		behind, is := g.held[r.catalog]
		if is {
			g.held[r.catalog] = append(behind, r)
		}
		return is
	})
	g.e.start(ctx, func(ctx context.Context) {
		_ = sleep(ctx, moment)
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, r := range paced {
			g.queue = append(g.queue, g.held[r.catalog]...)
			delete(g.held, r.catalog)
		}
		g.poke()
	})
}

// again queues the runs of a segment that never was.
func (g *group) again(runs []*run) {
	g.mu.Lock()
	defer g.mu.Unlock()
	runs = slices.DeleteFunc(slices.Clone(runs), func(r *run) bool { return r.gone })
	for _, r := range runs {
		r.taken = false
	}
	g.queue = append(runs, g.queue...)
	g.poke()
}

// encode lays out a segment and notes where each frame stands.
func (s *segment) encode() ([]byte, error) {
	size := 0
	for _, r := range s.runs {
		size += len(r.payload) + 256
	}
	b := make([]byte, 0, size)
	for i, r := range s.runs {
		f := codec.Frame{Header: codec.Header{
			Kind: codec.KindRun, Catalog: r.catalog, First: r.first.Codec(), N: uint32(r.n), Writer: s.id.Writer, Author: r.author,
			Epoch: s.id.Epoch, ID: []codec.ID{{ID: r.id, Fingerprint: r.fingerprint}}, Created: s.created, More: i < len(s.runs)-1,
		}, Payload: r.payload}
		off := len(b)
		var err error
		if b, err = codec.Append(b, &f, codec.Options{Compression: codec.S2, MaxPayload: maxFramePayload}); err != nil {
			return nil, fmt.Errorf("encode segment %s: %w", s.id.Key(), err)
		}
		r.off, r.len = int64(off), int64(len(b)-off)
	}
	return b, nil
}

// maxFramePayload is the decompression ceiling: a document of 64 MiB and what
// stands beside it, with room for larger limits.
const maxFramePayload = 512 << 20
