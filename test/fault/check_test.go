package fault

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/jsonlake/lake/pkg/engine"
)

// checkTimeout is how long porcupine may think about one history. More is a
// failure.
const checkTimeout = 60 * time.Second

// verdict is what became of a history.
type verdict struct {
	operations, acked, unknown, refused, conflicts int
	unknownCommitted                               int // of the unknown writes
	lost, duplicated, reordered                    int
	porcupine                                      porcupine.CheckResult
	wrong                                          []string // everything that is not as promised, in words
}

func (v *verdict) violate(format string, args ...any) {
	if v.wrong = append(v.wrong, fmt.Sprintf(format, args...)); len(v.wrong) > 20 {
		v.wrong = v.wrong[:20]
	}
}

// final is what is read of a catalog when all is healed and decided.
type final struct {
	version engine.Version
	doc     document
	list    []string
	log     []engine.LogEntry // all of it
}

// check holds what clients saw of a catalog against its final log, in four ways:
// every acknowledged write stands in it once and in real time's order, and none
// that was refused; every acknowledged append stands so in the document's list
// (the append register); what was read at a version is what a replay gives; and
// porcupine finds an order of all operations that a register with versions
// explains.
//
// The log tells at which version an unknown write was committed, or that it never
// was. That demands more than leaving its effect open altogether; when it took
// effect stays open to the end of the history.
func check(ops []op, f final) *verdict {
	v := &verdict{}
	byValue := map[string]*op{}
	for i := range ops {
		o := &ops[i]
		switch o.state {
		case acked:
			v.acked++
		case conflict:
			v.conflicts++
		case unknown:
			v.unknown++
		case refused:
			v.refused++
		}
		if o.kind < opRead {
			byValue[o.value] = o
		}
	}
	v.operations = v.acked + v.conflicts + v.unknown

	var authors []string
	at := map[string]engine.LogEntry{}
	var last engine.Version
	for _, e := range f.log {
		o := byValue[e.Author]
		switch {
		case o == nil:
			v.violate("log at %s: nobody wrote %q", e.Version, e.Author)
			continue
		case o.state == refused || o.state == conflict:
			v.violate("log at %s: %s was answered \"nothing was stored\"", e.Version, o.value)
		case o.state == acked && o.version != e.Version:
			v.violate("log at %s: %s was acknowledged at %s", e.Version, o.value, o.version)
		case string(e.Body) != string(o.request("").Body):
			v.violate("log at %s: body of %s is %s", e.Version, o.value, e.Body)
		}
		if e.Prev != last || !last.Less(e.Version) {
			v.violate("log at %s: prev is %s, the entry before is %s", e.Version, e.Prev, last)
		}
		last = e.Version
		authors = append(authors, e.Author)
		at[e.Author] = e
	}
	v.order("log", authors, byValue, func(*op) bool { return true })
	v.order("list", f.list, byValue, func(o *op) bool { return o.kind == opAppend })
	for _, o := range byValue {
		if _, there := at[o.value]; there && o.state == unknown {
			v.unknownCommitted++
		}
	}
	v.replay(ops, f, byValue)
	v.linearizable(ops, at)
	return v
}

// order counts what of the acknowledged writes is not in values, what is there
// twice, and what stands after a write that was sent later than it was answered.
func (v *verdict) order(where string, values []string, byValue map[string]*op, counts func(*op) bool) {
	seen := map[string]int{}
	var latest time.Duration // when the latest of the writes so far was sent
	var which string
	for _, value := range values {
		seen[value]++
		if seen[value] > 1 {
			v.duplicated++
			v.violate("%s: %s is there %d times", where, value, seen[value])
		}
		o := byValue[value]
		if o == nil {
			continue // said of the log
		}
		if o.state == acked && o.ret < latest {
			v.reordered++
			v.violate("%s: %s was answered at %v and stands after %s, which was sent at %v", where, value, o.ret, which, latest)
		}
		if o.call > latest {
			latest, which = o.call, value
		}
	}
	for value, o := range byValue {
		if o.state == acked && seen[value] == 0 && counts(o) {
			v.lost++
			v.violate("%s: %s, acknowledged at %s, is lost", where, value, o.version)
		}
	}
}

// replay makes the documents of the log and holds every read against them.
func (v *verdict) replay(ops []op, f final, byValue map[string]*op) {
	docs := map[engine.Version]document{}
	index := map[engine.Version]int{}
	var d document
	for i, e := range f.log {
		if o := byValue[e.Author]; o != nil {
			d = apply(d, o)
		}
		docs[e.Version], index[e.Version] = d, i
	}
	if n := len(f.log); n > 0 && (f.version != f.log[n-1].Version || f.doc != d) {
		v.violate("the last document, at %s, is %+v; the log ends at %s and gives %+v", f.version, f.doc, f.log[n-1].Version, d)
	}
	for i := range ops {
		o := &ops[i]
		if o.state != acked {
			continue
		}
		switch o.kind {
		case opRead:
			if want, there := docs[o.version]; !there || o.seen != want {
				v.violate("read at %s (%v to %v): got %+v, want %+v", o.version, o.call, o.ret, o.seen, want)
			}
		case opLog:
			for k, e := range o.page {
				i, there := index[e.Version]
				if !there || f.log[i].Author != e.Author || f.log[i].Prev != e.Prev || k > 0 && o.page[k-1].Version != e.Prev {
					v.violate("log page at %v: its entry %s of %s is not the history's", o.call, e.Version, e.Author)
				}
			}
		}
	}
}

func apply(d document, o *op) document {
	switch o.kind {
	case opInit:
		return document{}
	case opReplace, opSwap:
		d.reg = o.value
	case opAppend:
		return d.appended(o.value)
	case opKey:
		d.keys++
	}
	return d
}

// register is the state of the model: what a catalog holds, at which version.
type register struct {
	version engine.Version
	doc     document
}

// answer is what an operation was told, or, of an unknown one, what the final
// log tells.
type answer struct {
	version engine.Version
	prev    engine.Version // of a write in the final log: the version before
	logged  bool           // prev is known
	doc     document       // of a read
	state   state
}

// model is a register with versions, compare-and-set and appends.
var model = porcupine.Model{
	Init: func() any { return register{} },
	Step: func(s, in, out any) (bool, any) {
		r, o, a := s.(register), in.(*op), out.(answer)
		switch {
		case o.kind == opRead:
			return a.version == r.version && a.doc == r.doc, r
		case a.state == conflict:
			return a.version == r.version && o.ifVersion != r.version, r
		case o.kind == opSwap && o.ifVersion != r.version:
			return false, r
		// A write that leaves another one out would be found only where that one must
		// have taken effect: if it is open, at the very end, after every other order
		// was tried.
		case a.logged && a.prev != r.version || !r.version.Less(a.version):
			return false, r
		}
		return true, register{a.version, apply(r.doc, o)}
	},
	DescribeOperation: func(in, out any) string {
		o, a := in.(*op), out.(answer)
		return fmt.Sprintf("%d %s if %s → %d %s", o.kind, o.value, o.ifVersion, a.state, a.version)
	},
}

// linearizable asks porcupine.
func (v *verdict) linearizable(ops []op, at map[string]engine.LogEntry) {
	var all []porcupine.Operation
	var end time.Duration
	for i := range ops {
		end = max(end, ops[i].ret)
	}
	for i := range ops {
		o := &ops[i]
		if o.state == refused || o.kind == opLog {
			continue
		}
		e, there := at[o.value]
		there = there && o.kind < opRead
		p := porcupine.Operation{Input: o, Call: int64(o.call), Return: int64(o.ret), Output: answer{o.version, e.Prev, there, o.seen, o.state}}
		if o.state == unknown {
			if !there {
				continue // it may take its place, without effect, after everything
			}
			p.Return, p.Output = int64(end)+1, answer{version: e.Version, prev: e.Prev, logged: true, state: unknown}
		}
		all = append(all, p)
	}
	if v.porcupine = porcupine.CheckOperationsTimeout(model, all, checkTimeout); v.porcupine != porcupine.Ok {
		v.violate("porcupine says %q of %d operations", v.porcupine, len(all))
	}
}

func (v *verdict) String() string {
	s := fmt.Sprintf("%d operations: %d acknowledged, %d conflicts, %d unknown (%d of them committed); %d refused; lost %d, duplicated %d, reordered %d; porcupine: %s",
		v.operations, v.acked, v.conflicts, v.unknown, v.unknownCommitted, v.refused, v.lost, v.duplicated, v.reordered, v.porcupine)
	return strings.Join(append([]string{s}, v.wrong...), "\n  ")
}

// sameLog tells whether after begins with before: a log only grows at its end.
func sameLog(before, after []engine.LogEntry) bool {
	return len(after) >= len(before) && slices.EqualFunc(before, after[:len(before)], func(a, b engine.LogEntry) bool {
		return a.Version == b.Version && a.Prev == b.Prev && a.Author == b.Author && a.ID == b.ID && string(a.Body) == string(b.Body) && a.Outcome == b.Outcome
	})
}
