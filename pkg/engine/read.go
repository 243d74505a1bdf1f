package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/jsonlake/lake/pkg/engine/codec"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

// List is one consistent view of a catalog: what a read of it would merge.
// Reading the same list again gives the same document, whatever was written
// since. Err is set when the view could not be had; reading such a list
// returns it.
type List struct {
	Catalog    string
	Version    Version // of the document; 0_0 when never written
	HasPending bool    // a write is being committed
	Err        error

	Snapshot Snapshot // the base, zero when there is none
	Runs     []Run    // committed after the base

	source ListSource
	base   *document // a cached document that stands in for the base
}

// ListSource reads lists of its own making.
type ListSource interface {
	ReadList(ctx context.Context, l *List) ([]byte, error)
}

// NewList gives a list of a source its reader. It is for whoever implements a
// lake: the engine and the client give the same type.
func NewList(source ListSource, l List) *List {
	l.source = source
	return &l
}

// ReadBytes merges the document of a list. ErrNotFound when the catalog was
// never written or is deleted. The bytes are the caller's.
func ReadBytes(ctx context.Context, l *List) ([]byte, error) {
	if l.Err != nil {
		return nil, l.Err
	}
	return l.source.ReadList(ctx, l)
}

// Read merges the document of a list into a T, by encoding/json.
func Read[T any](ctx context.Context, l *List) (T, error) {
	var v T
	b, err := ReadBytes(ctx, l)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return v, fmt.Errorf("decode the document of %s: %w", l.Catalog, err)
	}
	return v, nil
}

// ReadMap merges the document of a list into a map.
func ReadMap(ctx context.Context, l *List) (map[string]any, error) {
	return Read[map[string]any](ctx, l)
}

// ReadRequest asks for the current document of a catalog, or a part of it.
type ReadRequest struct {
	Catalog string
	Pointer string // JSON Pointer (RFC 6901); "" and "/" are the whole document
}

// ReadResult is a document, or a part of one, at a version.
type ReadResult struct {
	Body    []byte
	Version Version // of the whole document
	Pending bool    // a write was being committed
}

// Read reads the current document: it holds every write that was answered
// before the read began. ErrNotFound when there is none, or no such part.
func (e *Engine) Read(ctx context.Context, req ReadRequest) (ReadResult, error) {
	if err := ValidatePointer(req.Pointer); err != nil {
		return ReadResult{}, err
	}
	l := e.List(ctx, req.Catalog)
	body, err := ReadBytes(ctx, l)
	if err != nil {
		return ReadResult{Version: l.Version, Pending: l.HasPending}, err
	}
	if req.Pointer != "" && req.Pointer != "/" {
		part, found, err := merge.Get(body, req.Pointer)
		if err != nil {
			return ReadResult{}, fmt.Errorf("read %s of %s: %w", req.Pointer, req.Catalog, err)
		}
		if !found {
			return ReadResult{Version: l.Version}, fmt.Errorf("%w: catalog %q has nothing at %s", ErrNotFound, req.Catalog, req.Pointer)
		}
		body = bytes.Clone(part)
	}
	return ReadResult{Body: body, Version: l.Version, Pending: l.HasPending}, nil
}

// List takes a consistent view of a catalog.
func (e *Engine) List(ctx context.Context, catalog string) *List {
	if err := ValidateCatalog(catalog); err != nil {
		return &List{Catalog: catalog, Err: err}
	}
	return e.list(ctx, catalog, e.docs.get(catalog))
}

func (e *Engine) list(ctx context.Context, catalog string, cached *document) *List {
	l := &List{Catalog: catalog, source: e}
	if err := e.Ready(); err != nil {
		l.Err = err
		return l
	}
	n := e.lease.epoch()
	var after Version
	if cached != nil {
		after = cached.version
	}
	v, err := e.view(ctx, n, catalog, after)
	if err != nil {
		l.Err = err
		return l
	}
	if cached != nil && (v.Head.Less(cached.version) || cached.version.Less(v.Snapshot.Stop)) {
		// The snapshot has overtaken the cached document, or the cache is of a
		// future that an older index does not know.
		if v.Head.Less(cached.version) {
			e.docs.drop(catalog)
			return e.list(ctx, catalog, nil)
		}
		cached = nil
	}
	if e.opts.StrictPending && v.Pending && v.Now.Sub(v.PendingSince) < pendingLimit {
		l.Err = fmt.Errorf("%w: a write to catalog %q is being committed since %s", ErrPendingWrites, catalog, v.PendingSince.UTC().Format(time.RFC3339))
	}
	e.opts.Hooks.cacheLookup("document", cached != nil)
	l.Version, l.HasPending, l.Snapshot, l.Runs, l.base = v.Head, v.Pending, v.Snapshot, v.Runs, cached
	return l
}

func (e *Engine) view(ctx context.Context, n uint64, catalog string, after Version) (View, error) {
	ctx, cancel := context.WithTimeout(ctx, e.opts.IndexTimeout)
	defer cancel()
	v, err := e.index.View(ctx, n, catalog, after)
	if err != nil {
		if e.sawEpoch(n, err) {
			return v, fmt.Errorf("%w: %w", ErrRecovering, err)
		}
		return v, unavailable(fmt.Errorf("view of catalog %q: %w", catalog, err))
	}
	if !e.lease.valid(n) { // what an index says counts only while its epoch is the newest
		return v, errLeaseOut
	}
	return v, nil
}

var errLeaseOut = fmt.Errorf("%w: the epoch lease ran out while the index answered", ErrUnavailable)

// ReadList merges a list of this engine. Use ReadBytes.
func (e *Engine) ReadList(ctx context.Context, l *List) ([]byte, error) {
	doc, err := e.materialise(ctx, l)
	if errors.Is(err, ErrNotExist) {
		// The objects of the list were folded and collected meanwhile: take a new
		// view, once. The version moves with it.
		e.docs.drop(l.Catalog)
		fresh := e.list(ctx, l.Catalog, nil)
		if fresh.Err != nil {
			return nil, fresh.Err
		}
		*l = *fresh
		doc, err = e.materialise(ctx, l)
		if errors.Is(err, ErrNotExist) {
			return nil, fmt.Errorf("%w: an object of catalog %q is not in the bucket any more: %w", ErrDamaged, l.Catalog, err)
		}
	}
	if err != nil {
		return nil, err
	}
	if doc.body == nil {
		return nil, fmt.Errorf("%w: catalog %q has no document", ErrNotFound, l.Catalog)
	}
	return bytes.Clone(doc.body), nil
}

// materialise gives the document of a list, and remembers it.
func (e *Engine) materialise(ctx context.Context, l *List) (*document, error) {
	if l.base != nil && len(l.Runs) == 0 {
		return l.base, nil
	}
	if l.Version.IsZero() {
		return &document{}, nil
	}
	m, err := e.load(ctx, l.Catalog, l.base, l.Snapshot, l.Runs)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	body, _, err := merge.Merge(m.base, m.deltas, e.opts.Limits)
	if err != nil {
		return nil, fmt.Errorf("merge catalog %q: %w", l.Catalog, err)
	}
	e.opts.Hooks.merged(len(m.deltas), len(body), time.Since(start))
	doc := &document{version: l.Version, body: body}
	e.docs.put(l.Catalog, doc)
	return doc, nil
}

// loaded is what a merge needs.
type loaded struct {
	base   []byte // nil: absent
	frames []codec.Frame
	deltas []merge.Delta
}

// load fetches the snapshot (unless a cached document stands in for it) and
// the runs after it, at most Options.Loads objects at once.
func (e *Engine) load(ctx context.Context, catalog string, cached *document, snap Snapshot, runs []Run) (*loaded, error) {
	m := &loaded{frames: make([]codec.Frame, len(runs))}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(e.opts.Loads)
	switch {
	case cached != nil:
		m.base = cached.body
	case !snap.Stop.IsZero():
		g.Go(func() (err error) {
			m.base, err = e.loadSnapshot(gctx, catalog, snap)
			return err
		})
	}
	total := 0
	for _, f := range fetches(runs) {
		g.Go(func() error { return e.loadRuns(gctx, catalog, runs, f, m.frames) })
	}
	for _, r := range runs {
		total += r.N
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	m.deltas = make([]merge.Delta, 0, total)
	for i := range m.frames {
		var err error
		if m.deltas, err = decodeRun(m.deltas, &m.frames[i]); err != nil {
			return nil, fmt.Errorf("%w: run %s of catalog %q in %s: %w", ErrDamaged, runs[i].First, catalog, runs[i].Segment.Key(), err)
		}
	}
	return m, nil
}

// fetch is one ranged GET: some runs, by their place in the list, that stand
// near each other in one segment.
type fetch struct {
	segment SegmentID
	off, to int64
	runs    []int
}

// fetchGap is how many unwanted bytes are fetched rather than making another
// request.
const fetchGap = 64 << 10

func fetches(runs []Run) []fetch {
	order := make([]int, len(runs))
	for i := range order {
		order[i] = i
	}
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

func (e *Engine) loadRuns(ctx context.Context, catalog string, runs []Run, f fetch, frames []codec.Frame) error {
	key := f.segment.Key()
	b, err := e.fetchObject(ctx, key, f.off, f.to-f.off)
	if err != nil {
		return fmt.Errorf("load run %s of catalog %q: %w", runs[f.runs[0]].First, catalog, err)
	}
	for _, i := range f.runs {
		r := runs[i]
		fr, _, err := codec.Decode(b[r.Off-f.off:r.Off-f.off+r.Len], codec.Options{MaxPayload: maxFramePayload})
		if err != nil {
			return fmt.Errorf("%w: %s at byte %d: %w", ErrDamaged, key, r.Off, err)
		}
		if fr.Kind != codec.KindRun || fr.Catalog != catalog || versionOf(fr.First) != r.First || int(fr.N) != r.N {
			return fmt.Errorf("%w: %s at byte %d holds %s %s of %q, not run %s of %q", ErrDamaged, key, r.Off, fr.Kind, versionOf(fr.First), fr.Catalog, r.First, catalog)
		}
		frames[i] = fr
	}
	return nil
}

// loadSnapshot gives the document of a snapshot, nil when it is absent.
func (e *Engine) loadSnapshot(ctx context.Context, catalog string, s Snapshot) ([]byte, error) {
	key := SnapshotKey(catalog, s.Start, s.Stop)
	b, err := e.fetchObject(ctx, key, 0, -1)
	if err != nil {
		return nil, fmt.Errorf("load snapshot: %w", err)
	}
	return decodeSnapshot(key, catalog, s.Stop, b)
}

func decodeSnapshot(key, catalog string, stop Version, b []byte) ([]byte, error) {
	f, n, err := codec.Decode(b, codec.Options{MaxPayload: maxFramePayload})
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, key, err)
	case n != len(b) || f.Kind != codec.KindSnapshot || f.Catalog != catalog || versionOf(f.First) != stop:
		return nil, fmt.Errorf("%w: %s does not hold the snapshot of its name", ErrDamaged, key)
	case f.Flags&snapshotAbsent != 0:
		return nil, nil
	}
	return f.Payload, nil
}

// fetchObject reads a range of an object, or all of it when length is -1, from
// the shared cache or the bucket. What is cached is immutable under its key.
func (e *Engine) fetchObject(ctx context.Context, key string, off, length int64) ([]byte, error) {
	cacheKey := key
	if length >= 0 {
		cacheKey = fmt.Sprintf("%s:%d:%d", key, off, length)
	}
	if e.opts.Cache != nil {
		b, found, err := e.opts.Cache.Get(ctx, cacheKey)
		found = found && err == nil && (length < 0 || int64(len(b)) == length)
		e.opts.Hooks.cacheLookup("shared", found)
		if found {
			if _, _, err := codec.Decode(b, codec.Options{MaxPayload: maxFramePayload}); err == nil {
				return b, nil
			} // a damaged cache entry is a miss
		}
	}
	var b []byte
	var err error
	if length < 0 {
		b, err = e.objects.Get(ctx, key)
	} else {
		b, err = e.objects.GetRange(ctx, key, off, length)
	}
	if err != nil {
		return nil, unavailable(fmt.Errorf("get %s: %w", key, err))
	}
	if e.opts.Cache != nil {
		if err := e.opts.Cache.Set(ctx, cacheKey, b, e.opts.CacheTTL); err != nil {
			e.opts.Hooks.trouble("shared cache", err)
		}
	}
	return b, nil
}

// Catalogs lists catalogs by name: those that begin with prefix and come after
// the name after, at most limit (1 to 1,000).
func (e *Engine) Catalogs(ctx context.Context, prefix, after string, limit int) ([]CatalogInfo, error) {
	if limit < 1 || limit > maxPage {
		return nil, invalid("invalid_limit", "limit", "limit is 1 to %d, not %d", maxPage, limit)
	}
	if err := e.Ready(); err != nil {
		return nil, err
	}
	n := e.lease.epoch()
	c, err := e.index.Catalogs(ctx, n, prefix, after, limit)
	if err != nil && e.sawEpoch(n, err) {
		return nil, fmt.Errorf("%w: %w", ErrRecovering, err)
	}
	if err == nil && !e.lease.valid(n) {
		return nil, errLeaseOut
	}
	return c, unavailable(err)
}

// unavailable types what an adapter answered and the engine has no name for:
// the index or the bucket does not do its work.
func unavailable(err error) error {
	if err == nil {
		return nil
	}
	for _, named := range []error{ErrUnavailable, ErrRecovering, ErrEpoch, ErrNotExist, ErrExists, ErrDamaged, ErrInvalid, ErrStale, ErrClosed, context.Canceled} {
		if errors.Is(err, named) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// pendingLimit is the age beyond which StrictPending lets a pending write be.
const pendingLimit = 120 * time.Second

// maxPage is the longest page of a listing.
const maxPage = 1000
