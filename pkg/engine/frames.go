package engine

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/semaphore"

	"github.com/jsonlake/lake/pkg/engine/codec"
	"github.com/jsonlake/lake/pkg/engine/trace"
)

// store is where the bytes of objects come from:
//
//	memory   frames and small objects as they are stored, bounded in bytes
//	shared   Options.Cache, which other processes fill, too
//	bucket   at most Options.MaxLoads at once, of all reads together
//
// What is stored under a key never changes, so a copy is as good as the
// bucket's if it is whole: whatever does not decode to what it should be is a miss, and
// is read from the next. The caches hold what the bucket holds, so ciphertext where
// the bucket does.
type store struct {
	objects Objects
	memory  *otter.Cache[string, []byte] // nil: none
	shared  Cache                        // nil: none
	ttl     time.Duration
	loads   *semaphore.Weighted
	hooks   *Hooks

	sick    atomic.Int64 // the shared cache is left alone until then, unix ns
	queue   chan []CacheEntry
	waiting atomic.Int64 // bytes in queue

	mu     sync.Mutex
	wholes map[SegmentID]*whole
}

const (
	// maxInMemory and maxShared are the largest values that are cached, bytes.
	maxInMemory = 1 << 20
	maxShared   = 16 << 20
	// maxWaiting bounds what waits to be written to the shared cache, bytes; what is
	// over it is not written.
	maxWaiting = 32 << 20
	// sickFor is how long a shared cache that failed is left alone: a silent one
	// must not cost every read its time-out.
	sickFor = time.Second
	// sharedBatch is how many values are asked for at once.
	sharedBatch = 512
	// maxWholes is how many segments are remembered of which something was fetched.
	maxWholes = 1 << 14
)

func newStore(objects Objects, o *Options) *store {
	s := &store{
		objects: objects, shared: o.Cache, ttl: o.CacheTTL, hooks: &o.Hooks,
		loads: semaphore.NewWeighted(int64(o.MaxLoads)), queue: make(chan []CacheEntry, 256), wholes: map[SegmentID]*whole{},
	}
	if o.FrameCache > 0 {
		const overhead = 128 // of an entry, bytes, roughly
		s.memory = otter.Must(&otter.Options[string, []byte]{
			MaximumWeight: uint64(o.FrameCache),
			Weigher:       func(key string, b []byte) uint32 { return uint32(len(key) + len(b) + overhead) },
		})
	}
	return s
}

// cacheKey names a range of an object, or all of it when length is -1.
func cacheKey(key string, off, length int64) string {
	if length < 0 {
		return key
	}
	b := make([]byte, 0, len(key)+24)
	b = append(append(b, key...), ':')
	b = append(strconv.AppendInt(b, off, 10), ':')
	return string(strconv.AppendInt(b, length, 10))
}

// remember keeps a value in memory. The bytes must not change any more.
func (s *store) remember(key string, b []byte) {
	if s.memory != nil && len(b) <= maxInMemory {
		s.memory.Set(key, b)
	}
}

func (s *store) recall(key string) (b []byte, found bool) {
	if s.memory == nil {
		return nil, false
	}
	b, found = s.memory.GetIfPresent(key)
	s.hooks.cacheLookup("frame", found)
	return b, found
}

// recallSegment gives a segment that is in memory whole, else nil.
func (s *store) recallSegment(object string) []byte {
	if s.memory == nil {
		return nil
	}
	b, _ := s.memory.GetIfPresent(object)
	return b
}

func (s *store) forget(key string) {
	if s.memory != nil {
		s.memory.Invalidate(key)
	}
}

// forgetAll empties the memory.
func (s *store) forgetAll() {
	if s.memory != nil {
		s.memory.InvalidateAll()
	}
}

// well tells whether there is a shared cache that works.
func (s *store) well() bool {
	return s.shared != nil && time.Now().UnixNano() > s.sick.Load()
}

func (s *store) failed(ctx context.Context, err error) {
	if ctx.Err() == nil { // else it was the reader's time that ran out
		s.sick.Store(time.Now().Add(sickFor).UnixNano())
		s.hooks.trouble("shared cache", err)
	}
}

// ask gives the values of keys from the shared cache, nil where it has none.
func (s *store) ask(ctx context.Context, keys []string) [][]byte {
	if !s.well() {
		return make([][]byte, len(keys))
	}
	values, err := s.shared.Get(ctx, keys)
	if err == nil && len(values) != len(keys) {
		err = fmt.Errorf("%d values for %d keys", len(values), len(keys))
	}
	if err != nil {
		s.failed(ctx, err)
		return make([][]byte, len(keys))
	}
	for _, v := range values {
		s.hooks.cacheLookup("shared", v != nil)
	}
	return values
}

// share has values written to the shared cache, later and perhaps. Their bytes
// must not change any more.
func (s *store) share(entries []CacheEntry) {
	if len(entries) == 0 || !s.well() {
		return
	}
	size := sizeOf(entries)
	if s.waiting.Add(size) > maxWaiting {
		s.waiting.Add(-size)
		return
	}
	select {
	case s.queue <- entries:
	default:
		s.waiting.Add(-size)
	}
}

func sizeOf(entries []CacheEntry) (n int64) {
	for _, e := range entries {
		n += int64(len(e.Key) + len(e.Value))
	}
	return n
}

// run writes to the shared cache what share was given.
func (s *store) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case entries := <-s.queue:
			if s.well() {
				sctx, cancel := context.WithTimeout(ctx, 5*time.Second)
				if err := s.shared.Set(sctx, entries, s.ttl); err != nil {
					s.failed(ctx, err)
				}
				cancel()
			}
			s.waiting.Add(-sizeOf(entries))
		}
	}
}

// get reads from the bucket.
func (s *store) get(ctx context.Context, key string, off, length int64) (b []byte, err error) {
	if err := s.loads.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("wait to get %s: %w", key, err)
	}
	defer s.loads.Release(1)
	if length < 0 {
		b, err = s.objects.Get(ctx, key)
	} else {
		b, err = s.objects.GetRange(ctx, key, off, length)
	}
	if err != nil {
		return nil, unavailable(fmt.Errorf("get %s: %w", key, err))
	}
	return b, nil
}

// object has use called with a whole object. A use that fails on a copy gets
// the next one; its error on the bucket's own is the answer.
func (s *store) object(ctx context.Context, key string, use func(b []byte) error) error {
	if b, found := s.recall(key); found {
		if use(b) == nil {
			return nil
		}
		s.forget(key)
	}
	if s.well() {
		if b := s.ask(ctx, []string{key})[0]; b != nil && use(b) == nil {
			s.remember(key, b)
			return nil
		}
	}
	b, err := s.get(ctx, key, 0, -1)
	if err != nil {
		return err
	}
	if err := use(b); err != nil {
		return err
	}
	s.keep(key, b)
	return nil
}

// keep puts an object into the caches.
func (s *store) keep(key string, b []byte) {
	s.remember(key, b)
	if len(b) <= maxShared {
		s.share([]CacheEntry{{Key: key, Value: b}})
	}
}

// keepFrames puts a segment that was just put into the caches: who reads its
// catalogs next needs it. The bytes must not change any more.
func (s *store) keepFrames(seg *segment, data []byte) {
	well := s.well()
	if s.memory == nil && !well {
		return
	}
	object := seg.id.Key()
	small := len(data) <= maxInMemory
	if small {
		s.remember(object, data)
		if !well {
			return
		}
	}
	entries := make([]CacheEntry, 0, len(seg.runs))
	for _, r := range seg.runs {
		if r.len > maxInMemory {
			continue
		}
		e := CacheEntry{Key: cacheKey(object, r.off, r.len), Value: data[r.off : r.off+r.len : r.off+r.len]}
		if !small {
			e.Value = bytes.Clone(e.Value) // what is kept must not keep what stands beside it
			s.remember(e.Key, e.Value)
		}
		entries = append(entries, e)
	}
	s.share(entries)
}

// loadRuns fetches and decodes runs into frames, at most parallel objects of
// the bucket at once; fold: other catalogs of their segments will follow.
func (s *store) loadRuns(ctx context.Context, catalog string, runs []Run, frames []codec.Frame, parallel int, fold bool) error {
	t := trace.FromContext(ctx)
	begin := t.Now()
	keys := make([]string, len(runs))
	missing := make([]int, 0, len(runs))
	var segment SegmentID
	var object string
	var all []byte
	for i := range runs {
		r := &runs[i]
		if i == 0 || r.Segment != segment {
			segment, object = r.Segment, r.Segment.Key()
			all = s.recallSegment(object)
		}
		if end := r.Off + r.Len; end <= int64(len(all)) {
			if decodeRunFrame(catalog, r, all[r.Off:end:end], &frames[i]) == nil {
				s.hooks.cacheLookup("frame", true)
				continue
			}
			s.forget(object)
			all = nil
		}
		keys[i] = cacheKey(object, r.Off, r.Len)
		if b, found := s.recall(keys[i]); !found || decodeRunFrame(catalog, r, b, &frames[i]) != nil {
			missing = append(missing, i)
		}
	}
	inMemory := len(runs) - len(missing)
	if s.well() {
		missing = s.askRuns(ctx, catalog, runs, keys, missing, frames)
	}
	shared := len(runs) - inMemory - len(missing)
	fs := fetches(runs, missing)
	g, gctx := newTasks(ctx, parallel)
	for _, f := range fs {
		g.add(func() error { return s.fetchRuns(gctx, catalog, runs, keys, f, frames, fold) })
	}
	err := g.wait()
	t.Step("Load", begin).Int("runs", int64(len(runs))).Int("memory", int64(inMemory)).Int("shared", int64(shared)).Int("gets", int64(len(fs)))
	return err
}

// askRuns takes of the missing runs those that the shared cache has, and gives
// the rest. They are not remembered: a read merges them into a document, a fold into a
// snapshot, and each is kept. To keep a thousand small frames as well was a sixth of what a
// first read cost its process.
func (s *store) askRuns(ctx context.Context, catalog string, runs []Run, keys []string, missing []int, frames []codec.Frame) (rest []int) {
	for chunk := range slices.Chunk(missing, sharedBatch) {
		wanted := make([]string, len(chunk))
		for j, i := range chunk {
			wanted[j] = keys[i]
		}
		for j, b := range s.ask(ctx, wanted) {
			i := chunk[j]
			if b == nil || decodeRunFrame(catalog, &runs[i], b, &frames[i]) != nil {
				rest = append(rest, i)
			}
		}
	}
	return rest
}

// decodeRunFrame decodes the frame of a run.
func decodeRunFrame(catalog string, r *Run, b []byte, to *codec.Frame) error {
	if int64(len(b)) != r.Len {
		return fmt.Errorf("%w: %d bytes instead of %d", ErrDamaged, len(b), r.Len)
	}
	f, n, err := codec.Decode(b, codec.Options{MaxPayload: maxFramePayload})
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	case n != len(b) || f.Kind != codec.KindRun || f.Catalog != catalog || versionOf(f.First) != r.First || int(f.N) != r.N:
		return fmt.Errorf("%w: it holds %s %s of %q, not run %s of %q", ErrDamaged, f.Kind, versionOf(f.First), f.Catalog, r.First, catalog)
	}
	*to = f
	return nil
}

// fetch is one GET: some runs, by their place in the list, that stand
// near each other in one segment.
type fetch struct {
	segment SegmentID
	off, to int64
	runs    []int
}

// fetchGap is how many unwanted bytes are fetched rather than making another
// request: what lies in 256 KiB of a segment is one request.
const fetchGap = 256 << 10

// fetches plans how to get some of the runs.
func fetches(runs []Run, wanted []int) []fetch {
	order := slices.Clone(wanted)
	// Runs of one segment stand together in the list only when no other segment
	// came between; sorting by segment finds the rest.
	slices.SortStableFunc(order, func(a, b int) int {
		if runs[a].Segment != runs[b].Segment {
			if runs[a].Segment.String() < runs[b].Segment.String() {
				return -1
			}
			return 1
		}
		return int(runs[a].Off - runs[b].Off)
	})
	var fs []fetch
	for _, i := range order {
		r := runs[i]
		if n := len(fs); n > 0 && fs[n-1].segment == r.Segment && r.Off-fs[n-1].to <= fetchGap {
			fs[n-1].to = max(fs[n-1].to, r.Off+r.Len)
			fs[n-1].runs = append(fs[n-1].runs, i)
			continue
		}
		fs = append(fs, fetch{segment: r.Segment, off: r.Off, to: r.Off + r.Len, runs: []int{i}})
	}
	return fs
}

// whole is a segment of which something was fetched before.
type whole struct {
	large bool    // not kept: what comes next is a range, too
	get   *getAll // under way
}

// getAll is one GET of all of a segment, for everybody who needs something of it
// meanwhile.
type getAll struct {
	done chan struct{}
	b    []byte // once done is closed; nil: it failed
}

// claim tells how to get some runs of a segment: from memory (b), where somebody else may
// have put it since the caller looked; all of it (lead is theirs to end); as somebody
// else's GET of all of it gives it (join); or else just their range.
//
// Catalogs that are written together share their segments: a process that folds or
// reads a thousand of them would get each segment a thousand times, a small range
// each. So the second time it is all of it; for a fold, after which others come, the
// first time.
func (s *store) claim(key string, f *fetch, fold bool) (b []byte, lead, join *getAll) {
	if s.memory == nil || f.to > maxInMemory {
		return nil, nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.recallSegment(key); f.to <= int64(len(b)) {
		return b, nil, nil
	}
	w := s.wholes[f.segment]
	if w == nil {
		if len(s.wholes) >= maxWholes {
			clear(s.wholes) // a bound, not a promise
		}
		w = &whole{}
		s.wholes[f.segment] = w
		if !fold {
			return nil, nil, nil
		}
	}
	switch {
	case w.large:
		return nil, nil, nil
	case w.get != nil:
		return nil, nil, w.get
	}
	w.get = &getAll{done: make(chan struct{})}
	return nil, w.get, nil
}

// got ends a GET of all of a segment and keeps what it gave, unless that is too
// large: then ranges are fetched.
func (s *store) got(f *fetch, key string, g *getAll, b []byte) (kept bool) {
	kept = b != nil && len(b) <= maxInMemory
	if kept {
		s.remember(key, b)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.wholes[f.segment]; w != nil && w.get == g {
		w.get, w.large = nil, b != nil && !kept
		if kept {
			delete(s.wholes, f.segment)
		}
	}
	g.b = b
	close(g.done)
	return kept
}

// fetched gives bytes of a segment in which all runs of a fetch stand, and where they
// begin in it. kept: they are all of the segment, and in memory.
func (s *store) fetched(ctx context.Context, key string, f *fetch, fold bool) (b []byte, off int64, kept bool, err error) {
	b, lead, join := s.claim(key, f, fold)
	if b != nil {
		return b, 0, true, nil
	}
	if join != nil {
		select {
		case <-join.done:
			if f.to <= int64(len(join.b)) {
				return join.b, 0, len(join.b) <= maxInMemory, nil
			}
		case <-ctx.Done():
			return nil, 0, false, context.Cause(ctx)
		}
	}
	if lead != nil {
		b, err = s.get(ctx, key, 0, -1)
		if err != nil {
			b = nil
		}
		kept = s.got(f, key, lead, b)
		if err == nil && int64(len(b)) < f.to {
			err = fmt.Errorf("%w: get %s: %d bytes, of which %d to %d are needed", ErrDamaged, key, len(b), f.off, f.to)
		}
		return b, 0, kept, err
	}
	b, err = s.get(ctx, key, f.off, f.to-f.off)
	if err == nil && int64(len(b)) != f.to-f.off {
		err = fmt.Errorf("%w: get %s: %d bytes, of which %d to %d are needed", ErrDamaged, key, len(b), 0, f.to-f.off)
	}
	return b, f.off, false, err
}

func (s *store) fetchRuns(ctx context.Context, catalog string, runs []Run, keys []string, f fetch, frames []codec.Frame, fold bool) error {
	key := f.segment.Key()
	b, off, kept, err := s.fetched(ctx, key, &f, fold)
	if err != nil {
		return fmt.Errorf("load run %s of catalog %q: %w", runs[f.runs[0]].First, catalog, err)
	}
	var entries []CacheEntry
	for _, i := range f.runs {
		r := &runs[i]
		frame := b[r.Off-off : r.Off-off+r.Len]
		if err := decodeRunFrame(catalog, r, frame, &frames[i]); err != nil {
			return fmt.Errorf("%s at byte %d: %w", key, r.Off, err)
		}
		if s.shared == nil && (s.memory == nil || kept) || len(frame) > maxInMemory {
			continue
		}
		frame = bytes.Clone(frame) // what is kept must not keep what was read beside it
		if !kept {
			s.remember(keys[i], frame)
		}
		entries = append(entries, CacheEntry{Key: keys[i], Value: frame})
	}
	s.share(entries)
	return nil
}

// snapshot gives the document of a snapshot as it is stored, nil when it is
// absent.
func (s *store) snapshot(ctx context.Context, catalog string, snap Snapshot) (doc []byte, err error) {
	key := SnapshotKey(catalog, snap.Start, snap.Stop)
	err = s.object(ctx, key, func(b []byte) (err error) {
		doc, err = decodeSnapshot(key, catalog, snap, b)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("load snapshot: %w", err)
	}
	return doc, nil
}

func decodeSnapshot(key, catalog string, s Snapshot, b []byte) ([]byte, error) {
	f, n, err := codec.Decode(b, codec.Options{MaxPayload: maxFramePayload})
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, key, err)
	case n != len(b) || f.Kind != codec.KindSnapshot || f.Catalog != catalog || versionOf(f.First) != s.Stop || f.Flags&snapshotPurged != 0 != s.Purged():
		return nil, fmt.Errorf("%w: %s does not hold the snapshot of its name", ErrDamaged, key)
	case f.Flags&^(snapshotAbsent|snapshotPurged) != 0:
		return nil, fmt.Errorf("%w: %s has the flags %b; a newer version of Lake may know them", ErrDamaged, key, f.Flags)
	case f.Flags&snapshotAbsent != 0:
		return nil, nil
	}
	return f.Payload, nil
}

// pack gives the frames of a pack.
func (s *store) pack(ctx context.Context, catalog string, snap Snapshot) (frames []codec.Frame, err error) {
	key := PackKey(catalog, snap.Start, snap.Stop)
	err = s.object(ctx, key, func(b []byte) (err error) {
		frames, err = decodePackObject(key, catalog, snap, b)
		return err
	})
	return frames, err
}

func decodePackObject(key, catalog string, snap Snapshot, b []byte) (frames []codec.Frame, err error) {
	for f, err := range codec.Frames(b, codec.Options{MaxPayload: maxFramePayload}) {
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, key, err)
		}
		if f.Kind != codec.KindPack || f.Catalog != catalog {
			return nil, fmt.Errorf("%w: %s at byte %d holds %s of %q", ErrDamaged, key, f.Off, f.Kind, f.Catalog)
		}
		frames = append(frames, f.Frame)
	}
	if n := len(frames); n == 0 || lastOf(&frames[n-1]) != snap.Stop {
		return nil, fmt.Errorf("%w: %s does not end at version %s", ErrDamaged, key, snap.Stop)
	}
	return frames, nil
}

func lastOf(f *codec.Frame) Version { return versionOf(f.First).Add(int(f.N) - 1) }
