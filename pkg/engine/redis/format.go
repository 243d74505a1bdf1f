package redis

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

// Texts in the index.
//
// A version inside heads, plans, live logs and outbox entries is in fixed form,
// "1700000000000001": the second with ten digits, the number in it with six. The
// order of such texts is the order of the versions, and scripts need neither parse
// them nor calculate with them. As a score it is an integer that a float64 holds exactly
// (until the year 2255). Members of sorted sets, which people read, have the usual
// form, 1700000000_1.
//
// A live log is a list: it only grows at its end and is shortened at its beginning, and
// a run is found by its version in a dozen steps. A sorted set in its compact form looks
// through all of itself, twice, for each run that is added.
//
//	head     {last}|{head}|{start}|{stop}|{doc}|{pack}|{runs}|{deltas}|{bytes}|{open}
//	         last reserved and last committed version; the latest snapshot with the sizes of
//	         document and pack; runs, deltas and frame bytes in the live log; the open
//	         reservations in their order, each "{ms}@{seg}," with the time of the pre-commit,
//	         and behind them, while a conditional write waits for its turn, "!{ms}@{gate}"
//	epoch    {n}|{opening, openempty or open}|{floor}|{mark}|{replid}     floor in seconds; mark in ms, 13 digits
//	plan     {states}\n{b64}|{n}|{first}\n{b64}|{n}|{first}|{id}…   states: a character a run, o open, c committed,
//	         r rolled back; "{states}|{places}" when not all runs of the call were reserved, with the places
//	         (1…) that were, by commas; the id, of a run that has one, is escaped as in a URL query
//	id       p|{first}|{n}|{seg}|{fingerprint}   reserved;   c|{first}|{n}|{until ms}|{fingerprint}   committed;
//	         the fingerprint is 16 bytes as they are
//	log      {version}|delta|{type}|{path}|{seg}|{off}|{len}   a run of one
//	         {last}|run|{n}|{first}|{seg}|{off}|{len}          a run of many
//	outbox   field c: {ms}\n, then a line a run or a group of runs that follow one another:
//	         {b64}|{first}|{last}|{count}|{bytes}|{writer}|{author}|{prev}|{live deltas}|{live bytes}|{doc}
//	         field s: {ms}\n{b64}|{first}|{stop}|{count}|{doc}|||{start}|{live deltas}|{live bytes}|{doc}
//	         author is escaped as in a URL query
const (
	fixedLen  = 16
	stateOpen = 'o'
	stateDone = 'c'
	stateBack = 'r'
)

// fixed is the fixed form of a version.
func fixed(v engine.Version) string {
	var b [fixedLen]byte
	return string(appendFixed(b[:0], v))
}

func appendFixed(b []byte, v engine.Version) []byte {
	b = appendPadded(b, uint64(v.Sec), 10)
	return appendPadded(b, uint64(v.Seq), 6)
}

func appendPadded(b []byte, n uint64, width int) []byte {
	at := len(b)
	b = append(b, "0000000000"[:width]...)
	left := n
	for i := len(b) - 1; i >= at; i-- {
		b[i] = '0' + byte(left%10)
		left /= 10
	}
	if left > 0 {
		return strconv.AppendUint(b[:at], n, 10)
	}
	return b
}

func parseFixed(s string) (engine.Version, error) {
	if len(s) != fixedLen {
		return engine.Version{}, fmt.Errorf("%q is not a version in fixed form", s)
	}
	sec, ok1 := decimal(s[:10])
	seq, ok2 := decimal(s[10:])
	v := engine.Version{Sec: sec, Seq: uint32(seq)}
	if !ok1 || !ok2 || !v.Valid() {
		return engine.Version{}, fmt.Errorf("%q is not a version in fixed form", s)
	}
	return v, nil
}

// decimal reads a number of at most 18 digits, and nothing but digits: a view may hold
// thousands of them.
func decimal(s string) (n int64, ok bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	for i := range len(s) {
		c := s[i] - '0'
		if c > 9 {
			return 0, false
		}
		n = 10*n + int64(c)
	}
	return n, true
}

// head of a catalog, parsed.
type head struct {
	head          engine.Version
	snapshot      engine.Snapshot
	deltas, bytes int64
	pending       bool
	since         time.Time // pre-commit of the oldest open reservation
}

// headField cuts the head version out of a head's text.
func headField(text string) string {
	if len(text) < 2*fixedLen+1 {
		return ""
	}
	return text[fixedLen+1 : 2*fixedLen+1]
}

// headPending tells from a head's text whether a reservation is open, and nothing
// else: many readers ask it of one head at once. It is not ok when the text is no head.
func headPending(text string) (pending, ok bool) {
	const numbers = 4 * (fixedLen + 1) // where they begin, behind four versions
	if len(text) < numbers {
		return false, false
	}
	open := text[numbers:]
	for range 5 { // doc, pack, runs, deltas, bytes
		if _, open, ok = strings.Cut(open, "|"); !ok {
			return false, false
		}
	}
	return open != "" && open[0] != '!', true
}

func parseHead(text string) (h head, err error) {
	f := strings.SplitN(text, "|", 10)
	if len(f) != 10 {
		return head{}, fmt.Errorf("%q is not a head", text)
	}
	p := parser{}
	h.head = p.version(f[1])
	h.snapshot = engine.Snapshot{Start: p.version(f[2]), Stop: p.version(f[3]), DocBytes: p.int(f[4]), PackBytes: p.int(f[5])}
	h.deltas, h.bytes = p.int(f[7]), p.int(f[8])
	if f[9] != "" && f[9][0] != '!' {
		ms, _, ok := strings.Cut(f[9], "@")
		if !ok {
			return head{}, fmt.Errorf("%q is not a head", text)
		}
		h.pending, h.since = true, time.UnixMilli(p.int(ms)).UTC()
	}
	if p.err != nil {
		return head{}, fmt.Errorf("head %q: %w", text, p.err)
	}
	return h, nil
}

// parser keeps the first error.
type parser struct{ err error }

func (p *parser) version(s string) engine.Version {
	v, err := parseFixed(s)
	if err != nil && p.err == nil {
		p.err = err
	}
	return v
}

func (p *parser) int(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if (err != nil || n < 0) && p.err == nil {
		p.err = fmt.Errorf("%q is not a number", s)
	}
	return n
}

// appendRun is a run as its live log has it.
func appendRun(b []byte, r *engine.Run, segment string) []byte {
	b = appendFixed(b, r.Last)
	if r.N == 1 {
		b = append(b, "|delta|"...)
		b = strconv.AppendUint(b, uint64(r.Type), 10)
		b = append(b, '|')
		b = append(b, r.Path...)
	} else {
		b = append(b, "|run|"...)
		b = strconv.AppendInt(b, int64(r.N), 10)
		b = append(b, '|')
		b = appendFixed(b, r.First)
	}
	b = append(b, '|')
	b = append(b, segment...)
	b = append(b, '|')
	b = strconv.AppendInt(b, r.Off, 10)
	b = append(b, '|')
	return strconv.AppendInt(b, r.Len, 10)
}

// parseRun is the inverse of appendRun. Fields are taken from both ends,
// so that nothing a path may hold matters.
func parseRun(text string) (r engine.Run, err error) {
	fail := func() (engine.Run, error) {
		return engine.Run{}, fmt.Errorf("%q is not a run of the live log", text)
	}
	var head [3]string // last version, kind, type or number
	rest, ok := text, false
	for i := range head {
		if head[i], rest, ok = strings.Cut(rest, "|"); !ok {
			return fail()
		}
	}
	var tail [3]string // segment, off, len
	for i := len(tail) - 1; i >= 0; i-- {
		at := strings.LastIndexByte(rest, '|')
		if at < 0 {
			return fail()
		}
		tail[i], rest = rest[at+1:], rest[:at]
	}
	var ok2, ok3 bool
	var n int64
	last, err1 := parseFixed(head[0])
	segment, err2 := engine.ParseSegmentID(tail[0])
	r = engine.Run{Last: last, Segment: segment}
	r.Off, ok2 = decimal(tail[1])
	r.Len, ok3 = decimal(tail[2])
	if n, ok = decimal(head[2]); !ok || !ok2 || !ok3 || err1 != nil || err2 != nil {
		return fail()
	}
	switch head[1] {
	case "delta":
		if n > math.MaxUint8 {
			return fail()
		}
		r.First, r.N, r.Type, r.Path = r.Last, 1, merge.Type(n), rest
	case "run":
		if r.First, err1 = parseFixed(rest); err1 != nil || n < 1 || n > math.MaxInt32 {
			return fail()
		}
		r.N = int(n)
	default:
		return fail()
	}
	return r, nil
}

func snapMember(s engine.Snapshot) string {
	return fmt.Sprintf("snap|%s|%s|%d|%d", s.Start, s.Stop, s.DocBytes, s.PackBytes)
}

func parseSnapMember(m string) (s engine.Snapshot, err error) {
	f := strings.Split(m, "|")
	if len(f) != 5 || f[0] != "snap" {
		return s, fmt.Errorf("%q is not a snapshot", m)
	}
	var errs [4]error
	s.Start, errs[0] = engine.ParseVersion(f[1])
	s.Stop, errs[1] = engine.ParseVersion(f[2])
	s.DocBytes, errs[2] = strconv.ParseInt(f[3], 10, 64)
	s.PackBytes, errs[3] = strconv.ParseInt(f[4], 10, 64)
	for _, err := range errs {
		if err != nil {
			return engine.Snapshot{}, fmt.Errorf("%q is not a snapshot: %w", m, err)
		}
	}
	return s, nil
}

// planLine is a run of a plan.
type planLine struct {
	b64, n, first string
	state         byte
	place         int // among the runs of the call in the shard, from 0
}

// parsePlan cuts a plan into its lines; none of an empty text.
func parsePlan(text string) ([]planLine, error) {
	if text == "" {
		return nil, nil
	}
	head, rest, _ := strings.Cut(text, "\n")
	states, places, some := strings.Cut(head, "|")
	lines := make([]planLine, 0, len(states))
	for i := range len(states) {
		l := planLine{state: states[i], place: i}
		if some {
			var place string
			place, places, _ = strings.Cut(places, ",")
			at, err := strconv.Atoi(place)
			if err != nil || at < 1 {
				return nil, fmt.Errorf("place %q of the plan %q is malformed", place, text)
			}
			l.place = at - 1
		}
		var line string
		var ok1, ok2 bool
		line, rest, _ = strings.Cut(rest, "\n")
		l.b64, line, ok1 = strings.Cut(line, "|")
		l.n, line, ok2 = strings.Cut(line, "|")
		l.first, _, _ = strings.Cut(line, "|") // an id may follow
		if !ok1 || !ok2 || len(l.first) != fixedLen {
			return nil, fmt.Errorf("run %d of the plan %q is malformed", i, text)
		}
		lines = append(lines, l)
	}
	return lines, nil
}

func (l planLine) planned() (engine.Planned, error) {
	name, err := decodeName(l.b64)
	if err != nil {
		return engine.Planned{}, fmt.Errorf("catalog %q of a plan: %w", l.b64, err)
	}
	first, err := parseFixed(l.first)
	if err != nil {
		return engine.Planned{}, err
	}
	n, err := strconv.Atoi(l.n)
	if err != nil {
		return engine.Planned{}, fmt.Errorf("run length %q of a plan: %w", l.n, err)
	}
	p := engine.Planned{Catalog: name, First: first, N: n}
	switch l.state {
	case stateOpen:
		p.State = engine.PlanOpen
	case stateDone:
		p.State = engine.PlanCommitted
	case stateBack:
		p.State = engine.PlanRolledBack
	default:
		return engine.Planned{}, fmt.Errorf("state %q of a plan", l.state)
	}
	return p, nil
}

// parseEpoch reads a shard's epoch; same and empty are not in it.
func parseEpoch(text string) (e engine.ShardEpoch, replid string, err error) {
	f := strings.Split(text, "|")
	if len(f) != 5 || f[1] != "open" && f[1] != "opening" && f[1] != "openempty" {
		return e, "", fmt.Errorf("%q is not the epoch of a shard", text)
	}
	n, err := strconv.ParseUint(f[0], 10, 64)
	if err != nil {
		return e, "", fmt.Errorf("%q is not the epoch of a shard: %w", text, err)
	}
	mark, err := strconv.ParseInt(f[3], 10, 64)
	if err != nil {
		return e, "", fmt.Errorf("%q is not the epoch of a shard: %w", text, err)
	}
	e = engine.ShardEpoch{N: n, Open: f[1] == "open"}
	if mark > 0 {
		e.Mark = time.UnixMilli(mark).UTC()
	}
	return e, f[4], nil
}
