package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jsonlake/lake/pkg/engine/merge"
)

// Purging a catalog:
//
//	write    a run of one delta, of the kind purge, at "/": its version is in order with all others, and acknowledged like any
//	fold     up to that version at once, into a snapshot {stop}~{stop} without a document, whose pack holds the purge alone
//	erase    what lies below the version: snapshots, packs, segments, entries of caches (erase.go)
//
// The snapshot makes the purge hold: no reader looks for anything before it, and a
// rebuild that finds it adopts nothing below, whether it is still there or not. So
// it is never collected, but by a later purge. The erasure has a record in the
// bucket, put before the snapshot and deleted when nothing is left: whoever collects
// goes on with it.

// PurgeRequest asks to erase a catalog's content.
type PurgeRequest struct {
	Catalog string
	Author  string // who asks, as in a WriteRequest
	// ID is an idempotency id, as in WriteOptions: asked again with it, nothing that was
	// written since is purged.
	ID string
	// IfVersion purges only if this is the current version. nil: in any case.
	IfVersion *Version
}

// PurgeReceipt tells what became of a purge. Its numbers are of what the call
// removed; what others removed before is not in them.
type PurgeReceipt struct {
	Catalog   string  `json:"catalog"`
	Version   Version `json:"version"`   // of the purge: what was written before is gone
	Complete  bool    `json:"complete"`  // nothing is left of it in the bucket
	Snapshots int     `json:"snapshots"` // objects deleted
	Packs     int     `json:"packs"`     // objects deleted
	Segments  int     `json:"segments"`  // objects deleted
	Rewritten int     `json:"rewritten"` // segments whose other runs were copied into new ones
	Bytes     int64   `json:"bytes"`     // of the deleted objects, as they were stored
	Cached    int     `json:"cached"`    // entries of the shared cache erased
	// Waiting is how many segments still hold deltas of the catalog: until a writer
	// that may be late cannot take their absence for "never", and until their events
	// are published.
	Waiting int `json:"waiting"`
	// Until is when the rest can go, by the index's clock; a collection that comes
	// after it does it. nil when the purge is complete, or waits for events only.
	Until    *time.Time `json:"until,omitempty"`
	Verified PurgeCheck `json:"verified"`
}

// PurgeCheck is what was asked after a purge, and the answers.
type PurgeCheck struct {
	Read     string `json:"read"`     // the current document: "not_found", or "written" by a later write
	Past     string `json:"past"`     // the document right before the purge: "history_gone"
	Log      int    `json:"log"`      // entries of the log up to the purge: 1, itself
	Objects  int    `json:"objects"`  // snapshots and packs in the bucket from before: 0
	Segments int    `json:"segments"` // segments in the bucket that hold deltas from before: 0 when complete
}

// Purge erases a catalog: its document, its history, and the deltas in the bucket, for
// good. It is a write, ordered like any; writes that come after it stay. When Purge
// returns without an error nobody can read what was before, and nothing brings it back;
// what still waits to be deleted goes by itself, which the receipt tells.
// Of a catalog that was purged and not written since nothing is written: what is left is
// erased.
//
// Errors are those of Write, and ErrNotFound when the catalog was never written. An
// error after the write says so: the purge is committed then, and asking again with the
// same ID, or a collection, goes on with it.
func (e *Engine) Purge(ctx context.Context, req PurgeRequest) (PurgeReceipt, error) {
	r, err := e.blankRun(&BatchRequest{Catalog: req.Catalog, Author: req.Author, WriteOptions: WriteOptions{ID: req.ID, IfVersion: req.IfVersion}}, 1)
	if err != nil {
		return PurgeReceipt{}, err
	}
	r.typ, r.path = merge.Purge, "/"
	r.payload = appendDelta(nil, &merge.Delta{Type: r.typ, Path: r.path})
	r.print()
	if err := e.Ready(); err != nil {
		return PurgeReceipt{}, err
	}
	at, err := e.commitPurge(ctx, r)
	if err != nil {
		return PurgeReceipt{}, err
	}
	committed := time.Now()
	receipt := PurgeReceipt{Catalog: req.Catalog, Version: at}
	if err := e.finishPurge(ctx, &receipt); err != nil {
		return receipt, fmt.Errorf("catalog %q is purged at version %s, the erasure is not done yet and will be tried again: %w", req.Catalog, at, err)
	}
	// Until then a relaxed read may be answered from another process's memory.
	_ = sleep(context.WithoutCancel(ctx), RelaxedAge-time.Since(committed))
	return receipt, nil
}

// commitPurge writes a purge, unless the catalog ends with one, and gives its version.
func (e *Engine) commitPurge(ctx context.Context, r *run) (Version, error) {
	ctx, cancel := context.WithTimeout(ctx, e.opts.WriteTimeout)
	defer cancel()
	v, err := e.view(ctx, e.lease.epoch(), r.catalog, Version{})
	switch {
	case err != nil:
		return Version{}, err
	case v.Head.IsZero():
		return Version{}, fmt.Errorf("%w: catalog %q was never written", ErrNotFound, r.catalog)
	case len(v.Runs) == 0 && v.Snapshot.Purged(), len(v.Runs) > 0 && lastPurge(v.Runs) == len(v.Runs)-1:
		return v.Head, nil
	}
	res, err := e.submit(ctx, r)
	return res.Version, err
}

// finishPurge folds a committed purge and erases what lies below it.
func (e *Engine) finishPurge(ctx context.Context, r *PurgeReceipt) error {
	n := e.lease.epoch()
	if err := e.foldTo(ctx, n, r.Catalog, r.Version); err != nil {
		return err
	}
	e.docs.drop(r.Catalog)
	ectx := ctx
	if end, bounded := ctx.Deadline(); bounded { // leave time to verify and to answer
		var cancel context.CancelFunc
		ectx, cancel = context.WithDeadline(ctx, end.Add(-min(2*time.Second, time.Until(end)/4)))
		defer cancel()
	}
	past, err := e.eraseNow(ectx, n, r)
	switch {
	case err != nil && e.sawEpoch(n, err):
		return fmt.Errorf("%w: %w", ErrRecovering, err)
	case past && errors.Is(err, context.DeadlineExceeded): // the caller's time is over, the work is not
	case err != nil:
		return unavailable(err)
	}
	return e.verify(ctx, r)
}

// foldTo folds until a purge is, and has the index forget what was before.
func (e *Engine) foldTo(ctx context.Context, n uint64, catalog string, at Version) error {
	for {
		folded, err := e.purgeFolded(ctx, n, catalog, at)
		if err != nil {
			return err
		}
		if folded {
			return e.dropPast(ctx, n, catalog, at)
		}
		if err := e.foldPast(ctx, catalog, at); err != nil {
			return err
		}
	}
}

// foldPast folds until a version is below the latest snapshot, or at it.
// ErrUnavailable when the index does not show the version.
func (e *Engine) foldPast(ctx context.Context, catalog string, at Version) error {
	for {
		switch res, err := e.Fold(ctx, catalog); {
		case errors.Is(err, ErrStale): // another one folds it
			if err := sleep(ctx, e.jitter(5*time.Millisecond)); err != nil {
				return err
			}
		case err != nil:
			return err
		case !res.Version.Less(at):
			return nil
		case !res.More:
			return fmt.Errorf("%w: the index does not show version %s of catalog %q", ErrUnavailable, at, catalog)
		}
	}
}

// purgeFolded tells whether the index knows that nothing before a purge counts.
func (e *Engine) purgeFolded(ctx context.Context, n uint64, catalog string, at Version) (bool, error) {
	snaps, err := e.snapshots(ctx, n, catalog, before(at), 1)
	switch {
	case err != nil || len(snaps) == 0:
		return false, err
	case snaps[0].Start.Less(at): // no fold of ours goes past a purge
		return false, fmt.Errorf("%w: snapshot %s goes past the purge at version %s", ErrDamaged, SnapshotKey(catalog, snaps[0].Start, snaps[0].Stop), at)
	}
	return true, nil
}

// dropPast has the index forget the snapshots from before a purge that is folded:
// nobody finds them any more.
func (e *Engine) dropPast(ctx context.Context, n uint64, catalog string, at Version) error {
	for left := 1; left > 0; {
		var err error
		if left, err = e.index.Drop(ctx, Drop{Epoch: n, Catalog: catalog, Before: at, Limit: maxPage}); err != nil {
			return err
		}
	}
	return nil
}

// lastPurge is the place of the newest purge among runs, -1 when there is none.
func lastPurge(runs []Run) int {
	for i := len(runs) - 1; i >= 0; i-- {
		if runs[i].N == 1 && runs[i].Type == merge.Purge {
			return i
		}
	}
	return -1
}

// foldPurge folds a log up to a purge in it. What was before is not even read.
func (e *Engine) foldPurge(ctx context.Context, n uint64, catalog string, v View, i int) (FoldResult, error) {
	start := time.Now()
	at := v.Runs[i].Last
	m, err := e.load(ctx, catalog, &document{}, v.Snapshot, v.Runs[i:i+1], false)
	if err != nil {
		return FoldResult{}, fmt.Errorf("fold %q: %w", catalog, err)
	}
	s := Snapshot{Start: at, Stop: at}
	pack, err := encodePack(m, []merge.Outcome{{Status: merge.Applied, Op: -1}})
	if err != nil {
		return FoldResult{}, fmt.Errorf("fold %q: %w", catalog, err)
	}
	s.PackBytes = int64(len(pack))
	snap, err := encodeSnapshot(catalog, s, m.frames[0].Created, nil)
	if err != nil {
		return FoldResult{}, fmt.Errorf("fold %q: %w", catalog, err)
	}
	// First of all the record: a rebuild takes the purge for folded as soon as it finds
	// the snapshot, and only the record tells that there is something to erase.
	if err := e.recordPurge(ctx, purgeObject{Catalog: catalog, Version: at, CreatedMillis: v.Now.UnixMilli(), Epoch: n, Writer: e.writer}); err != nil {
		return FoldResult{}, fmt.Errorf("fold %q: %w", catalog, err)
	}
	if err := e.putTrue(ctx, PackKey(catalog, at, at), pack); err != nil {
		return FoldResult{}, fmt.Errorf("fold %q: %w", catalog, err)
	}
	if err := e.putTrue(ctx, SnapshotKey(catalog, at, at), snap); err != nil {
		return FoldResult{}, fmt.Errorf("fold %q: %w", catalog, err)
	}
	if err := e.register(ctx, n, catalog, s); err != nil {
		if errors.Is(err, ErrStale) { // a later purge was faster
			e.overtaken(ctx, n, catalog, s)
		}
		return FoldResult{}, err
	}
	if err := e.dropPast(ctx, n, catalog, at); err != nil { // whoever erases does it again
		e.opts.Hooks.trouble("drop what a purge gave up", err)
	}
	var deltas int64
	for _, r := range v.Runs[:i+1] {
		deltas += int64(r.N)
	}
	e.docs.put(catalog, &document{version: at})
	e.opts.Hooks.folded(catalog, deltas, 0, time.Since(start))
	return FoldResult{Version: at, Deltas: deltas, More: i < len(v.Runs)-1}, nil
}

// verify asks what a purge has left, as anybody would.
func (e *Engine) verify(ctx context.Context, r *PurgeReceipt) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.opts.WriteTimeout)
	defer cancel()
	c := &r.Verified
	now, err := e.Read(ctx, ReadRequest{Catalog: r.Catalog})
	c.Read = "not_found"
	if err == nil || errors.Is(err, ErrNotFound) && r.Version.Less(now.Version) {
		c.Read = "written"
	} else if !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("read after the purge: %w", err)
	}
	_, err = e.Read(ctx, ReadRequest{Catalog: r.Catalog, At: AtVersion(before(r.Version))})
	switch c.Past = Code(err).Code; {
	case errors.Is(err, ErrHistoryGone):
	case err == nil:
		return fmt.Errorf("%w: the document before the purge is still answered", ErrDamaged)
	case !errors.Is(err, ErrNotFound):
		return fmt.Errorf("read the past after the purge: %w", err)
	}
	page, err := e.Log(ctx, LogRequest{Catalog: r.Catalog, Limit: 2})
	if err != nil {
		return fmt.Errorf("log after the purge: %w", err)
	}
	for _, entry := range page.Items {
		if !r.Version.Less(entry.Version) {
			c.Log++
		}
	}
	left, err := e.history(ctx, r.Catalog, r.Version)
	c.Objects, c.Segments = len(left), r.Waiting
	return err
}
