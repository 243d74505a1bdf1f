package merge

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Type is the kind of a delta. The numbers are wire values, frozen for ever.
type Type uint8

// The kinds of delta.
const (
	Replace    Type = 1 // the value at the path becomes the body
	MergePatch Type = 2 // RFC 7396
	JSONPatch  Type = 3 // RFC 6902
	Delete     Type = 4 // the member at the path goes away; no body
	Purge      Type = 5 // the document goes away, and all that was before it is erased; at "/" only, no body
)

var typeNames = [...]string{Replace: "replace", MergePatch: "merge-patch", JSONPatch: "json-patch", Delete: "delete", Purge: "purge"}

// Valid reports whether t is one of the kinds.
func (t Type) Valid() bool { return t >= Replace && t <= Purge }

// bare tells that a delta of the kind has no body.
func (t Type) bare() bool { return t == Delete || t == Purge }

// String gives the name used in headers, URLs and logs: "replace",
// "merge-patch", "json-patch", "delete" or "purge".
func (t Type) String() string {
	if !t.Valid() {
		return fmt.Sprintf("Type(%d)", uint8(t))
	}
	return typeNames[t]
}

// ParseType is the inverse of String.
func ParseType(s string) (Type, error) {
	for t := Replace; t <= Purge; t++ {
		if typeNames[t] == s {
			return t, nil
		}
	}
	return 0, fmt.Errorf("unknown merge type %q: use replace, merge-patch, json-patch or delete", s)
}

// MarshalText writes the name of the type; an invalid type is an error.
func (t Type) MarshalText() ([]byte, error) {
	if !t.Valid() {
		return nil, fmt.Errorf("marshal merge type %d: not a type", uint8(t))
	}
	return []byte(typeNames[t]), nil
}

// UnmarshalText is the inverse of MarshalText.
func (t *Type) UnmarshalText(b []byte) error {
	p, err := ParseType(string(b))
	if err != nil {
		return err
	}
	*t = p
	return nil
}

// Delta is one write to a document.
type Delta struct {
	Type Type
	// Path addresses the target: "/" is the root, "/a/b" the member b of the
	// member a. It addresses object members only and knows no escapes
	// ("/a.0" is the member "a.0"); the engine has validated it.
	Path string
	// Body is JSON text as [Check] normalised it; empty for Delete and Purge.
	Body []byte
	// Strict turns auto-parents off for a JSON Patch: plain RFC 6902. It
	// means nothing to the other kinds.
	Strict bool
}

// Status says what became of a delta. The numbers stand in history packs and
// are frozen.
type Status uint8

// What can become of a delta.
const (
	Applied Status = 1 // it took effect
	Noop    Status = 2 // it could not apply and changed nothing; Reason says why
	Pruned  Status = 3 // a later write hides it; it was not looked at
)

var statusNames = [...]string{Applied: "applied", Noop: "noop", Pruned: "pruned"}

// Valid reports whether s is one of the three.
func (s Status) Valid() bool { return s >= Applied && s <= Pruned }

// String gives "applied", "noop" or "pruned".
func (s Status) String() string {
	if !s.Valid() {
		return fmt.Sprintf("Status(%d)", uint8(s))
	}
	return statusNames[s]
}

// MarshalText writes the name of the status; an invalid status is an error.
func (s Status) MarshalText() ([]byte, error) {
	if !s.Valid() {
		return nil, fmt.Errorf("marshal merge status %d: not a status", uint8(s))
	}
	return []byte(statusNames[s]), nil
}

// UnmarshalText is the inverse of MarshalText.
func (s *Status) UnmarshalText(b []byte) error {
	for i := Applied; i <= Pruned; i++ {
		if statusNames[i] == string(b) {
			*s = i
			return nil
		}
	}
	return fmt.Errorf("unknown merge status %q", b)
}

// Reason says why a delta was a no-op. The set is closed; the numbers stand
// in history packs and are frozen.
type Reason uint8

// Why a delta changed nothing.
const (
	ReasonNone     Reason = 0
	TestFailed     Reason = 1  // a test operation met another value
	PathMissing    Reason = 2  // a pointer leads to nothing, or through a scalar
	BadIndex       Reason = 3  // an array token is no index, or out of range
	ScopeNotObject Reason = 4  // the way to the delta's path meets something that is no object
	MoveIntoChild  Reason = 5  // "from" of a move is a proper prefix of "path"
	RootOperation  Reason = 6  // remove of "", or move from ""
	TooDeep        Reason = 7  // the value would be nested deeper than Limits.MaxDepth
	TooLarge       Reason = 8  // the document, or what the patch copies, would pass Limits.MaxDocument; or too many operations
	InvalidJSON    Reason = 9  // the body is not what Check lets through
	InvalidUTF8    Reason = 10 // the body or the path is not UTF-8
)

var reasonNames = [...]string{
	ReasonNone: "", TestFailed: "test_failed", PathMissing: "path_missing", BadIndex: "bad_index",
	ScopeNotObject: "scope_not_object", MoveIntoChild: "move_into_child", RootOperation: "root_operation",
	TooDeep: "too_deep", TooLarge: "too_large", InvalidJSON: "invalid_json", InvalidUTF8: "invalid_utf8",
}

// Valid reports whether r is in the closed set; ReasonNone is.
func (r Reason) Valid() bool { return r <= InvalidUTF8 }

// String gives the code used in outcomes ("test_failed"); "" for ReasonNone.
func (r Reason) String() string {
	if !r.Valid() {
		return fmt.Sprintf("Reason(%d)", uint8(r))
	}
	return reasonNames[r]
}

// MarshalText writes the code; an unknown reason is an error.
func (r Reason) MarshalText() ([]byte, error) {
	if !r.Valid() {
		return nil, fmt.Errorf("marshal merge reason %d: not a reason", uint8(r))
	}
	return []byte(reasonNames[r]), nil
}

// UnmarshalText is the inverse of MarshalText.
func (r *Reason) UnmarshalText(b []byte) error {
	for i, n := range reasonNames {
		if n == string(b) {
			*r = Reason(i)
			return nil
		}
	}
	return fmt.Errorf("unknown merge reason %q", b)
}

// Outcome is what became of one delta.
//
// JSON: {"status":"noop","reason":"test_failed","op":2}; reason is left out
// when there is none, op when it is −1, coerced when false.
type Outcome struct {
	Status Status
	Reason Reason
	// Op is the index of the operation of a JSON Patch that failed; −1 when
	// no single operation is to blame.
	Op int
	// Coerced says that a value which was no object (null included) was
	// turned into an object because the write led through it.
	Coerced bool
}

type outcomeJSON struct {
	Status  Status `json:"status"`
	Reason  Reason `json:"reason,omitempty"`
	Op      *int   `json:"op,omitempty"`
	Coerced bool   `json:"coerced,omitempty"`
}

// MarshalJSON writes the form shown at Outcome.
func (o Outcome) MarshalJSON() ([]byte, error) {
	j := outcomeJSON{Status: o.Status, Reason: o.Reason, Coerced: o.Coerced}
	if o.Op >= 0 {
		j.Op = &o.Op
	}
	return json.Marshal(j)
}

// UnmarshalJSON is the inverse of MarshalJSON.
func (o *Outcome) UnmarshalJSON(b []byte) error {
	var j outcomeJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*o = Outcome{Status: j.Status, Reason: j.Reason, Op: -1, Coerced: j.Coerced}
	if j.Op != nil {
		o.Op = *j.Op
	}
	return nil
}

// Limits bound one document. The zero value means the defaults.
type Limits struct {
	// MaxDocument is the largest document in bytes of JSON text: a delta
	// that would make it larger is a no-op (too_large), one that shrinks a
	// document which is already larger is not. Default 64 MiB, most
	// 4 GiB − 1.
	MaxDocument int64
	// MaxCopy is how many bytes of JSON text one JSON Patch may copy, or move
	// to a deeper place. Default 16 MiB.
	MaxCopy int64
	// MaxDepth is the deepest nesting of arrays and objects in a body, and
	// below a delta's path of anything that a JSON Patch writes. Default 128,
	// most 1,000.
	MaxDepth int
	// MaxOps is the largest number of operations in one JSON Patch.
	// Default 10,000.
	MaxOps int
}

// The defaults of Limits, and the bounds that hold whatever Limits say.
const (
	DefaultMaxDocument = 64 << 20
	DefaultMaxCopy     = 16 << 20
	DefaultMaxDepth    = 128
	DefaultMaxOps      = 10_000

	hardMaxDocument = 1<<32 - 1 // offsets are kept in 32 bits
	hardMaxDepth    = 1_000     // recursion follows bodies
	maxPathSegments = 1_024     // recursion follows paths
	maxLiteral      = 64 << 10  // bytes of one name or number: comparing is linear in them
)

func (l Limits) withDefaults() Limits {
	if l.MaxDocument <= 0 {
		l.MaxDocument = DefaultMaxDocument
	}
	if l.MaxCopy <= 0 {
		l.MaxCopy = DefaultMaxCopy
	}
	if l.MaxDepth <= 0 {
		l.MaxDepth = DefaultMaxDepth
	}
	if l.MaxOps <= 0 {
		l.MaxOps = DefaultMaxOps
	}
	l.MaxDocument = min(l.MaxDocument, hardMaxDocument)
	l.MaxCopy = min(l.MaxCopy, hardMaxDocument)
	l.MaxDepth = min(l.MaxDepth, hardMaxDepth)
	return l
}

var (
	// ErrCorruptBase says that the base document is not JSON text: a storage
	// fault, never a delta's fault. Fall back to an older snapshot.
	ErrCorruptBase = errors.New("base document is corrupt")
	// ErrTooLarge says that a body is over a size limit, or that a base
	// document has more than 4 GiB.
	ErrTooLarge = errors.New("document is over the size limit")
	// ErrNotExpressible says that no patch of the wanted kind leads from one
	// document to the other; see Diff.
	ErrNotExpressible = errors.New("no patch of this kind leads to the document")
)
