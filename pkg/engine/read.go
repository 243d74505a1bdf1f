package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jsonlake/lake/pkg/engine/codec"
	"github.com/jsonlake/lake/pkg/engine/merge"
	"github.com/jsonlake/lake/pkg/engine/trace"
)

// List is one consistent view of a catalog: what a read of it would merge.
// Reading the same list again gives the same document, whatever was written
// since; only when objects that it needs are gone by then it moves to a new view. Err
// is set when the view could not be had; reading such a list returns it.
type List struct {
	Catalog    string
	Version    Version // of the document; 0_0 when never written
	HasPending bool    // a write is being committed
	Err        error

	Snapshot Snapshot // the base, zero when there is none
	Runs     []Run    // committed after the base

	source ListSource
	base   *document // a cached document that stands in for the base

	relaxed bool      // taken without a valid lease
	taken   time.Time // when the index was asked
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
	// At reads the past: the newest version that is not after it. nil: now.
	At *At
	// MinVersion makes the read wait until the catalog has reached it, at most
	// until the deadline of the context (without one, Options.WriteTimeout).
	// 0_0: no wait.
	MinVersion Version
	// Relaxed reads without a valid epoch lease: it goes on while the bucket is
	// away, and may miss the latest writes while the index is being replaced. It may be
	// answered from memory when the index was asked within RelaxedAge, and then
	// misses what was written since.
	Relaxed bool
	// IfNoneMatch is the version that the caller has: at the same version the
	// answer is NotModified, without a body. 0_0: none.
	IfNoneMatch Version
}

// ReadResult is a document, or a part of one, at a version.
type ReadResult struct {
	Body    []byte
	Version Version // of the whole document
	Pending bool    // a write was being committed
	// NotModified: the catalog is at IfNoneMatch. What was answered at that
	// version, also that there is no document, would be answered now.
	NotModified bool
}

// Read reads the current document: it holds every write that was answered
// before the read began, unless it is relaxed; or, with At, a document of the past.
// ErrNotFound when there is none, or no such part, ErrHistoryGone when it is not kept any more; ErrNotReached when MinVersion is not reached in time.
func (e *Engine) Read(ctx context.Context, req ReadRequest) (ReadResult, error) {
	t := trace.FromContext(ctx)
	begin := t.Now()
	err := checkRead(&req)
	t.Step("Init", begin).Str("catalog", req.Catalog)
	if err != nil {
		return ReadResult{}, err
	}
	l, err := e.listFor(ctx, &req)
	if err != nil {
		return ReadResult{Version: l.Version, Pending: l.HasPending}, err
	}
	if req.At != nil && !l.Version.IsZero() {
		bound, err := req.At.boundIn(req.Catalog, l.Version)
		if err != nil {
			return ReadResult{}, err
		}
		if bound != l.Version {
			return e.readAt(ctx, &req)
		}
		req.At = AtVersion(bound)
	}
	if !req.IfNoneMatch.IsZero() && l.Version == req.IfNoneMatch {
		return ReadResult{Version: l.Version, Pending: l.HasPending, NotModified: true}, nil
	}
	body, err := e.document(ctx, l)
	if req.At != nil && req.At.Version.Less(l.Version) { // reading it had to take a new view
		return e.readAt(ctx, &req)
	}
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
		body = part
	}
	return ReadResult{Body: bytes.Clone(body), Version: l.Version, Pending: l.HasPending}, nil
}

func checkRead(req *ReadRequest) error {
	if err := ValidateCatalog(req.Catalog); err != nil {
		return err
	}
	if err := ValidatePointer(req.Pointer); err != nil {
		return err
	}
	if !req.MinVersion.Valid() {
		return invalid("invalid_version", "min_version", "the minimal version %s cannot be one", req.MinVersion)
	}
	if !req.IfNoneMatch.Valid() {
		return invalid("invalid_version", "if_none_match", "the version %s cannot be one", req.IfNoneMatch)
	}
	return req.At.check("at")
}

// listFor takes the view that a read asks for; it waits for its version.
func (e *Engine) listFor(ctx context.Context, req *ReadRequest) (*List, error) {
	cached := e.docs.get(req.Catalog)
	if req.Relaxed && req.At == nil && cached != nil && !cached.version.Less(req.MinVersion) {
		if l := e.recentList(req.Catalog, cached); l != nil {
			return l, l.Err
		}
	}
	l := e.list(ctx, req.Catalog, cached, req.Relaxed)
	if l.Err != nil || !l.Version.Less(req.MinVersion) {
		return l, l.Err
	}
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, e.opts.WriteTimeout)
		defer cancel()
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if err := sleep(ctx, pause); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				err = fmt.Errorf("%w: catalog %q is at version %s, not yet at %s: %w", ErrNotReached, req.Catalog, l.Version, req.MinVersion, err)
			}
			return l, err
		}
		next := e.list(ctx, req.Catalog, e.docs.get(req.Catalog), req.Relaxed)
		switch {
		case next.Err == nil && !next.Version.Less(req.MinVersion):
			return next, nil
		case next.Err == nil:
			l = next
		case ctx.Err() == nil:
			return next, next.Err
		}
	}
}

// List takes a consistent view of a catalog.
func (e *Engine) List(ctx context.Context, catalog string) *List {
	if err := ValidateCatalog(catalog); err != nil {
		return &List{Catalog: catalog, Err: err}
	}
	return e.list(ctx, catalog, e.docs.get(catalog), false)
}

// readable is nil when a read can be answered. A relaxed one needs an epoch,
// but not the certainty that it is the newest.
func (e *Engine) readable(relaxed bool) error {
	err := e.Ready()
	if relaxed && e.lease.epoch() != 0 && !errors.Is(err, ErrClosed) {
		return nil
	}
	return err
}

// recentList is the list of a cached document that a relaxed read may be answered
// with, nil when it may not.
func (e *Engine) recentList(catalog string, doc *document) *List {
	m := doc.recent()
	if m == nil || m.pending && e.opts.StrictPending {
		return nil
	}
	e.opts.Hooks.cacheLookup("document", true)
	return &List{Catalog: catalog, source: e, relaxed: true, taken: m.at, Version: doc.version, HasPending: m.pending, base: doc, Err: e.readable(true)}
}

func (e *Engine) list(ctx context.Context, catalog string, cached *document, relaxed bool) *List {
	l := &List{Catalog: catalog, source: e, relaxed: relaxed, taken: time.Now()}
	if err := e.readable(relaxed); err != nil {
		l.Err = err
		return l
	}
	n := e.lease.epoch()
	var after Version
	if cached != nil {
		after = cached.version
	}
	v, err := e.look(ctx, n, catalog, after)
	if err == nil && !relaxed && !e.lease.valid(n) {
		err = errLeaseOut
	}
	if err != nil {
		l.Err = err
		return l
	}
	if cached != nil && (v.Head.Less(cached.version) || cached.version.Less(v.Snapshot.Stop)) {
		// The snapshot has overtaken the cached document, or the cache is of a
		// future that an older index does not know.
		if v.Head.Less(cached.version) {
			e.docs.drop(catalog)
			return e.list(ctx, catalog, nil, relaxed)
		}
		cached = nil
	}
	if e.opts.StrictPending && v.Pending && v.Now.Sub(v.PendingSince) < pendingLimit {
		l.Err = fmt.Errorf("%w: a write to catalog %q is being committed since %s", ErrPendingWrites, catalog, v.PendingSince.UTC().Format(time.RFC3339))
	}
	e.opts.Hooks.cacheLookup("document", cached != nil)
	l.Version, l.HasPending, l.Snapshot, l.Runs, l.base = v.Head, v.Pending, v.Snapshot, v.Runs, cached
	if cached != nil && len(v.Runs) == 0 {
		cached.confirm(l.taken, v.Pending)
	}
	return l
}

// view is a look at a catalog that counts: what an index says does so only
// while its epoch is the newest.
func (e *Engine) view(ctx context.Context, n uint64, catalog string, after Version) (View, error) {
	v, err := e.look(ctx, n, catalog, after)
	if err == nil && !e.lease.valid(n) {
		err = errLeaseOut
	}
	return v, err
}

func (e *Engine) look(ctx context.Context, n uint64, catalog string, after Version) (View, error) {
	t := trace.FromContext(ctx)
	begin := t.Now()
	ctx, cancel := context.WithTimeout(ctx, e.opts.IndexTimeout)
	defer cancel()
	v, err := e.index.View(ctx, n, catalog, after)
	if t != nil {
		t.Step("View", begin).Str("version", v.Head.String()).Str("have", after.String()).Int("runs", int64(len(v.Runs)))
	}
	if err != nil {
		if e.sawEpoch(n, err) || e.condemn(ctx, n, Shard(catalog), err) {
			return v, fmt.Errorf("%w: %w", ErrRecovering, err)
		}
		return v, unavailable(fmt.Errorf("view of catalog %q: %w", catalog, err))
	}
	return v, nil
}

var errLeaseOut = fmt.Errorf("%w: the epoch lease ran out while the index answered", ErrUnavailable)

// ReadList merges a list of this engine. Use ReadBytes.
func (e *Engine) ReadList(ctx context.Context, l *List) ([]byte, error) {
	body, err := e.document(ctx, l)
	return bytes.Clone(body), err
}

// document merges a list. The bytes are the document cache's own.
func (e *Engine) document(ctx context.Context, l *List) ([]byte, error) {
	doc, err := e.materialise(ctx, l)
	for again, adopted := false, false; errors.Is(err, ErrNotExist); again = true {
		// The objects of the list were folded and collected meanwhile: take a new
		// view. The version moves with it.
		e.docs.drop(l.Catalog)
		fresh := e.list(ctx, l.Catalog, nil, l.relaxed)
		if again && fresh.Err == nil && needsAsMuch(View{Snapshot: fresh.Snapshot, Runs: fresh.Runs}, View{Snapshot: l.Snapshot, Runs: l.Runs}) {
			// The index does not know what took their place.
			gone := fmt.Errorf("%w: an object of catalog %q is not in the bucket any more: %w", ErrDamaged, l.Catalog, err)
			if adopted {
				return nil, gone
			}
			if adopted, err = e.adoptNewer(ctx, l.Catalog, l.Snapshot.Stop); err != nil {
				return nil, err
			}
			if !adopted {
				return nil, gone
			}
			fresh = e.list(ctx, l.Catalog, nil, l.relaxed)
		}
		if fresh.Err != nil {
			return nil, fresh.Err
		}
		*l = *fresh
		doc, err = e.materialise(ctx, l)
	}
	if err != nil {
		return nil, err
	}
	if doc.body == nil {
		return nil, fmt.Errorf("%w: catalog %q has no document", ErrNotFound, l.Catalog)
	}
	return doc.body, nil
}

// needsAsMuch tells whether a later view of a catalog needs every object that an
// earlier one needs: what is missing of that one is then not replaced, but lost. (Of
// the runs a view may hold only the newest.)
func needsAsMuch(later, earlier View) bool {
	return later.Snapshot == earlier.Snapshot &&
		!slices.ContainsFunc(earlier.Runs, func(r Run) bool { return !slices.Contains(later.Runs, r) })
}

// materialise gives the document of a list, and remembers it.
func (e *Engine) materialise(ctx context.Context, l *List) (*document, error) {
	if l.base != nil && len(l.Runs) == 0 {
		return l.base, nil
	}
	if l.Version.IsZero() {
		return &document{}, nil
	}
	return e.flights.join(ctx, flightOf(l), func(ctx context.Context) (*document, error) { return e.assemble(ctx, l) })
}

// assemble loads and merges the document of a list.
func (e *Engine) assemble(ctx context.Context, l *List) (*document, error) {
	m, err := e.load(ctx, l.Catalog, l.base, l.Snapshot, l.Runs, false)
	if err != nil {
		return nil, err
	}
	body, err := e.merge(ctx, m.base, m.deltas)
	if err != nil {
		return nil, fmt.Errorf("merge catalog %q: %w", l.Catalog, err)
	}
	doc := &document{version: l.Version, body: body}
	doc.confirm(l.taken, l.HasPending)
	e.docs.put(l.Catalog, doc)
	return doc, nil
}

// merge applies deltas for a read.
func (e *Engine) merge(ctx context.Context, base []byte, deltas []merge.Delta) ([]byte, error) {
	start := time.Now()
	body, _, err := merge.Merge(base, deltas, e.opts.Limits)
	if err != nil {
		return nil, err
	}
	trace.FromContext(ctx).Step("Merge", start).Int("deltas", int64(len(deltas))).Int("bytes", int64(len(body)))
	e.opts.Hooks.merged(len(deltas), len(body), time.Since(start))
	return body, nil
}

// loaded is what a merge needs.
type loaded struct {
	base   []byte // nil: absent
	frames []codec.Frame
	deltas []merge.Delta
}

// load fetches the snapshot (unless a cached document stands in for it) and
// the runs after it, at most Options.Loads objects of the bucket at once. fold: what
// is fetched is of use to those that are folded next.
func (e *Engine) load(ctx context.Context, catalog string, cached *document, snap Snapshot, runs []Run, fold bool) (*loaded, error) {
	m := &loaded{frames: make([]codec.Frame, len(runs))}
	g, gctx := newTasks(ctx, 0)
	switch {
	case cached != nil:
		m.base = cached.body
	case !snap.Stop.IsZero():
		g.add(func() (err error) {
			m.base, err = e.loadSnapshot(gctx, catalog, snap)
			return err
		})
	}
	if len(runs) > 0 {
		g.add(func() error { return e.store.loadRuns(gctx, catalog, runs, m.frames, e.opts.Loads, fold) })
	}
	if err := g.wait(); err != nil {
		return nil, err
	}
	total := 0
	for _, r := range runs {
		total += r.N
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
