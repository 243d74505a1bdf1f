package engine

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jsonlake/lake/pkg/engine/codec"
)

// Opening a new epoch: what an index forgot is put back from the bucket.
//
//	1 create _lake/epoch/{n}         lost the race → the winner opens it
//	2 fence every shard at n         from then on nothing of an older epoch is accepted
//	3 wait, 5 s since 1              no older lease is valid any more: whatever was acknowledged is in the bucket (meanwhile: ahead.go)
//	4 seal every older epoch         the listing of wal/{m}/ decides which segments of m count; the first seal put is the one
//	5 empty a shard                  whose epoch was never opened, or that may not know of all that was collected; adopt snapshots in it
//	6 restore runs                   of sealed segments, in version order, what the shard does not hold
//	7 resolve reservations           of older epochs: restored → committed, else rolled back
//	8 open every shard               no version at or below the greatest second seen + 6
//
// A late zombie's segment is not in the seal: it does not count, and its
// writer, whose lease ran out in step 3, never answered.

var errLostRace = errors.New("another process opens this epoch")

// epochObject is _lake/epoch/{n}.json; seal is its seal.
type epochObject struct {
	Epoch   uint64 `json:"epoch"`
	Writer  string `json:"writer"` // who opens it
	Created string `json:"created"`
}

type sealObject struct {
	Epoch    uint64   `json:"epoch"`
	SealedBy uint64   `json:"sealed_by"`
	Segments []string `json:"segments"` // object keys

	fresh bool // listed just now
}

const (
	restoreChunk = 500 // runs that go to the index at once
	restorePacks = 16  // packs of a shard that are read at once
	restoreTold  = 256 // packs of which it is kept what they tell, until the index is told
	restoreLoads = 64  // segments that are read at once, each of a few MiB at most
	restoreLists = 16  // epochs whose seals are read, and segments listed, at once
)

// counter tells how far a step is.
type counter struct {
	e     *Engine
	step  string
	total int // 0: not known
	done  atomic.Int64
}

func (e *Engine) counter(step string, total int) *counter {
	e.opts.Hooks.recoverProgress(step, 0, total)
	return &counter{e: e, step: step, total: total}
}

func (c *counter) add(k int) {
	done := int(c.done.Add(int64(k)))
	if c.total > 0 {
		done = min(done, c.total) // a part may have been done again
	}
	c.e.opts.Hooks.recoverProgress(c.step, done, c.total)
}

func (e *Engine) openEpoch(ctx context.Context, n uint64, before []ShardEpoch) error {
	h := &e.opts.Hooks
	h.recovering(n, "create")
	if err := e.createEpoch(ctx, n); err != nil {
		return err
	}
	// Leases of older epochs were granted before the object was there: the wait
	// counts from here, however often the shards are fenced.
	calm := time.Now().Add(epochWait)
	floor, err := e.refill(ctx, n, before, calm)
	for errors.Is(err, ErrEpoch) {
		if before, err = e.replaced(ctx, n, err); err != nil {
			return err
		}
		floor, err = e.refill(ctx, n, before, calm)
	}
	if err != nil {
		return err
	}
	h.recovering(n, "open")
	for s := range Shards {
		if err := e.insist(ctx, func() error { return e.index.Open(ctx, s, n, floor) }); err != nil {
			return fmt.Errorf("open shard %x: %w", s, err)
		}
	}
	return nil
}

// refill does steps 2 to 7, the third until calm, and gives the floor. It may be
// repeated until a shard is opened.
func (e *Engine) refill(ctx context.Context, n uint64, before []ShardEpoch, calm time.Time) (floor int64, err error) {
	h := &e.opts.Hooks
	h.recovering(n, "fence")
	for s := range Shards {
		if err := e.insist(ctx, func() error { return e.index.Fence(ctx, s, n) }); err != nil {
			return 0, fmt.Errorf("fence shard %x: %w", s, err)
		}
	}
	if before, err = e.stillSo(ctx, n, before); err != nil {
		return 0, err
	}
	var early *ahead
	if n > 1 && !e.index.Exclusive() {
		h.recovering(n, "wait")
		early = e.readAhead(ctx, n, before, calm)
		if err := sleep(ctx, time.Until(calm)); err != nil {
			return 0, err
		}
	}
	h.recovering(n, "seal")
	var sealed map[uint64]sealObject
	err = e.insist(ctx, func() (err error) {
		sealed, err = e.sealBelow(ctx, n)
		return err
	})
	if err != nil {
		return 0, err
	}
	h.recovering(n, "restore")
	return e.restore(ctx, n, before, sealed, early)
}

// insist does a step of opening an epoch again until it succeeds: all steps may
// be repeated, and giving up would cost everybody a take-over. It ends when
// another process has opened a later epoch, when the error is one that stays,
// or after insistFor.
func (e *Engine) insist(ctx context.Context, step func() error) error {
	end := time.Now().Add(insistFor)
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := step()
		for _, stays := range []error{ErrEpoch, ErrDamaged, ErrInvalid, ErrClosed} {
			if errors.Is(err, stays) {
				return err
			}
		}
		if err == nil || time.Now().After(end) || sleep(ctx, pause) != nil {
			return err
		}
	}
}

// insistFor is how long a step of opening an epoch is tried.
const insistFor = 30 * time.Second

func (e *Engine) createEpoch(ctx context.Context, n uint64) error {
	b, err := marshalControl(epochObject{Epoch: n, Writer: e.writer, Created: time.Now().UTC().Format(time.RFC3339Nano)})
	if err != nil {
		return err
	}
	var got []byte
	err = e.insist(ctx, func() error {
		err := e.objects.Put(ctx, epochKey(n), b)
		if errors.Is(err, ErrExists) {
			// It may be our own, put by a try whose answer was lost.
			got, err = e.objects.Get(ctx, epochKey(n))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("create epoch %d: %w", n, err)
	}
	if got != nil && !bytes.Equal(got, b) {
		return errLostRace
	}
	return nil
}

// sealBelow seals every epoch below n that has no seal and gives the segments
// that count, by epoch.
func (e *Engine) sealBelow(ctx context.Context, n uint64) (map[uint64]sealObject, error) {
	exists, seals := map[uint64]bool{}, map[uint64]bool{}
	for o, err := range e.objects.List(ctx, epochPrefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list epochs: %w", err)
		}
		if m, seal, ok := parseEpochKey(o.Key); ok && m < n {
			if seal {
				seals[m] = true
			} else {
				exists[m] = true
			}
		}
	}
	// Those that have their seals are read side by side, a lake has an epoch for each of
	// its restarts; the others, usually one, are sealed in order.
	var mu sync.Mutex
	sealed := map[uint64]sealObject{}
	seal := func(ctx context.Context, m uint64) error {
		s, err := e.seal(ctx, m, n, seals[m])
		if err != nil {
			return fmt.Errorf("seal epoch %d: %w", m, err)
		}
		mu.Lock()
		defer mu.Unlock()
		sealed[m] = s
		return nil
	}
	g, gctx := newTasks(ctx, restoreLists)
	epochs := slices.Sorted(maps.Keys(exists))
	for _, m := range epochs {
		if seals[m] {
			g.add(func() error { return seal(gctx, m) })
		}
	}
	if err := g.wait(); err != nil {
		return nil, err
	}
	for _, m := range epochs {
		if seals[m] {
			continue
		}
		if err := seal(ctx, m); err != nil {
			return nil, err
		}
	}
	return sealed, nil
}

func (e *Engine) seal(ctx context.Context, m, by uint64, there bool) (sealObject, error) {
	if !there {
		s := sealObject{Epoch: m, SealedBy: by, Segments: []string{}}
		for o, err := range e.objects.List(ctx, walEpochPrefix(m), "") {
			if err != nil {
				return sealObject{}, err
			}
			s.Segments = append(s.Segments, o.Key)
		}
		b, err := marshalControl(s)
		if err != nil {
			return sealObject{}, err
		}
		switch err := e.objects.Put(ctx, sealKey(m), b); {
		case err == nil:
			s.fresh = true
			return s, nil
		case !errors.Is(err, ErrExists):
			return sealObject{}, err
		}
	}
	b, err := e.objects.Get(ctx, sealKey(m))
	if err != nil {
		return sealObject{}, err
	}
	var s sealObject
	if err := unmarshalControl(sealKey(m), b, &s); err != nil {
		return sealObject{}, err
	}
	return s, nil
}

// keeps tells that a shard goes on with what it holds, unless that is too old.
func (e *Engine) keeps(b ShardEpoch) bool {
	return !b.Empty && b.N != 0 && b.Open && !e.opts.Rebuild
}

// restore does steps 5 to 7 and gives the floor of the new epoch.
func (e *Engine) restore(ctx context.Context, n uint64, before []ShardEpoch, sealed map[uint64]sealObject, early *ahead) (int64, error) {
	var greatest int64
	var mu sync.Mutex
	saw := func(sec int64) {
		mu.Lock()
		defer mu.Unlock()
		greatest = max(greatest, sec)
	}
	var horizon time.Time
	err := e.insist(ctx, func() (err error) {
		horizon, err = e.collected(ctx)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("find out what was collected: %w", err)
	}

	// A shard that was open in epoch m holds all that was sealed before m; what
	// it may lack of m and later is what was lost at its end. One whose epoch was
	// never open may be half restored, and one that has not seen the time up to
	// which garbage was collected may need what is gone: those begin anew.
	oldest := n
	var anew [Shards]*adopted
	snapshots := e.counter("snapshots", 0)
	g, gctx := newTasks(ctx, e.opts.RestoreShards)
	for s, b := range before {
		saw(b.Mark.Unix())
		knows := horizon.IsZero() || b.Mark.After(horizon)
		if e.keeps(b) && knows {
			oldest = min(oldest, b.N)
			continue
		}
		oldest = 0
		if !b.Empty && b.N != 0 {
			e.opts.Hooks.recovering(n, "empty")
		}
		g.add(func() error {
			err := e.insist(gctx, func() (err error) {
				if err := e.index.Empty(gctx, s, n); err != nil {
					return err
				}
				anew[s], err = e.adoptSnapshots(gctx, n, s, saw, snapshots)
				return err
			})
			if err != nil {
				return fmt.Errorf("adopt snapshots of shard %x: %w", s, err)
			}
			return nil
		})
	}
	if err := g.wait(); err != nil {
		return 0, err
	}
	keys, err := e.remaining(ctx, sealed, oldest)
	if err != nil {
		return 0, err
	}
	var lost *losses
	err = e.insist(ctx, func() (err error) {
		lost, err = e.losses(ctx)
		return err
	})
	if err != nil {
		return 0, err
	}
	shards, damaged, err := e.readSegments(ctx, keys, lost, early, saw)
	if err != nil {
		return 0, err
	}
	if len(damaged) > 0 {
		kept, err := e.acceptSegments(ctx, n, damaged, lost, &shards, &anew)
		if err != nil {
			return 0, err
		}
		for _, r := range kept {
			shards[Shard(r.Catalog)] = append(shards[Shard(r.Catalog)], r)
		}
	}
	total := 0
	for s := range Shards {
		total += len(shards[s])
	}
	runs := e.counter("runs", total)
	g, gctx = newTasks(ctx, e.opts.RestoreShards)
	for s := range Shards {
		g.add(func() error {
			if err := e.insist(gctx, func() error { return e.restoreShard(gctx, n, s, shards[s], anew[s], lost) }); err != nil {
				return fmt.Errorf("restore shard %x: %w", s, err)
			}
			runs.add(len(shards[s]))
			return nil
		})
	}
	if err := g.wait(); err != nil {
		return 0, err
	}
	if greatest == 0 {
		return 0, nil
	}
	return greatest + 6, nil
}

// remaining gives the keys of the sealed segments that the bucket still has, of
// epochs from oldest on: the others were collected.
func (e *Engine) remaining(ctx context.Context, sealed map[uint64]sealObject, oldest uint64) ([]string, error) {
	var mu sync.Mutex
	var keys []string
	add := func(there []string) {
		mu.Lock()
		defer mu.Unlock()
		keys = append(keys, there...)
	}
	g, ctx := newTasks(ctx, restoreLists)
	for _, m := range slices.Sorted(maps.Keys(sealed)) {
		switch s := sealed[m]; {
		case m < oldest || len(s.Segments) == 0:
		case s.fresh: // was listed a moment ago
			add(s.Segments)
		default:
			g.add(func() error {
				err := e.insist(ctx, func() error {
					there, _, err := e.listSealed(ctx, m, s.Segments)
					if err == nil {
						add(there)
					}
					return err
				})
				if err != nil {
					return fmt.Errorf("list the segments of epoch %d: %w", m, err)
				}
				return nil
			})
		}
	}
	err := g.wait()
	slices.Sort(keys) // the oldest are read first, whichever listing was faster
	return keys, err
}

// listSealed lists what the bucket has of an epoch's segments: those that its seal
// names, and those that came after it.
func (e *Engine) listSealed(ctx context.Context, m uint64, sealed []string) (there, strays []string, err error) {
	counts := make(map[string]bool, len(sealed))
	for _, key := range sealed {
		counts[key] = true
	}
	for o, err := range e.objects.List(ctx, walEpochPrefix(m), "") {
		if err != nil {
			return nil, nil, fmt.Errorf("list %s: %w", walEpochPrefix(m), err)
		}
		if counts[o.Key] {
			there = append(there, o.Key)
		} else {
			strays = append(strays, o.Key)
		}
	}
	return there, strays, nil
}

// readSegments reads the run headers of all segments, by shard. Those that are
// damaged, beyond what was accepted, it gives apart.
func (e *Engine) readSegments(ctx context.Context, keys []string, lost *losses, early *ahead, saw func(int64)) (shards [Shards][]RestoreRun, damaged []damagedSegment, err error) {
	var mu sync.Mutex
	progress := e.counter("segments", len(keys))
	g, ctx := newTasks(ctx, max(restoreLoads, e.opts.Loads))
	for _, key := range keys {
		id, err := ParseSegmentKey(key)
		if err != nil {
			return shards, nil, fmt.Errorf("%w: in a seal: %w", ErrDamaged, err)
		}
		g.add(func() error {
			accepted := lost.get(key)
			runs, read := early.segment(key)
			var b []byte
			var err error
			if !read || accepted != nil {
				b, err = e.getObject(ctx, key)
				if errors.Is(err, ErrNotExist) {
					return nil // collected since it was listed
				}
				if err != nil {
					return fmt.Errorf("get %s: %w", key, err)
				}
				runs, err = segmentRuns(id, b, accepted)
			}
			progress.add(1)
			mu.Lock()
			defer mu.Unlock()
			saw(id.Unix)
			if err != nil || accepted != nil {
				// Of what is lost the versions are not known. They were given when the
				// segment was named, by a clock that was at most a heartbeat behind.
				saw(id.Unix + lostMargin)
			}
			if err != nil {
				damaged = append(damaged, damagedSegment{id: id, b: b, err: err})
			}
			for _, r := range runs {
				saw(r.Run.Last.Sec)
				s := Shard(r.Catalog)
				shards[s] = append(shards[s], r)
			}
			return nil
		})
	}
	err = g.wait()
	return shards, damaged, err
}

// lostMargin is how many seconds after its name's a segment's last version may be.
const lostMargin = 60

// segmentRuns lists the runs of a segment's bytes; none of a tombstone. l is what was
// accepted as lost of it, nil: nothing.
func segmentRuns(id SegmentID, b []byte, l *Loss) ([]RestoreRun, error) {
	if len(b) == 0 && l == nil {
		return nil, fmt.Errorf("%w: segment %s is empty", ErrDamaged, id.Key())
	}
	var runs []RestoreRun
	for f, err := range framesOf(b, l) {
		if err == nil && f.Kind == codec.KindTombstone {
			return nil, nil
		}
		var r RestoreRun
		if err == nil {
			r, err = restoreRun(id, &f)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: segment %s: %w", ErrDamaged, id.Key(), err)
		}
		runs = append(runs, r)
	}
	return runs, nil
}

// restoreRun is the run in a frame of a segment.
func restoreRun(id SegmentID, f *codec.Located) (RestoreRun, error) {
	if f.Kind != codec.KindRun {
		return RestoreRun{}, fmt.Errorf("it holds a %s", f.Kind)
	}
	first := versionOf(f.First)
	r := RestoreRun{Catalog: f.Catalog, Author: f.Author, Run: Run{First: first, Last: first.Add(int(f.N) - 1), N: int(f.N), Segment: id, Off: f.Off, Len: f.Len}}
	if f.N == 1 {
		ds, err := decodeRun(nil, &f.Frame)
		if err != nil {
			return RestoreRun{}, err
		}
		r.Run.Type, r.Run.Path = ds[0].Type, ds[0].Path
	}
	r.ID = givenID(&f.Frame)
	return r, nil
}

// givenID is the receipt of the id that a client gave to a run; zero when Lake
// minted it, which has no fingerprint.
func givenID(f *codec.Frame) RestoreID {
	if len(f.ID) != 1 || f.ID[0].Fingerprint == [16]byte{} {
		return RestoreID{}
	}
	return RestoreID{
		Catalog: f.Catalog, ID: f.ID[0].ID, Fingerprint: f.ID[0].Fingerprint, First: versionOf(f.First), N: int(f.N),
		Expires: time.UnixMilli(f.Created).Add(IDTTL),
	}
}

// newerSegment puts a copy before what it was copied from: see move.
func newerSegment(a, b SegmentID) int {
	return cmp.Or(cmp.Compare(b.Epoch, a.Epoch), cmp.Compare(b.Unix, a.Unix), cmp.Compare(b.Writer, a.Writer), cmp.Compare(b.N, a.N))
}

// restoreShard gives a shard back what the segments say; a is what it adopted, nil
// when it kept what it knew. Tombstones are never garbage: their keys are in the
// seal, and a put that comes very late must not find the place empty.
func (e *Engine) restoreShard(ctx context.Context, n uint64, shard int, runs []RestoreRun, a *adopted, lost *losses) error {
	slices.SortFunc(runs, func(a, b RestoreRun) int {
		if c := strings.Compare(a.Catalog, b.Catalog); c != 0 {
			return c
		}
		if c := a.Run.First.Compare(b.Run.First); c != 0 {
			return c
		}
		return newerSegment(a.Run.Segment, b.Run.Segment)
	})
	// A run may stand in two segments, if one of them was being compacted. The copy
	// counts: a collector that was stopped may still delete the other.
	once := slices.CompactFunc(slices.Clone(runs), func(a, b RestoreRun) bool { return a.Catalog == b.Catalog && a.Run.First == b.Run.First })
	if a != nil {
		once = a.notPurged(once)
		if err := e.adoptPacks(ctx, n, shard, a, once, lost); err != nil {
			return err
		}
	}
	for chunk := range slices.Chunk(once, restoreChunk) {
		if err := e.index.Restore(ctx, shard, n, Restore{Runs: chunk, Republish: a != nil}); err != nil {
			return err
		}
	}
	sealed := map[SegmentID][]RunKey{}
	for _, run := range runs {
		sealed[run.Run.Segment] = append(sealed[run.Run.Segment], RunKey{Catalog: run.Catalog, First: run.Run.First})
	}
	open, err := e.index.Reservations(ctx, shard, n)
	if err != nil {
		return err
	}
	for _, id := range open {
		if err := e.index.Resolve(ctx, shard, n, id, sealed[id]); err != nil {
			return err
		}
	}
	segments := slices.Collect(maps.Keys(sealed))
	slices.SortFunc(segments, func(a, b SegmentID) int { return strings.Compare(a.String(), b.String()) })
	for chunk := range slices.Chunk(segments, restoreChunk) {
		if err := e.index.Restore(ctx, shard, n, Restore{Segments: chunk}); err != nil {
			return err
		}
	}
	return nil
}
