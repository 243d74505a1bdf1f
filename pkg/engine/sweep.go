package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jsonlake/lake/pkg/engine/codec"
)

const (
	sweepEvery     = time.Second
	sweepLease     = 4 * time.Second // a dead sweeper is replaced well within the 15 s of I6
	heartbeatLimit = 5 * time.Second // a writer without a heartbeat for so long is dead
	sweepSlack     = 2 * time.Second // beyond PutTimeout
)

// sweep decides what writers have left undecided, while this process holds the
// sweeper's lease: segments older than PutTimeout and a slack, by the index's
// clock or by this process's own, and segments of writers that are dead.
func (e *Engine) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	firstSeen := map[SegmentID]time.Time{}
	for {
		select {
		case <-ctx.Done():
			rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			_ = e.index.Release(rctx, 0, "sweep", e.writer) // it would expire by itself
			cancel()
			return
		case <-tick.C:
		}
		if n := e.lease.epoch(); n != 0 && e.lease.valid(n) {
			if err := e.sweepOnce(ctx, n, firstSeen); err != nil && !e.sawEpoch(n, err) && ctx.Err() == nil {
				e.opts.Hooks.trouble("sweep", err)
			}
		}
	}
}

func (e *Engine) sweepOnce(ctx context.Context, n uint64, firstSeen map[SegmentID]time.Time) error {
	ictx, cancel := context.WithTimeout(ctx, e.opts.IndexTimeout)
	defer cancel()
	mine, err := e.index.Acquire(ictx, 0, "sweep", e.writer, sweepLease)
	if err != nil {
		return err
	}
	// All look, one decides: by the time a sweeper has died, the next knows how old
	// things are, and need not begin to count.
	stuck, err := e.index.Stuck(ictx, n)
	if err != nil {
		return err
	}
	now := time.Now()
	seen := map[SegmentID]bool{}
	var errs []error
	for _, s := range stuck { // oldest first, so that what waits for it comes after it
		seen[s.Segment] = true
		if firstSeen[s.Segment].IsZero() {
			firstSeen[s.Segment] = now
		}
		limit := e.opts.PutTimeout + sweepSlack
		alive := s.Since // a writer that never gave a heartbeat counts from its pre-commit
		if s.Heartbeat.After(alive) {
			alive = s.Heartbeat
		}
		old := s.Now.Sub(s.Since) > limit || now.Sub(firstSeen[s.Segment]) > limit
		dead := s.Segment.Writer != e.writer && s.Now.Sub(alive) > heartbeatLimit
		if !mine || !old && !dead {
			continue
		}
		if _, err := e.decide(ctx, s.Segment, s.Shards); err != nil {
			errs = append(errs, fmt.Errorf("decide %s: %w", s.Segment.Key(), err))
		}
	}
	for id := range firstSeen {
		if !seen[id] {
			delete(firstSeen, id)
		}
	}
	return errors.Join(errs...)
}

// errStillWaiting: a segment was found in the bucket, but some of its runs wait
// for an older one.
var errStillWaiting = errors.New("some of its runs wait for an older segment")

// decide ends a segment whose writer is slow or dead: with a tombstone in its
// place, or, if it is in the bucket, by committing on the writer's behalf every
// run that it holds and rolling back what was planned and is not in it. The
// writer that wakes up late finds the plan decided, or the tombstone.
func (e *Engine) decide(ctx context.Context, id SegmentID, shards []int) (how string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*e.opts.PutTimeout)
	defer cancel()
	rollback := Rollback{Epoch: id.Epoch, Segment: id, Shards: shards}
	err = e.objects.Put(ctx, id.Key(), tombstoneBytes(id))
	if err == nil {
		if err := e.index.Rollback(ctx, rollback); err != nil {
			return "", fmt.Errorf("roll back: %w", err)
		}
		e.opts.Hooks.decided(id, "tombstone")
		return "tombstone", nil
	}
	if !errors.Is(err, ErrExists) {
		return "", fmt.Errorf("put a tombstone: %w", err)
	}
	b, err := e.getObject(ctx, id.Key())
	if err != nil {
		return "", fmt.Errorf("get: %w", err)
	}
	if f, _, err := codec.Decode(b, codec.Options{MaxPayload: maxFramePayload}); err == nil && f.Kind == codec.KindTombstone {
		if err := e.index.Rollback(ctx, rollback); err != nil {
			return "", fmt.Errorf("roll back: %w", err)
		}
		e.opts.Hooks.decided(id, "rolled_back")
		return "rolled_back", nil
	}
	runs, err := segmentRuns(id, b, nil)
	if err != nil {
		return "", err
	}
	if !e.lease.valid(id.Epoch) {
		return "", fmt.Errorf("%w: the epoch lease is not valid", ErrUnavailable)
	}
	c := Commit{Epoch: id.Epoch, Segment: id}
	for _, r := range runs {
		if !slices.Contains(shards, Shard(r.Catalog)) {
			continue
		}
		rollback.Keep = append(rollback.Keep, RunKey{Catalog: r.Catalog, First: r.Run.First})
		c.Runs = append(c.Runs, CommitRun{
			Catalog: r.Catalog, First: r.Run.First, N: r.Run.N, Type: r.Run.Type, Path: r.Run.Path,
			Off: r.Run.Off, Len: r.Run.Len, Author: r.Author, ID: r.ID.ID, Fingerprint: r.ID.Fingerprint,
		})
	}
	var still error
	if len(c.Runs) > 0 {
		res, err := e.index.Commit(ctx, c)
		if err != nil {
			return "", fmt.Errorf("commit: %w", err)
		}
		for _, r := range res {
			switch {
			case r.Err != nil:
				return "", fmt.Errorf("commit: %w", r.Err)
			case r.State == RunWaiting:
				still = fmt.Errorf("%w: %s", errStillWaiting, r.Older.Key())
			}
		}
	}
	if err := e.index.Rollback(ctx, rollback); err != nil {
		return "", fmt.Errorf("roll back what is not in the segment: %w", err)
	}
	if still != nil {
		return "", still
	}
	e.opts.Hooks.decided(id, "rolled_forward")
	return "rolled_forward", nil
}
