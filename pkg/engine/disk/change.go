package disk

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/jsonlake/lake/pkg/engine"
)

// change gathers what one operation does to a shard, and commits it as one
// batch. The caller holds the shard's mu from begin to the end of commit.
type change struct {
	x     *Index
	s     *shard
	rec   shardRecord // becomes the shard's
	now   int64
	batch *pebble.Batch

	heads   map[string]*changedHead
	refs    map[engine.SegmentID]*refsRecord
	events  []engine.Event
	eventOf map[string]int // the last event of a catalog
	ids     map[idKey]*idRecord
	planned []engine.SegmentID
	decided []engine.SegmentID
	until   []idKey   // receipts made
	swept   [2][]byte // keys of the last plan and the last receipt forgotten
}

type idKey struct{ catalog, id string }

type changedHead struct {
	headRecord
	changed bool
	lastAt  int // place + 1 of the catalog's last run in the plan that is being made
}

func (x *Index) begin(s *shard, now int64) *change {
	return &change{x: x, s: s, rec: s.shardRecord, now: now, batch: x.db.NewBatch(), heads: make(map[string]*changedHead)}
}

// work is begin of an operation that the open epoch has accepted: it moves the
// mark and forgets some plans that have expired.
func (x *Index) work(s *shard, now int64) (*change, error) {
	s.mark = max(s.mark, now)
	c := x.begin(s, now)
	if err := errors.Join(c.sweepPlans(), c.sweepReceipts()); err != nil {
		return nil, c.drop(err)
	}
	return c, nil
}

func (c *change) set(key, value []byte) { _ = c.batch.Set(key, value, nil) } // fails on indexed batches only

func (c *change) delete(key []byte) { _ = c.batch.Delete(key, nil) }

// head is a catalog's record, an empty one when it has none.
func (c *change) head(name string) (*changedHead, error) {
	if h := c.heads[name]; h != nil {
		return h, nil
	}
	h := new(changedHead)
	if _, err := c.x.read(keyHead(name), h.decode); err != nil {
		return nil, err
	}
	c.heads[name] = h
	return h, nil
}

func (c *change) ref(segment engine.SegmentID) (*refsRecord, error) {
	if r := c.refs[segment]; r != nil {
		return r, nil
	}
	r := new(refsRecord)
	if _, err := c.x.read(keyRefs(c.s.number, segment), r.decode); err != nil {
		return nil, err
	}
	if c.refs == nil {
		c.refs = make(map[engine.SegmentID]*refsRecord)
	}
	c.refs[segment] = r
	return r, nil
}

// id is what is known of an idempotency id.
func (c *change) id(catalog, id string) (*idRecord, error) {
	k := idKey{catalog, id}
	if r := c.ids[k]; r != nil {
		return r, nil
	}
	r := new(idRecord)
	if _, err := c.x.read(keyID(catalog, id), r.decode); err != nil {
		return nil, err
	}
	c.keep(k, r)
	return r, nil
}

func (c *change) keep(k idKey, r *idRecord) {
	if c.ids == nil {
		c.ids = make(map[idKey]*idRecord)
	}
	c.ids[k] = r
}

// receipt makes an id committed.
func (c *change) receipt(catalog, id string, state engine.IDState, until int64) {
	if id == "" {
		return
	}
	k := idKey{catalog, id}
	state.State = engine.IDCommitted
	c.keep(k, &idRecord{IDState: state, until: until, known: true, changed: true})
	c.until = append(c.until, k)
}

// plan is what the segment has planned; nil when there is no plan, or none any
// more.
func (c *change) plan(segment engine.SegmentID) (*planRecord, error) {
	p, err := c.x.plan(c.s.number, segment)
	if err != nil || p == nil || !p.expired(c.now) {
		return p, err
	}
	c.delete(keyPlan(c.s.number, segment))
	c.delete(keyDecided(c.s.number, p.decided(), segment))
	return nil, nil
}

func (x *Index) plan(shard int, segment engine.SegmentID) (*planRecord, error) {
	b, err := x.get(keyPlan(shard, segment))
	if b == nil || err != nil {
		return nil, err
	}
	p, err := decodePlan(b)
	if err != nil {
		return nil, fmt.Errorf("plan of segment %s in shard %d: %w", segment, shard, err)
	}
	return p, nil
}

// insert puts a run at the end of its catalog's live log.
func (c *change) insert(name string, run engine.Run, author string) error {
	h, err := c.head(name)
	if err != nil {
		return err
	}
	r, err := c.ref(run.Segment)
	if err != nil {
		return err
	}
	prev := h.head
	c.raise(h, run.Last)
	h.runs++
	h.deltas += int64(run.N)
	h.bytes += run.Len
	c.set(keyRun(name, run.Last), appendRun(nil, run))
	if r.garbage > 0 {
		c.delete(keyGarbage(c.s.number, r.garbage, run.Segment))
	}
	*r = refsRecord{live: r.live + 1, known: true}
	c.event(engine.Event{
		V: 1, Catalog: name, Kind: engine.EventCommitted, First: run.First, Version: run.Last, Prev: prev,
		Count: int64(run.N), Bytes: run.Len, Author: author, Writer: run.Segment.Writer, Time: c.now,
		LiveDeltas: h.deltas, LiveBytes: h.bytes, DocBytes: h.snap.DocBytes,
	})
	return nil
}

// raise moves a catalog's head up.
func (c *change) raise(h *changedHead, to engine.Version) {
	if h.head.IsZero() && !to.IsZero() {
		c.rec.catalogs++
	}
	h.head = engine.MaxVersion(h.head, to)
	h.last = engine.MaxVersion(h.last, to)
	h.changed = true
}

// event adds to the operation's entry in the outbox. Runs of a catalog that
// follow one another become one event.
func (c *change) event(e engine.Event) {
	if !c.x.events.Load() {
		return
	}
	if i, ok := c.eventOf[e.Catalog]; ok {
		if have := &c.events[i]; e.Kind == engine.EventCommitted && have.Kind == e.Kind && have.Version == e.Prev && have.Writer == e.Writer {
			e.First, e.Prev = have.First, have.Prev
			e.Count += have.Count
			e.Bytes += have.Bytes
			*have = e
			return
		}
	}
	if c.eventOf == nil {
		c.eventOf = make(map[string]int)
	}
	c.eventOf[e.Catalog] = len(c.events)
	c.events = append(c.events, e)
}

// decide gives an open run of a plan its last state and lets go of what hangs
// on it. The caller writes the plan.
func (c *change) decide(segment engine.SegmentID, p *planRecord, i int, state engine.PlanState) error {
	p.set(i, state)
	if id := p.runs[i].id; id != "" && state == engine.PlanRolledBack {
		r, err := c.id(p.runs[i].Catalog, id)
		if err != nil {
			return err
		}
		if r.known && r.State == engine.IDPending && r.segment == segment {
			r.known, r.changed = false, true
		}
	}
	h, err := c.head(p.runs[i].Catalog)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(h.open, func(r reservation) bool { return r.segment == segment })
	if at < 0 {
		return fmt.Errorf("%w: catalog %q has no reservation of segment %s, which planned one", engine.ErrDamaged, p.runs[i].Catalog, segment)
	}
	h.changed = true
	if h.open[at].runs--; h.open[at].runs <= 0 {
		h.open = slices.Delete(h.open, at, at+1)
	}
	p.setUndecided(p.undecided() - 1)
	if p.undecided() > 0 {
		return nil
	}
	when := max(1, c.now) // 0 says that it is open
	p.setDecided(when)
	c.delete(keyUndecided(c.s.number, segment))
	c.set(keyDecided(c.s.number, when, segment), nil)
	c.decided = append(c.decided, segment)
	r, err := c.ref(segment)
	if err == nil {
		c.collect(segment, r)
	}
	return err
}

// drop gives the operation up.
func (c *change) drop(err error) error {
	if c.batch != nil {
		_ = c.batch.Close()
		c.batch = nil
	}
	return err
}

// end commits if there is something to write.
func (c *change) end(changed bool) error {
	if changed || c.swept[0] != nil || c.swept[1] != nil {
		return c.commit(false)
	}
	return c.drop(nil)
}

// commit writes everything as one batch.
func (c *change) commit(sync bool) error {
	s := c.s
	for name, h := range c.heads {
		if h.changed {
			c.set(keyHead(name), h.append(nil))
		}
	}
	for segment, r := range c.refs {
		if r.known {
			c.set(keyRefs(s.number, segment), r.append(nil))
		}
	}
	for k, r := range c.ids {
		switch {
		case !r.changed:
		case r.known:
			c.set(keyID(k.catalog, k.id), r.append(nil))
		default:
			c.delete(keyID(k.catalog, k.id))
		}
	}
	receipts := make([][]byte, len(c.until))
	for i, k := range c.until {
		receipts[i] = keyReceipt(s.number, c.ids[k].until, k.catalog, k.id)
		c.set(receipts[i], nil)
	}
	if len(c.events) > 0 {
		c.rec.entries++
		c.set(keyOutbox(s.number, c.rec.entries), appendEvents(nil, c.events))
	}
	c.set(keyShard(s.number), c.rec.append(nil))
	b := c.batch
	c.batch = nil // it is the store's now, also when that fails
	if err := c.x.apply(b, sync); err != nil {
		return err
	}
	s.shardRecord, s.saved = c.rec, c.rec.mark
	if c.swept[0] != nil {
		s.plans.from = c.swept[0]
	}
	if c.swept[1] != nil {
		s.receipts.from = c.swept[1]
	}
	for _, segment := range c.planned {
		s.undecided[segment] = c.now
	}
	for _, segment := range c.decided {
		delete(s.undecided, segment)
		s.plans.add(keyDecided(s.number, max(1, c.now), segment))
	}
	for _, key := range receipts {
		s.receipts.add(key)
	}
	return nil
}
