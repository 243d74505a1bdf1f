package merge

import (
	"bytes"
	"hash/maphash"
)

// The document is a sparse overlay tree over raw text. A value is text (a
// part of the base or of a body, never changed, so it may be shared) or a
// container: text that was opened because something inside it was touched.

// value is absent (zero), text, or a container.
type value struct {
	text []byte
	c    *container
}

func (v value) absent() bool { return v.text == nil && v.c == nil }

// container is an object or array with changes.
//
// An object keeps its base text unparsed and, in entries, the names that were
// touched. While it is unresolved nobody has looked yet for its base text: a
// blind write led through it. Opening, resolving and indexing change what is
// known, not what the document is, and are never undone.
type container struct {
	arr *array // nil: an object

	// base is the text from the opening brace on. It may reach beyond the
	// closing brace: baseEnd is the index behind that, 0 while unknown. nil:
	// there is no base, all members are entries.
	base    []byte
	baseEnd int

	unresolved bool
	// creator is the delta that made this object exist if the base has none
	// here, and that coerced what the base has instead; −1 while only
	// deletes came by. It matters while unresolved.
	creator int32
	// pending says that there may be an unresolved object in here, so that
	// the container must not be thrown away before it is known whom to flag.
	pending bool

	entries []entry
	table   []int32 // name → index of its newest entry + 1, by hash; nil up to fewEntries

	size  int64 // bytes of its text, if sized
	sized bool

	scanned int       // long scans of base so far
	index   *baseName // of base, after the second long scan
}

// fewEntries is how many entries are searched one by one.
const fewEntries = 12

type entryState uint8

const (
	live entryState = iota
	tomb            // the member is gone; hides the base's
	dead            // superseded by a later entry of the name, or undone
)

// entry is a name that was touched. At most one entry of a name is not dead.
type entry struct {
	name []byte // unescaped
	raw  []byte // as it is spelled, with quotes; nil: any spelling will do
	val  value
	// shadow is an unresolved object that was replaced or deleted before it
	// was known whether it had coerced anything.
	shadow   *container
	state    entryState
	detached bool   // created anew after a delete: stands at the end, the base's member is hidden
	inPlace  bool   // val.c was opened at this member of the base
	seen     uint32 // the emission in which the base's member was met

	// The base's member of this name, if measured: bytes of all of it, and
	// up to its value. 0: there is none.
	measured   bool
	base, head uint32
}

// newObject returns an empty object without a base.
func newObject() *container { return &container{} }

// openText opens the text of a container, which may reach beyond its end.
// It is nil if the text is no container.
func (m *machine) openText(t []byte, closed bool) *container {
	if len(t) == 0 {
		return nil
	}
	switch t[0] {
	case '{':
		c := &container{base: t}
		if closed {
			c.baseEnd = len(t)
		}
		return c
	case '[':
		return m.openArray(t)
	}
	return nil
}

// slot returns the index of the entry of name that is not dead, or −1.
func (c *container) slot(name []byte) int {
	if c.table == nil {
		for i := len(c.entries) - 1; i >= 0; i-- {
			if e := &c.entries[i]; len(e.name) == len(name) && e.state != dead && string(e.name) == string(name) {
				return i
			}
		}
		return -1
	}
	if i := c.table[c.cell(name)]; i != 0 && c.entries[i-1].state != dead {
		return int(i - 1)
	}
	return -1
}

// cell returns the place of name in the table: its own, or the empty one
// where it belongs.
func (c *container) cell(name []byte) int {
	mask := len(c.table) - 1
	k := int(maphash.Bytes(seed, name)) & mask
	for {
		i := c.table[k]
		if i == 0 || bytes.Equal(c.entries[i-1].name, name) {
			return k
		}
		k = (k + 1) & mask
	}
}

// append adds an entry, which becomes the one of its name.
func (c *container) append(e entry) int {
	c.entries = append(c.entries, e)
	n := len(c.entries)
	switch {
	case c.table != nil && 2*n <= len(c.table):
		c.table[c.cell(e.name)] = int32(n)
	case n > fewEntries:
		size := 64
		for size < 4*n {
			size *= 2
		}
		c.table = make([]int32, size)
		for i := range c.entries {
			// Newer entries of a name overwrite older ones, but a dead one
			// never hides a living one.
			k := c.cell(c.entries[i].name)
			if o := c.table[k]; o == 0 || c.entries[o-1].state == dead {
				c.table[k] = int32(i + 1)
			}
		}
	}
	return n - 1
}

// revive makes entry i the one of its name again.
func (c *container) revive(i int) {
	if c.table != nil {
		c.table[c.cell(c.entries[i].name)] = int32(i + 1)
	}
}

// hasBase reports whether a member that has no entry may exist in the base.
func (c *container) hasBase() bool { return c.base != nil || c.unresolved }

// baseName is an index of an object's base text: where its members begin, in
// order, and a hash table of their names.
type baseName struct {
	at    []uint32 // offsets of the names' opening quotes
	val   []uint32 // offsets of the values
	table []uint32 // index into at + 1
}

// longScan is how many bytes of base text a search may read without counting
// towards the index.
const longScan = 512

// find looks for a name in the base text and returns the offset of its
// value, or −1.
func (m *machine) find(c *container, name []byte) int {
	if c.base == nil {
		return -1
	}
	if c.index == nil && c.scanned >= 1 {
		m.buildIndex(c)
	}
	if c.index != nil {
		if i := c.indexed(name); i >= 0 {
			return int(c.index.val[i])
		}
		return -1
	}
	ms := membersOf(c.base)
	for ms.next() {
		if sameName(ms.rawName, name) {
			if ms.pos > longScan {
				c.scanned++
			}
			return ms.pos
		}
		ms.pos = skipValue(ms.t, ms.pos)
	}
	if ms.bad {
		m.corrupt = true
	} else if c.baseEnd = ms.pos; ms.pos > longScan {
		c.scanned++
	}
	return -1
}

// indexed returns which member of the indexed base text has the name, or −1.
func (c *container) indexed(name []byte) int {
	x := c.index
	mask := len(x.table) - 1
	for k := int(maphash.Bytes(seed, name)) & mask; ; k = (k + 1) & mask {
		i := int(x.table[k]) - 1
		if i < 0 {
			return -1
		}
		at := int(x.at[i])
		if sameName(c.base[at:skipString(c.base, at)], name) {
			return i
		}
	}
}

// buildIndex reads the whole base text of c once.
func (m *machine) buildIndex(c *container) {
	x := &baseName{}
	ms := membersOf(c.base)
	for ms.next() {
		x.at = append(x.at, uint32(ms.start))
		x.val = append(x.val, uint32(ms.pos))
		ms.pos = skipValue(ms.t, ms.pos)
	}
	if ms.bad {
		m.corrupt = true
	} else {
		c.baseEnd = ms.pos
	}
	size := 16
	for size < 2*len(x.at) {
		size *= 2
	}
	x.table = make([]uint32, size)
	for i, at := range x.at {
		name := unquote(c.base[at:skipString(c.base, int(at))])
		k := int(maphash.Bytes(seed, name)) & (size - 1)
		for x.table[k] != 0 {
			k = (k + 1) & (size - 1)
		}
		x.table[k] = uint32(i) + 1
	}
	c.index = x
}

// resolve says where entry i of c, an unresolved object, stands in the base:
// pos is the offset of its value, −1 if the base has no such member.
func (m *machine) resolve(c *container, i, pos int) {
	e := &c.entries[i]
	o := e.val.c
	switch {
	case pos >= 0 && c.base[pos] == '{':
		o.unresolved, o.base, e.inPlace = false, c.base[pos:], true
	case o.creator >= 0:
		o.unresolved = false
		if pos >= 0 {
			m.outcomes[o.creator].Coerced = true
		}
	case pos >= 0: // deletes change nothing in what is no object
		t, end := span(c.base, pos)
		if end < 0 {
			m.corrupt = true
			t = nullText
		}
		e.val = value{text: t}
	default:
		e.val, e.state = value{}, tomb
	}
}

var nullText = []byte("null")
