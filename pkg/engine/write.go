package engine

import (
	"context"
	"fmt"

	"github.com/jsonlake/lake/pkg/engine/merge"
)

// MergeType says how a delta changes the document.
type MergeType = merge.Type

// The merge types.
const (
	MergeTypeReplace    = merge.Replace    // the body becomes the value at the path
	MergeTypeMergePatch = merge.MergePatch // RFC 7396 at the path
	MergeTypeJSONPatch  = merge.JSONPatch  // RFC 6902, its pointers relative to the path
	MergeTypeDelete     = merge.Delete     // the member at the path is removed; no body
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
}

// BatchRequest is deltas of one catalog that are committed together: one run,
// contiguous versions, all or nothing.
type BatchRequest struct {
	Catalog string
	Deltas  []WriteRequest // Catalog and Author of each are ignored
	Author  string
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
// and ErrRecovering (nothing stored, try again), *UnknownError (it may have
// been committed, or may yet be). Whether the delta changed anything is told by the log:
// a JSON Patch whose test fails is committed, as a no-op.
func (e *Engine) Write(ctx context.Context, req WriteRequest) (WriteResult, error) {
	return e.WriteBatch(ctx, BatchRequest{Catalog: req.Catalog, Deltas: []WriteRequest{req}, Author: req.Author})
}

// WriteBatch commits deltas of one catalog as one run. See Write.
func (e *Engine) WriteBatch(ctx context.Context, req BatchRequest) (WriteResult, error) {
	r, err := e.newRun(req)
	if err != nil {
		return WriteResult{}, err
	}
	if err := e.Ready(); err != nil {
		return WriteResult{}, err
	}
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, e.opts.WriteTimeout)
		defer cancel()
	}
	if err := e.group.add(r); err != nil {
		return WriteResult{}, err
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		if e.group.withdraw(r) {
			return WriteResult{}, fmt.Errorf("%w: the write did not get its turn before its deadline; nothing was stored: %w", ErrUnavailable, ctx.Err())
		}
		return WriteResult{}, &UnknownError{ID: r.id, Err: ctx.Err()}
	}
	if r.err != nil {
		return WriteResult{}, r.err
	}
	return WriteResult{Version: r.first.Add(r.n - 1), First: r.first, Count: r.n}, nil
}

// maxAuthor is the longest author, bytes.
const maxAuthor = 256

// newRun validates a request and lays out its payload.
func (e *Engine) newRun(req BatchRequest) (*run, error) {
	if err := ValidateCatalog(req.Catalog); err != nil {
		return nil, err
	}
	if len(req.Author) > maxAuthor {
		return nil, invalid("invalid_author", "author", "the author has %d bytes, at most %d are allowed", len(req.Author), maxAuthor)
	}
	n := len(req.Deltas)
	if n == 0 || n > e.opts.MaxBatch {
		return nil, invalid("invalid_batch", "body", "a batch has 1 to %d deltas, not %d", e.opts.MaxBatch, n)
	}
	r := &run{catalog: req.Catalog, n: n, author: req.Author, id: newID(), done: make(chan struct{})}
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
	return r, nil
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
	if !d.Type.Valid() {
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
