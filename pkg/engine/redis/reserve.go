package redis

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/jsonlake/lake/pkg/engine"
)

// groups lays the runs of a call out by shard and catalog.
type groups struct {
	shards []*shardGroup // those with runs, in order of appearance
}

type shardGroup struct {
	shard    int
	runs     []int // places in the call, in its order
	catalogs []catalogGroup
	of       []int // per run: its catalog in catalogs
}

type catalogGroup struct {
	name, b64 string
	runs      []int // places in the call, in its order
}

// group sorts n runs; name gives the catalog of the i-th.
func group(n int, name func(i int) string) (*groups, error) {
	g := &groups{}
	each := make([]int, n)             // the runs of catalogs that have one
	room := n/engine.Shards + n/64 + 4 // in a shard, a little more than its share
	var byShard [engine.Shards]*shardGroup
	type place struct {
		s *shardGroup
		c int
	}
	known := make(map[string]place, n)
	for i := range n {
		catalog := name(i)
		p, ok := known[catalog]
		if !ok {
			if strings.IndexByte(catalog, '\n') >= 0 {
				return nil, fmt.Errorf("%w: the catalog %q has a line break in its name", engine.ErrInvalid, catalog)
			}
			shard := engine.Shard(catalog)
			s := byShard[shard]
			if s == nil {
				s = &shardGroup{shard: shard, runs: make([]int, 0, room), of: make([]int, 0, room), catalogs: make([]catalogGroup, 0, room)}
				byShard[shard] = s
				g.shards = append(g.shards, s)
			}
			p = place{s, len(s.catalogs)}
			s.catalogs = append(s.catalogs, catalogGroup{name: catalog, b64: encodeName(catalog), runs: each[i : i : i+1]})
			known[catalog] = p
		}
		p.s.runs = append(p.s.runs, i)
		p.s.of = append(p.s.of, p.c)
		c := &p.s.catalogs[p.c]
		c.runs = append(c.runs, i)
	}
	return g, nil
}

func (s *shardGroup) tooMany() error {
	if len(s.runs) > MaxRuns {
		return fmt.Errorf("%w: %d runs in shard %x, at most %d fit into a call; split the segment", engine.ErrInvalid, len(s.runs), s.shard, MaxRuns)
	}
	return nil
}

// names of the catalogs, by line.
func (s *shardGroup) names() string {
	if len(s.catalogs) == 1 {
		return s.catalogs[0].name
	}
	var b strings.Builder
	for i := range s.catalogs {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(s.catalogs[i].name)
	}
	return b.String()
}

// PreCommit reserves versions for the runs of a segment.
func (x *Index) PreCommit(ctx context.Context, p engine.PreCommit) (engine.Reservation, error) {
	for i := range p.Runs {
		r := &p.Runs[i]
		if r.N < 1 || len(r.ID) > engine.MaxID || r.Expect != nil && !r.Expect.Valid() {
			return engine.Reservation{}, fmt.Errorf("%w: reserve a run of %d deltas of %q with an id of %d bytes, expecting %v", engine.ErrInvalid, r.N, r.Catalog, len(r.ID), r.Expect)
		}
	}
	g, err := group(len(p.Runs), func(i int) string { return p.Runs[i].Catalog })
	if err != nil {
		return engine.Reservation{}, err
	}
	res := engine.Reservation{Runs: make([]engine.Reserved, len(p.Runs))}
	segment := p.Segment.String()
	calls := make([]*call, 0, len(g.shards))
	asked := make([]*shardGroup, 0, len(g.shards))
	for _, s := range g.shards {
		if err := s.tooMany(); err != nil {
			s.fail(err, res.Runs)
			continue
		}
		calls = append(calls, x.reserveCall(&p, s, segment))
		asked = append(asked, s)
	}
	x.run(ctx, x.work, calls)
	for i, c := range calls {
		s := asked[i]
		if c.err != nil {
			s.fail(c.err, res.Runs)
			continue
		}
		now, err := x.clock.saw(c.text(0), c.text(1))
		if err == nil {
			err = s.answer(c.text(2), c.text(3), &p, res.Runs)
		}
		if err != nil {
			s.fail(fmt.Errorf("precommit %s in shard %x: %w: %w", p.Segment, s.shard, engine.ErrDamaged, err), res.Runs)
			continue
		}
		if now.After(res.Now) {
			res.Now = now
		}
	}
	return res, nil
}

// reserveCall lays out the arguments of lua/precommit.lua.
func (x *Index) reserveCall(p *engine.PreCommit, s *shardGroup, segment string) *call {
	k := &x.keys[s.shard]
	keys := []string{k.heads, k.planOf(segment), k.pending, k.catalogs}
	plain := len(s.catalogs) == len(s.runs)
	extras := 0
	for j, i := range s.runs {
		r := &p.Runs[i]
		plain = plain && r.N == 1
		if !isExtra(r) {
			continue
		}
		extras++
		if r.ID != "" {
			keys = append(keys, k.idOf(s.catalogs[s.of[j]].b64, r.ID))
		}
	}
	v := newValues()
	v.number(int64(len(keys)))
	v.string(s.names())
	v.number(int64(len(s.catalogs)))
	v.number(int64(len(s.runs)))
	v.number(max(p.MaxLive, 0))
	v.flag(plain)
	v.number(int64(extras))
	for i := range s.catalogs {
		v.string(s.catalogs[i].b64)
	}
	if !plain {
		for j, i := range s.runs {
			v.number(int64(s.of[j] + 1))
			v.number(int64(p.Runs[i].N))
		}
	}
	for j, i := range s.runs {
		r := &p.Runs[i]
		if !isExtra(r) {
			continue
		}
		v.number(int64(j + 1))
		v.string(url.QueryEscape(r.ID))
		v.string(string(r.Fingerprint[:]))
		if r.Expect != nil {
			v.fixed(*r.Expect)
		} else {
			v.string("")
		}
		v.string(url.QueryEscape(r.Gate))
	}
	return &call{script: x.scripts.Load().precommit, shard: s.shard, keys: keys, args: []any{strconv.FormatUint(p.Epoch, 10), segment}, values: v.argument(), runs: len(s.runs)}
}

// isExtra tells whether more is asked for than a version.
func isExtra(r *engine.Reserve) bool { return r.ID != "" || r.Expect != nil || r.Gate != "" }

func (s *shardGroup) fail(err error, answers []engine.Reserved) {
	for _, i := range s.runs {
		answers[i] = engine.Reserved{Err: err}
	}
}

// answer reads the plan, by places among the shard's runs, and what became of
// the others.
func (s *shardGroup) answer(plan, others string, p *engine.PreCommit, answers []engine.Reserved) error {
	lines, err := parsePlan(plan)
	if err != nil {
		return err
	}
	for _, i := range s.runs {
		answers[i] = engine.Reserved{State: engine.ReservePaced}
	}
	for _, l := range lines {
		if l.place >= len(s.runs) {
			continue // of another call under this segment
		}
		i := s.runs[l.place]
		c := &s.catalogs[s.of[l.place]]
		if l.b64 != c.b64 || l.n != strconv.Itoa(p.Runs[i].N) {
			answers[i] = engine.Reserved{Err: fmt.Errorf("%w: segment %s has %s deltas of %s planned, not %d of %s", engine.ErrInvalid, p.Segment, l.n, l.b64, p.Runs[i].N, c.b64)}
			continue
		}
		first, err := parseFixed(l.first)
		if err != nil {
			return err
		}
		answers[i] = engine.Reserved{First: first}
	}
	for line := range strings.FieldsSeq(others) {
		f := strings.Split(line, "|")
		place, err := strconv.Atoi(f[0])
		if err != nil || place < 1 || place > len(s.runs) || len(f) < 2 {
			return fmt.Errorf("answer %q", line)
		}
		if answers[s.runs[place-1]], err = other(f[1:], s.catalogs[s.of[place-1]].name); err != nil {
			return err
		}
	}
	return nil
}

// other is the answer of a run that was not reserved.
func other(f []string, catalog string) (r engine.Reserved, err error) {
	p := parser{}
	switch {
	case f[0] == "P":
		r.State = engine.ReservePaced
	case f[0] == "L":
		r.State = engine.ReserveFull
	case f[0] == "R":
		r.State = engine.ReserveReused
	case f[0] == "U" && len(f) == 2:
		r.State = engine.ReserveUndecided
		r.Older, p.err = engine.ParseSegmentID(f[1])
	case f[0] == "X":
		r.Err = damage(catalog, "its head is lost")
	case f[0] == "C" && len(f) == 2:
		r.State, r.Head = engine.ReserveConflict, p.version(f[1])
	case (f[0] == "D" || f[0] == "F") && len(f) == 3:
		r.State, r.First, r.N = engine.ReserveDuplicate, p.version(f[1]), int(p.int(f[2]))
		if f[0] == "F" {
			r.State = engine.ReserveInFlight
		}
	default:
		p.err = fmt.Errorf("answer %q", f)
	}
	return r, p.err
}

// damage says that the index has lost a part of a catalog.
func damage(catalog, what string) error {
	return fmt.Errorf("index of catalog %q: %s: %w; rebuild it from the bucket", catalog, what, engine.ErrDamaged)
}
