package engine

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Reading ahead: a new epoch waits until no older lease is valid, and only then asks
// what counts. Most of that is in the bucket already, and what stands under a key
// never changes. So it is read during the wait. Nothing is concluded from it: the
// listings and seals that decide come after the wait, what was read and does not count
// is dropped, and what was not read is read then.

// ahead is what was read ahead; nil: nothing.
type ahead struct {
	mu       sync.Mutex
	segments map[string][]RestoreRun // of sound segments, by key
}

// segment gives the runs of a segment that was read ahead.
func (a *ahead) segment(key string) (runs []RestoreRun, read bool) {
	if a == nil {
		return nil, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	runs, read = a.segments[key]
	return runs, read
}

// readAhead reads, until a time, what opening epoch n will probably need. What fails is
// left to whoever needs it.
func (e *Engine) readAhead(ctx context.Context, n uint64, before []ShardEpoch, until time.Time) *ahead {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	a := &ahead{segments: map[string][]RestoreRun{}}
	oldest, anew := n, []int{}
	for s, b := range before {
		if e.keeps(b) {
			oldest = min(oldest, b.N)
		} else {
			oldest = 0
			anew = append(anew, s)
		}
	}
	e.readSegmentsAhead(ctx, a, oldest)
	e.readPacksAhead(ctx, anew)
	return a
}

// readSegmentsAhead reads the segments of epochs from oldest on.
func (e *Engine) readSegmentsAhead(ctx context.Context, a *ahead, oldest uint64) {
	var g errgroup.Group // whose errors do not matter
	g.SetLimit(max(restoreLoads, e.opts.Loads))
	for o, err := range e.objects.List(ctx, walPrefix, walEpochPrefix(oldest)) {
		if err != nil {
			break
		}
		g.Go(func() error {
			id, err := ParseSegmentKey(o.Key)
			if err != nil {
				return err
			}
			b, err := e.objects.Get(ctx, o.Key)
			if err != nil {
				return err
			}
			runs, err := segmentRuns(id, b, nil)
			if err != nil {
				return err
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			a.segments[o.Key] = runs
			return nil
		})
	}
	_ = g.Wait()
}

// readPacksAhead brings the young packs of shards into memory, as far as the frame
// cache keeps them.
func (e *Engine) readPacksAhead(ctx context.Context, shards []int) {
	var left atomic.Int64
	left.Store(e.opts.FrameCache / 2) // it keeps other things, too
	var g errgroup.Group              // whose errors do not matter
	g.SetLimit(e.opts.RestoreShards)
	for _, shard := range shards {
		g.Go(func() error {
			list, err := e.listSnapshots(ctx, shard)
			if err != nil {
				return err
			}
			var packs errgroup.Group
			packs.SetLimit(restorePacks)
			for _, s := range list.young() {
				if left.Add(-s.Snapshot.PackBytes) < 0 {
					break
				}
				packs.Go(func() error {
					_, err := e.store.pack(ctx, s.Catalog, s.Snapshot)
					return err
				})
			}
			return packs.Wait()
		})
	}
	_ = g.Wait()
}
