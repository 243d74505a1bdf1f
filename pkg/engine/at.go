package engine

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jsonlake/lake/pkg/engine/merge"
)

// At is a moment in the history of a catalog, which stands for the newest
// version that is not after it: a version stands for itself if it was ever
// given, else for the one before it; a time for the last version whose second
// is not later than the time's. A version ahead of the catalog's newest stands
// for nothing, since what it will be is not known yet; a time ahead is now.
type At struct {
	Version Version
	Time    time.Time // counts, and Version does not, when it is not zero
}

// AtVersion is the moment of a version.
func AtVersion(v Version) *At { return &At{Version: v} }

// AtTime is the moment of a time.
func AtTime(t time.Time) *At { return &At{Time: t} }

// ParseAt reads a version ("1700000000_1"), a time of RFC 3339
// ("2023-11-14T22:13:20Z") or a time in whole seconds since 1970
// ("1700000000"). The error is an *InvalidError with the code "invalid_at".
func ParseAt(s string) (At, error) {
	if strings.Contains(s, "_") {
		v, err := ParseVersion(s)
		if err == nil {
			return At{Version: v}, nil
		}
	}
	if plainNumber(s, 10) {
		if sec, err := strconv.ParseInt(s, 10, 64); err == nil {
			return At{Time: time.Unix(sec, 0).UTC()}, nil
		}
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil && t.Unix() >= 0 && t.Unix() <= maxSec {
		return At{Time: t}, nil
	}
	return At{}, invalid("invalid_at", "at", "%.100q is neither a version such as \"1700000000_1\" nor a time such as \"2023-11-14T22:13:20Z\" or \"1700000000\"", s)
}

// String gives a form that ParseAt reads.
func (a At) String() string {
	if a.Time.IsZero() {
		return a.Version.String()
	}
	return a.Time.Format(time.RFC3339)
}

// MarshalText gives the form of String.
func (a At) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText is ParseAt.
func (a *At) UnmarshalText(b []byte) (err error) {
	*a, err = ParseAt(string(b))
	return err
}

// bound is the greatest version that is not after the moment.
func (a At) bound() Version {
	switch sec := a.Time.Unix(); {
	case a.Time.IsZero():
		return a.Version
	case sec < 0:
		return Version{}
	default:
		return Version{Sec: min(sec, maxSec), Seq: MaxSeq}
	}
}

func (a *At) check(field string) error {
	if a != nil && !a.bound().Valid() {
		return invalid("invalid_at", field, "the version %s cannot be one", a.Version)
	}
	return nil
}

// boundIn is the bound of a moment in a catalog whose newest version is head;
// without a moment it is head.
func (a *At) boundIn(catalog string, head Version) (Version, error) {
	switch {
	case a == nil:
		return head, nil
	case a.Time.IsZero() && head.Less(a.Version):
		return Version{}, &HistoryError{Catalog: catalog, Head: head}
	case head.Less(a.bound()):
		return head, nil
	}
	return a.bound(), nil
}

// readAt reads the past.
func (e *Engine) readAt(ctx context.Context, req *ReadRequest) (res ReadResult, err error) {
	var body []byte
	err = e.past(ctx, req.Catalog, func(n uint64, v View) error {
		bound, err := req.At.boundIn(req.Catalog, v.Head)
		if err != nil {
			return err
		}
		res.Version, body, err = e.documentAt(ctx, n, req.Catalog, v, bound)
		return err
	})
	switch {
	case err != nil:
		return ReadResult{}, err
	case !req.IfNoneMatch.IsZero() && res.Version == req.IfNoneMatch:
		res.NotModified = true
		return res, nil
	case res.Version.IsZero():
		return res, fmt.Errorf("%w: catalog %q was first written after %s", ErrNotFound, req.Catalog, req.At)
	case body == nil:
		return res, fmt.Errorf("%w: catalog %q had no document at version %s", ErrNotFound, req.Catalog, res.Version)
	}
	if req.Pointer != "" && req.Pointer != "/" {
		part, found, err := merge.Get(body, req.Pointer)
		if err != nil {
			return ReadResult{}, fmt.Errorf("read %s of %s: %w", req.Pointer, req.Catalog, err)
		}
		if !found {
			return res, fmt.Errorf("%w: catalog %q had nothing at %s at version %s", ErrNotFound, req.Catalog, req.Pointer, res.Version)
		}
		body = part
	}
	res.Body = bytes.Clone(body)
	return res, nil
}

// documentAt gives the newest version up to bound, 0_0 when there was none, and
// the document at it, nil when it was absent. It loads one snapshot, and either
// one pack or a part of the live log.
func (e *Engine) documentAt(ctx context.Context, n uint64, catalog string, v View, bound Version) (Version, []byte, error) {
	var s *stretch
	var err error
	if !bound.Less(v.Snapshot.Stop) {
		s, err = e.liveStretch(ctx, catalog, v, runsUpTo(v.Runs, bound))
	} else {
		var snap Snapshot
		if snap, err = e.covering(ctx, n, catalog, bound); err == nil && snap.Stop == bound {
			doc, err := e.loadSnapshot(ctx, catalog, snap)
			return bound, doc, err
		}
		if err == nil {
			s, err = e.packStretch(ctx, n, catalog, snap)
		}
	}
	if err != nil {
		return Version{}, nil, err
	}
	base, err := s.base(ctx)
	if err != nil {
		return Version{}, nil, err
	}
	k := s.upTo(bound)
	if k == 0 {
		return s.start, base, nil
	}
	doc, err := e.merge(ctx, base, s.deltas[:k])
	if err != nil {
		return Version{}, nil, fmt.Errorf("merge catalog %q at version %s: %w", catalog, s.versions[k-1], err)
	}
	return s.versions[k-1], doc, nil
}

// documentOf is the document before the pack of a snapshot.
func (e *Engine) documentOf(ctx context.Context, n uint64, catalog string, s Snapshot) ([]byte, error) {
	if s.Start.IsZero() || s.Purged() {
		return nil, nil
	}
	before, ok, err := e.stopsAt(ctx, n, catalog, s.Start)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, s.gone(catalog)
	}
	doc, err := e.loadSnapshot(ctx, catalog, before)
	if errors.Is(err, ErrNotExist) && errors.Is(err, ErrHistoryGone) { // the retention took it, and the index does not know
		err = &HistoryError{Catalog: catalog, Oldest: s.Stop}
	}
	return doc, err
}

// loadSnapshot gives the document of a snapshot, nil when it is absent. A
// snapshot that the bucket has lost, or that is damaged, is made anew from the
// one before and its pack, and told of as trouble. Nothing is put: reads do
// not write, and the next fold makes a snapshot that does not need this one.
func (e *Engine) loadSnapshot(ctx context.Context, catalog string, s Snapshot) ([]byte, error) {
	doc, err := e.store.snapshot(ctx, catalog, s)
	if !errors.Is(err, ErrNotExist) && !errors.Is(err, ErrDamaged) {
		return doc, err
	}
	e.opts.Hooks.trouble("snapshot", err)
	doc, again := e.remakeSnapshot(ctx, catalog, s)
	switch {
	case again == nil:
		return doc, nil
	case ctx.Err() != nil, errors.Is(again, ErrUnavailable), errors.Is(again, ErrRecovering):
		return nil, again
	case errors.Is(err, ErrNotExist):
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil, fmt.Errorf("%w; it cannot be made from the snapshot before: %w", err, again)
}

func (e *Engine) remakeSnapshot(ctx context.Context, catalog string, s Snapshot) ([]byte, error) {
	n := e.lease.epoch()
	pack, err := e.packStretch(ctx, n, catalog, s)
	if err != nil {
		return nil, err
	}
	base, err := e.documentOf(ctx, n, catalog, s)
	if err != nil {
		return nil, err
	}
	if k := len(pack.versions); k == 0 || pack.versions[k-1] != s.Stop {
		return nil, fmt.Errorf("%w: %s does not end at version %s", ErrDamaged, PackKey(catalog, s.Start, s.Stop), s.Stop)
	}
	doc, _, err := merge.Merge(base, pack.deltas, e.opts.Limits)
	if err != nil {
		return nil, fmt.Errorf("merge %s: %w", PackKey(catalog, s.Start, s.Stop), err)
	}
	return doc, nil
}

// DiffRequest asks what turns a document of the past into a later (or earlier)
// one of the same catalog.
type DiffRequest struct {
	Catalog string `json:"-"`
	From    At     `json:"from"`         // a version 0_0 is the absent document before the first write
	To      *At    `json:"to,omitempty"` // nil: now
	// Format is MergeTypeMergePatch or MergeTypeJSONPatch. 0: a merge patch where
	// one can say it, else a JSON Patch.
	Format MergeType `json:"format,omitempty"`
}

// DiffResult is a delta that, at "/", turns the document at From into exactly
// the bytes of the document at To.
type DiffResult struct {
	From  Version   `json:"from"`
	To    Version   `json:"to"`
	Merge MergeType `json:"merge"` // delete where there is no document at To
	// Patch is the delta's body; none of a delete.
	Patch json.RawMessage `json:"patch,omitempty"`
}

// Diff compares two versions. A merge patch cannot set a member to null and
// cannot change the order of members: where one was asked for and cannot do it
// the error is an *InvalidError with the code "not_expressible".
func (e *Engine) Diff(ctx context.Context, req DiffRequest) (DiffResult, error) {
	err := ValidateCatalog(req.Catalog)
	if err == nil {
		err = cmp.Or(req.From.check("from"), req.To.check("to"))
	}
	if err == nil && req.Format != 0 && req.Format != MergeTypeMergePatch && req.Format != MergeTypeJSONPatch {
		err = invalid("invalid_format", "format", "the format is merge-patch or json-patch")
	}
	if err != nil {
		return DiffResult{}, err
	}
	var res DiffResult
	var from, to []byte
	err = e.past(ctx, req.Catalog, func(n uint64, v View) error {
		a, err := req.From.boundIn(req.Catalog, v.Head)
		if err != nil {
			return err
		}
		b, err := req.To.boundIn(req.Catalog, v.Head)
		if err != nil {
			return err
		}
		if res.From, from, err = e.documentAt(ctx, n, req.Catalog, v, a); err != nil {
			return err
		}
		res.To, to, err = e.documentAt(ctx, n, req.Catalog, v, b)
		return err
	})
	if err != nil {
		return DiffResult{}, err
	}
	if to == nil {
		res.Merge = MergeTypeDelete
		return res, nil
	}
	if res.Merge = req.Format; res.Merge == 0 {
		res.Merge = MergeTypeMergePatch
	}
	res.Patch, err = merge.Diff(from, to, res.Merge)
	if errors.Is(err, merge.ErrNotExpressible) && req.Format == 0 {
		res.Merge = MergeTypeJSONPatch
		res.Patch, err = merge.Diff(from, to, res.Merge)
	}
	if errors.Is(err, merge.ErrNotExpressible) {
		err = invalid("not_expressible", "format", "no %s leads from version %s to %s of catalog %q: ask for json-patch", res.Merge, res.From, res.To, req.Catalog)
	}
	if err != nil {
		return DiffResult{}, err
	}
	return res, nil
}
