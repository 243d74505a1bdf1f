package merge

// JSON Patch on the overlay. The operations run in place under an undo log:
// its length is the number of changes, however wide the documents are. Reads
// look at the overlay first and at the base then; what they open stays open.

// place is where a value is held: the root, an entry of an object, or the
// machine's spare place for a scope that the document does not have.
type place struct {
	c      *container // object; nil: root or missed
	i      int
	missed bool
	orphan bool // missed, and what would hold it is missing too
}

// change is one step of the undo log.
type change struct {
	kind changeKind
	c    *container
	i    int
	prev int   // wasAppended: the entry of the name before, or −1
	e    entry // wasEntry
	v    value
}

type changeKind uint8

const (
	wasEntry    changeKind = iota // entry i of c was e
	wasAppended                   // entry i of c was not there; the entry of its name was prev
	wasGhost                      // c, unresolved, had seen deletes only
	wasRoot                       // the root was v
	wasMissed                     // the spare place was v
	wasElement                    // element i of c was v
	wasInserted                   // element i of c was not there
	wasRemoved                    // element i of c was there: v
)

// undo takes back everything in the log.
func (m *machine) undo() {
	for n := len(m.log) - 1; n >= 0; n-- {
		x := &m.log[n]
		switch x.kind {
		case wasGhost:
			x.c.creator = -1
		case wasEntry:
			x.c.entries[x.i] = x.e
		case wasAppended:
			e := &x.c.entries[x.i]
			e.state, e.val, e.shadow = dead, value{}, nil
			if x.prev >= 0 {
				x.c.revive(x.prev)
			}
		case wasRoot:
			m.root = x.v
		case wasMissed:
			m.missed = x.v
		case wasElement:
			*x.c.arr.at(x.i) = x.v
		case wasInserted:
			x.c.arr.remove(x.i)
		case wasRemoved:
			x.c.arr.insert(x.i, x.v)
		}
	}
	for _, c := range m.trail {
		c.sized = false // it may have been measured since
	}
	m.log, m.dropped = m.log[:0], m.dropped[:0]
}

// jsonPatch applies a JSON Patch, all or nothing.
func (m *machine) jsonPatch(d *Delta) (Reason, int) {
	ops, fault := m.parser.parse(d.Body, m.lim.MaxOps)
	if fault != nil {
		if fault.rule == tooManyOps {
			return TooLarge, -1
		}
		return InvalidJSON, fault.op
	}
	if r := m.findScope(); r != ReasonNone {
		return r, -1
	}
	m.missed = value{}
	for n := range ops {
		o := &ops[n]
		if r := m.operation(o, d.Strict); r != ReasonNone {
			m.undo()
			return r, n
		}
	}
	if m.scope.missed && !m.missed.absent() {
		m.attach()
	}
	return ReasonNone, -1
}

// attach puts the value that a patch made for a missing scope in its place.
// The way there was seen to hold nothing but objects.
func (m *machine) attach() {
	n := len(m.segs) - 1
	if n < 0 {
		m.setRoot(m.missed)
		return
	}
	if m.root.absent() {
		m.setRoot(value{c: newObject()})
	}
	c := m.root.c
	for _, s := range m.segs[:n] {
		k, pos := m.lookup(c, s)
		if k < 0 && pos < 0 {
			k = m.set(c, s, nil, value{c: newObject()})
		} else {
			k = m.openMember(c, s, k, pos)
		}
		c = c.entries[k].val.c
	}
	m.set(c, m.segs[n], nil, m.missed)
}

// findScope looks for the value at the delta's path without changing the
// document.
func (m *machine) findScope() Reason {
	m.scope = place{}
	if m.root.absent() {
		m.scope = place{missed: true, orphan: len(m.segs) > 0}
		return ReasonNone
	}
	if len(m.segs) == 0 {
		return ReasonNone
	}
	c := m.open(&m.root)
	for n, s := range m.segs {
		if c == nil || c.arr != nil {
			return ScopeNotObject
		}
		m.touch(c) // something may be written below
		k, pos := m.lookup(c, s)
		if k < 0 && pos < 0 {
			m.scope = place{missed: true, orphan: n < len(m.segs)-1}
			return ReasonNone
		}
		k = m.openMember(c, s, k, pos)
		m.scope = place{c: c, i: k}
		c = c.entries[k].val.c
	}
	return ReasonNone
}

// scopeValue returns the place of the scope's value; it holds until the next
// change.
func (m *machine) scopeValue() *value {
	switch {
	case m.scope.missed:
		return &m.missed
	case m.scope.c != nil:
		return &m.scope.c.entries[m.scope.i].val
	}
	return &m.root
}

// setScope makes v the scope's value.
func (m *machine) setScope(v value) {
	switch {
	case m.scope.missed:
		m.log = append(m.log, change{kind: wasMissed, v: m.missed})
		m.missed = v
	case m.scope.c != nil:
		m.setEntry(m.scope.c, m.scope.i, v)
	default:
		m.setRoot(v)
	}
}

// open returns the container that v is, opening its text; nil for a scalar.
func (m *machine) open(v *value) *container {
	if v.c == nil {
		if c := m.openText(v.text, true); c != nil {
			*v = value{c: c}
		}
	}
	return v.c
}

// lookup finds a member: its entry, or the offset of its value in the base,
// or −1, −1.
func (m *machine) lookup(c *container, name []byte) (k, pos int) {
	k = c.slot(name)
	if k < 0 {
		return -1, m.find(c, name)
	}
	if c.entries[k].state == tomb {
		return -1, -1
	}
	if o := c.entries[k].val.c; o != nil && o.unresolved {
		m.resolve(c, k, m.find(c, name))
		if c.entries[k].state == tomb {
			return -1, -1
		}
	}
	return k, -1
}

// openMember gives a member that lookup found an entry, and opens its value
// if it is a container.
func (m *machine) openMember(c *container, name []byte, k, pos int) int {
	if k >= 0 {
		if e := &c.entries[k]; e.val.c == nil {
			m.open(&e.val)
		}
		return k
	}
	if o := m.openText(c.base[pos:], false); o != nil {
		return c.append(entry{name: name, val: value{c: o}, inPlace: true})
	}
	return c.append(entry{name: name, val: value{text: m.baseText(c, pos)}})
}

// baseText returns the text of the value at an offset of c's base.
func (m *machine) baseText(c *container, pos int) []byte {
	t, end := span(c.base, pos)
	if end < 0 {
		m.corrupt = true
		return nullText
	}
	return t
}

// step goes from a container to the value of one token. It returns the
// container there, or nil with the reason. With create, a missing member
// becomes {} (or [] when the next token is "-").
func (m *machine) step(c *container, tok, next []byte, create bool) (*container, Reason) {
	if c.arr != nil {
		i := arrayIndex(tok, c.arr.n)
		if i < 0 {
			return nil, BadIndex
		}
		if o := m.open(c.arr.at(i)); o != nil {
			return o, ReasonNone
		}
		return nil, PathMissing
	}
	k, pos := m.lookup(c, tok)
	if k < 0 && pos < 0 {
		if !create {
			return nil, PathMissing
		}
		o := emptyFor(next)
		m.set(c, tok, nil, value{c: o})
		return o, ReasonNone
	}
	if k < 0 && c.base[pos] != '{' && c.base[pos] != '[' {
		return nil, PathMissing
	}
	k = m.openMember(c, tok, k, pos)
	if o := c.entries[k].val.c; o != nil {
		return o, ReasonNone
	}
	return nil, PathMissing
}

// emptyFor makes the container that auto-parents put before a token.
func emptyFor(next []byte) *container {
	if isDash(next) {
		return &container{arr: &array{}}
	}
	return newObject()
}

// parent walks to the container that holds the last token.
func (m *machine) parent(toks [][]byte, create bool) (*container, Reason) {
	v := m.scopeValue()
	if v.absent() {
		if !create {
			return nil, PathMissing
		}
		m.setScope(value{c: emptyFor(toks[0])})
		v = m.scopeValue()
	}
	c := m.open(v)
	if c == nil {
		return nil, PathMissing
	}
	for i, tok := range toks[:len(toks)-1] {
		c.pending = c.pending || m.pending
		m.touch(c)
		var r Reason
		if c, r = m.step(c, tok, toks[i+1], create); r != ReasonNone {
			return nil, r
		}
	}
	c.pending = c.pending || m.pending
	m.touch(c)
	return c, ReasonNone
}

// target is a value that a pointer leads to.
type target struct {
	c *container // what holds it; nil: it is the scope's value
	k int        // entry or element of c; −1: a member of the base that has no entry …
	p int        // … with its value at this offset
}

// locate finds an existing value.
func (m *machine) locate(toks [][]byte) (target, Reason) {
	if len(toks) == 0 {
		if m.scopeValue().absent() {
			return target{}, PathMissing
		}
		return target{}, ReasonNone
	}
	c, r := m.parent(toks, false)
	if r != ReasonNone {
		return target{}, r
	}
	last := toks[len(toks)-1]
	if c.arr != nil {
		i := arrayIndex(last, c.arr.n)
		if i < 0 {
			return target{}, BadIndex
		}
		return target{c: c, k: i}, ReasonNone
	}
	k, pos := m.lookup(c, last)
	if k < 0 && pos < 0 {
		return target{}, PathMissing
	}
	return target{c: c, k: k, p: pos}, ReasonNone
}

// value returns what stands at a target.
func (m *machine) value(t target) value {
	switch {
	case t.c == nil:
		return *m.scopeValue()
	case t.c.arr != nil:
		return *t.c.arr.at(t.k)
	case t.k >= 0:
		return t.c.entries[t.k].val
	}
	return value{text: m.baseText(t.c, t.p)}
}

// add puts v at a pointer as RFC 6902, section 4.1, says.
func (m *machine) add(toks [][]byte, v value, strict bool) Reason {
	if len(toks) == 0 {
		if strict && m.scope.orphan && m.missed.absent() {
			return PathMissing
		}
		m.setScope(v)
		return ReasonNone
	}
	// A container that is moved may have unresolved objects in it.
	m.pending = v.c != nil && v.c.pending
	c, r := m.parent(toks, !strict)
	m.pending = false
	if r != ReasonNone {
		return r
	}
	last := toks[len(toks)-1]
	if c.arr == nil {
		m.set(c, last, nil, v)
		return ReasonNone
	}
	i := c.arr.n
	if !isDash(last) {
		if i = arrayIndex(last, c.arr.n+1); i < 0 {
			return BadIndex
		}
	}
	c.arr.insert(i, v)
	m.log = append(m.log, change{kind: wasInserted, c: c, i: i})
	return ReasonNone
}

// take removes the value at a target that is not the scope's.
func (m *machine) take(t target, name []byte, gone bool) {
	c := t.c
	switch {
	case c.arr != nil:
		v := c.arr.remove(t.k)
		m.log = append(m.log, change{kind: wasRemoved, c: c, i: t.k, v: v})
		if gone {
			m.drop(v)
		}
	case t.k >= 0:
		m.note(c, t.k)
		e := &c.entries[t.k]
		if gone {
			m.retire(e)
		}
		e.val, e.inPlace, e.state = value{}, false, tomb
	default:
		m.grow(c, entry{name: name, state: tomb}, -1)
	}
}

// operation runs one operation.
func (m *machine) operation(o *operation, strict bool) Reason {
	switch o.kind {
	case opAdd:
		if !m.fits(len(o.path), o.value) {
			return TooDeep
		}
		return m.add(o.path, value{text: o.value}, strict)

	case opReplace:
		if !m.fits(len(o.path), o.value) {
			return TooDeep
		}
		t, r := m.locate(o.path)
		if r != ReasonNone {
			return r
		}
		v := value{text: o.value}
		switch {
		case t.c == nil:
			m.setScope(v)
		case t.c.arr != nil:
			p := t.c.arr.at(t.k)
			m.log = append(m.log, change{kind: wasElement, c: t.c, i: t.k, v: *p})
			m.drop(*p)
			*p = v
		case t.k >= 0:
			m.setEntry(t.c, t.k, v)
		default:
			m.set(t.c, o.path[len(o.path)-1], nil, v)
		}

	case opRemove:
		if len(o.path) == 0 {
			return RootOperation
		}
		t, r := m.locate(o.path)
		if r != ReasonNone {
			return r
		}
		m.take(t, o.path[len(o.path)-1], true)

	case opMove:
		if len(o.from) == 0 {
			return RootOperation
		}
		inside := startsWith(o.path, o.from)
		if inside && len(o.path) > len(o.from) {
			return MoveIntoChild
		}
		t, r := m.locate(o.from)
		if r != ReasonNone || inside { // from = path asks only whether it is there
			return r
		}
		v := m.value(t)
		if len(o.path) > len(o.from) {
			// Deeper than it was: how deep is it? To know, it is written out.
			if v, r = m.snapshot(v, len(o.path)); r != ReasonNone {
				return r
			}
		}
		m.take(t, o.from[len(o.from)-1], false)
		return m.add(o.path, v, strict)

	case opCopy:
		t, r := m.locate(o.from)
		if r != ReasonNone {
			return r
		}
		v, r := m.snapshot(m.value(t), len(o.path))
		if r != ReasonNone {
			return r
		}
		return m.add(o.path, v, strict)

	case opTest:
		t, r := m.locate(o.path)
		if r != ReasonNone {
			return r
		}
		if t.c != nil && t.c.arr == nil && t.k < 0 {
			if _, ok := equalText(t.c.base, t.p, o.value); !ok {
				return TestFailed
			}
			return ReasonNone
		}
		if !m.equal(m.value(t), o.value) {
			return TestFailed
		}
	}
	return ReasonNone
}

// fits reports whether a value may stand at a pointer of n tokens.
func (m *machine) fits(n int, v []byte) bool {
	room := m.lim.MaxDepth - n
	if room < 0 {
		return false
	}
	if len(v) <= 2*room || v[0] != '{' && v[0] != '[' {
		return true // even [[[…]]] would be shallow enough
	}
	return depthOf(v) <= room
}

// snapshot turns v into text that nothing changes any more, to stand under a
// pointer of n tokens. Its bytes are charged to the patch.
func (m *machine) snapshot(v value, n int) (value, Reason) {
	left := m.lim.MaxCopy - m.copied
	if v.c != nil {
		if v.c.atLeast() > left {
			return value{}, TooLarge // no need to write it out
		}
		keep := m.out
		m.out, m.outMax = m.scratch[:0], int(left)
		m.stamp++
		m.emit(v)
		m.scratch, m.out, m.outMax = m.out, keep, 0
		if int64(len(m.scratch)) > left {
			return value{}, TooLarge
		}
		v = value{text: append([]byte(nil), m.scratch...)}
	}
	m.copied += int64(len(v.text))
	if m.copied > m.lim.MaxCopy {
		return value{}, TooLarge
	}
	if !m.fits(n, v.text) {
		return value{}, TooDeep
	}
	return v, ReasonNone
}

// atLeast is a quick lower bound of the text of c: what its own entries and
// elements hold as text.
func (c *container) atLeast() (n int64) {
	for i := range c.entries {
		if c.entries[i].state == live {
			n += int64(len(c.entries[i].val.text))
		}
	}
	if c.arr == nil {
		return n
	}
	for i := range c.arr.chunks {
		n += int64(len(c.arr.chunks[i].src))
	}
	return n
}
