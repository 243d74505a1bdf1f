package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jsonlake/lake/pkg/engine/codec"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

// FoldResult says what a fold did.
type FoldResult struct {
	Version Version `json:"version"` // of the latest snapshot now; 0_0 when the catalog was never written
	Deltas  int64   `json:"deltas"`  // folded by this call
	Bytes   int64   `json:"bytes"`   // of the document
	More    bool    `json:"more"`    // the fold stopped at its bounds: another one is due
}

// Fold merges a catalog's live log into a snapshot, and keeps the deltas in a
// pack beside it:
//
//	view → load → merge → put pack → put snapshot → register by compare-and-set
//
// Only true prefixes of a catalog's history are ever visible, so every snapshot
// and pack that is put is true, whoever put it, and objects of one key
// have one content: two workers on one catalog cost work, never correctness.
// ErrStale when another one was faster. A failed fold fails no read.
//
// A log that holds a purge is folded up to that first: see Purge.
func (e *Engine) Fold(ctx context.Context, catalog string) (FoldResult, error) {
	if err := ValidateCatalog(catalog); err != nil {
		return FoldResult{}, err
	}
	if err := e.Ready(); err != nil {
		return FoldResult{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, foldLimit)
	defer cancel()
	start := time.Now()
	n := e.lease.epoch()
	v, err := e.view(ctx, n, catalog, Version{})
	if err != nil {
		return FoldResult{}, err
	}
	if i := lastPurge(v.Runs); i >= 0 {
		return e.foldPurge(ctx, n, catalog, v, i)
	}
	runs, more := e.foldable(v.Runs)
	if len(runs) == 0 {
		return FoldResult{Version: v.Snapshot.Stop, Bytes: v.Snapshot.DocBytes}, nil
	}
	var cached *document
	if d := e.docs.get(catalog); d != nil && d.version == v.Snapshot.Stop {
		cached = d
	}
	m, err := e.load(ctx, catalog, cached, v.Snapshot, runs, true)
	if errors.Is(err, ErrNotExist) {
		// Purged, or folded and given up, since the view was taken? It is damage only
		// where the index says no.
		now, verr := e.view(ctx, n, catalog, Version{})
		switch {
		case verr != nil:
			err = fmt.Errorf("%w; what is to be folded was not found: %s", verr, err.Error())
		case now.Snapshot != v.Snapshot:
			err = ErrStale
		}
	}
	if err != nil {
		return FoldResult{}, fmt.Errorf("fold %q: %w", catalog, err)
	}
	doc, outcomes, err := merge.Merge(m.base, m.deltas, e.opts.Limits)
	if err != nil {
		return FoldResult{}, fmt.Errorf("fold %q: merge: %w", catalog, err)
	}
	s := Snapshot{Start: v.Snapshot.Stop, Stop: runs[len(runs)-1].Last, DocBytes: int64(len(doc))}
	pack, err := encodePack(m, outcomes)
	if err != nil {
		return FoldResult{}, fmt.Errorf("fold %q: %w", catalog, err)
	}
	s.PackBytes = int64(len(pack))
	snap, err := encodeSnapshot(catalog, s, m.frames[len(m.frames)-1].Created, doc)
	if err != nil {
		return FoldResult{}, fmt.Errorf("fold %q: %w", catalog, err)
	}
	if err := e.putTrue(ctx, PackKey(catalog, s.Start, s.Stop), pack); err != nil {
		return FoldResult{}, fmt.Errorf("fold %q: %w", catalog, err)
	}
	if err := e.putTrue(ctx, SnapshotKey(catalog, s.Start, s.Stop), snap); err != nil {
		return FoldResult{}, fmt.Errorf("fold %q: %w", catalog, err)
	}
	if err := e.register(ctx, n, catalog, s); err != nil {
		if errors.Is(err, ErrStale) {
			e.overtaken(ctx, n, catalog, s)
		}
		return FoldResult{}, err
	}
	e.docs.put(catalog, &document{version: s.Stop, body: doc})
	e.store.keep(SnapshotKey(catalog, s.Start, s.Stop), snap)
	e.store.keep(PackKey(catalog, s.Start, s.Stop), pack)
	e.opts.Hooks.folded(catalog, int64(len(m.deltas)), s.DocBytes, time.Since(start))
	return FoldResult{Version: s.Stop, Deltas: int64(len(m.deltas)), Bytes: s.DocBytes, More: more}, nil
}

// foldLimit bounds one fold. What it puts later than this, if its process was
// stopped meanwhile, a purge may not find any more.
const foldLimit = 5 * time.Minute

// register makes a snapshot the latest of its catalog.
func (e *Engine) register(ctx context.Context, n uint64, catalog string, s Snapshot) error {
	ctx, cancel := context.WithTimeout(ctx, e.opts.IndexTimeout)
	defer cancel()
	if err := e.index.Fold(ctx, Fold{Epoch: n, Catalog: catalog, Snapshot: s}); err != nil {
		e.sawEpoch(n, err)
		return unavailable(fmt.Errorf("fold %q: register snapshot: %w", catalog, err))
	}
	return nil
}

// foldable is the longest prefix of the runs within the bounds of one fold, at
// least one run.
func (e *Engine) foldable(runs []Run) (prefix []Run, more bool) {
	var deltas, size int64
	for i, r := range runs {
		deltas += int64(r.N)
		size += r.Len
		if i > 0 && (deltas > e.opts.FoldMaxDeltas || size > e.opts.FoldMaxBytes) {
			return runs[:i], true
		}
	}
	return runs, false
}

// encodePack lays out the runs with their outcomes, in order, keeping what
// their frames told of them.
func encodePack(m *loaded, outcomes []merge.Outcome) ([]byte, error) {
	var b []byte
	at := 0
	for i := range m.frames {
		f := codec.Frame{Header: m.frames[i].Header}
		f.Kind, f.More = codec.KindPack, i < len(m.frames)-1
		n := int(f.N)
		p := make([]byte, 0, len(m.frames[i].Payload)+4*n)
		for j := range n {
			p = appendOutcome(appendDelta(p, &m.deltas[at+j]), outcomes[at+j])
		}
		at += n
		f.Payload = p
		var err error
		if b, err = codec.Append(b, &f, codec.Options{Compression: codec.Zstd, MaxPayload: maxFramePayload}); err != nil {
			return nil, fmt.Errorf("encode pack: %w", err)
		}
	}
	return b, nil
}

func encodeSnapshot(catalog string, s Snapshot, created int64, doc []byte) ([]byte, error) {
	f := codec.Frame{Header: codec.Header{Kind: codec.KindSnapshot, Catalog: catalog, First: s.Stop.Codec(), N: 1, Created: created}, Payload: doc}
	if doc == nil {
		f.Flags = snapshotAbsent
	}
	if s.Purged() {
		f.Flags |= snapshotPurged
	}
	b, err := codec.Append(nil, &f, codec.Options{Compression: codec.Zstd, MaxPayload: maxFramePayload})
	if err != nil {
		return nil, fmt.Errorf("encode snapshot: %w", err)
	}
	return b, nil
}

// putTrue puts a snapshot or pack. What stands under its key already must have
// the same content: anything else is damage, and stops.
func (e *Engine) putTrue(ctx context.Context, key string, data []byte) error {
	err := e.objects.Put(ctx, key, data)
	if !errors.Is(err, ErrExists) {
		if err != nil {
			return unavailable(fmt.Errorf("put %s: %w", key, err))
		}
		return nil
	}
	there, err := e.objects.Get(ctx, key)
	if err != nil {
		return unavailable(fmt.Errorf("get %s: %w", key, err))
	}
	same, err := sameContent(there, data)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, key, err)
	}
	if !same {
		return fmt.Errorf("%w: %s exists with another content than this fold gives; keep the object: one of the two is not what was written", ErrDamaged, key)
	}
	return nil
}

// sameContent compares objects by what they decode to: the same content may be
// stored in different bytes (another version of a compressor, encryption).
func sameContent(a, b []byte) (bool, error) {
	if bytes.Equal(a, b) {
		return true, nil
	}
	for len(a) > 0 && len(b) > 0 {
		fa, na, err := codec.Decode(a, codec.Options{MaxPayload: maxFramePayload})
		if err != nil {
			return false, err
		}
		fb, nb, err := codec.Decode(b, codec.Options{MaxPayload: maxFramePayload})
		if err != nil {
			return false, err
		}
		if fa.Kind != fb.Kind || fa.Catalog != fb.Catalog || fa.First != fb.First || fa.N != fb.N || fa.Flags != fb.Flags || !bytes.Equal(fa.Payload, fb.Payload) {
			return false, nil
		}
		a, b = a[na:], b[nb:]
	}
	return len(a) == len(b), nil
}

// Due tells whether a snapshot of the catalog is due by the policy, age
// included.
func (e *Engine) Due(ctx context.Context, catalog string) (bool, error) {
	if err := e.Ready(); err != nil {
		return false, err
	}
	v, err := e.view(ctx, e.lease.epoch(), catalog, Version{})
	if err != nil || len(v.Runs) == 0 {
		return false, err
	}
	if lastPurge(v.Runs) >= 0 {
		return true, nil
	}
	return e.opts.Policy.Due(catalog, v.Deltas, v.Bytes, v.Snapshot.DocBytes, v.Now.Sub(v.Runs[0].First.Time())), nil
}

// folder folds, in the writing process, what it wrote: for a lake that is used
// as a library, without a snapshotter.
type folder struct {
	e       *Engine
	workers int

	mu    sync.Mutex
	count map[string]int // deltas since last looked at
	due   chan string
}

func newFolder(e *Engine, workers int) *folder {
	return &folder{e: e, workers: workers, count: map[string]int{}, due: make(chan string, 1024)}
}

// committed counts deltas of a catalog; every 64 it is worth a look whether a
// snapshot is due.
func (f *folder) committed(catalog string, n int) {
	const look, most = 64, 100_000
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.count[catalog] + n
	if c >= look {
		select {
		case f.due <- catalog:
			c = 0
		default: // all workers are busy: look again at the next write
		}
	}
	if c == 0 {
		delete(f.count, catalog)
		return
	}
	if len(f.count) >= most {
		clear(f.count) // a bound, not a promise: the next writes count anew
	}
	f.count[catalog] = c
}

func (f *folder) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for range f.workers {
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case catalog := <-f.due:
					f.fold(ctx, catalog)
				}
			}
		})
	}
}

func (f *folder) fold(ctx context.Context, catalog string) {
	due, err := f.e.Due(ctx, catalog)
	for more := due; err == nil && more; {
		var r FoldResult
		r, err = f.e.Fold(ctx, catalog)
		more = r.More
	}
	if err != nil && !errors.Is(err, ErrStale) && ctx.Err() == nil {
		f.e.opts.Hooks.trouble("fold "+catalog, err)
	}
}
