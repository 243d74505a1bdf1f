package engine

import (
	"context"
	"errors"
	"fmt"
)

// RevertRequest asks to write a document of the past anew.
type RevertRequest struct {
	Catalog string
	// To is which document. nil undoes a deletion: the document as it was before
	// it was removed; ErrVersionMismatch when there is one, also where an earlier
	// call with the same ID has brought it back.
	To     *At
	Author string // who asks, as in a WriteRequest
	ID     string // idempotency id, as in WriteOptions
}

// Past is what Revert needs of a lake; the engine and the client over NATS have
// it.
type Past interface {
	Write(ctx context.Context, req WriteRequest) (WriteResult, error)
	Read(ctx context.Context, req ReadRequest) (ReadResult, error)
	Blame(ctx context.Context, req BlameRequest) (BlameResult, error)
}

// Revert makes a document of the past the current one by an ordinary delta: a
// replace at "/", or a delete where there was no document then. The history
// goes on from there, nothing of it is lost. The delta is conditional on the version that was
// current when Revert looked; when others write meanwhile it looks again, and
// after a few times it is ErrContended. ErrTooLarge when the document is larger
// than a body may be; ErrHistoryGone when it is not kept any more.
func (e *Engine) Revert(ctx context.Context, req RevertRequest) (WriteResult, error) {
	return Revert(ctx, e, req)
}

// Revert is Engine.Revert on whatever has a past.
func Revert(ctx context.Context, l Past, req RevertRequest) (WriteResult, error) {
	const tries = 5
	for try := 1; ; try++ {
		w, err := reverting(ctx, l, req)
		if err != nil {
			return WriteResult{}, err
		}
		res, err := l.Write(ctx, w)
		if !errors.Is(err, ErrVersionMismatch) && !errors.Is(err, ErrContended) {
			return res, err
		}
		if try == tries {
			return WriteResult{}, fmt.Errorf("%w: catalog %q was written to each time between looking and reverting, %d times: %w", ErrContended, req.Catalog, tries, err)
		}
	}
}

// reverting is the write that reverts, as things stand.
func reverting(ctx context.Context, l Past, req RevertRequest) (WriteRequest, error) {
	now, err := l.Read(ctx, ReadRequest{Catalog: req.Catalog})
	switch {
	case err != nil && (!errors.Is(err, ErrNotFound) || now.Version.IsZero()):
		return WriteRequest{}, err
	case err == nil && req.To == nil:
		return WriteRequest{}, &VersionError{Current: now.Version, Absent: true}
	}
	to := req.To
	if to == nil {
		b, err := l.Blame(ctx, BlameRequest{Catalog: req.Catalog, At: AtVersion(now.Version)})
		if err != nil {
			return WriteRequest{}, err
		}
		to = AtVersion(b.Items[0].Prev)
	}
	w := WriteRequest{Catalog: req.Catalog, Path: "/", MergeType: MergeTypeReplace, Author: req.Author, WriteOptions: WriteOptions{ID: req.ID, IfVersion: &now.Version}}
	then, err := l.Read(ctx, ReadRequest{Catalog: req.Catalog, At: to})
	switch {
	case err == nil:
		w.Body = then.Body
	case errors.Is(err, ErrNotFound) && !then.Version.IsZero():
		w.MergeType = MergeTypeDelete // there was none, then
	default:
		return WriteRequest{}, err
	}
	return w, nil
}
