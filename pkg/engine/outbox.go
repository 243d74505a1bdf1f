package engine

import (
	"context"
	"time"
)

// Outbox is what the index has committed and nobody has published yet. Commit,
// Fold and Restore append to it in the same atomic step that changes the log,
// so that an event can be late or doubled but never missing. Within a shard
// entries come in commit order; a catalog belongs to one shard.
type Outbox interface {
	// SetEvents turns the writing of outbox entries on or off, for every process
	// that uses this index. It is off in a new index.
	SetEvents(ctx context.Context, on bool) error
	// Next reads the oldest entries of each given shard, at most limit entries a
	// shard, without removing them.
	Next(ctx context.Context, epoch uint64, shards []int, limit int) ([]OutboxBatch, error)
	// Trim removes a shard's entries up to and including the id.
	Trim(ctx context.Context, epoch uint64, shard int, upTo string) error
}

// OutboxBatch is what Next found in one shard.
type OutboxBatch struct {
	Shard  int
	UpTo   string // id of the last entry, for Trim; "" when there is none
	Events []Event
}

// EventKind is what an event tells.
type EventKind string

// The kinds.
const (
	EventCommitted   EventKind = "committed"
	EventSnapshotted EventKind = "snapshotted"
	// EventPurged: what was before Version is given up, and is being erased. It
	// comes instead of EventSnapshotted, after the committed event that covers
	// Version; its Prev is 0_0.
	EventPurged EventKind = "purged"
)

// Event is metadata of a change, in the outbox and on the wire; bodies are
// never in it. Every version of a catalog is covered by the range
// (Prev, Version] of exactly one committed event, in version order.
type Event struct {
	V       int       `json:"v"` // of this schema: 1
	Catalog string    `json:"catalog"`
	Kind    EventKind `json:"kind"`
	First   Version   `json:"first"`
	Version Version   `json:"version"` // last version covered; of a snapshotted or purged event the snapshot's stop
	Prev    Version   `json:"prev"`    // head before First
	Count   int64     `json:"count"`   // deltas
	Bytes   int64     `json:"bytes"`   // of their frames; of a snapshotted or purged event the document's
	Author  string    `json:"author,omitempty"`
	Writer  string    `json:"writer,omitempty"`
	Time    int64     `json:"time"` // index time of the commit, unix milliseconds

	// What the policy needs to tell whether a snapshot is due: the catalog's
	// live log after this event. Not on the wire.
	LiveDeltas int64 `json:"-"`
	LiveBytes  int64 `json:"-"`
	DocBytes   int64 `json:"-"` // of the document at the latest snapshot
}

// Leases are named locks with an expiry, one holder each: for work that should
// be done once (a relay, a sweep, a fold). They save work and give order to it;
// correctness never depends on them alone.
type Leases interface {
	// Acquire takes or renews the lease for ttl; false when another token holds
	// it. The name is scoped by the shard. All who want a name give the same ttl:
	// a lease with more than that left is from before the index's clock was
	// stepped back, and counts as expired.
	Acquire(ctx context.Context, shard int, name, token string, ttl time.Duration) (bool, error)
	// Release gives it up if the token holds it.
	Release(ctx context.Context, shard int, name, token string) error
}
