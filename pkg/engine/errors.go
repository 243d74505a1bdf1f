package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jsonlake/lake/pkg/engine/codec"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

// What a caller can test for with errors.Is. Code gives the numbers that NATS,
// HTTP and the command line answer with.
var (
	// ErrInvalid: the request breaks a rule; nothing was reserved, nothing stored.
	ErrInvalid = errors.New("invalid request")
	// ErrTooLarge: a body or document is over its limit; nothing was stored.
	ErrTooLarge = errors.New("too large")
	// ErrNotFound: the catalog was never written, or is deleted, or has no such part.
	ErrNotFound = errors.New("not found")
	// ErrHistoryGone: the past that is asked for is not kept any more; it is
	// ErrNotFound, too. See *HistoryError.
	ErrHistoryGone = errors.New("history is gone")
	// ErrPendingWrites: asked for by WithStrictPending: a write is being committed.
	ErrPendingWrites = errors.New("pending writes")
	// ErrVersionMismatch: a conditional write's condition does not hold; see
	// *VersionError.
	ErrVersionMismatch = errors.New("version mismatch")
	// ErrContended: a conditional write could not be judged, because other
	// writes of the catalog were being committed all the time.
	ErrContended = errors.New("contended")
	// ErrInFlight: another write with the same id is being committed.
	ErrInFlight = errors.New("write in flight")
	// ErrIDReused: the id belongs to a write of other content.
	ErrIDReused = errors.New("id reused")
	// ErrBusy: admission refused the request; try again after a pause.
	ErrBusy = errors.New("busy")
	// ErrUnavailable: the index or the bucket does not answer; nothing is known
	// to have happened, or (on a read) nothing can be told.
	ErrUnavailable = errors.New("unavailable")
	// ErrRecovering: a new epoch is being opened; try again shortly.
	ErrRecovering = errors.New("recovering")
	// ErrUnknown: the write may have been committed or may yet be; ask again
	// with its id.
	ErrUnknown = errors.New("outcome unknown")
	// ErrNotReached: the version that a read waits for did not come before its
	// deadline.
	ErrNotReached = errors.New("version not reached")
	// ErrDamaged: an object's bytes are not what was written; the error names it.
	ErrDamaged = errors.New("damaged object")
	// ErrClosed: the engine is closed.
	ErrClosed = errors.New("lake is closed")
)

// What adapters answer the engine. None of them reaches a client as such.
var (
	// ErrEpoch: the index is in another epoch, not open, or not the same server.
	ErrEpoch = errors.New("index is in another epoch")
	// ErrStale: a fold's snapshot is no longer the latest.
	ErrStale = errors.New("snapshot is not the latest any more")
	// ErrExists: a create-only put found an object under its key.
	ErrExists = errors.New("object exists")
	// ErrNotExist: no object under this key.
	ErrNotExist = errors.New("object does not exist")
)

// InvalidError says which rule a request broke, and where. It is ErrInvalid.
type InvalidError struct {
	Code   string // stable: invalid_path, invalid_catalog, invalid_version, invalid_json, duplicate_name, …
	Field  string // catalog, path, merge, body, version, header …
	Offset int    // byte of the field at which the rule broke, -1 when it has no place
	Detail string // a sentence for a person
}

func (e *InvalidError) Error() string { return e.Detail }

// Is makes errors.Is(err, ErrInvalid) hold.
func (e *InvalidError) Is(target error) bool { return target == ErrInvalid }

func invalid(code, field, format string, args ...any) error {
	return invalidAt(code, field, -1, format, args...)
}

func invalidAt(code, field string, offset int, format string, args ...any) error {
	return &InvalidError{Code: code, Field: field, Offset: offset, Detail: fmt.Sprintf(format, args...)}
}

// Invalid makes an *InvalidError for a door's own rules (an unknown header, a
// malformed query).
func Invalid(code, field, format string, args ...any) error {
	return invalid(code, field, format, args...)
}

// VersionError is ErrVersionMismatch with the version that is there.
type VersionError struct {
	Current Version
	Absent  bool // the condition was that there be no document
}

func (e *VersionError) Error() string {
	if e.Absent {
		return fmt.Sprintf("there is a document, at version %s; nothing was stored", e.Current)
	}
	return fmt.Sprintf("the current version is %s, not the expected one; nothing was stored", e.Current)
}

// Is makes errors.Is(err, ErrVersionMismatch) hold.
func (e *VersionError) Is(target error) bool { return target == ErrVersionMismatch }

// HistoryError is ErrNotFound: a catalog has no such past. It is ErrHistoryGone
// when it had one.
type HistoryError struct {
	Catalog string
	// Oldest is the oldest version whose document is kept, when what was asked for
	// lies before it.
	Oldest Version
	// Purged: Oldest is the version of a purge, and what was before is erased.
	Purged bool
	// Head is the catalog's version, when what was asked for lies ahead of it.
	Head Version
}

func (e *HistoryError) Error() string {
	if e.Oldest.IsZero() {
		return fmt.Sprintf("catalog %q is at version %s: there is no later one yet", e.Catalog, e.Head)
	}
	if e.Purged {
		return fmt.Sprintf("catalog %q was purged at version %s: what was before is erased for good", e.Catalog, e.Oldest)
	}
	return fmt.Sprintf("the history of catalog %q before version %s is not kept any more", e.Catalog, e.Oldest)
}

// Is makes errors.Is hold with ErrNotFound, and with ErrHistoryGone where it is.
func (e *HistoryError) Is(target error) bool {
	return target == ErrNotFound || target == ErrHistoryGone && !e.Oldest.IsZero()
}

// UnknownError is ErrUnknown with the id under which the write's outcome can
// be asked for.
type UnknownError struct {
	ID  string
	Err error // why nothing is known
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("the outcome of write %s is unknown (%v): it may have been committed or may yet be", e.ID, e.Err)
}

// Is makes errors.Is(err, ErrUnknown) hold.
func (e *UnknownError) Is(target error) bool { return target == ErrUnknown }

func (e *UnknownError) Unwrap() error { return e.Err }

// Status is how an error is told to the outside: one table for every door.
type Status struct {
	HTTP int    // HTTP status, and Nats-Service-Error-Code
	Code string // stable, for programs: the code of the problem JSON
	Exit int    // exit status of the command line
}

// Code maps an error to its Status. nil is 200 "ok" 0; an error nobody
// foresaw is 500 "internal" 1.
func Code(err error) Status {
	var inv *InvalidError
	var body *merge.BodyError
	var remote *Problem
	switch {
	case err == nil:
		return Status{200, "ok", 0}
	case errors.As(err, &remote):
		return Status{remote.Status, remote.Code, remote.exit()}
	case errors.As(err, &inv):
		return Status{400, inv.Code, 2}
	case errors.As(err, &body):
		if body.Code == "too_large" {
			return Status{413, body.Code, 2}
		}
		return Status{400, body.Code, 2}
	case errors.Is(err, ErrInvalid):
		return Status{400, "invalid", 2}
	case errors.Is(err, ErrHistoryGone):
		return Status{404, "history_gone", 3}
	case errors.Is(err, ErrNotFound):
		return Status{404, "not_found", 3}
	case errors.Is(err, ErrPendingWrites):
		return Status{409, "pending_writes", 4}
	case errors.Is(err, ErrInFlight):
		return Status{409, "in_flight", 4}
	case errors.Is(err, ErrContended):
		return Status{409, "contended", 4}
	case errors.Is(err, ErrVersionMismatch):
		return Status{412, "version_mismatch", 4}
	case errors.Is(err, ErrIDReused):
		return Status{422, "id_reused", 2}
	case errors.Is(err, ErrTooLarge), errors.Is(err, merge.ErrTooLarge):
		return Status{413, "too_large", 2}
	case errors.Is(err, ErrBusy):
		return Status{429, "busy", 5}
	case errors.Is(err, ErrUnknown):
		return Status{504, "unknown", 7}
	case errors.Is(err, ErrNotReached):
		return Status{504, "not_reached", 7}
	case errors.Is(err, ErrDamaged), errors.Is(err, codec.ErrDamaged), errors.Is(err, merge.ErrCorruptBase):
		return Status{500, "damaged", 8}
	case errors.Is(err, ErrRecovering), errors.Is(err, ErrEpoch):
		return Status{503, "recovering", 6}
	case errors.Is(err, ErrUnavailable), errors.Is(err, ErrClosed):
		return Status{503, "unavailable", 6}
	case errors.Is(err, context.DeadlineExceeded):
		return Status{504, "deadline", 7}
	case errors.Is(err, context.Canceled):
		return Status{503, "cancelled", 6}
	default:
		return Status{500, "internal", 1}
	}
}

// Problem is an error on the wire: RFC 9457 problem details with a stable
// code. A client that receives one gets it back as an error, with the same
// Code as on the serving side.
type Problem struct {
	Type    string `json:"type"`
	Title   string `json:"title"`
	Status  int    `json:"status"`
	Detail  string `json:"detail"`
	Code    string `json:"code"`
	Field   string `json:"field,omitempty"`
	Offset  *int   `json:"offset,omitempty"`
	Pointer string `json:"pointer,omitempty"`
	Catalog string `json:"catalog,omitempty"`
	ID      string `json:"id,omitempty"` // of a write whose outcome is unknown
	// RetryAfter is how long who was refused as "busy" should pause, milliseconds.
	RetryAfter int64 `json:"retry_after_ms,omitempty"`
	// Current is the version that a conditional write found.
	Current *Version `json:"current,omitempty"`
}

func (p *Problem) Error() string { return p.Detail }

// exit is the exit status that the serving side would have given.
func (p *Problem) exit() int {
	if p.Code == "damaged" {
		return 8
	}
	switch p.Status {
	case 400, 413, 415, 422:
		return 2
	case 404:
		return 3
	case 403, 409, 412:
		return 4
	case 429:
		return 5
	case 503:
		return 6
	case 504:
		return 7
	default:
		return 1
	}
}

// Is maps the codes back to the sentinels.
func (p *Problem) Is(target error) bool {
	switch target {
	case ErrInvalid:
		return p.Status == 400
	case ErrNotFound:
		return p.Status == 404
	case ErrHistoryGone:
		return p.Code == "history_gone"
	case ErrTooLarge:
		return p.Status == 413
	case ErrBusy:
		return p.Status == 429
	case ErrPendingWrites:
		return p.Code == "pending_writes"
	case ErrVersionMismatch:
		return p.Code == "version_mismatch"
	case ErrContended:
		return p.Code == "contended"
	case ErrInFlight:
		return p.Code == "in_flight"
	case ErrIDReused:
		return p.Code == "id_reused"
	case ErrUnknown:
		return p.Code == "unknown"
	case ErrNotReached:
		return p.Code == "not_reached"
	case ErrRecovering:
		return p.Code == "recovering"
	case ErrUnavailable:
		return p.Code == "unavailable"
	case ErrDamaged:
		return p.Code == "damaged"
	}
	return false
}

// ProblemOf gives the problem details of an error about a catalog ("" for
// none). Internal errors keep their text to themselves: it may name hosts.
func ProblemOf(err error, catalog string) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	st := Code(err)
	p = &Problem{Type: "about:blank", Title: titles[st.HTTP], Status: st.HTTP, Code: st.Code, Detail: err.Error(), Catalog: catalog}
	var inv *InvalidError
	var body *merge.BodyError
	var unknown *UnknownError
	var version *VersionError
	switch {
	case errors.As(err, &version):
		p.Current = &version.Current
	case errors.As(err, &inv):
		p.Field = inv.Field
		if inv.Offset >= 0 {
			p.Offset = &inv.Offset
		}
	case errors.As(err, &body):
		p.Field, p.Pointer = "body", body.Pointer
		if body.Offset >= 0 {
			p.Offset = &body.Offset
		}
	case errors.As(err, &unknown):
		p.ID = unknown.ID
	case st.Code == "busy":
		p.RetryAfter = 100
	case st.Code == "internal":
		p.Detail = "internal error; the server's log has the cause"
	}
	return p
}

// JSON is the problem's wire form.
func (p *Problem) JSON() []byte {
	b, err := json.Marshal(p)
	if err != nil { // strings and integers only: cannot fail
		panic(err)
	}
	return b
}

var titles = map[int]string{
	400: "Invalid request", 403: "Forbidden", 404: "Not found", 409: "Conflict", 412: "Version mismatch",
	413: "Too large", 422: "Id reused", 429: "Busy", 500: "Internal error", 503: "Unavailable", 504: "Outcome unknown",
}
