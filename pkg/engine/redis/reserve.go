package redis

import (
	"context"
	"fmt"
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
				s = &shardGroup{shard: shard}
				byShard[shard] = s
				g.shards = append(g.shards, s)
			}
			p = place{s, len(s.catalogs)}
			s.catalogs = append(s.catalogs, catalogGroup{name: catalog, b64: encodeName(catalog)})
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

// PreCommit reserves versions for the runs of a segment, a script a shard.
func (x *Index) PreCommit(ctx context.Context, p engine.PreCommit) (engine.Reservation, error) {
	for _, r := range p.Runs {
		if r.N < 1 {
			return engine.Reservation{}, fmt.Errorf("%w: reserve a run of %d deltas of %q", engine.ErrInvalid, r.N, r.Catalog)
		}
	}
	g, err := group(len(p.Runs), func(i int) string { return p.Runs[i].Catalog })
	if err != nil {
		return engine.Reservation{}, err
	}
	res := engine.Reservation{Runs: make([]engine.Reserved, len(p.Runs))}
	sc, epoch, segment := x.scripts.Load().precommit, strconv.FormatUint(p.Epoch, 10), p.Segment.String()
	calls := make([]*call, 0, len(g.shards))
	asked := make([]*shardGroup, 0, len(g.shards))
	for _, s := range g.shards {
		if err := s.tooMany(); err != nil {
			s.fail(err, res.Runs)
			continue
		}
		k := &x.keys[s.shard]
		args := make([]any, 0, 4+len(s.catalogs)+2*len(s.runs))
		args = append(args, epoch, segment, s.names(), strconv.Itoa(len(s.catalogs)))
		for i := range s.catalogs {
			args = append(args, s.catalogs[i].b64)
		}
		for j, i := range s.runs {
			args = append(args, strconv.Itoa(s.of[j]+1), strconv.Itoa(p.Runs[i].N))
		}
		calls = append(calls, &call{script: sc, shard: s.shard, keys: []string{k.heads, k.planOf(segment), k.pending, k.catalogs}, args: args})
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
			err = s.answer(c.text(2), c.text(3), p, res.Runs)
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

func (s *shardGroup) fail(err error, answers []engine.Reserved) {
	for _, i := range s.runs {
		answers[i] = engine.Reserved{Err: err}
	}
}

// answer reads a plan: the k-th run of a catalog has its k-th reservation. Runs
// behind the last reservation of their catalog are paced, or their catalog is
// damaged.
func (s *shardGroup) answer(plan, damaged string, p engine.PreCommit, answers []engine.Reserved) error {
	lines, err := parsePlan(plan)
	if err != nil {
		return err
	}
	lost := map[string]bool{}
	for b64 := range strings.FieldsSeq(damaged) {
		lost[b64] = true
	}
	// The usual answer has a line a run, in order.
	byCatalog := map[string][]planLine(nil)
	inOrder := len(lines) == len(s.runs)
	for j := 0; inOrder && j < len(lines); j++ {
		inOrder = lines[j].b64 == s.catalogs[s.of[j]].b64
	}
	if !inOrder {
		byCatalog = make(map[string][]planLine, len(s.catalogs))
		for _, l := range lines {
			byCatalog[l.b64] = append(byCatalog[l.b64], l)
		}
	}
	for j, i := range s.runs {
		c := &s.catalogs[s.of[j]]
		var l planLine
		if inOrder {
			l = lines[j]
		} else if list := byCatalog[c.b64]; len(list) > 0 {
			l, byCatalog[c.b64] = list[0], list[1:]
		} else if lost[c.b64] {
			answers[i] = engine.Reserved{Err: damage(c.name, "its head is lost")}
			continue
		} else {
			answers[i] = engine.Reserved{Paced: true}
			continue
		}
		if l.n != strconv.Itoa(p.Runs[i].N) {
			answers[i] = engine.Reserved{Err: fmt.Errorf("%w: segment %s has %s deltas of %q planned, not %d", engine.ErrInvalid, p.Segment, l.n, c.name, p.Runs[i].N)}
			continue
		}
		first, err := parseFixed(l.first)
		if err != nil {
			return err
		}
		answers[i] = engine.Reserved{First: first}
	}
	return nil
}

// damage says that the index has lost a part of a catalog.
func damage(catalog, what string) error {
	return fmt.Errorf("index of catalog %q: %s: %w; rebuild it from the bucket", catalog, what, engine.ErrDamaged)
}
