package merge

import "bytes"

// Emission writes the overlay out, in one pass over the base text of every
// container that was touched: stretches without a touched name are copied as
// they are, and reading stops when no touched name is left.

// emit appends the text of v to m.out.
func (m *machine) emit(v value) {
	if v.c == nil {
		m.out = append(m.out, v.text...)
		return
	}
	m.emitContainer(v.c)
}

// emitAll returns the text of v in a buffer of its own.
func (m *machine) emitAll(v value, size int) []byte {
	m.out = make([]byte, 0, size)
	m.stamp++
	m.emit(v)
	out := m.out
	m.out = nil
	return out
}

// emitContainer appends the text of c and returns the index behind its base
// text (0 if it has none).
func (m *machine) emitContainer(c *container) int {
	if c.arr != nil {
		return m.emitArray(c)
	}
	return m.emitObject(c)
}

func (m *machine) emitArray(c *container) int {
	m.out = append(m.out, '[')
	for i := range c.arr.chunks {
		ch := &c.arr.chunks[i]
		if i > 0 {
			m.out = append(m.out, ',')
		}
		if ch.elems == nil {
			m.out = append(m.out, ch.src...)
			continue
		}
		for j := range ch.elems {
			if j > 0 {
				m.out = append(m.out, ',')
			}
			m.emit(ch.elems[j])
			if m.full() {
				return c.baseEnd
			}
		}
	}
	m.out = append(m.out, ']')
	return c.baseEnd
}

// full reports whether more was written than anybody wants to have.
func (m *machine) full() bool { return m.outMax > 0 && len(m.out) > m.outMax }

// objectWriter keeps the commas right while stretches of base text, changed
// members and new members are written.
type objectWriter struct {
	m          *machine
	base       []byte
	start, end int // the stretch not yet written; start −1: none
	any        bool
}

func (w *objectWriter) flush() {
	if w.start >= 0 {
		w.comma()
		w.m.out = append(w.m.out, w.base[w.start:w.end]...)
		w.start = -1
	}
}

func (w *objectWriter) comma() {
	if w.any {
		w.m.out = append(w.m.out, ',')
	}
	w.any = true
}

func (m *machine) emitObject(c *container) int {
	left := 0 // names that may still be met in the base
	for i := range c.entries {
		if c.entries[i].state != dead {
			left++
		}
	}
	if left == 0 && c.base != nil {
		end := m.end(c)
		m.out = append(m.out, c.base[:end]...)
		return end
	}
	m.out = append(m.out, '{')
	w := objectWriter{m: m, base: c.base, start: -1}
	end := 0
	if c.base != nil {
		end = m.emitBase(c, &w, left)
		w.flush()
	}
	for i := range c.entries {
		e := &c.entries[i]
		if e.shadow != nil && e.state != dead {
			m.probe(e.shadow, nil, 0)
			e.shadow = nil
		}
		if e.state != live || e.seen == m.stamp && !e.detached {
			continue
		}
		if o := e.val.c; o != nil && o.unresolved {
			if m.resolve(c, i, -1); e.state != live {
				continue
			}
		}
		if m.full() {
			return end
		}
		w.comma()
		if e.raw == nil {
			e.raw = quote(e.name)
		}
		m.out = append(m.out, e.raw...)
		m.out = append(m.out, ':')
		m.emit(e.val)
	}
	m.out = append(m.out, '}')
	return end
}

// emitBase writes the members that stand in the base text and returns the
// index behind it.
func (m *machine) emitBase(c *container, w *objectWriter, left int) int {
	ms := membersOf(c.base)
	for left > 0 && ms.next() {
		i := c.slotRaw(ms.rawName)
		if i < 0 {
			if w.start < 0 {
				w.start = ms.start
			}
			ms.pos = skipValue(ms.t, ms.pos)
			w.end = ms.pos
			continue
		}
		if m.full() {
			return 0
		}
		e := &c.entries[i]
		if e.seen == m.stamp { // a duplicate: this text was never checked
			w.flush()
			ms.pos = skipValue(ms.t, ms.pos)
			continue
		}
		e.seen = m.stamp
		left--
		if e.shadow != nil {
			m.probe(e.shadow, ms.t, ms.pos)
			e.shadow = nil
		}
		if o := e.val.c; o != nil && o.unresolved && !e.detached {
			m.resolve(c, i, ms.pos)
		}
		if e.state != live || e.detached {
			w.flush()
			ms.pos = skipValue(ms.t, ms.pos)
			continue
		}
		if w.start < 0 {
			w.start = ms.start
		}
		w.end = ms.pos
		w.flush()
		if e.inPlace {
			at := ms.pos
			if end := m.emitContainer(e.val.c); end > 0 {
				ms.pos = at + end
				continue
			}
		} else {
			m.emit(e.val)
		}
		ms.pos = skipValue(ms.t, ms.pos)
	}
	if ms.bad || ms.pos < 0 {
		m.corrupt = true
		w.start = -1
		return 0
	}
	if left > 0 {
		return ms.pos
	}
	// Nothing touched is left: the rest of the object is one stretch.
	if c.baseEnd == 0 {
		c.baseEnd = skipOut(ms.t, ms.pos, 1)
		if c.baseEnd < 0 {
			m.corrupt = true
			w.start, c.baseEnd = -1, 0
			return 0
		}
	}
	rest := skipSpace(ms.t, ms.pos)
	if rest < c.baseEnd && ms.t[rest] == ',' {
		if w.start < 0 {
			w.start = skipSpace(ms.t, rest+1)
		}
		w.end = rest + len(bytes.TrimRight(ms.t[rest:c.baseEnd-1], " \t\r\n"))
		if w.end < w.start { // not JSON
			m.corrupt = true
			w.start = -1
		}
	}
	return c.baseEnd
}

// slotRaw is slot for a name as it is spelled.
func (c *container) slotRaw(raw []byte) int {
	if bytes.IndexByte(raw, '\\') >= 0 {
		return c.slot(unquote(raw))
	}
	return c.slot(raw[1 : len(raw)-1])
}

// end returns the index behind the base text of c.
func (m *machine) end(c *container) int {
	if c.baseEnd == 0 {
		end := skipContainer(c.base, 0)
		if end < 0 {
			m.corrupt = true
			return 0
		}
		c.baseEnd = end
	}
	return c.baseEnd
}

// probe finds out whom to flag for coercing in an unresolved object that is
// in the document no more. Its base value is at t[pos]; t is nil if there is
// none.
func (m *machine) probe(o *container, t []byte, pos int) {
	if !o.unresolved {
		return
	}
	o.unresolved = false
	if t != nil {
		if t[pos] == '{' {
			o.base = t[pos:]
		} else if o.creator >= 0 {
			m.outcomes[o.creator].Coerced = true
		}
	}
	m.discard(o)
}

// discard writes a container to nowhere, which resolves everything in it.
func (m *machine) discard(c *container) {
	mark, limit := len(m.out), m.outMax
	m.outMax = 0
	m.emitContainer(c)
	m.out, m.outMax = m.out[:mark], limit
}
