package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jsonlake/lake/pkg/engine/merge"
)

// group is the self-clocking group commit. Writes queue up; a group may leave
// while fewer than MaxInflight segments are on their way to the bucket, and leaves
//
//	at once                 when this process has nothing under way: a lone write waits for nobody
//	with its share          when it is large enough that a few segments hold all unanswered writes
//	after a moment          when a write has waited for maxCompany: the others may be held up
//
// The share is what keeps segments from being as small as the time between two
// reservations: a segment costs every server the same whatever it holds, and slots
// taken by small ones are missing for the many that come back together.
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
	open     int               // segments not yet settled
	put      time.Duration     // how long puts took of late
	writes   int               // not answered yet
	bytes    int64             // of their payloads
	closed   bool
	latest   map[string]*segment // the latest undecided segment of this process, by catalog
	underWay map[SegmentID]bool  // segments of this process that may have a put under way
	now      time.Time           // index time as last seen
	count    uint64

	wake chan struct{}
	idle chan struct{} // signalled when writes reaches 0
}

func newGroup(e *Engine) *group {
	return &group{
		e: e, held: map[string][]*run{}, latest: map[string]*segment{}, underWay: map[SegmentID]bool{}, now: time.Now(),
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
	r.queued = time.Now()
	if r.tell != nil {
		r.late = time.AfterFunc(r.deadline.Sub(r.queued), func() { g.tooLate(r, context.DeadlineExceeded) })
	}
	if behind, paced := g.held[r.catalog]; paced {
		if len(behind) > 0 {
			r.why = behind[0].why
		}
		g.held[r.catalog] = append(behind, r)
		return nil
	}
	g.queue = append(g.queue, r)
	if len(g.queue) == 1 || g.complete() { // else somebody waits for the first of them
		g.poke()
	}
	return nil
}

// maxCompany is how long a write waits for its group to fill while others are
// under way.
const maxCompany = 25 * time.Millisecond

// complete tells whether what waits is a group that need not wait for more. The
// caller holds mu.
func (g *group) complete() bool {
	return g.inflight < g.e.opts.MaxInflight && (g.open == 0 || len(g.queue)*g.shares() >= g.writes)
}

// shares is how many segments the unanswered writes are spread over: two, so that one
// is reserved while the other is put and committed, and more where the bucket is
// slow, up to MaxInflight. Three make half as many segments again, which every server
// pays for; with one nothing would be under way while a segment is reserved. More than
// four are for at least four writes each, more than eight for sixteen: of a few hundred
// writes a second each would have a put of its own, for some milliseconds less of
// waiting. The caller holds mu.
func (g *group) shares() int {
	const (
		quick   = 6 * time.Millisecond // of a put is the servers' own work, which others under way slow down
		spacing = 4 * time.Millisecond // between two puts of a slow bucket
	)
	most := max(4, min(g.writes/4, 8), g.writes/16)
	return max(min(int((g.put-quick)/spacing), g.e.opts.MaxInflight, most), 2)
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

// tooLate answers a run that nobody waits for, whose time ran out.
func (g *group) tooLate(r *run, cause error) {
	why, ok := g.withdraw(r)
	if ok {
		why = fmt.Errorf("%w: %w", why, cause)
	} else {
		why = &UnknownError{ID: r.id, Err: cause}
	}
	if r.told.CompareAndSwap(false, true) {
		r.tell(WriteResult{}, why)
	}
}

// answer gives a run its outcome.
func (g *group) answer(r *run, err error) {
	r.err = err
	switch {
	case r.tell == nil:
		close(r.done)
	case r.told.CompareAndSwap(false, true):
		r.late.Stop()
		var res WriteResult
		if err == nil {
			res = r.result()
		}
		r.tell(res, err)
	}
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
	company := time.NewTimer(0)
	defer company.Stop()
	for {
		select {
		case <-ctx.Done():
			g.abandon()
			return
		case <-g.wake:
		case <-company.C:
		}
		for {
			if g.e.opts.Linger > 0 && sleep(ctx, g.e.opts.Linger) != nil {
				g.abandon()
				return
			}
			s, wait := g.take()
			if wait > 0 {
				company.Reset(wait)
			}
			if s == nil {
				break
			}
			g.reserve(ctx, s)
		}
	}
}

// abandon answers the runs that no segment will take any more and nobody waits for.
func (g *group) abandon() {
	g.mu.Lock()
	left := slices.Clone(g.queue)
	for _, behind := range g.held {
		left = append(left, behind...)
	}
	g.mu.Unlock()
	for _, r := range left {
		if r.tell != nil && r.late.Stop() {
			g.tooLate(r, ErrClosed)
		}
	}
}

// take forms a segment of what waits, or nil when there is nothing to do, no
// room on the way to the bucket, or when the group should wait for company.
func (g *group) take() (s *segment, wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.queue) == 0 || g.inflight >= g.e.opts.MaxInflight {
		return nil, 0
	}
	if !g.complete() {
		if wait := maxCompany - time.Since(g.queue[0].queued); wait > 0 {
			return nil, wait
		}
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
	s = &segment{runs: slices.Clone(g.queue[:n]), decided: make(chan struct{})}
	g.queue = slices.Delete(g.queue, 0, n)
	g.inflight++
	g.open++
	s.id = g.name(g.e.lease.epoch(), g.now)
	g.underWay[s.id] = true
	return s, 0
}

// name makes the name of a segment that was never used. The caller holds mu.
func (g *group) name(epoch uint64, now time.Time) SegmentID {
	g.count++
	return SegmentID{Epoch: epoch, Unix: max(now.Unix(), 0), Writer: g.e.writer, N: g.count}
}

func (g *group) nextSegment(epoch uint64, now time.Time) SegmentID {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.name(epoch, now)
}

// reserve pre-commits a segment and sends it on its way.
func (g *group) reserve(ctx context.Context, s *segment) {
	p := PreCommit{Epoch: s.id.Epoch, Segment: s.id, Runs: make([]Reserve, len(s.runs)), MaxLive: g.e.opts.MaxUnfolded}
	for i, r := range s.runs {
		p.Runs[i] = r.reserve()
		if r.typ == merge.Purge {
			p.MaxLive = 0 // it shortens the log
		}
	}
	begin := time.Now()
	res, err := g.e.preCommit(ctx, p)
	for _, r := range s.runs {
		r.trace.Step("PreCommit", begin).Int("runs", int64(len(s.runs))).Int("try", int64(r.tries+1))
	}
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
		case res.Runs[i].State == ReserveFull:
			r.full = cmp.Or(r.full, begin)
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
		g.left(0)
		g.settled(s)
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
		why := fmt.Errorf("%w: writes to catalog %q are being committed all the time; try again", ErrContended, r.catalog)
		g.later(ctx, r, why, r.turn.over([]SegmentID{a.Older}, g.e.opts.Patience)...)
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

// later queues a run again after a pause, unless it is withdrawn meanwhile. The
// segments that have been in its way for too long are decided before.
func (g *group) later(ctx context.Context, r *run, why error, over ...SegmentID) {
	g.mu.Lock()
	r.taken, r.why = false, why
	g.mu.Unlock()
	pause := 10*time.Millisecond + g.e.jitter(20*time.Millisecond)
	g.e.start(ctx, func(ctx context.Context) {
		_ = sleep(ctx, pause)
		g.e.decideAll(ctx, over)
		g.again([]*run{r})
	})
}

// mayPut tells whether this process may still put a segment, or a tombstone in its
// place.
func (g *group) mayPut(id SegmentID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.underWay[id]
}

// left says that a segment is not on its way to the bucket any more, after a put
// of so long; 0: there was none.
func (g *group) left(took time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if took > 0 {
		g.put += (took - g.put) / 4
	}
	g.inflight--
	g.poke()
}

// settled says that this process has done with a segment.
func (g *group) settled(s *segment) {
	g.mu.Lock()
	g.open--
	delete(g.underWay, s.id)
	for _, r := range s.runs {
		if g.latest[r.catalog] == s {
			delete(g.latest, r.catalog)
		}
	}
	g.poke()
	g.mu.Unlock()
	close(s.decided)
}

// maxFull is how long a write waits for its catalog to be folded: some folds of the
// largest size.
const maxFull = 5 * time.Second

// errFull is the answer then.
func (g *group) errFull(catalog string) error {
	return fmt.Errorf("%w: more than %d deltas of catalog %q wait to be folded; nothing was stored; try again in a few seconds, and see that a snapshotter runs", ErrBusy, g.e.opts.MaxUnfolded, catalog)
}

// hold keeps runs of catalogs that are paced, and whatever comes behind them
// in the queue, for a moment. Who has waited for a fold long enough is refused.
func (g *group) hold(ctx context.Context, paced []*run) {
	const moment = 50 * time.Millisecond
	paced = slices.DeleteFunc(paced, func(r *run) bool {
		over := !r.full.IsZero() && time.Since(r.full) > maxFull
		if over {
			g.answer(r, g.errFull(r.catalog))
		}
		return over
	})
	if len(paced) == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range paced {
		r.taken = false
		if !r.full.IsZero() {
			r.why = g.errFull(r.catalog)
		}
		g.held[r.catalog] = append(g.held[r.catalog], r)
	}
	g.queue = slices.DeleteFunc(g.queue, func(r *run) bool {
		behind, is := g.held[r.catalog]
		if is {
			r.why = cmp.Or(r.why, behind[0].why)
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
