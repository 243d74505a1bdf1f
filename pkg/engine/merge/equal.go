package merge

import "bytes"

// The test operation (RFC 6902, section 4.6): numbers by exact decimal value,
// strings by code units, arrays in order, objects whatever their order. want
// is a value of the patch, exact text; the work is bounded by its size, not
// by the size of what it is compared with.

// wanted is the members of an object that a test expects.
type wanted struct {
	list  []wantedMember
	table map[string]int // from fewNames on
}

type wantedMember struct{ name, val []byte }

func wantedOf(t []byte) wanted {
	var w wanted
	ms := membersOf(t)
	for ms.next() {
		w.list = append(w.list, wantedMember{unquote(ms.rawName), ms.skip()})
	}
	if len(w.list) > fewNames {
		w.table = make(map[string]int, len(w.list))
		for i := range w.list {
			w.table[string(w.list[i].name)] = i
		}
	}
	return w
}

// get returns the expected value of a member, nil if none is expected.
func (w *wanted) get(name []byte) []byte {
	if w.table != nil {
		if i, ok := w.table[string(name)]; ok {
			return w.list[i].val
		}
		return nil
	}
	for i := range w.list {
		if bytes.Equal(w.list[i].name, name) {
			return w.list[i].val
		}
	}
	return nil
}

// equal compares a value of the document with text.
func (m *machine) equal(v value, want []byte) bool {
	switch {
	case v.c == nil:
		_, ok := equalText(v.text, 0, want)
		return ok
	case v.c.arr != nil:
		return want[0] == '[' && m.equalArray(v.c.arr, want)
	}
	return want[0] == '{' && m.equalObject(v.c, want)
}

func (m *machine) equalArray(a *array, want []byte) bool {
	es := elementsOf(want)
	for k := range a.chunks {
		c := &a.chunks[k]
		if c.elems != nil {
			for j := range c.elems {
				if !es.next() || !m.equal(c.elems[j], es.skip()) {
					return false
				}
			}
			continue
		}
		for i, n := 0, 0; n < c.n; n++ {
			if !es.next() {
				return false
			}
			end, ok := equalText(c.src, i, es.skip())
			if !ok {
				return false
			}
			if i = skipSpace(c.src, end); i < len(c.src) {
				i = skipSpace(c.src, i+1)
			}
		}
	}
	return !es.next()
}

func (m *machine) equalObject(c *container, want []byte) bool {
	w := wantedOf(want)
	met := 0
	m.stamp++
	if c.base != nil {
		// The index knows the members in order: tests that come again never
		// skip over large values again.
		if c.index == nil {
			m.buildIndex(c)
		}
		stamp := m.stamp
		for n, at := range c.index.at {
			raw := c.base[at:skipString(c.base, int(at))]
			name := unquote(raw)
			k := c.slot(name)
			if k >= 0 {
				e := &c.entries[k]
				if e.state == live && e.val.c != nil && e.val.c.unresolved && !e.detached {
					m.resolve(c, k, int(c.index.val[n]))
				}
				if e.state != live || e.detached || e.seen == stamp {
					continue
				}
				e.seen = stamp
			}
			v := w.get(name)
			if v == nil {
				return false
			}
			met++
			if k < 0 {
				if _, ok := equalText(c.base, int(c.index.val[n]), v); !ok {
					return false
				}
			} else if !m.equal(c.entries[k].val, v) {
				return false
			}
		}
		for k := range c.entries {
			if e := &c.entries[k]; e.state == live && !e.detached && e.seen != stamp && e.val.c != nil && e.val.c.unresolved {
				m.resolve(c, k, -1)
			}
		}
		for k := range c.entries {
			e := &c.entries[k]
			if e.state == live && (e.detached || e.seen != stamp) {
				v := w.get(e.name)
				if v == nil || !m.equal(e.val, v) {
					return false
				}
				met++
			}
		}
		return met == len(w.list)
	}
	for k := range c.entries {
		if c.entries[k].state != live {
			continue
		}
		if o := c.entries[k].val.c; o != nil && o.unresolved {
			if m.resolve(c, k, -1); c.entries[k].state != live {
				continue
			}
		}
		v := w.get(c.entries[k].name)
		if v == nil || !m.equal(c.entries[k].val, v) {
			return false
		}
		met++
	}
	return met == len(w.list)
}

// equalText compares the value at a[i] with want and returns the index behind
// it where that is equal. a may be text that was never checked: the recursion
// follows want.
func equalText(a []byte, i int, want []byte) (int, bool) {
	if i < 0 || i >= len(a) {
		return -1, false
	}
	if n := i + len(want); n <= len(a) && string(a[i:n]) == string(want) {
		if class[want[0]] != 0 || n == len(a) || stop[a[n]] {
			return n, true
		}
	}
	switch want[0] {
	case '{':
		if a[i] != '{' {
			return -1, false
		}
		w := wantedOf(want)
		met := 0
		ms := members{t: a, pos: i + 1, first: true}
		for ms.next() {
			v := w.get(unquote(ms.rawName))
			if v == nil {
				return -1, false
			}
			var ok bool
			if ms.pos, ok = equalText(a, ms.pos, v); !ok {
				return -1, false
			}
			met++
		}
		return ms.pos, met == len(w.list) && !ms.bad
	case '[':
		if a[i] != '[' {
			return -1, false
		}
		es := elementsOf(want)
		as := elements{t: a, pos: i + 1, first: true}
		for as.next() {
			if !es.next() {
				return -1, false
			}
			var ok bool
			if as.pos, ok = equalText(a, as.pos, es.skip()); !ok {
				return -1, false
			}
		}
		return as.pos, !as.bad && !es.next()
	case '"':
		if a[i] != '"' {
			return -1, false
		}
		// A byte is spelled with six at most: a longer string is not equal,
		// and its end is not looked for.
		v, end := span(a[:min(len(a), i+6*len(want))], i)
		return end, end > 0 && equalStrings(v, want)
	case 't', 'f', 'n':
		return -1, false // equal ones were found above
	}
	if a[i] != '-' && !isDigit(a[i]) {
		return -1, false
	}
	v, end := span(a, i)
	return end, end > 0 && equalNumbers(v, want)
}
