package memory

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// planTTL is how long a plan is kept, as the receipt of its segment, after the
// last of its runs was decided.
const planTTL = 10 * time.Minute

// Options of an Index. The zero value is useful.
type Options struct {
	// Clock is the index's clock; default time.Now. It may step in any
	// direction.
	Clock func() time.Time
	// Exclusive is what Exclusive answers: that nobody else has this index.
	Exclusive bool
}

// Index is an engine.Index with everything that belongs to one.
type Index struct {
	clock     func() time.Time
	exclusive bool

	mu     sync.Mutex
	closed bool
	self   *server
	events bool
	shards [engine.Shards]*shard
}

var (
	_ engine.Index       = (*Index)(nil)
	_ engine.Maintenance = (*Index)(nil)
	_ engine.Outbox      = (*Index)(nil)
	_ engine.Leases      = (*Index)(nil)
)

// server is the identity of an incarnation of the index: what a shard was
// fenced on must be what answers.
type server struct{ _ byte }

// shard is one sixteenth of the index. Catalogs, plans and counts of segments
// never reach across shards.
type shard struct {
	n        uint64
	open     bool
	emptied  bool      // in this epoch
	floor    int64     // no version is given at or below this second
	mark     time.Time // the greatest time of accepted work
	fencedOn *server   // nil: never fenced

	catalogs map[string]*catalog
	plans    map[engine.SegmentID]*plan
	decided  []engine.SegmentID // plans in the order in which they were decided, for planTTL
	refs     map[engine.SegmentID]int
	garbage  map[piece]time.Time
	writers  map[string]time.Time
	leases   map[string]lease
	outbox   []entry
	entries  uint64 // entries ever written
}

// catalog is what a shard knows of one catalog.
//
//	0_0 … snaps[last].Stop … runs … head … last
//	      folded             live        reserved
type catalog struct {
	last  engine.Version     // last reserved
	head  engine.Version     // last committed
	snaps []engine.Snapshot  // ascending
	runs  []engine.Run       // the live log, ascending
	open  []engine.SegmentID // segments with undecided runs, in the order of their reservations
	ids   map[string]identity
	gate  gate
}

// identity is what is known of an idempotency id.
type identity struct {
	segment engine.SegmentID // that reserved it; zero once it is restored
	state   engine.IDState
	until   time.Time // forgotten then, unless it is pending
}

// gate holds off the reservations of all but one conditional write.
type gate struct {
	token string
	until time.Time
}

func (c *catalog) snapshot() engine.Snapshot {
	if len(c.snaps) == 0 {
		return engine.Snapshot{}
	}
	return c.snaps[len(c.snaps)-1]
}

// live sums up the live log.
func (c *catalog) live() (deltas, bytes int64) {
	for _, r := range c.runs {
		deltas += int64(r.N)
		bytes += r.Len
	}
	return deltas, bytes
}

// plan is what a segment has reserved in a shard, and what became of it.
type plan struct {
	since   time.Time // of the PreCommit
	runs    []engine.Planned
	place   []int     // of each run in its PreCommit, by which a repetition finds it
	ids     []string  // of each run, "" for none
	decided time.Time // zero while a run is open
}

func (p *plan) undecided() bool { return p != nil && p.decided.IsZero() }

// find is the planned run of that name, nil when there is none.
func (p *plan) find(catalog string, first engine.Version) *engine.Planned {
	if p == nil {
		return nil
	}
	for i := range p.runs {
		if p.runs[i].Catalog == catalog && p.runs[i].First == first {
			return &p.runs[i]
		}
	}
	return nil
}

// oldestOpen is the first undecided run of a catalog, nil when all are decided.
func (p *plan) oldestOpen(catalog string) *engine.Planned {
	for i := range p.runs {
		if p.runs[i].Catalog == catalog && p.runs[i].State == engine.PlanOpen {
			return &p.runs[i]
		}
	}
	return nil
}

// NewIndex makes an empty index.
func NewIndex(o Options) *Index {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	x := &Index{clock: o.Clock, exclusive: o.Exclusive, self: new(server)}
	for s := range x.shards {
		x.shards[s] = newShard()
	}
	return x
}

func newShard() *shard {
	return &shard{
		catalogs: make(map[string]*catalog),
		plans:    make(map[engine.SegmentID]*plan),
		refs:     make(map[engine.SegmentID]int),
		garbage:  make(map[piece]time.Time),
		writers:  make(map[string]time.Time),
		leases:   make(map[string]lease),
	}
}

// Clone copies the index as it stands into one that is another server: it
// refuses every epoch until it is fenced at a later one, as a replica does that
// was promoted, or a backup that was put back.
func (x *Index) Clone() *Index {
	x.mu.Lock()
	defer x.mu.Unlock()
	y := &Index{clock: x.clock, exclusive: x.exclusive, self: new(server), events: x.events}
	for i, s := range x.shards {
		d := *s
		d.catalogs = make(map[string]*catalog, len(s.catalogs))
		for name, c := range s.catalogs {
			d.catalogs[name] = &catalog{last: c.last, head: c.head, snaps: slices.Clone(c.snaps), runs: slices.Clone(c.runs), open: slices.Clone(c.open), ids: maps.Clone(c.ids), gate: c.gate}
		}
		d.plans = make(map[engine.SegmentID]*plan, len(s.plans))
		for segment, p := range s.plans {
			d.plans[segment] = &plan{since: p.since, runs: slices.Clone(p.runs), place: p.place, ids: p.ids, decided: p.decided}
		}
		d.decided = slices.Clone(s.decided)
		d.refs, d.garbage = maps.Clone(s.refs), maps.Clone(s.garbage)
		d.writers, d.leases = maps.Clone(s.writers), maps.Clone(s.leases)
		d.outbox = slices.Clone(s.outbox) // entries are never changed
		y.shards[i] = &d
	}
	return y
}

// Close makes every later call answer engine.ErrClosed. It may be repeated.
func (x *Index) Close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.closed = true
	return nil
}

// enter begins an operation: the caller holds the mutex afterwards, error or
// not. Time is told once an operation, in milliseconds.
func (x *Index) enter(ctx context.Context) (now time.Time, err error) {
	x.mu.Lock()
	if err := ctx.Err(); err != nil {
		return time.Time{}, err
	}
	if x.closed {
		return time.Time{}, fmt.Errorf("memory index: %w", engine.ErrClosed)
	}
	return x.clock().UTC().Truncate(time.Millisecond), nil
}

// shard is the shard of a number.
func (x *Index) shard(number int) (*shard, error) {
	if number < 0 || number >= engine.Shards {
		return nil, fmt.Errorf("shard %d: there are shards 0 to %d", number, engine.Shards-1)
	}
	return x.shards[number], nil
}

// working is the shard if it is open in the epoch, else ErrEpoch.
func (x *Index) working(number int, epoch uint64) (*shard, error) {
	s, err := x.shard(number)
	switch {
	case err != nil:
		return nil, err
	case s.n != epoch, !s.open, s.fencedOn != x.self:
		return nil, fmt.Errorf("shard %d, epoch %d: %w", number, epoch, engine.ErrEpoch)
	}
	return s, nil
}

// work accepts an operation that changes the shard: it moves the mark and
// forgets plans that are decided for long enough.
func (s *shard) work(now time.Time) {
	if now.After(s.mark) {
		s.mark = now
	}
	for len(s.decided) > 0 && now.Sub(s.plans[s.decided[0]].decided) >= planTTL {
		delete(s.plans, s.decided[0])
		s.decided = s.decided[1:]
	}
}

// catalog is the catalog of a name, made if need be.
func (s *shard) catalog(name string) *catalog {
	c := s.catalogs[name]
	if c == nil {
		c = new(catalog)
		s.catalogs[name] = c
	}
	return c
}
