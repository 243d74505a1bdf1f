package merge

import (
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf8"
)

// An eager model of the merge engine: every document is parsed into an
// ordered tree, every delta is applied at once, every patch works on a copy
// of the tree. Slow, and obviously right.

type mop struct {
	op         string
	path, from []string // tokens as code units
	value      *mval
}

func mtokens(raw json.RawMessage) ([]string, bool) {
	if len(raw) == 0 || raw[0] != '"' {
		return nil, false
	}
	u := munits(string(raw))
	if u == "" {
		return []string{}, true
	}
	if u[:2] != "\x00/" { // RFC 6901: a pointer is empty or begins with "/"
		return nil, false
	}
	parts := []string{}
	for i := 0; i < len(u); i += 2 {
		switch u[i : i+2] {
		case "\x00/":
			parts = append(parts, "")
			continue
		case "\x00~":
			if i+4 > len(u) {
				return nil, false
			}
			i += 2
			switch u[i : i+2] {
			case "\x000":
				parts[len(parts)-1] += "\x00~"
			case "\x001":
				parts[len(parts)-1] += "\x00/"
			default:
				return nil, false
			}
			continue
		}
		parts[len(parts)-1] += u[i : i+2]
	}
	return parts, true
}

// mops parses the operations; the int is the first bad one, −1 if none, −2
// if the body is no array.
func mops(body []byte) ([]mop, int) {
	var raws []json.RawMessage
	if json.Unmarshal(body, &raws) != nil || string(body) == "null" {
		return nil, -2
	}
	var ops []mop
	for i, r := range raws {
		var m map[string]json.RawMessage
		if json.Unmarshal(r, &m) != nil || m == nil {
			return nil, i
		}
		var o mop
		var ok bool
		if json.Unmarshal(m["op"], &o.op) != nil {
			return nil, i
		}
		if o.path, ok = mtokens(m["path"]); !ok {
			return nil, i
		}
		switch o.op {
		case "add", "replace", "test":
			v, ok := m["value"]
			if !ok {
				return nil, i
			}
			o.value = mparse(v)
		case "move", "copy":
			if o.from, ok = mtokens(m["from"]); !ok {
				return nil, i
			}
		case "remove":
		default:
			return nil, i
		}
		ops = append(ops, o)
	}
	return ops, -1
}

type mmodel struct {
	root *mval
	lim  Limits
}

func msegments(path string) []string {
	var segs []string
	if path = strings.TrimPrefix(path, "/"); path != "" {
		for _, s := range strings.Split(path, "/") {
			segs = append(segs, mname(s))
		}
	}
	return segs
}

// objectAt coerces *v to an object and says whether that lost something.
func objectAt(v **mval) bool {
	if (*v).isObj() {
		return false
	}
	lost := *v != nil
	*v = &mval{obj: true}
	return lost
}

// child makes sure that the member is an object and returns it.
func (v *mval) child(name, raw string) (**mval, bool) {
	i := v.find(name)
	if i < 0 {
		v.mem = append(v.mem, mmem{name, raw, &mval{obj: true}})
		return &v.mem[len(v.mem)-1].v, false
	}
	lost := objectAt(&v.mem[i].v)
	return &v.mem[i].v, lost
}

func (v *mval) set(name, raw string, x *mval) {
	if i := v.find(name); i >= 0 {
		v.mem[i].v = x
		return
	}
	v.mem = append(v.mem, mmem{name, raw, x})
}

func (v *mval) del(name string) {
	if i := v.find(name); i >= 0 {
		v.mem = append(v.mem[:i:i], v.mem[i+1:]...)
	}
}

func (v *mval) patch7396(p *mval) (lost bool) {
	for _, m := range p.mem {
		switch {
		case m.v.text == "null":
			v.del(m.name)
		case m.v.isObj():
			c, l := v.child(m.name, m.raw)
			l2 := (*c).patch7396(m.v)
			lost = lost || l || l2
		default:
			v.set(m.name, m.raw, m.v.clone())
		}
	}
	return lost
}

func (d *mmodel) apply(x Delta) Outcome {
	o := Outcome{Status: Applied, Op: -1}
	noop := func(r Reason, op int) Outcome { return Outcome{Status: Noop, Reason: r, Op: op} }
	segs := msegments(x.Path)
	if !utf8.ValidString(x.Path) {
		return noop(InvalidUTF8, -1)
	}
	if len(segs) > maxPathSegments {
		return noop(TooDeep, -1)
	}
	if !x.Type.Valid() {
		return noop(InvalidJSON, -1)
	}
	if x.Type != Delete {
		if r := bodyFault(x.Body, d.lim.MaxDepth); r != ReasonNone {
			return noop(r, -1)
		}
	}
	switch x.Type {
	case Delete:
		if len(segs) == 0 {
			d.root = nil
			return o
		}
		v := d.root
		for _, s := range segs[:len(segs)-1] {
			if !v.isObj() || v.find(s) < 0 {
				return o
			}
			v = v.mem[v.find(s)].v
		}
		if v.isObj() {
			v.del(segs[len(segs)-1])
		}
	case Replace, MergePatch:
		b := mparse(x.Body)
		slot := &d.root
		for i, s := range segs {
			o.Coerced = objectAt(slot) || o.Coerced
			if i == len(segs)-1 && !(x.Type == MergePatch && b.isObj()) {
				(*slot).set(s, mquote(s), b)
				return o
			}
			c, lost := (*slot).child(s, mquote(s))
			o.Coerced = o.Coerced || lost
			slot = c
		}
		if x.Type == Replace || !b.isObj() {
			*slot = b
			return o
		}
		o.Coerced = objectAt(slot) || o.Coerced
		o.Coerced = (*slot).patch7396(b) || o.Coerced
	case JSONPatch:
		ops, bad := mops(x.Body)
		if bad == -2 {
			return noop(InvalidJSON, -1)
		}
		if bad >= 0 && bad < d.lim.MaxOps {
			return noop(InvalidJSON, bad)
		}
		if bad >= 0 || len(ops) > d.lim.MaxOps {
			return noop(TooLarge, -1)
		}
		// A patch at a path is a patch at the root with longer pointers,
		// except that the way there leads through objects only.
		v := d.root
		for _, s := range segs {
			if v == nil {
				break
			}
			if !v.isObj() {
				return noop(ScopeNotObject, -1)
			}
			i := v.find(s)
			if i < 0 {
				v = nil
				break
			}
			v = v.mem[i].v
		}
		keep := d.root.clone()
		var copied int64
		for i, p := range ops {
			if r := d.op(segs, p, x.Strict, &copied); r != ReasonNone {
				d.root = keep
				return noop(r, i)
			}
		}
	}
	return o
}

func mindex(tok string, n int) int {
	var s string
	for i := 0; i < len(tok); i += 2 {
		if tok[i] != 0 {
			return -1
		}
		s += tok[i+1 : i+2]
	}
	x, err := strconv.Atoi(s)
	if err != nil || strconv.Itoa(x) != s || x < 0 || x > n {
		return -1
	}
	return x
}

const mdash = "\x00-"

// get finds the value at the tokens.
func (d *mmodel) get(toks []string) (*mval, Reason) {
	v := d.root
	if v == nil {
		return nil, PathMissing
	}
	for _, t := range toks {
		switch {
		case v.isObj():
			i := v.find(t)
			if i < 0 {
				return nil, PathMissing
			}
			v = v.mem[i].v
		case v.isArr():
			i := mindex(t, len(v.el)-1)
			if i < 0 {
				return nil, BadIndex
			}
			v = v.el[i]
		default:
			return nil, PathMissing
		}
	}
	return v, ReasonNone
}

func (d *mmodel) add(toks []string, v *mval, strict bool) Reason {
	if len(toks) == 0 {
		d.root = v
		return ReasonNone
	}
	made := func(next string) *mval { return &mval{obj: next != mdash} }
	if d.root == nil {
		if strict {
			return PathMissing
		}
		d.root = made(toks[0])
	}
	p := d.root
	for i, t := range toks[:len(toks)-1] {
		switch {
		case p.isObj():
			j := p.find(t)
			if j < 0 {
				if strict {
					return PathMissing
				}
				p.mem = append(p.mem, mmem{t, mquote(t), made(toks[i+1])})
				j = len(p.mem) - 1
			}
			p = p.mem[j].v
		case p.isArr():
			j := mindex(t, len(p.el)-1)
			if j < 0 {
				return BadIndex
			}
			p = p.el[j]
		default:
			return PathMissing
		}
	}
	t := toks[len(toks)-1]
	switch {
	case p.isObj():
		p.set(t, mquote(t), v)
	case p.isArr():
		j := len(p.el)
		if t != mdash {
			if j = mindex(t, len(p.el)); j < 0 {
				return BadIndex
			}
		}
		p.el = append(p.el[:j:j], append([]*mval{v}, p.el[j:]...)...)
	default:
		return PathMissing
	}
	return ReasonNone
}

func (d *mmodel) remove(toks []string) Reason {
	if _, r := d.get(toks); r != ReasonNone {
		return r
	}
	p, _ := d.get(toks[:len(toks)-1])
	t := toks[len(toks)-1]
	if p.isObj() {
		p.del(t)
	} else {
		j := mindex(t, len(p.el)-1)
		p.el = append(p.el[:j:j], p.el[j+1:]...)
	}
	return ReasonNone
}

func (d *mmodel) op(scope []string, p mop, strict bool, copied *int64) Reason {
	path := append(scope[:len(scope):len(scope)], p.path...)
	from := append(scope[:len(scope):len(scope)], p.from...)
	switch p.op {
	case "test":
		v, r := d.get(path)
		if r != ReasonNone {
			return r
		}
		if !mequal(v, p.value) {
			return TestFailed
		}
	case "remove":
		if len(p.path) == 0 {
			return RootOperation
		}
		return d.remove(path)
	case "add":
		if len(p.path)+p.value.depth() > d.lim.MaxDepth {
			return TooDeep
		}
		return d.add(path, p.value, strict)
	case "replace":
		if len(p.path)+p.value.depth() > d.lim.MaxDepth {
			return TooDeep
		}
		v, r := d.get(path)
		if r != ReasonNone {
			return r
		}
		*v = *p.value
	case "move":
		if len(p.from) == 0 {
			return RootOperation
		}
		n := len(p.from)
		same := n <= len(p.path)
		for i := 0; same && i < n; i++ {
			same = p.from[i] == p.path[i]
		}
		if same && n < len(p.path) {
			return MoveIntoChild
		}
		v, r := d.get(from)
		if r != ReasonNone || same {
			return r
		}
		if len(p.path) > n {
			if r := d.charge(v, len(p.path), copied); r != ReasonNone {
				return r
			}
		}
		d.remove(from)
		return d.add(path, v, strict)
	case "copy":
		v, r := d.get(from)
		if r != ReasonNone {
			return r
		}
		if r := d.charge(v, len(p.path), copied); r != ReasonNone {
			return r
		}
		return d.add(path, v.clone(), strict)
	}
	return ReasonNone
}

// charge accounts for a copied value.
func (d *mmodel) charge(v *mval, at int, copied *int64) Reason {
	if *copied += int64(len(v.String())); *copied > d.lim.MaxCopy {
		return TooLarge
	}
	if at+v.depth() > d.lim.MaxDepth {
		return TooDeep
	}
	return ReasonNone
}

func modelMerge(base []byte, deltas []Delta, lim Limits) ([]byte, []Outcome) {
	d := &mmodel{lim: lim.withDefaults()}
	if base != nil {
		d.root = mparse(base)
	}
	out := make([]Outcome, 0, len(deltas))
	for _, x := range deltas {
		before := d.root.clone()
		o := d.apply(x)
		if n := len(d.root.String()); int64(n) > d.lim.MaxDocument && n > len(before.String()) {
			d.root = before
			o = Outcome{Status: Noop, Reason: TooLarge, Op: -1}
		}
		out = append(out, o)
	}
	if d.root == nil {
		return nil, out
	}
	return []byte(d.root.String()), out
}
