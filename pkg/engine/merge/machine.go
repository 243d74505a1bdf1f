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

	// One delta that may be taken back: a JSON Patch, or any when the
	// document is near its limit. While logging, what leaves the document is
	// kept in dropped until it is gone for good.
	logging bool
	log     []change
	dropped []*container
	trail   []*container // what the delta came through, the root first

	// One JSON Patch.
	parser  parser
	missed  value // the scope's value while the document has no scope
	scope   place
	copied  int64
	pending bool   // what is being moved is pending
	scratch []byte // for snapshots
}

// applyDelta applies delta i and sets its outcome. A no-op leaves the
// document as it was. With logging on, undo or settle must follow.
func (m *machine) applyDelta(i int, d *Delta, logging bool) {
	m.copied = 0
	m.log, m.dropped, m.trail, m.logging = m.log[:0], m.dropped[:0], m.trail[:0], logging
	reason, op := m.run(int32(i), d)
	o := &m.outcomes[i]
	if reason != ReasonNone {
		*o = Outcome{Status: Noop, Reason: reason, Op: op}
		return
	}
	o.Status, o.Op = Applied, -1
}

// settle makes the last delta final.
func (m *machine) settle() {
	m.logging = false
	for _, c := range m.dropped {
		m.drop(value{c: c})
	}
	m.dropped = m.dropped[:0]
}

func (m *machine) run(i int32, d *Delta) (Reason, int) {
	if r := m.setPath(d.Path); r != ReasonNone {
		return r, -1
	}
	if !d.Type.bare() {
		if !d.Type.Valid() {
			return InvalidJSON, -1
		}
		if r := bodyFault(d.Body, m.lim.MaxDepth); r != ReasonNone {
			return r, -1
		}
	}
	switch d.Type {
	case Delete, Purge:
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
	}
	m.setRoot(value{c: newObject()})
	return m.root.c
}

// setRoot makes v the document.
func (m *machine) setRoot(v value) {
	if m.logging {
		m.log = append(m.log, change{kind: wasRoot, v: m.root})
	}
	m.drop(m.root)
	m.root = v
}

// touch is called for each container on the way of a delta: its size may
// change.
func (m *machine) touch(c *container) {
	c.sized = false
	if m.logging {
		m.trail = append(m.trail, c)
	}
}

// note logs entry k of c before it changes.
func (m *machine) note(c *container, k int) {
	if m.logging {
		m.log = append(m.log, change{kind: wasEntry, c: c, i: k, e: c.entries[k]})
	}
}

// grow appends an entry; prev is the entry that was the one of its name, or
// −1.
func (m *machine) grow(c *container, e entry, prev int) int {
	i := c.append(e)
	if m.logging {
		m.log = append(m.log, change{kind: wasAppended, c: c, i: i, prev: prev})
	}
	return i
}

// drop is called for a value that is about to leave the document: deltas that
// coerced something inside it must be found now.
func (m *machine) drop(v value) {
	if v.c == nil || !v.c.pending {
		return
	}
	if m.logging {
		// The delta may be taken back: a value is read for this only when it
		// is gone for good, so that no text is read twice.
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
	m.touch(c)
	k := c.slot(name)
	if k < 0 {
		o := &container{unresolved: c.hasBase(), creator: i}
		m.grow(c, entry{name: name, raw: raw, val: value{c: o}}, -1)
		return o
	}
	e := &c.entries[k]
	if e.state == tomb {
		o := newObject()
		m.note(c, k)
		e.state = dead
		m.grow(c, entry{name: name, raw: raw, val: value{c: o}, detached: true, shadow: e.shadow}, k)
		return o
	}
	if o := e.val.c; o != nil && o.arr == nil {
		if o.unresolved && o.creator < 0 {
			// Deletes came by, which create nothing: if the base has no such
			// member, it comes into being here and now.
			m.note(c, k)
			if m.logging {
				m.log = append(m.log, change{kind: wasGhost, c: o})
			}
			o.creator = i
			e.state = dead
			n := *e
			n.state, n.name, n.raw = live, name, raw
			m.grow(c, n, k)
		}
		return o
	}
	if o := e.val.c; o == nil && e.val.text[0] == '{' {
		e.val, e.inPlace = value{c: m.openText(e.val.text, true)}, false
		return e.val.c
	}
	m.outcomes[i].Coerced = true
	o := newObject()
	m.setEntry(c, k, value{c: o})
	return o
}

// set makes v the value of the member and returns its entry.
func (m *machine) set(c *container, name, raw []byte, v value) int {
	m.touch(c)
	k := c.slot(name)
	if k < 0 {
		return m.grow(c, entry{name: name, raw: raw, val: v}, -1)
	}
	e := &c.entries[k]
	ghost := e.state == live && e.val.c != nil && e.val.c.unresolved && e.val.c.creator < 0 // as in child
	if e.state == live && !ghost {
		m.setEntry(c, k, v)
		return k
	}
	m.note(c, k)
	e.state = dead
	return m.grow(c, entry{name: name, raw: raw, val: v, detached: !ghost, shadow: e.shadow}, k)
}

// setEntry replaces the value of a live entry.
func (m *machine) setEntry(c *container, k int, v value) {
	m.touch(c)
	m.note(c, k)
	e := &c.entries[k]
	m.retire(e)
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
	m.touch(c)
	k := c.slot(name)
	if k < 0 {
		if c.hasBase() {
			m.grow(c, entry{name: name, raw: raw, state: tomb}, -1)
		}
		return
	}
	e := &c.entries[k]
	if e.state == live {
		m.note(c, k)
		m.retire(e)
		e.val, e.inPlace, e.state = value{}, false, tomb
	}
}

func (m *machine) replace(i int32, v []byte) {
	n := len(m.segs) - 1
	if n < 0 {
		m.setRoot(value{text: v})
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
		m.setRoot(value{})
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
	m.touch(c)
	k := c.slot(name)
	if k < 0 {
		if !c.hasBase() {
			return nil
		}
		o := &container{unresolved: true, creator: -1}
		m.grow(c, entry{name: name, val: value{c: o}}, -1)
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
