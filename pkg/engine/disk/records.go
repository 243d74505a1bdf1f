package disk

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

// Values of the index. v is a variable-length integer (encoding/binary), s a
// length as v and that many bytes; versions are packed as in keys, eight bytes
// big endian; seg is v epoch, v unix, 8 bytes writer, v n.
//
//	shard      v n, 1 open, v floor, v mark, v catalogs, v outbox entries ever written
//	head       version last, version head, version snap start, version snap stop, v doc bytes, v pack bytes,
//	           v runs, v deltas, v bytes, v open reservations, of each: seg, v since, v undecided runs
//	run        version first, v n, 1 type, s path, seg, v off, v len
//	snapshot   version start, v doc bytes, v pack bytes
//	plan       8 since, 8 decided, 4 undecided, 4 runs, of each: 1 state, v back, v n, version first, v place, s catalog, s id
//	undecided  8 since
//	decided    nothing
//	refs       v live runs, v garbage since
//	garbage    nothing
//	id         1 state, version first, v n, 16 fingerprint, v until, seg while pending
//	receipt    nothing
//	outbox     v events, of each: 1 kind, s catalog, version first, version version, version prev, v count, v bytes,
//	           s author, s writer, v time, v live deltas, v live bytes, v doc bytes

// shardRecord is what a shard believes.
type shardRecord struct {
	n        uint64
	open     bool
	floor    int64 // no version is given at or below this second
	mark     int64 // ms; the greatest time of accepted work, 0: none
	catalogs int64 // with a committed run
	entries  uint64
}

func (r *shardRecord) append(b []byte) []byte {
	b = binary.AppendUvarint(b, r.n)
	b = append(b, boolByte(r.open))
	b = appendInt(b, r.floor)
	b = appendInt(b, r.mark)
	b = appendInt(b, r.catalogs)
	return binary.AppendUvarint(b, r.entries)
}

func (r *shardRecord) decode(b []byte) error {
	d := decoder{b: b}
	*r = shardRecord{n: d.uint(), open: d.byte() == 1, floor: d.int(), mark: d.int(), catalogs: d.int(), entries: d.uint()}
	return d.end()
}

// headRecord is what a shard knows of one catalog, but for its runs and older
// snapshots.
//
//	0_0 … snap.Stop … runs … head … last
//	      folded      live        reserved
type headRecord struct {
	last   engine.Version // last reserved
	head   engine.Version // last committed
	snap   engine.Snapshot
	runs   int64 // in the live log
	deltas int64
	bytes  int64
	open   []reservation // segments with undecided runs, in the order of their reservations
}

// reservation is a segment's open reservation on a catalog.
type reservation struct {
	segment engine.SegmentID
	since   int64 // ms; of the pre-commit
	runs    int64 // undecided
}

func (h *headRecord) append(b []byte) []byte {
	b = appendVersion(b, h.last)
	b = appendVersion(b, h.head)
	b = appendVersion(b, h.snap.Start)
	b = appendVersion(b, h.snap.Stop)
	b = appendInt(b, h.snap.DocBytes)
	b = appendInt(b, h.snap.PackBytes)
	b = appendInt(b, h.runs)
	b = appendInt(b, h.deltas)
	b = appendInt(b, h.bytes)
	b = binary.AppendUvarint(b, uint64(len(h.open)))
	for _, r := range h.open {
		b = appendSegment(b, r.segment)
		b = appendInt(b, r.since)
		b = appendInt(b, r.runs)
	}
	return b
}

func (h *headRecord) decode(b []byte) error {
	d := decoder{b: b}
	*h = headRecord{last: d.version(), head: d.version()}
	h.snap = engine.Snapshot{Start: d.version(), Stop: d.version(), DocBytes: d.int(), PackBytes: d.int()}
	h.runs, h.deltas, h.bytes = d.int(), d.int(), d.int()
	if n := d.count(11); n > 0 {
		h.open = make([]reservation, n)
		for i := range h.open {
			h.open[i] = reservation{segment: d.segment(), since: d.int(), runs: d.int()}
		}
	}
	return d.end()
}

func appendRun(b []byte, r engine.Run) []byte {
	b = appendVersion(b, r.First)
	b = appendInt(b, int64(r.N))
	b = append(b, byte(r.Type))
	b = appendString(b, r.Path)
	b = appendSegment(b, r.Segment)
	b = appendInt(b, r.Off)
	return appendInt(b, r.Len)
}

func decodeRun(key, b []byte) (engine.Run, error) {
	d := decoder{b: b}
	r := engine.Run{Last: versionOfKey(key), First: d.version(), N: int(d.int()), Type: merge.Type(d.byte()), Path: d.string(), Segment: d.segment(), Off: d.int(), Len: d.int()}
	return r, d.end()
}

func appendSnapshot(b []byte, s engine.Snapshot) []byte {
	b = appendVersion(b, s.Start)
	b = appendInt(b, s.DocBytes)
	return appendInt(b, s.PackBytes)
}

func decodeSnapshot(key, b []byte) (engine.Snapshot, error) {
	d := decoder{b: b}
	s := engine.Snapshot{Stop: versionOfKey(key), Start: d.version(), DocBytes: d.int(), PackBytes: d.int()}
	return s, d.end()
}

// planRecord is what a segment has reserved in a shard, and what became of it:
// first a promise, then the receipt. States are changed in its bytes.
type planRecord struct {
	raw  []byte
	runs []plannedRun
}

type plannedRun struct {
	engine.Planned
	// back is how many runs before this one the catalog's last one stands; 0: there
	// is none.
	back  int
	place int    // among the runs of the PreCommit, by which a repetition finds it
	id    string // idempotency id, "" for none
	at    int    // of the state in raw
}

const planHeader = 8 + 8 + 4 + 4

func newPlan(since int64, runs int) *planRecord {
	p := &planRecord{raw: make([]byte, planHeader, planHeader+runs*32)}
	binary.BigEndian.PutUint64(p.raw, uint64(since))
	return p
}

// add plans an open run.
func (p *planRecord) add(r plannedRun) {
	r.at = len(p.raw)
	p.runs = append(p.runs, r)
	p.raw = append(p.raw, byte(r.State))
	p.raw = binary.AppendUvarint(p.raw, uint64(r.back))
	p.raw = appendInt(p.raw, int64(r.N))
	p.raw = appendVersion(p.raw, r.First)
	p.raw = appendInt(p.raw, int64(r.place))
	p.raw = appendString(p.raw, r.Catalog)
	p.raw = appendString(p.raw, r.id)
	p.setUndecided(p.undecided() + 1)
	binary.BigEndian.PutUint32(p.raw[20:], uint32(len(p.runs)))
}

func (p *planRecord) since() int64 { return int64(binary.BigEndian.Uint64(p.raw)) }

// decided is when the last run was decided, 0 while one is open.
func (p *planRecord) decided() int64 { return int64(binary.BigEndian.Uint64(p.raw[8:])) }

// expired tells whether the plan has been a receipt for long enough.
func (p *planRecord) expired(now int64) bool {
	return p.decided() > 0 && now-p.decided() >= planTTL
}

func (p *planRecord) setDecided(at int64) { binary.BigEndian.PutUint64(p.raw[8:], uint64(at)) }

func (p *planRecord) undecided() int { return int(binary.BigEndian.Uint32(p.raw[16:])) }

func (p *planRecord) setUndecided(n int) { binary.BigEndian.PutUint32(p.raw[16:], uint32(n)) }

func (p *planRecord) set(i int, state engine.PlanState) {
	p.runs[i].State = state
	p.raw[p.runs[i].at] = byte(state)
}

// find is the place of a run in the plan, -1 when it is not there. The search
// begins at a place: runs are mostly asked for in their order.
func (p *planRecord) find(catalog string, first engine.Version, from int) int {
	for k := range p.runs {
		i := (from + k) % len(p.runs)
		if p.runs[i].First == first && p.runs[i].Catalog == catalog {
			return i
		}
	}
	return -1
}

// behind tells whether an older run of the same catalog is undecided. A catalog's
// runs are committed in order, so that the first committed one ends the search.
func (p *planRecord) behind(i int) bool {
	for p.runs[i].back > 0 {
		i -= p.runs[i].back
		switch p.runs[i].State {
		case engine.PlanOpen:
			return true
		case engine.PlanCommitted:
			return false
		}
	}
	return false
}

// decodePlan keeps b.
func decodePlan(b []byte) (*planRecord, error) {
	if len(b) < planHeader {
		return nil, errTruncated
	}
	p := &planRecord{raw: b}
	d := decoder{b: b[planHeader:], text: string(b[planHeader:])} // one allocation for all names
	n := int(binary.BigEndian.Uint32(b[20:]))
	if n > len(d.b)/14 {
		return nil, errTruncated
	}
	p.runs = make([]plannedRun, n)
	for i := range p.runs {
		r := &p.runs[i]
		r.at = len(b) - len(d.b)
		r.State = engine.PlanState(d.byte())
		r.back = int(d.uint())
		r.N = int(d.int())
		r.First = d.version()
		r.place = int(d.int())
		r.Catalog = d.string()
		r.id = d.string()
		if d.bad || r.back < 0 || r.back > i || r.State > engine.PlanRolledBack {
			return nil, errTruncated
		}
	}
	return p, d.end()
}

// idRecord is what is known of an idempotency id of a catalog.
type idRecord struct {
	engine.IDState
	segment engine.SegmentID // that reserved it, while it is pending
	until   int64            // ms; of a receipt: forgotten from then on
	known   bool             // false: there is none, or none any more
	changed bool
}

func (r *idRecord) append(b []byte) []byte {
	b = append(b, byte(r.State))
	b = appendVersion(b, r.First)
	b = appendInt(b, int64(r.N))
	b = append(b, r.Fingerprint[:]...)
	b = appendInt(b, r.until)
	if r.State == engine.IDPending {
		b = appendSegment(b, r.segment)
	}
	return b
}

func (r *idRecord) decode(b []byte) error {
	d := decoder{b: b}
	*r = idRecord{known: true, IDState: engine.IDState{State: engine.IDKnown(d.byte()), First: d.version(), N: int(d.int())}}
	copy(r.Fingerprint[:], d.take(len(r.Fingerprint)))
	r.until = d.int()
	if r.State == engine.IDPending {
		r.segment = d.segment()
	}
	if r.State != engine.IDPending && r.State != engine.IDCommitted {
		d.bad = true
	}
	return d.end()
}

// at is what is known of the id at a time.
func (r *idRecord) at(now int64) engine.IDState {
	if !r.known || r.State == engine.IDCommitted && r.until <= now {
		return engine.IDState{}
	}
	return r.IDState
}

// refsRecord counts the live runs of a segment in a shard.
type refsRecord struct {
	live    int64
	garbage int64 // ms; since when there is none, 0: never or not yet
	known   bool  // has been there
}

func (r *refsRecord) append(b []byte) []byte { return appendInt(appendInt(b, r.live), r.garbage) }

func (r *refsRecord) decode(b []byte) error {
	d := decoder{b: b}
	*r = refsRecord{live: d.int(), garbage: d.int(), known: true}
	return d.end()
}

var eventKinds = [...]engine.EventKind{1: engine.EventCommitted, 2: engine.EventSnapshotted, 3: engine.EventPurged}

func appendEvents(b []byte, events []engine.Event) []byte {
	b = binary.AppendUvarint(b, uint64(len(events)))
	for i := range events {
		e := &events[i]
		b = append(b, byte(max(1, slices.Index(eventKinds[:], e.Kind))))
		b = appendString(b, e.Catalog)
		b = appendVersion(b, e.First)
		b = appendVersion(b, e.Version)
		b = appendVersion(b, e.Prev)
		b = appendInt(b, e.Count)
		b = appendInt(b, e.Bytes)
		b = appendString(b, e.Author)
		b = appendString(b, e.Writer)
		b = appendInt(b, e.Time)
		b = appendInt(b, e.LiveDeltas)
		b = appendInt(b, e.LiveBytes)
		b = appendInt(b, e.DocBytes)
	}
	return b
}

func decodeEvents(to []engine.Event, b []byte) ([]engine.Event, error) {
	d := decoder{b: b}
	for range d.count(34) {
		kind := d.byte()
		if kind < 1 || int(kind) >= len(eventKinds) {
			return to, errTruncated
		}
		to = append(to, engine.Event{
			V: 1, Kind: eventKinds[kind], Catalog: d.string(), First: d.version(), Version: d.version(), Prev: d.version(),
			Count: d.int(), Bytes: d.int(), Author: d.string(), Writer: d.string(), Time: d.int(),
			LiveDeltas: d.int(), LiveBytes: d.int(), DocBytes: d.int(),
		})
	}
	return to, d.end()
}

// appendInt appends an integer that is not negative.
func appendInt(b []byte, i int64) []byte { return binary.AppendUvarint(b, uint64(max(0, i))) }

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendVersion(b []byte, v engine.Version) []byte {
	return binary.BigEndian.AppendUint64(b, packVersion(v))
}

func appendSegment(b []byte, s engine.SegmentID) []byte {
	b = binary.AppendUvarint(b, s.Epoch)
	b = appendInt(b, s.Unix)
	b = append(b, s.Writer...)
	return binary.AppendUvarint(b, s.N)
}

func boolByte(t bool) byte {
	if t {
		return 1
	}
	return 0
}

var errTruncated = fmt.Errorf("%w: a record of the index does not decode", engine.ErrDamaged)

// decoder reads a value. What does not fit makes it bad and reads as zero.
type decoder struct {
	b    []byte
	text string // the same to its end, if strings may be parts of it; else ""
	bad  bool
}

func (d *decoder) take(n int) []byte {
	if d.bad || n < 0 || n > len(d.b) {
		d.bad = true
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint() uint64 {
	u, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.take(n)
	return u
}

func (d *decoder) int() int64 {
	i := int64(d.uint())
	if i < 0 {
		d.bad = true
		return 0
	}
	return i
}

// count reads how many things of at least size bytes follow.
func (d *decoder) count(size int) int {
	n := d.int()
	if n > int64(len(d.b)/size) {
		d.bad = true
		return 0
	}
	return int(n)
}

func (d *decoder) string() string {
	n := d.count(1)
	at := len(d.text) - len(d.b)
	b := d.take(n)
	if b != nil && d.text != "" {
		return d.text[at : at+n]
	}
	return string(b)
}

func (d *decoder) version() engine.Version {
	b := d.take(8)
	if b == nil || b[0]&0x80 != 0 { // no version is packed like that
		d.bad = true
		return engine.Version{}
	}
	return unpackVersion(binary.BigEndian.Uint64(b))
}

func (d *decoder) segment() engine.SegmentID {
	return engine.SegmentID{Epoch: d.uint(), Unix: d.int(), Writer: string(d.take(writerBytes)), N: d.uint()}
}

func (d *decoder) end() error {
	if d.bad || len(d.b) > 0 {
		return errTruncated
	}
	return nil
}
