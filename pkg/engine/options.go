package engine

import (
	"fmt"
	"io"
	"time"

	"github.com/jsonlake/lake/pkg/engine/merge"
)

// DefaultFrameCache is the default of Options.FrameCache, bytes.
const DefaultFrameCache = 64 << 20

// Options of an Engine. The zero value of each field means its default.
type Options struct {
	// Name of the lake, kept in the bucket's format object so that two lakes are
	// not mixed up; default "lake".
	Name string

	// Limits of documents and patches; see merge.Limits for the defaults.
	Limits merge.Limits
	// MaxBody is the largest body of one delta, bytes; default 16 MiB. The doors
	// may allow less.
	MaxBody int64
	// MaxBatch is the most deltas of one batch; default 10,000.
	MaxBatch int
	// MaxPendingBytes bounds the bodies of writes that are not answered yet; what
	// is over it gets ErrBusy. Default 256 MiB.
	MaxPendingBytes int64
	// MaxPendingWrites bounds their number; default 65,536.
	MaxPendingWrites int

	// MaxUnfolded is how many deltas of one catalog may wait to be folded: over it its
	// writers wait for the folding, and then get ErrBusy. Reading and rebuilding
	// take the longer, the more there are. Default 4,000,000, negative: any number.
	MaxUnfolded int64

	// MaxInflight is how many segments may be on their way to the bucket at once;
	// a group forms while all are taken. Default 12.
	MaxInflight int
	// MaxGroupBytes closes a group; default 4 MiB.
	MaxGroupBytes int64
	// Linger is how long a group waits for company although it could leave;
	// default 0.
	Linger time.Duration

	// SplitCommit is from how many runs on a segment is committed in parts, of some
	// shards each, so that the first writes are answered while the index works on the
	// others; default 0: never, for an index to which the whole is one step.
	SplitCommit int

	// PutTimeout is how long the put of a segment is tried, plus a second a MiB,
	// before a tombstone decides; default 8 s.
	PutTimeout time.Duration
	// IndexTimeout bounds one call of the index; default 3 s.
	IndexTimeout time.Duration
	// Patience is how long a commit or a condition waits for an older segment of another writer
	// before it decides that segment itself; default 1.5 s.
	Patience time.Duration
	// WriteTimeout bounds a write whose context has no deadline; default 30 s.
	WriteTimeout time.Duration

	// DocumentCache bounds the in-process cache of merged documents, bytes;
	// default 256 MiB, negative turns it off.
	DocumentCache int64
	// FrameCache bounds the in-process cache of frames and small objects, below the
	// document cache, bytes; default DefaultFrameCache, negative turns it off.
	FrameCache int64
	// Cache is a cache shared between processes, below the frame cache; nil: none.
	Cache Cache
	// CacheTTL is how long the shared cache keeps an entry; default 5 min.
	CacheTTL time.Duration
	// Loads is how many objects of the bucket one read fetches at once; default 10.
	Loads int
	// MaxLoads is how many all reads together fetch at once; default 128.
	MaxLoads int

	// Policy tells when a snapshot is due.
	Policy Policy
	// FoldMaxDeltas and FoldMaxBytes bound one fold, which then stops at a run
	// boundary below the head; defaults 1,000,000 and 64 MiB.
	FoldMaxDeltas int64
	FoldMaxBytes  int64

	// Sweep runs the sweeper in this process: it decides what a writer left
	// undecided. One process at a time sweeps, by a lease.
	Sweep bool
	// FoldWorkers folds in this process what this process wrote, when due; 0: none
	// (a snapshotter does it).
	FoldWorkers int
	// StrictPending makes reading a list ErrPendingWrites while a write younger
	// than 120 s is being committed. Without it the list reads what was
	// committed before, which is as true.
	StrictPending bool
	// NewEpoch opens a new epoch even if the index looks whole.
	NewEpoch bool
	// Rebuild opens a new epoch, empties the index and fills it from the bucket.
	Rebuild bool
	// AcceptLoss names damaged segments and packs, by their keys, or AcceptAll: the
	// rebuild records in the bucket that what they have lost is given up, for all
	// who open the lake from then on. It implies Rebuild. An object that is not damaged is
	// an error.
	AcceptLoss []string
	// AcceptedBy is who accepts, for the record.
	AcceptedBy string

	// RestoreShards is how many shards of the index a new epoch fills at once;
	// default 8.
	RestoreShards int

	// Collect runs the collector in this process: it deletes what the index does
	// not need any more. One process at a time collects, by a lease.
	Collect bool
	// CollectEvery is the time between two collections; default 1 min.
	CollectEvery time.Duration
	// Grace is how long garbage is kept; default 1 h, the same in all processes. A
	// writer whose put was not answered trusts an empty place for 5 min, and never for
	// longer than five sixths of the grace; then it cannot tell what became of the
	// write. An index that falls back by more has to be rebuilt whole.
	Grace time.Duration
	// CompactAfter is the age from which segments that still have live runs are
	// copied together; default 1 h.
	CompactAfter time.Duration
	// CollectRate is the most deletions a second; default 500.
	CollectRate int
	// Retention gives up old history, by catalog prefix; none: all is kept.
	Retention []Retention

	// Random is where the writer's name, minted ids and jitter come from; default
	// crypto/rand. A simulation gives a seeded one. It must be safe for concurrent
	// use and never fail.
	Random io.Reader

	// Hooks are called as things happen.
	Hooks Hooks
}

// Validate checks the options and fills in the defaults.
func (o *Options) Validate() error {
	for _, f := range []struct {
		name string
		v    *int64
		def  int64
	}{
		{"MaxBody", &o.MaxBody, 16 << 20}, {"MaxPendingBytes", &o.MaxPendingBytes, 256 << 20}, {"MaxGroupBytes", &o.MaxGroupBytes, 4 << 20},
		{"FoldMaxDeltas", &o.FoldMaxDeltas, 1_000_000}, {"FoldMaxBytes", &o.FoldMaxBytes, 64 << 20},
		{"PutTimeout", (*int64)(&o.PutTimeout), int64(8 * time.Second)}, {"IndexTimeout", (*int64)(&o.IndexTimeout), int64(3 * time.Second)},
		{"Patience", (*int64)(&o.Patience), int64(1500 * time.Millisecond)}, {"WriteTimeout", (*int64)(&o.WriteTimeout), int64(30 * time.Second)},
		{"CollectEvery", (*int64)(&o.CollectEvery), int64(time.Minute)}, {"Grace", (*int64)(&o.Grace), int64(time.Hour)},
		{"CompactAfter", (*int64)(&o.CompactAfter), int64(time.Hour)},
		{"CacheTTL", (*int64)(&o.CacheTTL), int64(5 * time.Minute)}, {"Linger", (*int64)(&o.Linger), 0},
	} {
		if *f.v < 0 {
			return fmt.Errorf("option %s is negative", f.name)
		}
		if *f.v == 0 {
			*f.v = f.def
		}
	}
	for _, f := range []struct {
		name string
		v    *int
		def  int
	}{
		{"MaxBatch", &o.MaxBatch, 10_000}, {"MaxPendingWrites", &o.MaxPendingWrites, 65_536}, {"MaxInflight", &o.MaxInflight, 12},
		{"Loads", &o.Loads, 10}, {"MaxLoads", &o.MaxLoads, 128}, {"CollectRate", &o.CollectRate, 500}, {"RestoreShards", &o.RestoreShards, 8}, {"SplitCommit", &o.SplitCommit, 0}, {"FoldWorkers", &o.FoldWorkers, 0},
	} {
		if *f.v < 0 {
			return fmt.Errorf("option %s is negative", f.name)
		}
		if *f.v == 0 {
			*f.v = f.def
		}
	}
	for _, r := range o.Retention {
		if r.OlderThan < IDTTL {
			return fmt.Errorf("option Retention: %v for catalogs %q* is less than the %v for which idempotency ids are kept", r.OlderThan, r.Prefix, IDTTL)
		}
	}
	o.Rebuild = o.Rebuild || len(o.AcceptLoss) > 0
	o.NewEpoch = o.NewEpoch || o.Rebuild
	if o.Name == "" {
		o.Name = "lake"
	}
	if o.MaxUnfolded == 0 {
		o.MaxUnfolded = 4_000_000
	}
	if o.DocumentCache == 0 {
		o.DocumentCache = 256 << 20
	}
	if o.FrameCache == 0 {
		o.FrameCache = DefaultFrameCache
	}
	if o.Random == nil {
		o.Random = &drawer{}
	}
	o.Policy = o.Policy.withDefaults()
	return nil
}

// maxRunsPerShard bounds what one script of the index has to do.
const maxRunsPerShard = 1000
