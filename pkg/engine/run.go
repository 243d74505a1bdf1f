package engine

import (
	"sync/atomic"
	"time"

	"github.com/jsonlake/lake/pkg/engine/trace"
)

// run is a write on its way: n deltas of one catalog.
type run struct {
	catalog string
	n       int
	typ     MergeType // of a run of one
	path    string    // of a run of one
	payload []byte
	author  string
	id      string

	given       bool     // the id is the client's, and the index keeps it
	fingerprint [16]byte // of a given id
	expect      *Version // the head that the write is conditional on

	trace     *trace.Trace // nil: off
	tries     int          // segments it was part of that never were
	undecided int          // how often its condition could not be judged
	turn      waiting      // for the segments because of which it could not
	first     Version
	off, len  int64

	// Under group.mu:
	queued time.Time // when it was first queued
	taken  bool      // by a segment
	gone   bool      // withdrawn
	why    error     // what it waits for, if not its turn
	full   time.Time // since when it waits for a fold; zero: it does not

	duplicate bool
	err       error
	done      chan struct{} // closed when first or err is the answer

	// Of a run that nobody waits for, in place of done:
	tell     func(res WriteResult, err error)
	told     atomic.Bool
	deadline time.Time
	late     *time.Timer
}

// result is what a run that was committed is answered.
func (r *run) result() WriteResult {
	return WriteResult{Version: r.first.Add(r.n - 1), First: r.first, Count: r.n, Duplicate: r.duplicate}
}

// renew is the same write as a run that was never queued.
func (r *run) renew() *run {
	return &run{
		catalog: r.catalog, n: r.n, typ: r.typ, path: r.path, payload: r.payload, author: r.author,
		id: r.id, given: r.given, fingerprint: r.fingerprint, trace: r.trace,
	}
}

// reserve is what the index is asked for. A conditional write that met open
// reservations three times closes the catalog's gate to others.
func (r *run) reserve() Reserve {
	q := Reserve{Catalog: r.catalog, N: r.n, Type: r.typ, Path: r.path, Expect: r.expect}
	if r.given {
		q.ID, q.Fingerprint = r.id, r.fingerprint
	}
	if r.expect != nil && r.undecided >= 3 {
		q.Gate = r.id
	}
	return q
}
