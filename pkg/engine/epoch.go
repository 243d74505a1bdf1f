package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// An epoch is one incarnation of the index. Its number stands in the keys of
// all segments written in it, and the create-only object _lake/epoch/{n} says
// that it exists. A process may answer definitely only while it knows that no
// newer epoch exists: that knowledge is its lease.
//
// These three are constants of the format, kept in _lake/format.json: processes
// that disagreed about them would not be safe together.
const (
	leaseTerm  = 4 * time.Second // a check that began at t holds until t + leaseTerm
	leaseCheck = time.Second     // how often it is made
	epochWait  = 5 * time.Second // a new epoch waits this long: longer than any older lease
)

// Who opens an epoch shows that it is alive by a lease of the index. A process
// that waits takes over, with the next epoch, when it gets that lease; a
// rebuild may thus take as long as it needs. takeOver bounds the wait all the
// same.
const (
	openLease = 3 * time.Second
	takeOver  = time.Minute
)

// damagedPause is how long a process waits that could not open an epoch because
// an object is damaged.
const damagedPause = 10 * time.Second

// lease is this process's knowledge that its epoch is the newest.
type lease struct {
	mu     sync.Mutex
	n      uint64    // 0: joining
	from   time.Time // when the last successful check began
	failed error     // of the last check, nil when it succeeded
	poke   chan struct{}
}

func (l *lease) epoch() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

func (l *lease) grant(n uint64, from time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n, l.from, l.failed = n, from, nil
}

func (l *lease) extend(n uint64, from time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n == n {
		l.from, l.failed = from, nil
	}
}

func (l *lease) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = err
}

// leave gives up epoch n and wakes the keeper, which joins the next one.
func (l *lease) leave(n uint64) {
	l.mu.Lock()
	if l.n == n {
		l.n = 0
	}
	l.mu.Unlock()
	select {
	case l.poke <- struct{}{}:
	default:
	}
}

// valid tells whether epoch n is certain to be the newest at this moment. Both
// clocks must agree: the monotonic one does not count the time a machine was
// suspended, the wall clock may be stepped.
func (l *lease) valid(n uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n == n && n != 0 && l.fresh()
}

func (l *lease) fresh() bool { return within(l.from, leaseTerm) }

// within tells whether a time is less than term ago, by both clocks.
func within(from time.Time, term time.Duration) bool {
	now := time.Now()
	wall := now.Round(0).Sub(from.Round(0))
	return now.Sub(from) < term && wall < term && wall > -time.Second
}

// ready is nil when definite answers can be given. It says "unavailable" from
// the first failed check on, although the lease still holds for a while: what
// is under way may end well, what would begin now is better refused at once.
func (l *lease) ready() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.n == 0:
		return fmt.Errorf("%w: the index's epoch is being opened; try again shortly", ErrRecovering)
	case l.failed != nil:
		return fmt.Errorf("%w: the bucket does not answer: %w", ErrUnavailable, l.failed)
	case !l.fresh():
		return fmt.Errorf("%w: the epoch lease has run out; the bucket is slow or this process was stopped", ErrUnavailable)
	}
	return nil
}

// keepLease renews the lease, and joins again when the epoch is over.
func (e *Engine) keepLease(ctx context.Context) {
	tick := time.NewTicker(leaseCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-e.lease.poke:
		}
		// Where both were ready one look does for both, whichever was picked.
		for range 2 {
			select {
			case <-tick.C:
			case <-e.lease.poke:
			default:
			}
		}
		if n := e.lease.epoch(); n != 0 {
			e.checkLease(ctx, n)
		}
		for e.lease.epoch() == 0 && ctx.Err() == nil {
			if err := e.join(ctx, false); err != nil && ctx.Err() == nil {
				e.opts.Hooks.trouble("join the lake", err)
				pause := 200*time.Millisecond + e.jitter(300*time.Millisecond)
				if errors.Is(err, ErrDamaged) { // it stays so until somebody acts, who needs a turn; each try costs an epoch
					pause = damagedPause + e.jitter(damagedPause/2)
				}
				_ = sleep(ctx, pause) // the loop looks at ctx
			}
		}
	}
}

func (e *Engine) checkLease(ctx context.Context, n uint64) {
	ctx, cancel := context.WithTimeout(ctx, leaseTerm/2)
	defer cancel()
	from := time.Now()
	_, err := e.objects.Get(ctx, epochKey(n+1))
	switch {
	case errors.Is(err, ErrNotExist):
		e.lease.extend(n, from)
	case err == nil:
		e.lease.leave(n)
		return
	default:
		e.lease.fail(err)
		e.opts.Hooks.trouble("check the epoch lease", err)
	}
	if now, err := e.index.Heartbeat(ctx, n, e.writer); err == nil {
		e.group.sawTime(now)
	} else if !e.sawEpoch(n, err) {
		e.opts.Hooks.trouble("heartbeat", err)
	}
}

// sawEpoch leaves epoch n if err says that it is over.
func (e *Engine) sawEpoch(n uint64, err error) bool {
	if errors.Is(err, ErrEpoch) {
		e.lease.leave(n)
		return true
	}
	return false
}

// formatObject is _lake/format.json.
type formatObject struct {
	Format      int    `json:"format"`
	Name        string `json:"name"`
	Shards      int    `json:"shards"`
	LeaseMillis int64  `json:"lease_ms"`
	WaitMillis  int64  `json:"wait_ms"`
}

// checkFormat makes the bucket's format object, or checks that this engine
// can work with the one that is there.
func (e *Engine) checkFormat(ctx context.Context) error {
	mine := formatObject{Format: 1, Name: e.opts.Name, Shards: Shards, LeaseMillis: leaseTerm.Milliseconds(), WaitMillis: epochWait.Milliseconds()}
	b, err := json.Marshal(mine)
	if err != nil {
		return err
	}
	theirs, err := e.objects.Get(ctx, formatKey)
	if errors.Is(err, ErrNotExist) {
		if err = e.objects.Put(ctx, formatKey, b); err == nil {
			return nil
		}
		if errors.Is(err, ErrExists) {
			theirs, err = e.objects.Get(ctx, formatKey)
		}
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", formatKey, err)
	}
	var f formatObject
	if err := json.Unmarshal(theirs, &f); err != nil {
		return fmt.Errorf("%w: %s is not JSON: %w", ErrDamaged, formatKey, err)
	}
	switch {
	case f.Format != mine.Format:
		return fmt.Errorf("the bucket has format %d, this version of Lake works with format %d; use a matching version", f.Format, mine.Format)
	case f.Name != mine.Name:
		return fmt.Errorf("the bucket belongs to the lake %q, not %q; name the right bucket, prefix or lake", f.Name, mine.Name)
	case f != mine:
		return fmt.Errorf("the bucket's constants %s are not this version's %s; use a matching version", theirs, b)
	}
	return nil
}

// join finds the newest epoch, opens one if the index needs it, and takes the
// lease. force opens a new one in any case.
//
//	ask the shards, list epochs
//	  all shards open in the newest, on the fenced server → join it
//	  some shard opening in the newest → somebody is at it: wait, take over when it is dead
//	  else                             → open the next (lost the race → wait likewise)
func (e *Engine) join(ctx context.Context, force bool) error {
	patience := takeOver + e.jitter(takeOver/2)
	waited := map[uint64]time.Time{} // when an epoch was first seen opening
	var began *uint64                // the newest epoch at first sight
	failed := uint64(0)              // the epoch that this process could not open: nobody is at it
	dead := uint64(0)                // the epoch whose opener has let go of its lease
	for {
		from := time.Now()
		shards, err := e.epochs(ctx) // before the listing, which is then never older
		if err != nil {
			return err
		}
		newest, err := e.newestEpoch(ctx)
		if err != nil {
			return err
		}
		joinable, opening := newest > 0, false
		for i, s := range shards {
			if s.N > newest {
				return fmt.Errorf("index shard %x is in epoch %d, the bucket knows only %d: this index belongs to another bucket; check both addresses", i, s.N, newest)
			}
			joinable = joinable && s.N == newest && s.Open && s.Same
			opening = opening || s.N == newest && newest > 0 && !s.Open
		}
		if began == nil {
			began = &newest
		}
		if joinable && (!force || newest > *began && !e.opts.Rebuild) { // another's new epoch is as new
			e.lease.grant(newest, from)
			e.opts.Hooks.epoch(newest)
			_, err := e.index.Heartbeat(ctx, newest, e.writer) // before the first write: a writer without heartbeat is swept
			if !errors.Is(err, ErrEpoch) {
				return err
			}
			// The index was lost, or a later epoch begun, since this one looked.
			e.lease.leave(newest)
			if serr := sleep(ctx, 100*time.Millisecond); serr != nil {
				return fmt.Errorf("%w: epoch %d ended while this process joined it: %w: %w", ErrRecovering, newest, serr, err)
			}
			continue
		}
		if _, lost := waited[newest]; (opening || lost) && newest != failed && !e.index.Exclusive() {
			if !lost {
				waited[newest] = from
			}
			if newest != dead && e.openerDead(ctx, waited[newest]) {
				dead = newest
				continue // look again: it may have finished, rather than died
			}
			if newest != dead && time.Since(waited[newest]) < patience {
				if err := sleep(ctx, 100*time.Millisecond); err != nil {
					return fmt.Errorf("%w: epoch %d is being opened by another process: %w", ErrRecovering, newest, err)
				}
				continue
			}
		}
		switch err := e.openAlive(ctx, newest+1, shards); {
		case err == nil:
			force = false
		case errors.Is(err, errLostRace):
			if waited[newest+1].IsZero() {
				waited[newest+1] = time.Now()
			}
			if err := sleep(ctx, 100*time.Millisecond); err != nil {
				return fmt.Errorf("%w: epoch %d is being opened by another process: %w", ErrRecovering, newest+1, err)
			}
		case errors.Is(err, ErrEpoch): // somebody opened a later one meanwhile, or the index was replaced
			failed = newest + 1
		default:
			return fmt.Errorf("open epoch %d: %w", newest+1, err)
		}
	}
}

// openerDead tells whether nobody holds the opener's lease; then this process
// does. A first start, or a wiped index, knows no lease: so the opener has a
// while to take it.
func (e *Engine) openerDead(ctx context.Context, since time.Time) bool {
	if time.Since(since) < openLease {
		return false
	}
	mine, err := e.acquire(ctx, "open", openLease)
	return err == nil && mine
}

// openAlive opens an epoch and holds the opener's lease meanwhile.
func (e *Engine) openAlive(ctx context.Context, n uint64, before []ShardEpoch) error {
	if e.index.Exclusive() {
		return e.openEpoch(ctx, n, before)
	}
	hold := func(ctx context.Context) (others bool) {
		ctx, cancel := context.WithTimeout(ctx, openLease/2)
		defer cancel()
		mine, err := e.index.Acquire(ctx, 0, "open", e.writer, openLease)
		if err != nil {
			e.opts.Hooks.trouble("hold the opener's lease", err) // at worst another process takes over
		}
		return err == nil && !mine
	}
	if hold(ctx) {
		return errLostRace
	}
	hctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for sleep(hctx, openLease/4) == nil {
			hold(hctx)
		}
	})
	err := e.openEpoch(ctx, n, before)
	stop()
	wg.Wait()
	rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = e.index.Release(rctx, 0, "open", e.writer) // it would expire by itself
	return err
}

// stillSo asks the shards again, now that they are fenced at n, and gives what is
// known of them from before: nothing of one that was emptied, or whose mark has
// gone back, since.
func (e *Engine) stillSo(ctx context.Context, n uint64, before []ShardEpoch) ([]ShardEpoch, error) {
	var now []ShardEpoch
	err := e.insist(ctx, func() (err error) {
		now, err = e.epochs(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	known := slices.Clone(before)
	for i, s := range now {
		switch b := before[i]; {
		case s.N != n || !s.Same:
			return nil, fmt.Errorf("%w: shard %x went back to epoch %d while epoch %d was opened", ErrEpoch, i, s.N, n)
		case s.Mark.Before(b.Mark) || s.Empty && !b.Empty:
			known[i] = ShardEpoch{Mark: b.Mark}
		}
	}
	return known, nil
}

// replaced looks at the shards after one of them answered ErrEpoch to the opener
// of epoch n. If an older state of the index, or an empty one, has taken its
// place, it gives what the shards say now: nobody has worked in n, so opening it
// can begin again with the fences. Else the error stays: a later epoch was begun,
// or a copy took its place that was fenced at n as another server.
func (e *Engine) replaced(ctx context.Context, n uint64, because error) ([]ShardEpoch, error) {
	var now []ShardEpoch
	err := e.insist(ctx, func() (err error) {
		now, err = e.epochs(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	older := false
	for _, s := range now {
		if s.N > n || s.N == n && (s.Open || !s.Same) {
			return nil, because
		}
		older = older || s.N < n
	}
	if !older {
		return nil, because
	}
	return now, nil
}

func (e *Engine) epochs(ctx context.Context) ([]ShardEpoch, error) {
	ctx, cancel := context.WithTimeout(ctx, e.opts.IndexTimeout)
	defer cancel()
	s, err := e.index.Epochs(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the index for its epoch: %w", err)
	}
	return s, nil
}

func (e *Engine) newestEpoch(ctx context.Context) (uint64, error) {
	var newest uint64
	for o, err := range e.objects.List(ctx, epochPrefix, "") {
		if err != nil {
			return 0, fmt.Errorf("list epochs: %w", err)
		}
		if n, _, ok := parseEpochKey(o.Key); ok {
			newest = max(newest, n)
		}
	}
	return newest, nil
}

// sleep waits for d or until ctx ends, whose error it returns.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return ctx.Err() // both may have come at one moment
	}
}

// condemn gives up a shard of the index that does not agree with itself, as when
// a server evicted a key: its epoch goes, and opening the next one refills the
// shard from the bucket. At most once a minute, lest damage that stays makes
// epochs without end.
func (e *Engine) condemn(ctx context.Context, n uint64, shard int, err error) bool {
	if !errors.Is(err, ErrDamaged) {
		return false
	}
	const every = time.Minute
	now := time.Now()
	if last := e.condemned.Load(); last != nil && now.Sub(*last) < every {
		return false
	}
	e.condemned.Store(&now)
	e.opts.Hooks.trouble("index", fmt.Errorf("shard %x is refilled from the bucket: %w", shard, err))
	if err := e.index.Condemn(ctx, n, shard); err != nil && !errors.Is(err, ErrEpoch) {
		e.opts.Hooks.trouble("give up a shard of the index", err)
		return false
	}
	e.lease.leave(n)
	return true
}
