package merge

import (
	"encoding/binary"
	"unicode/utf8"
)

// fault is what validate finds.
type fault uint8

const (
	faultNone   fault = iota
	faultSyntax       // not the grammar of RFC 8259
	faultDepth        // nested deeper than allowed
)

func (f fault) reason() Reason {
	if f == faultDepth {
		return TooDeep
	}
	return InvalidJSON
}

// bodyFault checks a body as Merge must before it lets its text into a
// document: UTF-8, grammar, depth. Check does this at ingest with better
// errors; here it only keeps what bypassed Check from doing harm.
func bodyFault(body []byte, maxDepth int) Reason {
	if !utf8.Valid(body) {
		return InvalidUTF8
	}
	i, f := validate(body, skipSpace(body, 0), maxDepth)
	if f == faultNone && skipSpace(body, i) != len(body) {
		f = faultSyntax
	}
	if f != faultNone {
		return f.reason()
	}
	return ReasonNone
}

// validate checks the value at t[i] against RFC 8259 and returns the index
// behind it; with a fault, the offset of the first byte that is wrong. White
// space between tokens is allowed. UTF-8 is not looked at. maxDepth bounds
// the recursion.
func validate(t []byte, i, maxDepth int) (int, fault) {
	if i >= len(t) {
		return i, faultSyntax
	}
	switch c := t[i]; c {
	case '{':
		if maxDepth == 0 {
			return i, faultDepth
		}
		i = skipSpace(t, i+1)
		if i < len(t) && t[i] == '}' {
			return i + 1, faultNone
		}
		for {
			if i >= len(t) || t[i] != '"' {
				return i, faultSyntax
			}
			var f fault
			if i, f = validString(t, i); f != faultNone {
				return i, f
			}
			if i < len(t) && t[i] <= ' ' {
				i = skipSpace(t, i)
			}
			if i >= len(t) || t[i] != ':' {
				return i, faultSyntax
			}
			if i++; i < len(t) && t[i] <= ' ' {
				i = skipSpace(t, i)
			}
			if i, f = validate(t, i, maxDepth-1); f != faultNone {
				return i, f
			}
			if i < len(t) && t[i] <= ' ' {
				i = skipSpace(t, i)
			}
			if i >= len(t) {
				return i, faultSyntax
			}
			if t[i] == '}' {
				return i + 1, faultNone
			}
			if t[i] != ',' {
				return i, faultSyntax
			}
			if i++; i < len(t) && t[i] <= ' ' {
				i = skipSpace(t, i)
			}
		}
	case '[':
		if maxDepth == 0 {
			return i, faultDepth
		}
		i = skipSpace(t, i+1)
		if i < len(t) && t[i] == ']' {
			return i + 1, faultNone
		}
		for {
			var f fault
			if i, f = validate(t, i, maxDepth-1); f != faultNone {
				return i, f
			}
			if i < len(t) && t[i] <= ' ' {
				i = skipSpace(t, i)
			}
			if i >= len(t) {
				return i, faultSyntax
			}
			if t[i] == ']' {
				return i + 1, faultNone
			}
			if t[i] != ',' {
				return i, faultSyntax
			}
			if i++; i < len(t) && t[i] <= ' ' {
				i = skipSpace(t, i)
			}
		}
	case '"':
		return validString(t, i)
	case 't':
		return validWord(t, i, "true")
	case 'f':
		return validWord(t, i, "false")
	case 'n':
		return validWord(t, i, "null")
	default:
		if c == '-' || c >= '0' && c <= '9' {
			return validNumber(t, i)
		}
		return i, faultSyntax
	}
}

// plain holds the bytes that may stand in a string as themselves.
var plain = func() (p [256]bool) {
	for c := range p {
		p[c] = c >= 0x20 && c != '"' && c != '\\'
	}
	return p
}()

func validString(t []byte, i int) (int, fault) {
	i++
	for {
		// Eight bytes at a time, as in skipString: a quote, a backslash, or a byte
		// below a space, which borrows from the bit above it. Bytes above 0x7f are
		// masked out of the last test; only the lowest hit is exact.
		for i+8 <= len(t) {
			w := binary.LittleEndian.Uint64(t[i:])
			q := w ^ ones*'"'
			b := w ^ ones*'\\'
			m := ((q-ones)&^q | (b-ones)&^b | (w-ones*' ')&^w) & highs
			if m != 0 {
				i += trailingZeroBytes(m)
				break
			}
			i += 8
		}
		for i < len(t) && plain[t[i]] {
			i++
		}
		if i >= len(t) {
			return i, faultSyntax
		}
		switch t[i] {
		case '"':
			return i + 1, faultNone
		case '\\':
			if i+1 >= len(t) {
				return i + 1, faultSyntax
			}
			switch t[i+1] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
				i += 2
			case 'u':
				for k := i + 2; k < i+6; k++ {
					if k >= len(t) || !isHex(t[k]) {
						return min(k, len(t)), faultSyntax
					}
				}
				i += 6
			default:
				return i + 1, faultSyntax
			}
		default:
			return i, faultSyntax // a control character
		}
	}
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func validWord(t []byte, i int, w string) (int, fault) {
	for k := range len(w) {
		if i+k >= len(t) || t[i+k] != w[k] {
			return min(i+k, len(t)), faultSyntax
		}
	}
	return i + len(w), faultNone
}

func validNumber(t []byte, i int) (int, fault) {
	if t[i] == '-' {
		i++
	}
	if i >= len(t) || !isDigit(t[i]) {
		return i, faultSyntax
	}
	if t[i] == '0' {
		i++
	} else {
		for i < len(t) && isDigit(t[i]) {
			i++
		}
	}
	if i < len(t) && t[i] == '.' {
		if i++; i >= len(t) || !isDigit(t[i]) {
			return i, faultSyntax
		}
		for i < len(t) && isDigit(t[i]) {
			i++
		}
	}
	if i < len(t) && (t[i] == 'e' || t[i] == 'E') {
		if i++; i < len(t) && (t[i] == '+' || t[i] == '-') {
			i++
		}
		if i >= len(t) || !isDigit(t[i]) {
			return i, faultSyntax
		}
		for i < len(t) && isDigit(t[i]) {
			i++
		}
	}
	return i, faultNone
}
