package merge

import (
	"bytes"
	"fmt"
	"strconv"
)

// Diff returns a body of kind t, MergePatch or JSONPatch, that leads from
// document a to document b: merging it into a at "/" (under the default
// limits but for the size of the document) gives exactly the bytes of b. nil
// stands for an absent document. Every result was merged before it is
// returned.
//
// A JSON Patch can express any b that is present and within the depth limit;
// at worst it replaces the whole. A merge patch cannot set a member to null,
// and cannot change the order or the spelling of names. Where no patch of the
// kind does it, the error is ErrNotExpressible: use the other kind, or a
// Delete where b is absent. A document that is not JSON is ErrCorruptBase.
func Diff(a, b []byte, t Type) ([]byte, error) {
	if t != MergePatch && t != JSONPatch {
		return nil, fmt.Errorf("diff: no patches of type %s: use merge-patch or json-patch", t)
	}
	for _, doc := range [][]byte{a, b} {
		if doc == nil {
			continue
		}
		if i, f := validate(doc, skipSpace(doc, 0), 2*hardMaxDepth+maxPathSegments); f != faultNone || skipSpace(doc, i) != len(doc) {
			return nil, fmt.Errorf("diff: %w", ErrCorruptBase)
		}
	}
	if b == nil {
		if a == nil && t == JSONPatch {
			return []byte("[]"), nil
		}
		return nil, fmt.Errorf("diff: %w: the new one is absent", ErrNotExpressible)
	}
	if t == MergePatch {
		var p []byte
		if ta, tb := trim(a), trim(b); a != nil && ta[0] == '{' && tb[0] == '{' {
			p = appendMergePatch(nil, ta, tb)
		} else {
			p = bytes.Clone(tb)
		}
		if leadsTo(a, b, t, p) {
			return p, nil
		}
		return nil, fmt.Errorf("diff: %w as a merge patch: use a JSON Patch", ErrNotExpressible)
	}
	if a != nil {
		d := differ{out: []byte{'['}}
		d.value(trim(a), trim(b))
		if p := append(d.out, ']'); leadsTo(a, b, t, p) {
			return p, nil
		}
	}
	p := append(append([]byte(`[{"op":"add","path":"","value":`), trim(b)...), "}]"...)
	if leadsTo(a, b, t, p) {
		return p, nil
	}
	return nil, fmt.Errorf("diff: %w: it is nested too deep, or has white space around it", ErrNotExpressible)
}

// leadsTo merges a patch to see whether it does what it should.
func leadsTo(a, b []byte, t Type, patch []byte) bool {
	got, _, err := Merge(a, []Delta{{Type: t, Path: "/", Body: patch}}, Limits{MaxDocument: hardMaxDocument})
	return err == nil && got != nil && bytes.Equal(got, b)
}

// diffMember is a member of one of the two documents.
type diffMember struct{ raw, name, val []byte }

func diffMembers(t []byte) (list []diffMember, index map[string]int) {
	ms := membersOf(t)
	for ms.next() {
		m := diffMember{raw: ms.rawName, name: unquote(ms.rawName)}
		m.val = ms.skip()
		list = append(list, m)
	}
	index = make(map[string]int, len(list))
	for i := range list {
		index[string(list[i].name)] = i
	}
	return list, index
}

// appendMergePatch appends the merge patch from object a to object b, as far
// as one can say it.
func appendMergePatch(out, a, b []byte) []byte {
	as, ai := diffMembers(a)
	bs, bi := diffMembers(b)
	out = append(out, '{')
	first := true
	member := func(raw []byte) {
		if !first {
			out = append(out, ',')
		}
		first = false
		out = append(append(out, raw...), ':')
	}
	for _, m := range as {
		if _, ok := bi[string(m.name)]; !ok {
			member(m.raw)
			out = append(out, nullText...)
		}
	}
	for _, m := range bs {
		i, ok := ai[string(m.name)]
		switch {
		case ok && bytes.Equal(as[i].val, m.val):
		case ok && as[i].val[0] == '{' && m.val[0] == '{':
			member(m.raw)
			out = appendMergePatch(out, as[i].val, m.val)
		default:
			member(m.raw)
			out = append(out, m.val...)
		}
	}
	return append(out, '}')
}

// differ writes the operations of a JSON Patch.
type differ struct {
	out  []byte // "[" and operations
	path []byte // JSON Pointer to where it is, as it stands in a JSON string
}

func (d *differ) op(name string, value []byte) {
	if len(d.out) > 1 {
		d.out = append(d.out, ',')
	}
	d.out = append(d.out, `{"op":"`...)
	d.out = append(d.out, name...)
	d.out = append(d.out, `","path":"`...)
	d.out = append(d.out, d.path...)
	d.out = append(d.out, '"')
	if value != nil {
		d.out = append(d.out, `,"value":`...)
		d.out = append(d.out, value...)
	}
	d.out = append(d.out, '}')
}

// at runs f with the pointer one token longer.
func (d *differ) at(token []byte, f func()) {
	n := len(d.path)
	d.path = append(d.path, '/')
	q := quote(appendToken(nil, token))
	d.path = append(d.path, q[1:len(q)-1]...)
	f()
	d.path = d.path[:n]
}

func (d *differ) atIndex(i int, f func()) { d.at(strconv.AppendInt(nil, int64(i), 10), f) }

// value writes what turns a into b at the pointer: operations inside, or a
// replacement where that is shorter.
func (d *differ) value(a, b []byte) {
	if bytes.Equal(a, b) {
		return
	}
	mark := len(d.out)
	inside := false
	switch {
	case a[0] == '{' && b[0] == '{':
		inside = d.object(a, b)
	case a[0] == '[' && b[0] == '[':
		d.array(a, b)
		inside = true
	}
	if !inside || len(d.out)-mark > len(`,{"op":"replace","path":"","value":}`)+len(d.path)+len(b) {
		d.out = d.out[:mark]
		d.op("replace", b)
	}
}

// object writes the changes of members. It is false if a name of b is spelled
// as no patch would spell it.
func (d *differ) object(a, b []byte) bool {
	as, ai := diffMembers(a)
	bs, _ := diffMembers(b)
	// Members of a that stay come first in the result, in their order; so
	// only the first members of b, while they are in that order, can stay.
	kept, last := 0, -1
	keep := make([]bool, len(as))
	for _, m := range bs {
		i, ok := ai[string(m.name)]
		if !ok || i <= last || !bytes.Equal(as[i].raw, m.raw) {
			break
		}
		keep[i], last = true, i
		kept++
	}
	for _, m := range bs[kept:] {
		if !bytes.Equal(m.raw, quote(m.name)) {
			return false
		}
	}
	for i, m := range as {
		if !keep[i] {
			d.at(m.name, func() { d.op("remove", nil) })
		}
	}
	for _, m := range bs[:kept] {
		if old := as[ai[string(m.name)]].val; !bytes.Equal(old, m.val) {
			d.at(m.name, func() { d.value(old, m.val) })
		}
	}
	for _, m := range bs[kept:] {
		d.at(m.name, func() { d.op("add", m.val) })
	}
	return true
}

func (d *differ) array(a, b []byte) {
	as, bs := diffElements(a), diffElements(b)
	head := 0
	for head < len(as) && head < len(bs) && bytes.Equal(as[head], bs[head]) {
		head++
	}
	as, bs = as[head:], bs[head:]
	for len(as) > 0 && len(bs) > 0 && bytes.Equal(as[len(as)-1], bs[len(bs)-1]) {
		as, bs = as[:len(as)-1], bs[:len(bs)-1]
	}
	both := min(len(as), len(bs))
	for i := range both {
		if !bytes.Equal(as[i], bs[i]) {
			d.atIndex(head+i, func() { d.value(as[i], bs[i]) })
		}
	}
	for range as[both:] {
		d.atIndex(head+both, func() { d.op("remove", nil) })
	}
	for i, v := range bs[both:] {
		d.atIndex(head+both+i, func() { d.op("add", v) })
	}
}

func diffElements(t []byte) (list [][]byte) {
	es := elementsOf(t)
	for es.next() {
		list = append(list, es.skip())
	}
	return list
}
