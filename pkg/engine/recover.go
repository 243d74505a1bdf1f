package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/jsonlake/lake/pkg/engine/codec"
)

// Opening a new epoch: what an index forgot is put back from the bucket.
//
//	1 create _lake/epoch/{n}         lost the race → the winner opens it
//	2 fence every shard at n         from then on nothing of an older epoch is accepted
//	3 wait 5 s                       no older lease is valid any more: whatever was acknowledged is in the bucket
//	4 seal every older epoch         the listing of wal/{m}/ decides which segments of m count; the first seal put is the one
//	5 adopt snapshots                in shards that know nothing
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
}

// restoreChunk is how many runs go to the index at once.
const restoreChunk = 500

func (e *Engine) openEpoch(ctx context.Context, n uint64, before []ShardEpoch) error {
	h := &e.opts.Hooks
	h.recovering(n, "create")
	if err := e.createEpoch(ctx, n); err != nil {
		return err
	}
	h.recovering(n, "fence")
	for s := range Shards {
		if err := e.insist(ctx, func() error { return e.index.Fence(ctx, s, n) }); err != nil {
			return fmt.Errorf("fence shard %x: %w", s, err)
		}
	}
	if n > 1 && !e.index.Exclusive() {
		h.recovering(n, "wait")
		if err := sleep(ctx, epochWait); err != nil {
			return err
		}
	}
	h.recovering(n, "seal")
	var sealed map[uint64][]string
	err := e.insist(ctx, func() (err error) {
		sealed, err = e.sealBelow(ctx, n)
		return err
	})
	if err != nil {
		return err
	}
	h.recovering(n, "restore")
	floor, err := e.restore(ctx, n, before, sealed)
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
	b, err := json.Marshal(epochObject{Epoch: n, Writer: e.writer, Created: time.Now().UTC().Format(time.RFC3339Nano)})
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
func (e *Engine) sealBelow(ctx context.Context, n uint64) (map[uint64][]string, error) {
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
	sealed := map[uint64][]string{}
	for _, m := range slices.Sorted(maps.Keys(exists)) {
		s, err := e.seal(ctx, m, n, seals[m])
		if err != nil {
			return nil, fmt.Errorf("seal epoch %d: %w", m, err)
		}
		sealed[m] = s.Segments
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
		b, err := json.Marshal(s)
		if err != nil {
			return sealObject{}, err
		}
		switch err := e.objects.Put(ctx, sealKey(m), b); {
		case err == nil:
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
	if err := json.Unmarshal(b, &s); err != nil {
		return sealObject{}, fmt.Errorf("%w: %s: %w", ErrDamaged, sealKey(m), err)
	}
	return s, nil
}

// restore does steps 5 to 7 and gives the floor of the new epoch.
func (e *Engine) restore(ctx context.Context, n uint64, before []ShardEpoch, sealed map[uint64][]string) (int64, error) {
	var greatest int64
	saw := func(sec int64) { greatest = max(greatest, sec) }

	// A shard that was open in epoch m holds all that was sealed before m; what
	// it may lack of m and later is what was lost at its end.
	oldest := n
	for s, b := range before {
		saw(b.Mark.Unix())
		// A shard that was never fenced knows nothing; one whose epoch was never
		// open may have been emptied, and half restored since.
		if b.Empty || b.N == 0 || !b.Open {
			if err := e.insist(ctx, func() error { return e.adoptSnapshots(ctx, n, s, saw) }); err != nil {
				return 0, fmt.Errorf("adopt snapshots of shard %x: %w", s, err)
			}
		}
		from := b.N
		if b.Empty || !b.Open { // an epoch that was never open may be half restored
			from = 0
		}
		oldest = min(oldest, from)
	}
	var keys []string
	for m, segments := range sealed {
		if m >= oldest {
			keys = append(keys, segments...)
		}
	}
	slices.Sort(keys)
	shards, err := e.readSegments(ctx, keys, saw)
	if err != nil {
		return 0, err
	}
	for s := range Shards {
		if err := e.insist(ctx, func() error { return e.restoreShard(ctx, n, s, shards[s]) }); err != nil {
			return 0, fmt.Errorf("restore shard %x: %w", s, err)
		}
	}
	if greatest == 0 {
		return 0, nil
	}
	return greatest + 6, nil
}

// readSegments reads the run headers of all segments, by shard.
func (e *Engine) readSegments(ctx context.Context, keys []string, saw func(int64)) ([Shards][]RestoreRun, error) {
	var mu sync.Mutex
	var shards [Shards][]RestoreRun
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(16, e.opts.Loads))
	for _, key := range keys {
		id, err := ParseSegmentKey(key)
		if err != nil {
			return shards, fmt.Errorf("%w: in a seal: %w", ErrDamaged, err)
		}
		g.Go(func() error {
			b, err := e.getObject(ctx, key)
			if errors.Is(err, ErrNotExist) {
				// Collected, when all its runs are in snapshots; else the bucket has lost it,
				// against which nothing helps, but somebody should know.
				e.opts.Hooks.trouble("recover", fmt.Errorf("segment %s is sealed and not in the bucket any more", key))
				return nil
			}
			if err != nil {
				return fmt.Errorf("get %s: %w", key, err)
			}
			runs, err := segmentRuns(id, b)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			saw(id.Unix)
			for _, r := range runs {
				saw(r.Run.Last.Sec)
				s := Shard(r.Catalog)
				shards[s] = append(shards[s], r)
			}
			return nil
		})
	}
	return shards, g.Wait()
}

// segmentRuns lists the runs of a segment's bytes; none of a tombstone.
func segmentRuns(id SegmentID, b []byte) ([]RestoreRun, error) {
	var runs []RestoreRun
	for f, err := range codec.Frames(b, codec.Options{MaxPayload: maxFramePayload}) {
		if err != nil {
			return nil, fmt.Errorf("%w: segment %s: %w", ErrDamaged, id.Key(), err)
		}
		if f.Kind == codec.KindTombstone {
			return nil, nil
		}
		if f.Kind != codec.KindRun {
			return nil, fmt.Errorf("%w: segment %s holds a %s", ErrDamaged, id.Key(), f.Kind)
		}
		first := versionOf(f.First)
		r := RestoreRun{Catalog: f.Catalog, Author: f.Author, Run: Run{First: first, Last: first.Add(int(f.N) - 1), N: int(f.N), Segment: id, Off: f.Off, Len: f.Len}}
		if f.N == 1 {
			ds, err := decodeRun(nil, &f.Frame)
			if err != nil {
				return nil, fmt.Errorf("%w: segment %s: %w", ErrDamaged, id.Key(), err)
			}
			r.Run.Type, r.Run.Path = ds[0].Type, ds[0].Path
		}
		r.ID = givenID(&f.Frame)
		runs = append(runs, r)
	}
	return runs, nil
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

func (e *Engine) restoreShard(ctx context.Context, n uint64, shard int, runs []RestoreRun) error {
	slices.SortFunc(runs, func(a, b RestoreRun) int {
		if c := strings.Compare(a.Catalog, b.Catalog); c != 0 {
			return c
		}
		return a.Run.First.Compare(b.Run.First)
	})
	for chunk := range slices.Chunk(runs, restoreChunk) {
		if err := e.index.Restore(ctx, shard, n, Restore{Runs: chunk}); err != nil {
			return err
		}
	}
	sealed := map[SegmentID][]RunKey{}
	for _, r := range runs {
		sealed[r.Run.Segment] = append(sealed[r.Run.Segment], RunKey{Catalog: r.Catalog, First: r.Run.First})
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
	return nil
}

// adoptSnapshots registers the snapshots that the bucket has of a shard which
// knows nothing. Only true prefixes are ever visible, so every snapshot ever
// put is true.
func (e *Engine) adoptSnapshots(ctx context.Context, n uint64, shard int, saw func(int64)) error {
	var found []RestoreSnapshot
	packs := map[string]int64{}
	for o, err := range e.objects.List(ctx, fmt.Sprintf("%x", shard), "") {
		if err != nil {
			return err
		}
		if strings.HasSuffix(o.Key, ".pack") {
			packs[o.Key] = o.Size
			continue
		}
		catalog, start, stop, err := ParseSnapshotKey(o.Key)
		if err != nil {
			continue // not ours
		}
		saw(stop.Sec)
		// The size of the stored snapshot stands in for the document's until the
		// next fold; it only serves the policy.
		found = append(found, RestoreSnapshot{Catalog: catalog, Snapshot: Snapshot{Start: start, Stop: stop, DocBytes: o.Size}})
	}
	for i, s := range found {
		found[i].Snapshot.PackBytes = packs[PackKey(s.Catalog, s.Snapshot.Start, s.Snapshot.Stop)]
	}
	slices.SortFunc(found, func(a, b RestoreSnapshot) int {
		if c := strings.Compare(a.Catalog, b.Catalog); c != 0 {
			return c
		}
		return a.Snapshot.Stop.Compare(b.Snapshot.Stop)
	})
	for chunk := range slices.Chunk(found, restoreChunk) {
		if err := e.index.Restore(ctx, shard, n, Restore{Snapshots: chunk}); err != nil {
			return err
		}
	}
	return e.adoptIDs(ctx, n, shard, found)
}

// adoptIDs restores the idempotency ids of packs that are younger than their
// time to live, counted from the youngest: those of runs that no segment has
// any more.
func (e *Engine) adoptIDs(ctx context.Context, n uint64, shard int, found []RestoreSnapshot) error {
	var youngest int64
	for _, s := range found {
		youngest = max(youngest, s.Snapshot.Stop.Sec)
	}
	for _, s := range found {
		if s.Snapshot.PackBytes == 0 || s.Snapshot.Stop.Sec < youngest-int64(IDTTL.Seconds()) {
			continue
		}
		var ids []RestoreID
		err := e.packFrames(ctx, s.Catalog, s.Snapshot, func(f *codec.Frame) bool {
			if id := givenID(f); id.ID != "" {
				ids = append(ids, id)
			}
			return true
		})
		if err != nil {
			return err
		}
		for chunk := range slices.Chunk(ids, restoreChunk) {
			if err := e.index.Restore(ctx, shard, n, Restore{IDs: chunk}); err != nil {
				return err
			}
		}
	}
	return nil
}
