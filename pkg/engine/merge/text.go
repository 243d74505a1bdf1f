package merge

import (
	"bytes"
	"math/bits"
	"unicode/utf8"
)

func trailingZeroBytes(m uint64) int { return bits.TrailingZeros64(m) >> 3 }

// Names are compared after unescaping, code unit by code unit. The unescaped
// form used here is UTF-8 in which a lone surrogate (legal in JSON text as
// \ud800, impossible in UTF-8) stands as its three-byte pattern, so that
// equal bytes mean equal code units.

// unquote returns the unescaped content of a string in valid text (quotes
// included). Without escapes it is a part of raw, nothing is copied.
func unquote(raw []byte) []byte {
	if len(raw) < 2 {
		return nil
	}
	s := raw[1 : len(raw)-1]
	i := bytes.IndexByte(s, '\\')
	if i < 0 {
		return s
	}
	out := make([]byte, i, len(s))
	copy(out, s)
	for i < len(s) {
		c := s[i]
		if c != '\\' || i+1 >= len(s) {
			out = append(out, c)
			i++
			continue
		}
		switch s[i+1] {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			u := hex4(s, i+2)
			i += 6
			if u >= 0xD800 && u < 0xDC00 && i+1 < len(s) && s[i] == '\\' && s[i+1] == 'u' {
				if lo := hex4(s, i+2); lo >= 0xDC00 && lo < 0xE000 {
					u = 0x10000 + (u-0xD800)<<10 + (lo - 0xDC00)
					i += 6
				}
			}
			out = appendCodePoint(out, u)
			continue
		default: // " \ /
			out = append(out, s[i+1])
		}
		i += 2
	}
	return out
}

// appendCodePoint appends u in UTF-8, a surrogate as its three-byte pattern.
func appendCodePoint(out []byte, u rune) []byte {
	if u >= 0xD800 && u < 0xE000 {
		return append(out, 0xE0|byte(u>>12), 0x80|byte(u>>6)&0x3F, 0x80|byte(u)&0x3F)
	}
	return utf8.AppendRune(out, u)
}

// hex4 reads the four hex digits at s[i]; 0xFFFD where there are none.
func hex4(s []byte, i int) rune {
	if i+4 > len(s) {
		return utf8.RuneError
	}
	var u rune
	for _, c := range s[i : i+4] {
		switch {
		case c >= '0' && c <= '9':
			u = u<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			u = u<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			u = u<<4 | rune(c-'A'+10)
		default:
			return utf8.RuneError
		}
	}
	return u
}

const hexDigits = "0123456789abcdef"

// quote returns the shortest JSON spelling of a name in the form of unquote.
func quote(name []byte) []byte {
	out := make([]byte, 0, len(name)+2)
	out = append(out, '"')
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case c == '"' || c == '\\':
			out = append(out, '\\', c)
		case c >= 0x20 && c < 0x80:
			out = append(out, c)
		case c == '\n':
			out = append(out, '\\', 'n')
		case c == '\r':
			out = append(out, '\\', 'r')
		case c == '\t':
			out = append(out, '\\', 't')
		case c == '\b':
			out = append(out, '\\', 'b')
		case c == '\f':
			out = append(out, '\\', 'f')
		case c < 0x20:
			out = append(out, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		case c == 0xED && i+2 < len(name) && name[i+1] >= 0xA0: // a lone surrogate
			u := uint(c&0xF)<<12 | uint(name[i+1]&0x3F)<<6 | uint(name[i+2]&0x3F)
			out = append(out, '\\', 'u', hexDigits[u>>12&15], hexDigits[u>>8&15], hexDigits[u>>4&15], hexDigits[u&15])
			i += 2
		default:
			out = append(out, c)
		}
	}
	return append(out, '"')
}

// sameName reports whether a raw name (with quotes) spells name.
func sameName(raw, name []byte) bool {
	if len(raw) == len(name)+2 && string(raw[1:len(raw)-1]) == string(name) {
		// Equal bytes may still differ: the backslash of an escape.
		return bytes.IndexByte(name, '\\') < 0
	}
	if len(raw) <= len(name)+2 || bytes.IndexByte(raw, '\\') < 0 {
		return false
	}
	return bytes.Equal(unquote(raw), name)
}

// equalStrings compares two strings of valid text by code units.
func equalStrings(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	if bytes.IndexByte(a, '\\') < 0 && bytes.IndexByte(b, '\\') < 0 {
		return false
	}
	return bytes.Equal(unquote(a), unquote(b))
}
