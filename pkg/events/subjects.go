package events

import (
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/jsonlake/lake/pkg/engine"
)

// DefaultPrefix is the first token of every subject.
const DefaultPrefix = "lake"

// Version of the subjects, their second token.
const subjectVersion = "v1"

// Verb is the third token of a subject: what is asked or told.
type Verb string

// The verbs. Those that clients use have the catalog's token at position 4, so
// that one permission pattern, lake.v1.*.<token>, is one catalog. What only
// operators may ask has it at position 5: that pattern does not grant it.
const (
	VerbWrite    Verb = "write"    // request, group lake-ingest
	VerbRead     Verb = "read"     // request, group lake-reader
	VerbLog      Verb = "log"      // request, group lake-reader
	VerbDiff     Verb = "diff"     // request, group lake-reader
	VerbBlame    Verb = "blame"    // request, group lake-reader
	VerbOutcome  Verb = "outcome"  // request, group lake-ingest
	VerbSnapshot Verb = "snapshot" // request, group lake-snapshotter
	VerbCatalogs Verb = "catalogs" // request, group lake-reader; no catalog
	VerbEvent    Verb = "event"    // stream of events, with a kind at position 5
	VerbLive     Verb = "live"     // the events republished, with a kind at position 5
	VerbJob      Verb = "job"      // internal: lake.v1.job.snapshot.<token>
	VerbAdmin    Verb = "admin"    // request, for operators: lake.v1.admin.purge.<token>, group lake-snapshotter
)

// Names of the NATS micro services, which are also their queue groups.
const (
	ServiceIngest      = "lake-ingest"
	ServiceReader      = "lake-reader"
	ServiceSnapshotter = "lake-snapshotter"
)

// ConsumerSnapshotter is the durable pull consumer of the jobs stream that all
// snapshotters share.
const ConsumerSnapshotter = "snapshotter"

// Subjects makes and parses every subject of a lake and names its streams. The
// zero value is the lake with the default prefix.
type Subjects struct {
	// Prefix is the first token: lower-case letters, digits, - and _, at most 32
	// of them. Lakes that share a NATS account need different ones. Default "lake".
	Prefix string
}

// Validate checks the prefix.
func (s Subjects) Validate() error {
	if len(s.Prefix) > 32 || strings.Trim(s.Prefix, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		return engine.Invalid("invalid_prefix", "prefix",
			"subject prefix %q: use at most 32 lower-case letters, digits, - and _ (one token, without dots)", s.Prefix)
	}
	return nil
}

func (s Subjects) prefix() string {
	if s.Prefix == "" {
		return DefaultPrefix
	}
	return s.Prefix
}

func (s Subjects) of(v Verb) string { return s.prefix() + "." + subjectVersion + "." + string(v) }

func (s Subjects) catalog(v Verb, catalog string) string {
	return s.prefix() + "." + subjectVersion + "." + string(v) + "." + engine.EncodeCatalog(catalog) // in one piece
}

// Write is the subject of a write request: lake.v1.write.<token>.
func (s Subjects) Write(catalog string) string { return s.catalog(VerbWrite, catalog) }

// Read is the subject of a read request.
func (s Subjects) Read(catalog string) string { return s.catalog(VerbRead, catalog) }

// Log is the subject of a request for deltas.
func (s Subjects) Log(catalog string) string { return s.catalog(VerbLog, catalog) }

// Diff is the subject of a request to compare two versions.
func (s Subjects) Diff(catalog string) string { return s.catalog(VerbDiff, catalog) }

// Blame is the subject of a request for who wrote a path.
func (s Subjects) Blame(catalog string) string { return s.catalog(VerbBlame, catalog) }

// Outcome is the subject of a question about a write, by its id.
func (s Subjects) Outcome(catalog string) string { return s.catalog(VerbOutcome, catalog) }

// Snapshot is the subject of a request to fold now.
func (s Subjects) Snapshot(catalog string) string { return s.catalog(VerbSnapshot, catalog) }

// Purge is the subject of a request to erase a catalog: lake.v1.admin.purge.<token>.
func (s Subjects) Purge(catalog string) string {
	return s.of(VerbAdmin) + ".purge." + engine.EncodeCatalog(catalog)
}

// EveryPurge is the pattern of Purge for every catalog.
func (s Subjects) EveryPurge() string { return s.of(VerbAdmin) + ".purge.*" }

// Catalogs is the subject of a request for the list of catalogs.
func (s Subjects) Catalogs() string { return s.of(VerbCatalogs) }

// Event is the subject of an event in the stream: lake.v1.event.<token>.<kind>;
// the kind "" makes it the pattern of every kind.
func (s Subjects) Event(catalog string, kind engine.EventKind) string {
	return s.catalog(VerbEvent, catalog) + "." + kindToken(kind)
}

// Live is the subject on which an event is republished for plain
// subscriptions: lake.v1.live.<token>.<kind>; the kind "" makes it the pattern of
// every kind.
func (s Subjects) Live(catalog string, kind engine.EventKind) string {
	return s.catalog(VerbLive, catalog) + "." + kindToken(kind)
}

// Job is the subject of a catalog's snapshot job: lake.v1.job.snapshot.<token>.
func (s Subjects) Job(catalog string) string {
	return s.of(VerbJob) + ".snapshot." + engine.EncodeCatalog(catalog)
}

// Every is the pattern of a verb for every catalog: lake.v1.read.*. It is not
// for VerbEvent, VerbLive, VerbJob and VerbAdmin.
func (s Subjects) Every(v Verb) string { return s.of(v) + ".*" }

// EveryEvent is the pattern of the events of every catalog; of every kind when
// the kind is "".
func (s Subjects) EveryEvent(kind engine.EventKind) string {
	return s.of(VerbEvent) + ".*." + kindToken(kind)
}

// EveryLive is the pattern of the republished events of every catalog; of
// every kind when the kind is "".
func (s Subjects) EveryLive(kind engine.EventKind) string {
	return s.of(VerbLive) + ".*." + kindToken(kind)
}

// EveryJob is the pattern of the snapshot jobs of every catalog.
func (s Subjects) EveryJob() string { return s.of(VerbJob) + ".snapshot.*" }

func kindToken(kind engine.EventKind) string {
	if kind == "" {
		return "*"
	}
	return string(kind)
}

// EventsStream is the name of the stream of events: LAKE_EVENTS.
func (s Subjects) EventsStream() string { return s.stream("EVENTS") }

// JobsStream is the name of the work queue of snapshot jobs: LAKE_JOBS.
func (s Subjects) JobsStream() string { return s.stream("JOBS") }

// stream is injective because prefixes have no upper-case letters.
func (s Subjects) stream(name string) string { return strings.ToUpper(s.prefix()) + "_" + name }

// Catalog gives the catalog that a subject names, at position 4 or, of VerbAdmin, 5. The subject must
// be one of this lake; the error is an *engine.InvalidError.
func (s Subjects) Catalog(subject string) (string, error) {
	rest, ok := strings.CutPrefix(subject, s.prefix()+"."+subjectVersion+".")
	verb, rest, named := strings.Cut(rest, ".")
	if Verb(verb) == VerbAdmin {
		_, rest, named = strings.Cut(rest, ".")
	}
	token, _, _ := strings.Cut(rest, ".")
	if !ok || !named || Verb(verb) == VerbJob {
		return "", engine.Invalid("invalid_subject", "subject", "subject %q has no catalog: it should be like %s", subject, s.Read("users"))
	}
	return engine.DecodeCatalog(token)
}

// JobCatalog gives the catalog of a snapshot job's subject.
func (s Subjects) JobCatalog(subject string) (string, error) {
	token, ok := strings.CutPrefix(subject, s.of(VerbJob)+".snapshot.")
	if !ok {
		return "", engine.Invalid("invalid_subject", "subject", "subject %q is not a snapshot job's: it should be like %s", subject, s.Job("users"))
	}
	return engine.DecodeCatalog(token)
}

// Headers of requests. NATS headers are case-sensitive: this is the one
// spelling. What a service does not support it refuses; it ignores none.
const (
	HeaderPath        = "Lake-Path"          // default "/"
	HeaderMerge       = "Lake-Merge"         // replace | merge-patch (default) | json-patch | delete
	HeaderAutoParents = "Lake-Auto-Parents"  // off
	HeaderAuthor      = "Lake-Author"        // who asked for the write
	HeaderPointer     = "Lake-Pointer"       // JSON Pointer of the part to read
	HeaderIfVersion   = "Lake-If-Version"    // compare-and-set; 0_0: never written
	HeaderIfAbsent    = "Lake-If-Absent"     // 1: only if there is no document
	HeaderBatch       = "Lake-Batch"         // ndjson
	HeaderEncoding    = "Lake-Encoding"      // s2: the body is compressed
	HeaderAt          = "Lake-At"            // version or RFC 3339 time to read at
	HeaderMinVersion  = "Lake-Min-Version"   // wait for this version
	HeaderConsistency = "Lake-Consistency"   // strict (default) | relaxed
	HeaderIfNoneMatch = "Lake-If-None-Match" // version that the caller has
	HeaderTimeout     = "Lake-Timeout"       // deadline, milliseconds
	HeaderTrace       = "Lake-Trace"         // 1: answer with Server-Timing
	HeaderMsgID       = nats.MsgIdHdr        // Nats-Msg-Id, the idempotency key
)

// Headers of replies.
const (
	HeaderVersion      = "Lake-Version"
	HeaderPending      = "Lake-Pending" // 1: a write is being committed
	HeaderContentType  = "Content-Type" // of errors: application/problem+json
	HeaderServerTiming = "Server-Timing"
	HeaderError        = "Nats-Service-Error"      // a sentence
	HeaderErrorCode    = "Nats-Service-Error-Code" // an HTTP status
)

// UnknownHeader gives the first header, by name, that claims to be a lake's
// request header ("Lake-" in any case) and is not one; "" when there is none. A
// request that has one is refused, lest a misspelt condition is taken for none.
func UnknownHeader(h nats.Header) string {
	unknown := ""
	for name := range h {
		if len(name) >= 5 && strings.EqualFold(name[:5], "Lake-") && !knownRequestHeader(name) && (unknown == "" || name < unknown) {
			unknown = name
		}
	}
	return unknown
}

func knownRequestHeader(name string) bool {
	switch name {
	case HeaderPath, HeaderMerge, HeaderAutoParents, HeaderAuthor, HeaderPointer, HeaderIfVersion, HeaderIfAbsent, HeaderBatch,
		HeaderEncoding, HeaderAt, HeaderMinVersion, HeaderConsistency, HeaderIfNoneMatch, HeaderTimeout, HeaderTrace:
		return true
	}
	return false
}
