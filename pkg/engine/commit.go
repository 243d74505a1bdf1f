package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jsonlake/lake/pkg/engine/codec"
)

// The two-phase commit of one segment, after group.reserve has pre-committed
// it:
//
//	put        wal/…, create-only, the same bytes and key on every try
//	           no answer in time → put a tombstone at the same key
//	             created → the segment never was and never will be: roll back, try again as a new one
//	             exists  → it is there: go on
//	lease      valid now, after the put returned; else no commit, no answer
//	commit     each run in its turn: an older reservation of its catalog is open → wait; the other runs go on.
//	           Older segments that do not move within Patience are decided here, as the sweeper would
//	answer     with the version, if the lease is valid after the index answered
//
// W: every run in a segment that counts is committed, sooner or later. Nobody
// may answer "no" for it once its segment may be in the bucket.

// finish brings a reserved segment to its end.
func (e *Engine) finish(ctx context.Context, s *segment) {
	e.carry(ctx, s)
	e.group.settled(s)
}

// carry puts and commits a segment, or gives it up.
func (e *Engine) carry(ctx context.Context, s *segment) {
	data, err := s.encode()
	if err != nil {
		e.group.left(0)
		e.rollBack(ctx, s)
		e.fail(s.runs, err)
		return
	}
	start := time.Now()
	fate, err := e.putSegment(ctx, s.id, data)
	for _, r := range s.runs {
		if r.trace != nil {
			r.trace.Step("StoragePut", start).Str("segment", s.id.Key()).Int("runs", int64(len(s.runs))).Int("bytes", int64(len(data)))
		}
	}
	e.group.left(time.Since(start))
	switch fate {
	case segmentThere:
		e.opts.Hooks.segmentPut(len(s.runs), len(data), time.Since(start))
		e.store.keepFrames(s, data) // before the commit: who sees its versions may want them at once
		e.commit(ctx, s)
	case segmentNever:
		e.rollBack(ctx, s)
		e.tryAgain(s, err)
	default: // the sweeper decides it
		e.opts.Hooks.trouble("put segment", err)
		for _, r := range s.runs {
			e.group.answer(r, &UnknownError{ID: r.id, Err: err})
		}
	}
}

// maxTries is how many segments a run may be part of.
const maxTries = 3

func (e *Engine) tryAgain(s *segment, cause error) {
	var again []*run
	for _, r := range s.runs {
		if r.tries++; r.tries < maxTries {
			again = append(again, r)
			continue
		}
		e.group.answer(r, fmt.Errorf("%w: the bucket did not take the write (nothing was stored): %w", ErrUnavailable, cause))
	}
	e.group.again(again)
}

func (e *Engine) fail(runs []*run, err error) {
	for _, r := range runs {
		e.group.answer(r, err)
	}
}

func (e *Engine) preCommit(ctx context.Context, p PreCommit) (Reservation, error) {
	ctx, cancel := context.WithTimeout(ctx, e.opts.IndexTimeout)
	defer cancel()
	return e.index.PreCommit(ctx, p)
}

// fate is what became of a segment's put.
type fate uint8

const (
	segmentUnknown fate = iota
	segmentThere        // it is in the bucket
	segmentNever        // a tombstone stands in its place
)

// putSegment puts a segment, with retries, and decides with a tombstone when
// no try was answered.
func (e *Engine) putSegment(ctx context.Context, id SegmentID, data []byte) (fate, error) {
	limit := e.opts.PutTimeout + time.Duration(len(data)>>20)*time.Second
	key := id.Key()
	pctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := time.Now()
	var err error
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err = e.objects.Put(pctx, key, data)
		if err == nil {
			return segmentThere, nil
		}
		if errors.Is(err, ErrExists) {
			return e.whatStands(ctx, id, data)
		}
		if sleep(pctx, pause) != nil {
			break
		}
	}
	f, terr := e.tombstone(ctx, id, data)
	if took := max(time.Since(began), time.Now().Round(0).Sub(began.Round(0))); f == segmentNever && terr == nil && took > e.neverWithin() {
		// This process was stopped. Others may have committed the segment, folded and
		// collected it since: an empty place proves nothing any more.
		f, terr = segmentUnknown, fmt.Errorf("the put took %v, longer than segments are certain to stay", took.Round(time.Second))
	}
	return f, errors.Join(fmt.Errorf("put %s: %w", key, err), terr)
}

// neverWithin is how long after its put began a missing segment never was: 5 min,
// and always less than the grace, by a sixth for clocks that run differently.
func (e *Engine) neverWithin() time.Duration { return min(5*time.Minute, e.opts.Grace/6*5) }

// tombstone puts a tombstone where the segment would stand.
func (e *Engine) tombstone(ctx context.Context, id SegmentID, data []byte) (fate, error) {
	ctx, cancel := context.WithTimeout(ctx, e.opts.PutTimeout)
	defer cancel()
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := e.objects.Put(ctx, id.Key(), tombstoneBytes(id))
		if err == nil {
			return segmentNever, nil
		}
		if errors.Is(err, ErrExists) {
			return e.whatStands(ctx, id, data)
		}
		if sleep(ctx, pause) != nil {
			return segmentUnknown, fmt.Errorf("put a tombstone for %s: %w", id.Key(), err)
		}
	}
}

// whatStands tells what stands under a segment's key: mine, or a tombstone.
func (e *Engine) whatStands(ctx context.Context, id SegmentID, mine []byte) (fate, error) {
	got, err := e.getObject(ctx, id.Key())
	if err != nil {
		return segmentUnknown, fmt.Errorf("get %s: %w", id.Key(), err)
	}
	if bytes.Equal(got, mine) {
		return segmentThere, nil
	}
	f, _, err := codec.Decode(got, codec.Options{MaxPayload: maxFramePayload})
	switch {
	case err != nil:
		return segmentUnknown, fmt.Errorf("%w: %s: %w", ErrDamaged, id.Key(), err)
	case f.Kind == codec.KindTombstone:
		return segmentNever, errors.New("another process has decided against this segment")
	default:
		return segmentUnknown, fmt.Errorf("%w: %s holds a segment of somebody else under this writer's name", ErrDamaged, id.Key())
	}
}

// getObject reads a whole object, trying again for a while.
func (e *Engine) getObject(ctx context.Context, key string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, e.opts.PutTimeout)
	defer cancel()
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		b, err := e.objects.Get(ctx, key)
		if err == nil || errors.Is(err, ErrNotExist) {
			return b, err
		}
		if sleep(ctx, pause) != nil {
			return nil, err
		}
	}
}

func tombstoneBytes(id SegmentID) []byte {
	b, err := codec.Append(nil, &codec.Frame{Header: codec.Header{Kind: codec.KindTombstone, Writer: id.Writer, Epoch: id.Epoch}}, codec.Options{})
	if err != nil { // constant and tiny: cannot fail
		panic(err)
	}
	return b
}

// commit makes the runs of a segment that is in the bucket visible, each in
// its turn, and answers them.
func (e *Engine) commit(ctx context.Context, s *segment) {
	// Longer than this nobody waits for an answer, and the sweeper has decided.
	ctx, cancel := context.WithTimeout(ctx, e.opts.PutTimeout+20*time.Second)
	defer cancel()
	begin := time.Now()
	e.waitOwn(ctx, s)

	todo := s.runs
	var last error
	var turn waiting
	for pause := 2 * time.Millisecond; len(todo) > 0; pause = min(2*pause, 50*time.Millisecond) {
		if !e.lease.valid(s.id.Epoch) {
			if e.lease.epoch() != s.id.Epoch {
				last = ErrEpoch
				break
			}
			last = errors.New("the epoch lease has run out")
			turn.end(time.Now()) // others may have been held up like this process
		} else {
			var older []SegmentID
			todo, older, last = e.commitParted(ctx, s.id, todo, begin)
			if errors.Is(last, ErrEpoch) {
				break
			}
			e.decideAll(ctx, turn.over(older, e.opts.Patience))
		}
		if len(todo) > 0 && sleep(ctx, pause) != nil {
			break
		}
	}
	turn.end(time.Now())
	if turn.total > 0 {
		e.opts.Hooks.waited(turn.total)
	}
	for _, r := range todo {
		e.group.answer(r, &UnknownError{ID: r.id, Err: last})
	}
}

// waitOwn waits for this process's own older segments of the same catalogs,
// but not longer than for anybody else's.
func (e *Engine) waitOwn(ctx context.Context, s *segment) {
	if len(s.after) == 0 {
		return
	}
	t := time.NewTimer(e.opts.Patience)
	defer t.Stop()
	for _, before := range s.after {
		select {
		case <-before.decided:
		case <-t.C:
			return
		case <-ctx.Done():
			return
		}
	}
	s.after = nil // else every segment would keep all before it
}

// A large segment (Options.SplitCommit) is committed in so many parts, so many of them at
// once: the writers of the first are answered while the index works on the others, and it
// never waits for a round trip. With more at once all come back together; with more parts
// the servers have more to do for each write.
const (
	commitParts = 4
	partsAtOnce = 2
)

// commitParted commits runs in one call or, when there are many, in parts. It gives what
// commitOnce does.
func (e *Engine) commitParted(ctx context.Context, id SegmentID, runs []*run, begin time.Time) (rest []*run, older []SegmentID, last error) {
	if e.opts.SplitCommit == 0 || len(runs) < e.opts.SplitCommit {
		return e.commitOnce(ctx, id, runs, begin)
	}
	parts := make(chan []*run, commitParts)
	for _, part := range inParts(runs) {
		parts <- part
	}
	close(parts)
	var mu sync.Mutex
	commit := func() {
		for part := range parts {
			waiting, before, err := e.commitOnce(ctx, id, part, begin)
			mu.Lock()
			rest = append(rest, waiting...)
			for _, o := range before {
				if !slices.Contains(older, o) {
					older = append(older, o)
				}
			}
			if err != nil && !errors.Is(last, ErrEpoch) {
				last = err
			}
			mu.Unlock()
		}
	}
	var others sync.WaitGroup
	for range partsAtOnce - 1 {
		others.Add(1)
		e.workers.start(func() {
			defer others.Done()
			commit()
		})
	}
	commit()
	others.Wait()
	return rest, older, last
}

// inParts sorts runs into at most commitParts parts of whole shards, about as large as
// one another.
func inParts(runs []*run) (parts [][]*run) {
	var shards [Shards][]*run
	for _, r := range runs {
		s := Shard(r.catalog)
		shards[s] = append(shards[s], r)
	}
	left := len(runs)
	var part []*run
	for _, of := range shards {
		if part = append(part, of...); len(part) > 0 && len(part)*(commitParts-len(parts)) >= left {
			left -= len(part)
			parts, part = append(parts, part), nil
		}
	}
	return parts
}

// commitOnce asks the index to commit runs, answers those that are, and gives
// the rest, with the segments they wait for. Their turn began at begin.
func (e *Engine) commitOnce(ctx context.Context, id SegmentID, runs []*run, begin time.Time) (rest []*run, older []SegmentID, last error) {
	c := Commit{Epoch: id.Epoch, Segment: id, Runs: make([]CommitRun, len(runs))}
	for i, r := range runs {
		c.Runs[i] = CommitRun{Catalog: r.catalog, First: r.first, N: r.n, Type: r.typ, Path: r.path, Off: r.off, Len: r.len, Author: r.author}
		if r.given {
			c.Runs[i].ID, c.Runs[i].Fingerprint = r.id, r.fingerprint
		}
	}
	ictx, cancel := context.WithTimeout(ctx, e.opts.IndexTimeout)
	defer cancel()
	res, err := e.index.Commit(ictx, c)
	if err != nil {
		e.sawEpoch(id.Epoch, err)
		return runs, nil, fmt.Errorf("commit: %w", err)
	}
	valid := e.lease.valid(id.Epoch)
	for i, r := range runs {
		switch c := res[i]; {
		case c.Err != nil:
			e.sawEpoch(id.Epoch, c.Err)
			last = fmt.Errorf("commit: %w", c.Err)
			rest = append(rest, r)
		case c.State == RunWaiting:
			if !slices.Contains(older, c.Older) {
				older = append(older, c.Older)
			}
			rest = append(rest, r)
			last = fmt.Errorf("waiting for segment %s", c.Older.Key())
		case c.State == RunGone:
			// Decided more than ten minutes ago, or against what the bucket says.
			e.group.answer(r, &UnknownError{ID: r.id, Err: errors.New("the index does not remember the reservation")})
		case !valid:
			last = errors.New("the epoch lease ran out while the index answered")
			rest = append(rest, r)
		default:
			if r.trace != nil {
				r.trace.Step("Commit", begin).Str("version", r.first.Add(r.n-1).String())
			}
			e.opts.Hooks.committed(r.catalog, r.first.Add(r.n-1), r.n)
			if e.folder != nil {
				e.folder.committed(r.catalog, r.n)
			}
			e.group.answer(r, nil)
		}
	}
	return rest, older, last
}

// waiting measures for how long a commit has waited for older segments. All that were
// reserved before it are in its way from the beginning, though the index names only the
// oldest of each catalog: the patience is counted once, not for each, or the writes behind
// several dead writers would wait for them one after the other.
type waiting struct {
	began time.Time               // zero: nothing is in the way
	named map[SegmentID]time.Time // since when each has been the oldest
	total time.Duration           // of waits that have ended
}

// decideAll decides segments that others have waited for long enough, but for those
// that this process is deciding already.
func (e *Engine) decideAll(ctx context.Context, over []SegmentID) {
	for _, id := range over {
		if _, already := e.deciding.LoadOrStore(id, true); already {
			continue
		}
		if _, err := e.decide(ctx, id, allShards); err != nil {
			e.opts.Hooks.trouble("decide "+id.Key(), err)
		}
		e.deciding.Delete(id)
	}
}

// nextTurn is what a segment is given to commit by itself once it is the oldest: it may
// have waited as well.
const nextTurn = 250 * time.Millisecond

// end says that nothing is in the way, or nothing is known of it.
func (w *waiting) end(now time.Time) {
	if !w.began.IsZero() {
		w.total += now.Sub(w.began)
	}
	w.began, w.named = time.Time{}, nil
}

// over gives those of the segments in the way that have been there for longer than the
// patience.
func (w *waiting) over(older []SegmentID, patience time.Duration) (over []SegmentID) {
	now := time.Now()
	if len(older) == 0 {
		w.end(now)
		return nil
	}
	if w.began.IsZero() {
		w.began = now
	}
	named := make(map[SegmentID]time.Time, len(older))
	for _, id := range older {
		since, known := w.named[id]
		if !known {
			since = now
		}
		named[id] = since
		if now.Sub(w.began) > patience && now.Sub(since) > min(patience, nextTurn) {
			over = append(over, id)
		}
	}
	w.named = named
	return over
}

// rollBack takes the reservations of a segment that never was out of the way.
func (e *Engine) rollBack(ctx context.Context, s *segment) {
	shards := map[int]bool{}
	for _, r := range s.runs {
		shards[Shard(r.catalog)] = true
	}
	e.rollBackShards(ctx, s.id, shards)
}

// rollBackShards rolls a segment back in some shards: where it never was, or
// where a reservation may have been made without an answer, which no segment
// will ever hold. If such a shard executes the reservation later still, the
// sweeper finds it.
func (e *Engine) rollBackShards(ctx context.Context, id SegmentID, shards map[int]bool) {
	list := slices.Sorted(maps.Keys(shards))
	ctx, cancel := context.WithTimeout(ctx, e.opts.IndexTimeout)
	defer cancel()
	if err := e.index.Rollback(ctx, Rollback{Epoch: id.Epoch, Segment: id, Shards: list}); err != nil && !e.sawEpoch(id.Epoch, err) {
		e.opts.Hooks.trouble("roll back "+id.Key(), err) // the sweeper will do it
	}
}

var allShards = func() []int {
	s := make([]int, Shards)
	for i := range s {
		s[i] = i
	}
	return s
}()
