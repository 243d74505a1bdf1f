package merge

import "encoding/binary"

// Two scanners read JSON text here. This file skips over text that is known
// to be valid (the base, and bodies after validate): it never reads outside
// its slice whatever it is given, answers −1 where the text ends too early,
// and notices nothing else. valid.go is the strict one.

// class tells the bytes that matter while a container is skipped.
var class = [256]uint8{'"': 1, '{': 2, '[': 2, '}': 3, ']': 3}

// stop holds the bytes that end a number or a literal.
var stop = [256]bool{',': true, ':': true, ']': true, '}': true, '{': true, '[': true, '"': true, ' ': true, '\t': true, '\n': true, '\r': true}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

// skipSpace returns the index of the first byte at or after i that is no
// white space, or len(t).
func skipSpace(t []byte, i int) int {
	for i < len(t) && t[i] <= ' ' && isSpace(t[i]) {
		i++
	}
	return i
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// skipString returns the index behind the string whose opening quote is t[i].
func skipString(t []byte, i int) int {
	i++
	for {
		// Eight bytes at a time, the classic zero-byte test: a byte of x is
		// zero where t holds a quote (or a backslash). Only the lowest hit
		// is exact, and only the lowest is used.
		for i+8 <= len(t) {
			w := binary.LittleEndian.Uint64(t[i:])
			q := w ^ ones*'"'
			b := w ^ ones*'\\'
			m := ((q-ones) & ^q | (b-ones) & ^b) & highs
			if m != 0 {
				i += trailingZeroBytes(m)
				break
			}
			i += 8
		}
		for i < len(t) && t[i] != '"' && t[i] != '\\' {
			i++
		}
		if i >= len(t) {
			return -1
		}
		if t[i] == '"' {
			return i + 1
		}
		i += 2 // a backslash and what it escapes
		if i > len(t) {
			return -1
		}
	}
}

// skipContainer returns the index behind the object or array that opens at
// t[i]. It counts brackets without telling their kinds apart: enough for
// valid text.
func skipContainer(t []byte, i int) int {
	return skipOut(t, i+1, 1)
}

// skipOut returns the index behind the bracket that closes the depth-th
// container around t[i].
func skipOut(t []byte, i, depth int) int {
	for i < len(t) {
		switch class[t[i]] {
		case 0:
			i++
		case 1:
			// Most strings are short: look for the end here first.
			if i = skipString(t, i); i < 0 {
				return -1
			}
		case 2:
			depth++
			i++
		default:
			i++
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// skipScalar returns the index behind the number or literal at t[i].
func skipScalar(t []byte, i int) int {
	start := i
	for i < len(t) && !stop[t[i]] {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

// skipValue returns the index behind the value that begins at t[i], or −1.
func skipValue(t []byte, i int) int {
	if i >= len(t) {
		return -1
	}
	switch class[t[i]] {
	case 0:
		return skipScalar(t, i)
	case 1:
		return skipString(t, i)
	case 2:
		return skipContainer(t, i)
	}
	return -1
}

// span returns the text of the value at t[i] and the index behind it, or
// nil, −1.
func span(t []byte, i int) ([]byte, int) {
	j := skipValue(t, i)
	if j < 0 {
		return nil, -1
	}
	return t[i:j:j], j
}

// members walks the members of an object. Use:
//
//	m := membersOf(text)        // text[0] == '{'
//	for m.next() { … m.rawName, m.val … ; m.skip() or m.pos = index behind the value }
//	if m.bad { … }
//
// After next, pos stands at the value: the caller moves it behind the value.
type members struct {
	t       []byte
	pos     int    // at the value after next; behind the closing brace at the end
	start   int    // where the name begins
	rawName []byte // the name as it is spelled, with its quotes
	first   bool
	bad     bool // the text is no object after all
}

func membersOf(t []byte) members { return members{t: t, pos: 1, first: true} }

func (m *members) next() bool {
	t := m.t
	i := m.pos
	if i < 0 {
		m.bad = true
		return false
	}
	if i < len(t) && t[i] <= ' ' {
		i = skipSpace(t, i)
	}
	if i >= len(t) {
		m.bad = true
		return false
	}
	if t[i] == '}' {
		m.pos = i + 1
		return false
	}
	if !m.first {
		if t[i] != ',' {
			m.bad = true
			return false
		}
		i++
		if i < len(t) && t[i] <= ' ' {
			i = skipSpace(t, i)
		}
	}
	m.first = false
	if i >= len(t) || t[i] != '"' {
		m.bad = true
		return false
	}
	j := skipString(t, i)
	if j < 0 {
		m.bad = true
		return false
	}
	m.start = i
	m.rawName = t[i:j:j]
	if j < len(t) && t[j] <= ' ' {
		j = skipSpace(t, j)
	}
	if j >= len(t) || t[j] != ':' {
		m.bad = true
		return false
	}
	j++
	if j < len(t) && t[j] <= ' ' {
		j = skipSpace(t, j)
	}
	if j >= len(t) {
		m.bad = true
		return false
	}
	m.pos = j
	return true
}

// skip moves behind the value and returns its text; nil ends the walk.
func (m *members) skip() []byte {
	v, j := span(m.t, m.pos)
	m.pos = j
	return v
}

// elements walks the elements of an array, like members.
type elements struct {
	t     []byte
	pos   int
	first bool
	bad   bool
}

func elementsOf(t []byte) elements { return elements{t: t, pos: 1, first: true} }

func (e *elements) next() bool {
	i := e.pos
	if i < 0 {
		e.bad = true
		return false
	}
	i = skipSpace(e.t, i)
	if i >= len(e.t) {
		e.bad = true
		return false
	}
	if e.t[i] == ']' {
		e.pos = i + 1
		return false
	}
	if !e.first {
		if e.t[i] != ',' {
			e.bad = true
			return false
		}
		i = skipSpace(e.t, i+1)
	}
	e.first = false
	if i >= len(e.t) {
		e.bad = true
		return false
	}
	e.pos = i
	return true
}

func (e *elements) skip() []byte {
	v, j := span(e.t, e.pos)
	e.pos = j
	return v
}

// depthOf returns how deep arrays and objects are nested in valid text:
// 0 for a scalar, 1 for [] and {}.
func depthOf(t []byte) int {
	depth, deepest := 0, 0
	for i := 0; i < len(t); {
		switch class[t[i]] {
		case 0:
			i++
		case 1:
			if i = skipString(t, i); i < 0 {
				return deepest
			}
		case 2:
			depth++
			deepest = max(deepest, depth)
			i++
		default:
			depth--
			i++
		}
	}
	return deepest
}
