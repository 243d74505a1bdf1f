package merge

// The exact size of the document, without writing it out. It is asked for
// only near the document's limit. What was measured stays measured: after a
// delta only the containers on its way are added up again.

// size returns the bytes of v's text.
func (m *machine) size(v value) int64 {
	switch {
	case v.c == nil:
		return int64(len(v.text))
	case !v.c.sized:
		if v.c.arr != nil {
			v.c.size = m.sizeOfArray(v.c.arr)
		} else {
			v.c.size = m.sizeOfObject(v.c)
		}
		v.c.sized = true
	}
	return v.c.size
}

func (m *machine) sizeOfArray(a *array) int64 {
	n := int64(2 + max(0, len(a.chunks)-1))
	for i := range a.chunks {
		c := &a.chunks[i]
		if c.elems == nil {
			n += int64(len(c.src))
			continue
		}
		n += int64(c.n - 1)
		for _, v := range c.elems {
			n += m.size(v)
		}
	}
	return n
}

func (m *machine) sizeOfObject(c *container) int64 {
	var n int64 // bytes of the members without commas
	count := 0
	if c.base != nil {
		if c.index == nil {
			m.buildIndex(c)
		}
		count = len(c.index.at)
		n = int64(c.baseEnd - 2 - max(0, count-1))
	}
	for k := range c.entries {
		if c.entries[k].state == dead {
			continue
		}
		m.measure(c, k)
		e := &c.entries[k]
		inBase := e.base > 0
		switch {
		case e.state == live && inBase && !e.detached:
			n += int64(e.head) + m.size(e.val) - int64(e.base)
			continue
		case inBase:
			n -= int64(e.base)
			count--
		}
		if e.state == live {
			if e.raw == nil {
				e.raw = quote(e.name)
			}
			n += int64(len(e.raw)) + 1 + m.size(e.val)
			count++
		}
	}
	return 2 + n + int64(max(0, count-1))
}

// measure finds the base's member of entry k's name, and resolves the entry.
func (m *machine) measure(c *container, k int) {
	e := &c.entries[k]
	pos := -1
	if c.base != nil {
		unresolved := e.state == live && !e.detached && e.val.c != nil && e.val.c.unresolved
		if !e.measured || unresolved {
			if i := c.indexed(e.name); i >= 0 {
				pos = int(c.index.val[i])
				at := c.index.at[i]
				if end := skipValue(c.base, pos); end < 0 {
					m.corrupt = true
				} else {
					e.base, e.head = uint32(end)-at, uint32(pos)-at
				}
			}
			e.measured = true
		}
	}
	if o := e.val.c; e.state == live && o != nil && o.unresolved {
		m.resolve(c, k, pos)
	}
}
