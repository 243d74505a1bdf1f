package merge

import (
	"bytes"
	"unicode/utf8"
)

// machine applies deltas to one overlay tree. Replace, merge patch and delete
// are blind writes: they note what they touched and never read the base. Only
// JSON Patches read (see apply.go).
type machine struct {
	root     value
	lim      Limits
	outcomes []Outcome
	corrupt  bool

	// The path of the last delta, taken apart: runs of deltas share it.
	path string
	segs [][]byte

	// Emission.
	out    []byte
	outMax int // stop when out is longer; 0: no limit
	stamp  uint32

	// One JSON Patch.
	parser  parser
	log     []change
	missed  value // the scope's value while the document has no scope
	scope   place
	copied  int64
	pending bool   // what is being moved is pending
	scratch []byte // for snapshots

	patching bool
	dropped  []*container // what the patch has removed so far, and is pending
}

// applyDelta applies delta i and sets its outcome. A no-op leaves the
// document as it was.
func (m *machine) applyDelta(i int, d *Delta) {
	m.copied = 0
	m.log = m.log[:0]
	reason, op := m.run(int32(i), d)
	o := &m.outcomes[i]
	if reason != ReasonNone {
		*o = Outcome{Status: Noop, Reason: reason, Op: op}
		return
	}
	o.Status, o.Op = Applied, -1
}

func (m *machine) run(i int32, d *Delta) (Reason, int) {
	if r := m.setPath(d.Path); r != ReasonNone {
		return r, -1
	}
	if d.Type != Delete {
		if !d.Type.Valid() {
			return InvalidJSON, -1
		}
		if r := bodyFault(d.Body, m.lim.MaxDepth); r != ReasonNone {
			return r, -1
		}
	}
	switch d.Type {
	case Delete:
		m.delete()
	case Replace:
		m.replace(i, trim(d.Body))
	case MergePatch:
		if b := trim(d.Body); b[0] == '{' {
			m.mergePatch(i, b)
		} else {
			m.replace(i, b)
		}
	case JSONPatch:
		return m.jsonPatch(d)
	}
	return ReasonNone, -1
}

// trim returns a valid JSON text without the white space around it.
func trim(t []byte) []byte {
	if len(t) > 0 && t[0] > ' ' && t[len(t)-1] > ' ' {
		return t
	}
	return bytes.Trim(t, " \t\r\n")
}

// setPath takes a lake path apart into m.segs.
func (m *machine) setPath(path string) Reason {
	if path == m.path {
		return ReasonNone
	}
	if !utf8.ValidString(path) {
		return InvalidUTF8
	}
	m.path, m.segs = "", m.segs[:0]
	p := []byte(path) // names in the overlay are parts of it
	if len(p) > 0 && p[0] == '/' {
		p = p[1:]
	}
	if len(p) == 0 {
		return ReasonNone
	}
	for {
		if len(m.segs) == maxPathSegments {
			m.segs = m.segs[:0]
			return TooDeep
		}
		j := bytes.IndexByte(p, '/')
		if j < 0 {
			m.segs = append(m.segs, p)
			m.path = path
			return ReasonNone
		}
		m.segs = append(m.segs, p[:j:j])
		p = p[j+1:]
	}
}

// rootObject makes the root an object for delta i.
func (m *machine) rootObject(i int32) *container {
	if c := m.root.c; c != nil && c.arr == nil {
		return c
	}
	if len(m.root.text) > 0 && m.root.text[0] == '{' {
		m.root = value{c: m.openText(m.root.text, true)}
		return m.root.c
	}
	if !m.root.absent() {
		m.outcomes[i].Coerced = true
		m.drop(m.root)
	}
	m.root = value{c: newObject()}
	return m.root.c
}

// drop is called for a value that is about to leave the document: deltas that
// coerced something inside it must be found now.
func (m *machine) drop(v value) {
	if v.c == nil || !v.c.pending {
		return
	}
	if m.patching {
		// The patch may fail and put it back: a value is read for this only
		// when it is gone for good, so that no text is read twice.
		m.dropped = append(m.dropped, v.c)
		return
	}
	m.stamp++
	m.discard(v.c)
}

// child returns the member as an object for delta i, making it one if it is
// none.
func (m *machine) child(c *container, name, raw []byte, i int32) *container {
	c.pending = true
	k := c.slot(name)
	if k < 0 {
		o := &container{unresolved: c.hasBase(), creator: i}
		c.append(entry{name: name, raw: raw, val: value{c: o}})
		return o
	}
	e := &c.entries[k]
	if e.state == tomb {
		o := newObject()
		e.state = dead
		c.append(entry{name: name, raw: raw, val: value{c: o}, detached: true, shadow: e.shadow})
		return o
	}
	if o := e.val.c; o != nil && o.arr == nil {
		if o.unresolved && o.creator < 0 {
			// Deletes came by, which create nothing: if the base has no such
			// member, it comes into being here and now.
			o.creator = i
			e.state = dead
			n := *e
			n.state, n.name, n.raw = live, name, raw
			c.append(n)
		}
		return o
	}
	if o := e.val.c; o == nil && e.val.text[0] == '{' {
		e.val, e.inPlace = value{c: m.openText(e.val.text, true)}, false
		return e.val.c
	}
	m.outcomes[i].Coerced = true
	m.drop(e.val)
	o := newObject()
	e.val, e.inPlace = value{c: o}, false
	return o
}

// set makes v the value of the member.
func (m *machine) set(c *container, name, raw []byte, v value) {
	k := c.slot(name)
	if k < 0 {
		c.append(entry{name: name, raw: raw, val: v})
		return
	}
	e := &c.entries[k]
	if e.state == tomb {
		e.state = dead
		c.append(entry{name: name, raw: raw, val: v, detached: true, shadow: e.shadow})
		return
	}
	if o := e.val.c; o != nil {
		if o.unresolved && o.creator < 0 { // as in child
			e.state = dead
			c.append(entry{name: name, raw: raw, val: v})
			return
		}
		m.retire(e)
	}
	e.val, e.inPlace = v, false
}

// retire is drop for the value of an entry: an unresolved object is kept
// aside until its place in the base is met.
func (m *machine) retire(e *entry) {
	if o := e.val.c; o != nil && o.unresolved {
		e.shadow = o
	} else {
		m.drop(e.val)
	}
}

// del removes the member, if there is one.
func (m *machine) del(c *container, name, raw []byte) {
	k := c.slot(name)
	if k < 0 {
		if c.hasBase() {
			c.append(entry{name: name, raw: raw, state: tomb})
		}
		return
	}
	e := &c.entries[k]
	if e.state == live {
		m.retire(e)
		e.val, e.inPlace, e.state = value{}, false, tomb
	}
}

func (m *machine) replace(i int32, v []byte) {
	n := len(m.segs) - 1
	if n < 0 {
		m.drop(m.root)
		m.root = value{text: v}
		return
	}
	c := m.rootObject(i)
	for _, s := range m.segs[:n] {
		c = m.child(c, s, nil, i)
	}
	m.set(c, m.segs[n], nil, value{text: v})
}

func (m *machine) delete() {
	n := len(m.segs) - 1
	if n < 0 {
		m.drop(m.root)
		m.root = value{}
		return
	}
	c := m.root.c
	if c == nil {
		if len(m.root.text) == 0 || m.root.text[0] != '{' {
			return
		}
		c = m.rootObject(-1)
	}
	if c.arr != nil {
		return
	}
	for _, s := range m.segs[:n] {
		if c = m.childForDelete(c, s); c == nil {
			return
		}
	}
	m.del(c, m.segs[n], nil)
}

// childForDelete returns the member as an object, or nil if it is none; it
// creates nothing.
func (m *machine) childForDelete(c *container, name []byte) *container {
	k := c.slot(name)
	if k < 0 {
		if !c.hasBase() {
			return nil
		}
		o := &container{unresolved: true, creator: -1}
		c.append(entry{name: name, val: value{c: o}})
		return o
	}
	e := &c.entries[k]
	switch {
	case e.state == tomb:
		return nil
	case e.val.c != nil:
		if e.val.c.arr != nil {
			return nil
		}
		return e.val.c
	case e.val.text[0] == '{':
		e.val, e.inPlace = value{c: m.openText(e.val.text, true)}, false
		return e.val.c
	}
	return nil
}

// mergePatch applies an RFC 7396 patch that is an object.
func (m *machine) mergePatch(i int32, p []byte) {
	c := m.rootObject(i)
	for _, s := range m.segs {
		c = m.child(c, s, nil, i)
	}
	m.mergeInto(c, p, 0, i)
}

// mergeInto applies the patch object at p[at] and returns the index behind it.
func (m *machine) mergeInto(c *container, p []byte, at int, i int32) int {
	ms := members{t: p, pos: at + 1, first: true}
	for ms.next() {
		raw := ms.rawName
		name := unquote(raw)
		switch p[ms.pos] {
		case 'n':
			m.del(c, name, raw)
			ms.pos += len(nullText)
		case '{':
			ms.pos = m.mergeInto(m.child(c, name, raw, i), p, ms.pos, i)
		default:
			m.set(c, name, raw, value{text: ms.skip()})
		}
	}
	return ms.pos
}
