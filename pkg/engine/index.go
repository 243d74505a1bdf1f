package engine

import (
	"context"
	"time"

	"github.com/jsonlake/lake/pkg/engine/merge"
)

// Index is what a lake knows about its bucket: which runs are reserved and
// which are committed, in which order, and where their frames stand. It can be
// lost whole; the bucket rebuilds it.
//
// The two-phase commit of a segment, as the index sees it:
//
//	PreCommit  reserves versions for every run of a segment, a shard at a time. The
//	           plan of the segment remembers what was reserved in the shard; the
//	           reservation stands in its catalog's list of open reservations,
//	           in the order in which it was given.
//	Commit     makes runs visible at their reserved versions, but only in turn: a run
//	           whose catalog has an older open reservation of another segment
//	           is Waiting and nothing of it changes. The plan becomes the receipt.
//	Rollback   decides that runs never happen: their reservations go, what waited for
//	           them may be committed. The plan remembers that too.
//
// A run is decided when it is committed or rolled back, and stays so. The plan
// lives at least ten minutes after the last of its runs was decided; so every
// method may be repeated, or arrive late, and has its effect once:
// a repeated PreCommit answers what is planned, a repeated Commit its version,
// a Commit of a run that was rolled back or whose plan is gone answers Gone and
// never inserts.
//
// Each method is atomic within a shard, not across shards. It takes the epoch
// in which the caller works and answers ErrEpoch when the shard is in another
// one, is not open, or is not the server that was fenced. Any other error means
// that the effect is unknown. Time is the index's own clock, which never moves
// an order backwards.
//
// Implementations must be safe for concurrent use. enginetest.TestIndex is
// this contract as a suite.
type Index interface {
	// PreCommit reserves versions. It answers per run; an error of its own
	// means that no shard answered.
	PreCommit(ctx context.Context, p PreCommit) (Reservation, error)
	// Commit makes runs visible. It answers per run, in the order of c.Runs.
	Commit(ctx context.Context, c Commit) ([]Committed, error)
	// Rollback decides against every undecided run that the segment has planned
	// in the given shards, but for those in Keep.
	Rollback(ctx context.Context, r Rollback) error
	// View is one consistent moment of a catalog: its head, its latest snapshot
	// and the runs after both the snapshot and after. A catalog that was never
	// written has a zero View.
	View(ctx context.Context, epoch uint64, catalog string, after Version) (View, error)
	// Snapshots lists the registered snapshots of a catalog with stop > after,
	// ascending, at most limit.
	Snapshots(ctx context.Context, epoch uint64, catalog string, after Version, limit int) ([]Snapshot, error)
	// Fold registers a snapshot by compare-and-set: ErrStale unless the latest
	// one stops at f.Snapshot.Start, and unless f.Snapshot.Stop is the last
	// version of a live run. Runs up to its stop leave the live log; segments
	// without live runs become garbage.
	// Repeating a fold that was registered is a success. The snapshot of a purge
	// takes the place of whatever was before: it only has to be newer than the latest
	// one; its event is EventPurged.
	Fold(ctx context.Context, f Fold) error
	// Drop takes registered snapshots that stop below d.Before out of the
	// registration, oldest first, at most d.Limit, and tells how many are left to
	// go. They become garbage of their shard, but for the snapshots of purges,
	// whose objects stay. The latest snapshot always stays.
	Drop(ctx context.Context, d Drop) (left int, err error)
	// Outcome tells what the index knows of an idempotency id of a catalog.
	Outcome(ctx context.Context, epoch uint64, catalog, id string) (IDState, error)
	// Catalogs lists catalogs that have a committed run, by name, with names
	// greater than after that begin with prefix, at most limit.
	Catalogs(ctx context.Context, epoch uint64, prefix, after string, limit int) ([]CatalogInfo, error)
	Close() error
}

// HeadTeller is what an Index may offer beside View: to tell of a head without
// a goroutine that waits for the answer.
type HeadTeller interface {
	// TellHead says whether a catalog's head is still at a version, and whether a
	// reservation is open: it calls f once, from any goroutine, perhaps before it
	// returns. What f is told is of a moment after the call of TellHead. unchanged
	// is false when the head is another, when the shard is not open in the
	// epoch, and when there is no answer; View tells which. f must return at
	// once: others wait behind it. When TellHead is false f is not called.
	TellHead(epoch uint64, catalog string, at Version, f func(unchanged, pending bool)) bool
}

// PreCommit asks to reserve versions for the runs of one segment. Runs of one
// catalog are reserved in the order of Runs.
type PreCommit struct {
	Epoch   uint64
	Segment SegmentID
	Runs    []Reserve
	// MaxLive, if greater than 0, is how many deltas a catalog's live log may have
	// for something to be reserved. What is reserved and not committed does not count.
	MaxLive int64
}

// Reserve is one run to be reserved: N deltas of a catalog.
type Reserve struct {
	Catalog string
	N       int        // deltas, ≥ 1
	Type    merge.Type // of a run of one
	Path    string     // of a run of one

	// ID is the idempotency id that the client gave, "" for none. The index keeps
	// it, as pending from the reservation on and as a receipt from the commit
	// on, for IDTTL after the last change; a roll-back frees it. Fingerprint
	// is of what was asked for.
	ID          string
	Fingerprint [16]byte
	// Expect makes the reservation conditional: the catalog's head must be this
	// version (0_0: never written) and nothing may be open on it; what is
	// reserved later waits for this run by itself. nil: unconditional.
	Expect *Version
	// Gate, with Expect, is a token that closes the catalog to reservations of
	// others for GateTTL if this one meets open ones: so that a conditional
	// write gets its turn beside a stream of unconditional ones.
	Gate string
}

// IDTTL is how long an index knows an idempotency id at least.
const IDTTL = 24 * time.Hour

// GateTTL is how long a gate holds others off.
const GateTTL = time.Second

// MaxID is the longest idempotency id, bytes.
const MaxID = 128

// Reservation answers a PreCommit.
type Reservation struct {
	Now  time.Time // index time, the latest of the shards; zero when none answered
	Runs []Reserved
}

// Reserved is what became of one Reserve.
type Reserved struct {
	State ReserveState
	// First is the first version: of the reservation, or of the run that has the
	// id already (ReserveDuplicate, ReserveInFlight), whose deltas are N.
	First Version
	N     int
	// Head is the catalog's head when the expectation failed (ReserveConflict).
	Head Version
	// Older is the segment of the catalog's oldest open reservation
	// (ReserveUndecided): another's, or that of the call.
	Older SegmentID
	// Err is set when the run's shard did not answer (the reservation may exist,
	// or come to exist: the run must be left out of the segment, the sweeper
	// rolls it back) or answered ErrEpoch (there is no reservation). State means
	// nothing then.
	Err error
}

// ReserveState is what became of one Reserve. All but ReserveOK reserve
// nothing. They are decided in this order: id, gate, expectation, live log, pace.
type ReserveState uint8

// The states of a Reserve.
const (
	ReserveOK        ReserveState = iota // reserved
	ReservePaced                         // the catalog has used up the ids of this second and is more than a second ahead, or another's gate is closed: try again in a moment
	ReserveDuplicate                     // the id is committed
	ReserveInFlight                      // the id is reserved by another run and not decided
	ReserveReused                        // the id is known with another fingerprint
	ReserveUndecided                     // a conditional run met an open reservation of its catalog
	ReserveConflict                      // the head is not what was expected
	ReserveFull                          // the live log has more than PreCommit.MaxLive deltas: try again when it was folded
)

// Commit asks to make runs of a segment visible.
type Commit struct {
	Epoch   uint64
	Segment SegmentID
	Runs    []CommitRun
}

// CommitRun says where the frame of a planned run stands.
type CommitRun struct {
	Catalog string
	First   Version
	N       int
	Type    merge.Type // of a run of one
	Path    string     // of a run of one
	Off     int64      // of the frame in the segment, bytes
	Len     int64      // of the frame, bytes
	Author  string     // for the event
	// ID and Fingerprint as in the Reserve; the index makes the id's receipt of
	// them.
	ID          string
	Fingerprint [16]byte
}

// CommitState is what became of a CommitRun.
type CommitState uint8

// The states. The zero value is not one of them.
const (
	RunCommitted CommitState = iota + 1 // visible at its version, now or already before
	RunWaiting                          // an older reservation of the catalog is open
	RunGone                             // rolled back, or the plan is gone: it never was
)

// Committed answers a CommitRun.
type Committed struct {
	State CommitState
	Older SegmentID // when RunWaiting: the segment of the oldest open reservation
	Err   error     // the shard did not answer, or ErrEpoch: unknown
}

// Rollback decides runs of a segment negatively. Only who holds the tombstone
// of the segment, or knows that the segment has not these runs, may ask.
type Rollback struct {
	Epoch   uint64
	Segment SegmentID
	Shards  []int
	Keep    []RunKey
}

// RunKey names a run.
type RunKey struct {
	Catalog string
	First   Version
}

// Run is a committed run in the live log.
type Run struct {
	First   Version    `json:"first"`
	Last    Version    `json:"last"`
	N       int        `json:"n"`
	Type    merge.Type `json:"-"` // of a run of one, else 0
	Path    string     `json:"-"` // of a run of one
	Segment SegmentID  `json:"-"`
	Off     int64      `json:"-"`
	Len     int64      `json:"-"`
}

// Snapshot is a registered snapshot with its pack: the document at Stop, and
// the deltas (Start, Stop], where Start is the stop of the snapshot before. One
// whose Start is its Stop is that of a purge: there is no document at Stop,
// the pack holds the purge alone, and the history begins with it.
type Snapshot struct {
	Start     Version `json:"start"`
	Stop      Version `json:"stop"`
	DocBytes  int64   `json:"doc_bytes"`  // of the document, uncompressed; 0 when absent
	PackBytes int64   `json:"pack_bytes"` // of the pack object
}

// Purged tells that s is the snapshot of a purge.
func (s Snapshot) Purged() bool { return s.Start == s.Stop && !s.Stop.IsZero() }

// View is one moment of a catalog.
type View struct {
	Head     Version  // last committed version, 0_0 when never written
	Snapshot Snapshot // the latest; zero when there is none
	Runs     []Run    // committed, ascending, contiguous from max(Snapshot.Stop, after) to Head
	Deltas   int64    // deltas in the live log, all of them
	Bytes    int64    // frame bytes in the live log, all of them
	// Pending tells that a reservation is open; PendingSince is the index time of
	// the oldest one.
	Pending      bool
	PendingSince time.Time
	Now          time.Time
}

// IDState is what an index knows of an idempotency id.
type IDState struct {
	State       IDKnown
	First       Version // of the run
	N           int     // its deltas
	Fingerprint [16]byte
}

// IDKnown says how far a run with an id has come.
type IDKnown uint8

// The states of an id.
const (
	IDUnknown   IDKnown = iota // never seen, rolled back, or older than IDTTL
	IDPending                  // reserved, not decided
	IDCommitted                // committed
)

// Fold registers a snapshot.
type Fold struct {
	Epoch    uint64
	Catalog  string
	Snapshot Snapshot
}

// Drop ends the registration of old snapshots: their part of the history is
// given up.
type Drop struct {
	Epoch   uint64
	Catalog string
	Before  Version
	Limit   int // ≥ 1
}

// CatalogInfo is a line of a catalog listing.
type CatalogInfo struct {
	Catalog string  `json:"catalog"`
	Version Version `json:"version"` // last committed
	Bytes   int64   `json:"bytes"`   // of the document at the latest snapshot
	Deltas  int64   `json:"deltas"`  // since that snapshot
	Updated int64   `json:"updated"` // unix seconds of the last version
}

// Maintenance is what the sweeper, the lease check and a new epoch need of an
// index. The same rules hold as for Index.
type Maintenance interface {
	// Heartbeat says that a writer lives, in every shard, and moves the shards'
	// mark. It answers ErrEpoch like any method; it is the lease check's look at
	// the index.
	Heartbeat(ctx context.Context, epoch uint64, writer string) (now time.Time, err error)
	// Stuck lists the undecided segments, whatever their age, oldest first.
	Stuck(ctx context.Context, epoch uint64) ([]Stuck, error)
	// Plan is what a segment has planned in a shard, in the order of its runs;
	// empty when there is no plan.
	Plan(ctx context.Context, epoch uint64, shard int, segment SegmentID) ([]Planned, error)
	// Garbage lists what a shard does not need any more, since when, oldest first,
	// at most limit: segments without live runs and dropped snapshots. What
	// became garbage after the shard's oldest outbox entry was written is left
	// out: a lost index writes unpublished events anew from the segments.
	Garbage(ctx context.Context, epoch uint64, shard, limit int) ([]Garbage, error)
	// Unused tells for each segment whether some shard needs it, and if none does,
	// since when.
	Unused(ctx context.Context, epoch uint64, segments []SegmentID) ([]Usage, error)
	// Abandon makes garbage of segments, since now, that a shard does not need:
	// it has neither a live nor an undecided run of them. What is garbage already
	// keeps its time. The caller knows that no run will be moved to them any more.
	Abandon(ctx context.Context, epoch uint64, shard int, segments []SegmentID) error
	// Forget strikes entries from the garbage of a shard: their objects are gone.
	// What is not garbage is passed over.
	Forget(ctx context.Context, epoch uint64, shard int, list []Garbage) error
	// Live lists segments that have live runs in a shard and were begun before
	// the unix second older, in no order, at most limit.
	Live(ctx context.Context, epoch uint64, shard int, older int64, limit int) ([]SegmentID, error)
	// Relocate says that live runs stand in another segment now. It answers per
	// run whether it stands there, now or already before: false when it is not in
	// the live log, or elsewhere. With a zero r.To nothing changes and the answer
	// tells which runs stand where the request says.
	Relocate(ctx context.Context, r Relocate) ([]bool, error)
	// Condemn takes the epoch from a shard whose content cannot be trusted: every
	// call answers ErrEpoch from then on, and the next Fence finds a shard that
	// knows nothing. A shard that is not open in the epoch is left as it is; one that
	// has no epoch is condemned already.
	Condemn(ctx context.Context, epoch uint64, shard int) error

	// Epochs tells what each shard believes, in order of the shards. It works in
	// any state. A shard that knows nothing has a zero ShardEpoch.
	Epochs(ctx context.Context) ([]ShardEpoch, error)
	// Exclusive tells that no other process can hold this index open, so that no
	// older lease can be alive: a new epoch need not wait.
	Exclusive() bool
	// Fence moves a shard to epoch n, state opening, unless it is at n (then
	// nothing changes) or at a later one (ErrEpoch). From then on
	// it refuses everything but n's Restore, Reservations, Resolve and Open.
	Fence(ctx context.Context, shard int, n uint64) error
	// Empty removes all that an opening shard knows of catalogs, plans, ids,
	// garbage and events, once in an epoch: a repetition that comes late must not
	// remove what was restored. Its epoch, floor and mark stay, and so do leases
	// and heartbeats. What is decided may stay until it expires, ids of committed
	// runs and plans: it is true, their segments were in the bucket before.
	Empty(ctx context.Context, shard int, n uint64) error
	// Restore inserts runs (ascending by version in each catalog) that lie above
	// their catalog's head, and adopts snapshots whose stop lies above it; what
	// the shard already holds is passed over. Restored runs go to the outbox
	// when events are on; with r.Republish also those that are passed over.
	Restore(ctx context.Context, shard int, n uint64, r Restore) error
	// Reservations lists the plans of segments that are undecided in the shard.
	Reservations(ctx context.Context, shard int, n uint64) ([]SegmentID, error)
	// Resolve decides every open run of the segment while the shard is opening:
	// those in committed (which a seal holds, and which were restored) count as
	// committed, the rest is rolled back and frees its id.
	Resolve(ctx context.Context, shard int, n uint64, segment SegmentID, committed []RunKey) error
	// Open opens a fenced shard: no version will be given at or below the
	// second floor. Opening an open epoch does nothing.
	Open(ctx context.Context, shard int, n uint64, floor int64) error
}

// Stuck is an undecided segment.
type Stuck struct {
	Segment   SegmentID
	Shards    []int     // in which it has undecided runs
	Since     time.Time // index time of its pre-commit, the oldest
	Heartbeat time.Time // last heartbeat of its writer by index time; zero: none
	Now       time.Time // index time
}

// Planned is a run in a plan.
type Planned struct {
	Catalog string
	First   Version
	N       int
	State   PlanState
}

// PlanState is the state of a planned run.
type PlanState uint8

// The states of a planned run.
const (
	PlanOpen PlanState = iota
	PlanCommitted
	PlanRolledBack
)

// Garbage is something in the bucket that a shard does not need any more: a
// segment, or a snapshot of a catalog with its pack.
type Garbage struct {
	Segment  SegmentID // zero: the snapshot
	Catalog  string
	Snapshot Snapshot // Start and Stop
	// Since when, by index time, and never before the shard's mark of that
	// moment: an index whose mark is later knows of it.
	Since time.Time
}

// Usage is what all shards together know of a segment.
type Usage struct {
	// Needed: some shard has a live run of it, an undecided one, or leaves it out
	// of Garbage.
	Needed bool
	// Since is the latest time at which it became garbage; zero when it is needed,
	// or no shard knows it.
	Since time.Time
}

// Relocate moves live runs to another segment.
type Relocate struct {
	Epoch uint64
	To    SegmentID // zero: only ask
	Runs  []Relocation
}

// Relocation is where a run stands and where it shall stand.
type Relocation struct {
	Catalog string
	First   Version
	From    SegmentID
	Off     int64 // of its frame in To, bytes
	Len     int64 // of its frame in To, bytes
}

// ShardEpoch is a shard's idea of its epoch.
type ShardEpoch struct {
	N     uint64
	Open  bool
	Mark  time.Time // index time of the last accepted work
	Same  bool      // the server is the one that was fenced (Redis: master_replid)
	Empty bool      // knows no catalog
}

// Restore is what a new epoch puts back into a shard.
type Restore struct {
	Snapshots []RestoreSnapshot // applied first
	Runs      []RestoreRun
	IDs       []RestoreID // of runs that are folded, applied after the runs
	// Republish sends the runs that are passed over to the outbox too, when events
	// are on: the shard's outbox is lost, nobody knows which were published.
	Republish bool
	// Segments that the bucket has, applied last: those without live or undecided
	// runs in the shard become garbage of it, if they are not already.
	Segments []SegmentID
}

// RestoreRun is a run of a sealed segment. Its id is restored with it, also
// when the shard holds the run already.
type RestoreRun struct {
	Catalog string
	Run     Run
	Author  string
	ID      RestoreID
	Prev    Version // the last version before it, for the event of a run that is passed over
}

// RestoreID is the receipt of an idempotency id, to be kept until Expires
// (index time); a zero ID is none.
type RestoreID struct {
	Catalog     string
	ID          string
	Fingerprint [16]byte
	First       Version
	N           int
	Expires     time.Time
}

// RestoreSnapshot is a snapshot found in the bucket.
type RestoreSnapshot struct {
	Catalog  string
	Snapshot Snapshot
}

// IndexAdapter is all that an engine uses of an index.
type IndexAdapter interface {
	Index
	Maintenance
	Leases
}
