package redis

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/jsonlake/lake/pkg/engine"
)

// Commit makes runs visible. The script commits the runs of a catalog in one piece or not at
// all. When they are not all open and next in turn (after a sweeper's or an earlier partial
// commit), it answers the plan, the answers are worked out here, and what can go now is asked
// for once more.
func (x *Index) Commit(ctx context.Context, c engine.Commit) ([]engine.Committed, error) {
	for _, r := range c.Runs {
		if r.N < 1 || !r.First.Valid() || r.Off < 0 || r.Len < 0 || len(r.ID) > engine.MaxID {
			return nil, fmt.Errorf("%w: commit a run of %d deltas of %q from %s at %d+%d", engine.ErrInvalid, r.N, r.Catalog, r.First, r.Off, r.Len)
		}
	}
	g, err := group(len(c.Runs), func(i int) string { return c.Runs[i].Catalog })
	if err != nil {
		return nil, err
	}
	answers := make([]engine.Committed, len(c.Runs))
	var shards []*shardGroup
	for _, s := range g.shards {
		if err := s.tooMany(); err != nil {
			s.failCommit(err, answers)
			continue
		}
		shards = append(shards, s)
	}
	again := x.commit(ctx, c, shards, answers)
	if len(again) > 0 {
		// Only runs that were open and next in turn: these are decided now, or wait
		// for another segment. Were they decided by somebody else in between, the
		// plan tells.
		for _, s := range x.commit(ctx, c, again, answers) {
			s.failCommit(fmt.Errorf("commit %s in shard %x: %w: the plan changed twice; ask again", c.Segment, s.shard, engine.ErrUnavailable), answers)
		}
	}
	return answers, nil
}

func (s *shardGroup) failCommit(err error, answers []engine.Committed) {
	for _, i := range s.runs {
		answers[i] = engine.Committed{Err: err}
	}
}

// commit asks the shards once. It gives what is to be asked again.
func (x *Index) commit(ctx context.Context, c engine.Commit, shards []*shardGroup, answers []engine.Committed) (again []*shardGroup) {
	segment := c.Segment.String()
	calls := make([]*call, len(shards))
	for i, s := range shards {
		calls[i] = x.commitCall(c, s, segment)
	}
	x.run(ctx, x.work, calls)
	for i, call := range calls {
		s := shards[i]
		switch {
		case call.err != nil:
			s.failCommit(call.err, answers)
		case call.status == "GONE":
			for _, i := range s.runs {
				answers[i] = engine.Committed{State: engine.RunGone}
			}
		case call.status == "OK" && call.text(0) == "":
			for _, i := range s.runs {
				answers[i] = engine.Committed{State: engine.RunCommitted}
			}
		default:
			more, err := s.sort(c, call.text(0), call.text(1), answers)
			if err != nil {
				s.failCommit(fmt.Errorf("commit %s in shard %x: %w: %w", c.Segment, s.shard, engine.ErrDamaged, err), answers)
			} else if more != nil {
				again = append(again, more)
			}
		}
	}
	return again
}

// commitCall lays out the arguments of lua/commit.lua.
func (x *Index) commitCall(c engine.Commit, s *shardGroup, segment string) *call {
	k := &x.keys[s.shard]
	keys := newTexts()
	for _, key := range [...]string{k.heads, k.plan + segment, k.pending, k.refs, k.catalogs, k.outbox} {
		keys.text(key)
	}
	for i := range s.catalogs {
		keys.b = append(keys.b, k.log...)
		keys.text(s.catalogs[i].b64)
	}
	plain := len(s.catalogs) == len(s.runs)
	for i := range s.catalogs {
		cat := &s.catalogs[i]
		for _, r := range cat.runs {
			plain = plain && c.Runs[r].N == 1 && c.Runs[r].ID == ""
			if id := c.Runs[r].ID; id != "" {
				keys.text(k.idOf(cat.b64, id))
			}
		}
	}
	v := newValues()
	v.number(int64(len(keys.ends)))
	v.string(s.names())
	v.number(int64(len(s.catalogs)))
	for j, i := range s.runs {
		v.text = appendPlanLine(v.text, s.catalogs[s.of[j]].b64, &c.Runs[i])
	}
	v.add()
	if !s.contiguous() {
		for i := range s.catalogs {
			for _, r := range s.catalogs[i].runs {
				v.text = appendPlanLine(v.text, s.catalogs[i].b64, &c.Runs[r])
			}
		}
	}
	v.add()
	v.flag(plain)
	for i := range s.catalogs {
		v.string(s.catalogs[i].b64)
	}
	for i := range s.catalogs {
		appendGroup(v, c, &s.catalogs[i], plain, segment)
	}
	return &call{script: x.scripts.Load().commit, shard: s.shard, keys: keys.strings(), args: []any{strconv.FormatUint(c.Epoch, 10), segment}, values: v.argument(), runs: len(s.runs)}
}

// appendGroup lays out the runs of a catalog.
func appendGroup(v *values, c engine.Commit, cat *catalogGroup, plain bool, segment string) {
	var deltas, bytes int64
	ids := 0
	for _, r := range cat.runs {
		deltas += int64(c.Runs[r].N)
		bytes += c.Runs[r].Len
		if c.Runs[r].ID != "" {
			ids++
		}
	}
	if !plain {
		v.number(int64(len(cat.runs)))
		v.number(int64(ids))
		v.number(deltas)
	}
	first, last := &c.Runs[cat.runs[0]], &c.Runs[cat.runs[len(cat.runs)-1]]
	v.number(bytes)
	v.text = appendEvent(v.text, cat.b64, first.First, last.First.Add(last.N-1), deltas, bytes, c.Segment.Writer, last.Author)
	v.add()
	for _, r := range cat.runs {
		run := &c.Runs[r]
		live := engine.Run{First: run.First, Last: run.First.Add(run.N - 1), N: run.N, Type: run.Type, Path: run.Path, Off: run.Off, Len: run.Len}
		v.text = appendRun(v.text, &live, segment)
		v.add()
	}
	for _, r := range cat.runs {
		if run := &c.Runs[r]; run.ID != "" {
			start, end := receipt(run.First, run.N, run.Fingerprint)
			v.string(start)
			v.string(end)
		}
	}
}

// contiguous tells whether the runs of each catalog follow one another.
func (s *shardGroup) contiguous() bool {
	for j := 1; j < len(s.of); j++ {
		if s.of[j] < s.of[j-1] {
			return false
		}
	}
	return true
}

func appendPlanLine(b []byte, b64 string, r *engine.CommitRun) []byte {
	if len(b) > 0 {
		b = append(b, '\n')
	}
	b = append(b, b64...)
	b = append(b, '|')
	b = strconv.AppendInt(b, int64(r.N), 10)
	b = append(b, '|')
	b = appendFixed(b, r.First)
	if r.ID != "" {
		b = append(b, '|')
		b = append(b, url.QueryEscape(r.ID)...)
	}
	return b
}

// appendEvent is the part of an outbox line that does not depend on the index.
func appendEvent(b []byte, b64 string, first, last engine.Version, count, bytes int64, writer, author string) []byte {
	b = append(b, b64...)
	b = append(b, '|')
	b = appendFixed(b, first)
	b = append(b, '|')
	b = appendFixed(b, last)
	b = append(b, '|')
	b = strconv.AppendInt(b, count, 10)
	b = append(b, '|')
	b = strconv.AppendInt(b, bytes, 10)
	b = append(b, '|')
	b = append(b, writer...)
	b = append(b, '|')
	return append(b, url.QueryEscape(author)...)
}

// sort turns the script's answers, a line a catalog, into answers of runs, and
// gives the runs that are to be asked for once more.
func (s *shardGroup) sort(c engine.Commit, text, plan string, answers []engine.Committed) (again *shardGroup, err error) {
	lines := strings.Split(text, "\n")
	if len(lines) != len(s.catalogs) {
		return nil, fmt.Errorf("%d answers for %d catalogs", len(lines), len(s.catalogs))
	}
	states, err := parsePlan(plan)
	if err != nil {
		return nil, err
	}
	for i, line := range lines {
		cat := &s.catalogs[i]
		var older engine.SegmentID
		if line == "" {
			return nil, fmt.Errorf("no answer for catalog %q", cat.name)
		}
		if line[1:] != "" {
			if older, err = engine.ParseSegmentID(line[1:]); err != nil {
				return nil, err
			}
		}
		all := func(a engine.Committed) {
			for _, r := range cat.runs {
				answers[r] = a
			}
		}
		switch line[0] {
		case 'c':
			all(engine.Committed{State: engine.RunCommitted})
		case 'w':
			if older.IsZero() { // planned and open, but its reservation is not in the head
				all(engine.Committed{Err: damage(cat.name, "a planned run is not among its open reservations")})
				continue
			}
			all(engine.Committed{State: engine.RunWaiting, Older: older})
		case 'd':
			all(engine.Committed{Err: damage(cat.name, "its head is lost")})
		case 'm':
			if open := cat.mixed(c, older, states, answers); len(open) > 0 {
				if again == nil {
					again = &shardGroup{shard: s.shard}
				}
				again.catalogs = append(again.catalogs, catalogGroup{name: cat.name, b64: cat.b64, runs: open})
				for _, r := range open {
					again.runs = append(again.runs, r)
					again.of = append(again.of, len(again.catalogs)-1)
				}
			}
		default:
			return nil, fmt.Errorf("answer %q for catalog %q", line, cat.name)
		}
	}
	return again, nil
}

// mixed answers the runs of a catalog of which some are decided or not next in
// turn. It gives those that are the catalog's first open ones in the plan.
func (cat *catalogGroup) mixed(c engine.Commit, older engine.SegmentID, plan []planLine, answers []engine.Committed) (open []int) {
	var mine, turn []planLine
	for _, l := range plan {
		if l.b64 == cat.b64 {
			mine = append(mine, l)
			if l.state == stateOpen {
				turn = append(turn, l)
			}
		}
	}
	next := 0
	taken := map[string]bool{}
	for _, r := range cat.runs {
		first := fixed(c.Runs[r].First)
		answers[r] = engine.Committed{State: engine.RunGone}
		for _, l := range mine {
			switch {
			case l.first != first:
				continue
			case l.state == stateBack:
			case l.n != strconv.Itoa(c.Runs[r].N):
				answers[r] = engine.Committed{Err: fmt.Errorf("%w: segment %s has %s deltas of %q planned at %s, not %d", engine.ErrInvalid, c.Segment, l.n, cat.name, c.Runs[r].First, c.Runs[r].N)}
			case l.state == stateDone:
				answers[r] = engine.Committed{State: engine.RunCommitted}
			case taken[first]:
				answers[r] = engine.Committed{Err: fmt.Errorf("%w: the run of %q at %s is named twice", engine.ErrInvalid, cat.name, c.Runs[r].First)}
			case older.IsZero(): // its head is lost, or its reservation is not in it
				answers[r] = engine.Committed{Err: damage(cat.name, "a planned run is not among its open reservations")}
			case older != c.Segment:
				answers[r] = engine.Committed{State: engine.RunWaiting, Older: older}
			case turn[next].first == first:
				open, taken[first] = append(open, r), true
				next++
			default: // an older run of this segment is undecided
				answers[r] = engine.Committed{State: engine.RunWaiting, Older: c.Segment}
			}
			break
		}
	}
	return open
}

// Rollback decides against undecided runs of a segment, a script a shard.
func (x *Index) Rollback(ctx context.Context, r engine.Rollback) error {
	keep := make([][]string, engine.Shards)
	for _, k := range r.Keep {
		s := engine.Shard(k.Catalog)
		keep[s] = append(keep[s], encodeName(k.Catalog)+"|"+fixed(k.First))
	}
	calls := make([]*call, 0, len(r.Shards))
	for _, s := range r.Shards {
		if err := validShard(s); err != nil {
			return err
		}
		calls = append(calls, x.decideCall(x.scripts.Load().rollback, s, r.Epoch, r.Segment, nil, keep[s]))
	}
	x.run(ctx, x.work, calls)
	// The ids that become free stand in the plan; a script takes keys from its
	// caller only.
	var again []*call
	for i, c := range calls {
		if c.status == "IDS" {
			calls[i] = x.decideCall(c.script, c.shard, r.Epoch, r.Segment, strings.Fields(c.text(0)), keep[c.shard])
			again = append(again, calls[i])
		}
	}
	if len(again) > 0 {
		x.run(ctx, x.work, again)
	}
	return firstError(calls)
}

// decideCall lays out the arguments of lua/rollback.lua and lua/resolve.lua. ids
// are as the plan has them: catalog and escaped id.
func (x *Index) decideCall(sc *script, shard int, epoch uint64, segment engine.SegmentID, ids, runs []string) *call {
	k, name := &x.keys[shard], segment.String()
	c := &call{
		script: sc, shard: shard, keys: []string{k.heads, k.planOf(name), k.pending, k.refs, k.garbage},
		args: []any{strconv.FormatUint(epoch, 10), name, strconv.Itoa(len(ids))},
	}
	for _, id := range ids {
		b64, escaped, _ := strings.Cut(id, "|")
		raw, err := url.QueryUnescape(escaped)
		if err != nil {
			raw = escaped // not of our making: no key has this name
		}
		c.keys = append(c.keys, k.idOf(b64, raw))
		c.args = append(c.args, id)
	}
	for _, run := range runs {
		c.args = append(c.args, run)
	}
	return c
}

// firstError prefers ErrEpoch: it tells more than a timeout beside it.
func firstError(calls []*call) (err error) {
	for _, c := range calls {
		if c.err != nil && (err == nil || c.status == "EPOCH") {
			err = c.err
		}
	}
	return err
}

func validShard(s int) error {
	if s < 0 || s >= engine.Shards {
		return fmt.Errorf("%w: shard %d: there are shards 0 to %d", engine.ErrInvalid, s, engine.Shards-1)
	}
	return nil
}
