package engine

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/jsonlake/lake/pkg/engine/merge"
	"github.com/jsonlake/lake/pkg/engine/trace"
)

// MergeType says how a delta changes the document.
type MergeType = merge.Type

// The merge types.
const (
	MergeTypeReplace    = merge.Replace    // the body becomes the value at the path
	MergeTypeMergePatch = merge.MergePatch // RFC 7396 at the path
	MergeTypeJSONPatch  = merge.JSONPatch  // RFC 6902, its pointers relative to the path
	MergeTypeDelete     = merge.Delete     // the member at the path is removed; no body
	MergeTypePurge      = merge.Purge      // in the history only: see Engine.Purge
)

// WriteRequest is one delta for one catalog.
type WriteRequest struct {
	Catalog   string
	Path      string    // "" is "/", the whole document
	MergeType MergeType // 0 is MergeTypeMergePatch
	Body      []byte    // JSON; none for MergeTypeDelete
	// NoAutoParents makes a JSON Patch fail, as plain RFC 6902 has it, where the
	// parent of a target is missing; by default it is created.
	NoAutoParents bool
	Author        string // who asks; at most 256 bytes, kept in history and events
	WriteOptions
}

// WriteOptions make a write safe to repeat, or conditional.
type WriteOptions struct {
	// ID is an idempotency id of the caller's choice, at most 128 bytes: writing
	// again with the same id and the same content within 24 h has no further
	// effect and is answered as a duplicate, with the first one's version. "" for
	// none.
	ID string
	// IfVersion commits only if this is the catalog's current version; 0_0: if
	// it was never written. nil: in any case.
	IfVersion *Version
	// IfAbsent commits only if there is no document now: never written, or
	// deleted.
	IfAbsent bool
}

// BatchRequest is deltas of one catalog that are committed together: one run,
// contiguous versions, all or nothing.
type BatchRequest struct {
	Catalog string
	Deltas  []WriteRequest // of each the path, merge type, body and NoAutoParents count
	// Lines is the batch as NDJSON instead, a delta a line:
	//
	//	{"path":"/a","merge":"merge-patch","body":{"b":1}}
	//
	// See AppendLine; at most Options.MaxBody bytes. The fastest way to write.
	Lines  []byte
	Author string
	WriteOptions
}

// WriteResult says at which versions a write was committed.
type WriteResult struct {
	Version   Version `json:"version"` // of the last delta
	First     Version `json:"first"`   // of the first
	Count     int     `json:"count"`   // deltas
	Duplicate bool    `json:"duplicate"`
}

// Write commits one delta and returns its version: the delta is then in the
// bucket and visible to every read that begins from now on.
//
// Errors: ErrInvalid and ErrTooLarge (nothing stored), ErrBusy, ErrUnavailable
// and ErrRecovering (nothing stored, try again), *VersionError (the condition
// does not hold), ErrContended, ErrInFlight, ErrIDReused (nothing stored), *UnknownError (it may have
// been committed, or may yet be: ask again with the same id). Whether the delta changed anything is told by the log:
// a JSON Patch whose test fails is committed, as a no-op.
func (e *Engine) Write(ctx context.Context, req WriteRequest) (WriteResult, error) {
	return e.WriteBatch(ctx, BatchRequest{Catalog: req.Catalog, Deltas: []WriteRequest{req}, Author: req.Author, WriteOptions: req.WriteOptions})
}

// WriteBatch commits deltas of one catalog as one run. See Write.
func (e *Engine) WriteBatch(ctx context.Context, req BatchRequest) (WriteResult, error) {
	t := trace.FromContext(ctx)
	begin := t.Now()
	r, err := e.checked(ctx, &req)
	if err == nil {
		err = e.Ready()
	}
	if err != nil {
		t.Step("Init", begin).Str("catalog", req.Catalog)
		return WriteResult{}, err
	}
	t.Step("Init", begin).Str("catalog", req.Catalog).Int("deltas", int64(r.n))
	r.trace = t
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, e.opts.WriteTimeout)
		defer cancel()
	}
	if !req.IfAbsent {
		return e.submit(ctx, r)
	}
	for {
		if done, res, err := e.expectAbsent(ctx, r); done {
			return res, err
		}
		res, err := e.submit(ctx, r)
		var changed *VersionError
		if !errors.As(err, &changed) {
			return res, err
		}
		r = r.renew() // somebody wrote in between: look again
	}
}

// submit queues a run and waits for its answer.
func (e *Engine) submit(ctx context.Context, r *run) (WriteResult, error) {
	r.done = make(chan struct{})
	if err := e.group.add(r); err != nil {
		return WriteResult{}, err
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		if why, ok := e.group.withdraw(r); ok {
			return WriteResult{}, fmt.Errorf("%w: %w", why, ctx.Err())
		}
		return WriteResult{}, &UnknownError{ID: r.id, Err: ctx.Err()}
	}
	if r.err != nil {
		return WriteResult{}, r.err
	}
	return r.result(), nil
}

// expectAbsent makes a run conditional on the head at which the catalog has no
// document. It is done when there is one, or the run's id is committed already.
func (e *Engine) expectAbsent(ctx context.Context, r *run) (done bool, res WriteResult, err error) {
	if r.given {
		known, err := e.idState(ctx, r.catalog, r.id)
		switch {
		case err != nil:
			return true, res, err
		case known.State == IDUnknown:
		case known.Fingerprint != r.fingerprint:
			return true, res, reused(r.id)
		case known.State == IDCommitted:
			return true, WriteResult{Version: known.First.Add(known.N - 1), First: known.First, Count: known.N, Duplicate: true}, nil
		}
	}
	l := e.List(ctx, r.catalog)
	_, err = ReadBytes(ctx, l)
	switch {
	case err == nil:
		return true, res, &VersionError{Current: l.Version, Absent: true}
	case !errors.Is(err, ErrNotFound):
		return true, res, err
	}
	r.expect = &l.Version
	return false, res, nil
}

// OutcomeRequest asks what became of a write.
type OutcomeRequest struct {
	Catalog string `json:"-"`
	ID      string `json:"id"`
}

// OutcomeResult is what became of a write.
type OutcomeResult struct {
	State string `json:"state"` // committed, or pending
	WriteResult
}

// Outcome tells what became of a write by its id, the caller's own or the one
// of an *UnknownError: committed, with its versions, or pending. ErrNotFound
// when no such write is in the history of the last 24 h: if nobody is still
// trying, it never happened.
func (e *Engine) Outcome(ctx context.Context, req OutcomeRequest) (OutcomeResult, error) {
	if err := ValidateCatalog(req.Catalog); err != nil {
		return OutcomeResult{}, err
	}
	if req.ID == "" || len(req.ID) > MaxID {
		return OutcomeResult{}, invalid("invalid_id", "id", "an id has 1 to %d bytes, not %d", MaxID, len(req.ID))
	}
	if err := e.Ready(); err != nil {
		return OutcomeResult{}, err
	}
	known, err := e.idState(ctx, req.Catalog, req.ID)
	if err != nil {
		return OutcomeResult{}, err
	}
	switch known.State {
	case IDCommitted:
		return OutcomeResult{State: "committed", WriteResult: WriteResult{Version: known.First.Add(known.N - 1), First: known.First, Count: known.N}}, nil
	case IDPending:
		return OutcomeResult{State: "pending"}, nil
	}
	// An id that Lake minted stands in the frames only.
	first, n, err := e.findID(ctx, req.Catalog, req.ID)
	if err != nil {
		return OutcomeResult{}, err
	}
	return OutcomeResult{State: "committed", WriteResult: WriteResult{Version: first.Add(n - 1), First: first, Count: n}}, nil
}

func (e *Engine) idState(ctx context.Context, catalog, id string) (IDState, error) {
	n := e.lease.epoch()
	ictx, cancel := context.WithTimeout(ctx, e.opts.IndexTimeout)
	defer cancel()
	known, err := e.index.Outcome(ictx, n, catalog, id)
	switch {
	case err != nil && e.sawEpoch(n, err):
		return known, fmt.Errorf("%w: %w", ErrRecovering, err)
	case err != nil:
		return known, unavailable(fmt.Errorf("ask for the id: %w", err))
	case !e.lease.valid(n):
		return known, errLeaseOut
	}
	return known, nil
}

func reused(id string) error {
	return fmt.Errorf("%w: id %q was used for another write; take a new id", ErrIDReused, id)
}

// maxAuthor is the longest author, bytes.
const maxAuthor = 256

// newRun validates a request and lays out its payload.
func (e *Engine) newRun(req BatchRequest) (*run, error) {
	if req.Lines != nil {
		return e.newRunOfLines(&req)
	}
	n := len(req.Deltas)
	if n == 0 || n > e.opts.MaxBatch {
		return nil, invalid("invalid_batch", "body", "a batch has 1 to %d deltas, not %d", e.opts.MaxBatch, n)
	}
	r, err := e.blankRun(&req, n)
	if err != nil {
		return nil, err
	}
	size := 0
	for i := range req.Deltas {
		size += len(req.Deltas[i].Body) + len(req.Deltas[i].Path) + 16
	}
	if int64(size) > e.opts.MaxBody+int64(n*(MaxPathBytes+16)) {
		return nil, fmt.Errorf("%w: the write has %d bytes, at most %d are allowed", ErrTooLarge, size, e.opts.MaxBody)
	}
	r.payload = make([]byte, 0, size)
	for i := range req.Deltas {
		d, err := e.checkDelta(&req.Deltas[i])
		if err != nil {
			if n > 1 {
				return nil, fmt.Errorf("delta %d of the batch: %w", i+1, err)
			}
			return nil, err
		}
		r.payload = appendDelta(r.payload, &d)
		if n == 1 {
			r.typ, r.path = d.Type, d.Path
		}
	}
	r.print()
	return r, nil
}

// newRunOfLines is newRun of a batch as text.
func (e *Engine) newRunOfLines(req *BatchRequest) (*run, error) {
	switch {
	case req.Deltas != nil:
		return nil, invalid("invalid_batch", "body", "a batch is given as deltas or as lines, not both")
	case int64(len(req.Lines)) > e.opts.MaxBody:
		return nil, fmt.Errorf("%w: the batch has %d bytes, at most %d are allowed", ErrTooLarge, len(req.Lines), e.opts.MaxBody)
	}
	r, err := e.blankRun(req, 0)
	if err != nil {
		return nil, err
	}
	s := scanners.Get().(*lineScanner)
	defer scanners.Put(s)
	s.lim, s.maxBody = e.opts.Limits, e.opts.MaxBody
	if r.payload, r.n, err = s.scan(make([]byte, 0, len(req.Lines)), req.Lines, e.opts.MaxBatch); err != nil {
		return nil, err
	}
	if r.n == 1 {
		r.typ, r.path = s.typ, s.name
	}
	r.print()
	return r, nil
}

// blankRun is a run of n deltas without its deltas.
func (e *Engine) blankRun(req *BatchRequest, n int) (*run, error) {
	if err := ValidateCatalog(req.Catalog); err != nil {
		return nil, err
	}
	if len(req.Author) > maxAuthor {
		return nil, invalid("invalid_author", "author", "the author has %d bytes, at most %d are allowed", len(req.Author), maxAuthor)
	}
	if len(req.ID) > MaxID {
		return nil, invalid("invalid_id", "id", "the id has %d bytes, at most %d are allowed", len(req.ID), MaxID)
	}
	if req.IfVersion != nil && (req.IfAbsent || !req.IfVersion.Valid()) {
		return nil, invalid("invalid_condition", "if_version", "a condition is either a valid version or absence, not both")
	}
	r := &run{catalog: req.Catalog, n: n, author: req.Author, id: req.ID, given: req.ID != "", expect: req.IfVersion}
	if !r.given {
		r.id = e.randomName(16)
	}
	return r, nil
}

// print takes the fingerprint of what a given id stands for.
func (r *run) print() {
	if r.given {
		sum := sha256.Sum256(r.payload)
		r.fingerprint = [16]byte(sum[:16])
	}
}

// checkDelta holds a delta to the rules and normalises its body.
func (e *Engine) checkDelta(w *WriteRequest) (merge.Delta, error) {
	d := merge.Delta{Type: w.MergeType, Path: w.Path, Strict: w.NoAutoParents}
	if d.Path == "" {
		d.Path = "/"
	}
	if d.Type == 0 {
		d.Type = merge.MergePatch
	}
	if !d.Type.Valid() || d.Type == merge.Purge {
		return d, invalid("invalid_merge", "merge", "merge type %d is none of replace, merge-patch, json-patch, delete", d.Type)
	}
	if err := ValidatePath(d.Path); err != nil {
		return d, err
	}
	if int64(len(w.Body)) > e.opts.MaxBody {
		return d, fmt.Errorf("%w: the body has %d bytes, at most %d are allowed", ErrTooLarge, len(w.Body), e.opts.MaxBody)
	}
	var err error
	d.Body, err = merge.Check(d.Type, w.Body, e.opts.Limits)
	return d, err
}
