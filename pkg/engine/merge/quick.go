package merge

import "bytes"

// quick returns the index behind the value at t[i] if it is plainly in order, or −1,
// which says nothing about it: the checker has to look. In order are values as
// programs write them: no white space between tokens, no escapes in names, at most
// fewNames members in an object. Nothing is kept of where it is, so that small
// bodies cost little; what the checker would refuse is never in order.
//
// left is how deep the value may be nested.
func quick(t []byte, i, left int) int {
	if i >= len(t) {
		return -1
	}
	switch c := t[i]; {
	case c == '"':
		if j, f := validString(t, i); f == faultNone {
			return j
		}
		return -1
	case c == '{':
		return quickObject(t, i, left)
	case c == '[':
		return quickArray(t, i, left)
	default:
		j, f := validate(t, i, 0)
		if f != faultNone || j-i > maxLiteral {
			return -1
		}
		return j
	}
}

func quickObject(t []byte, i, left int) int {
	if i++; left == 0 || i >= len(t) {
		return -1
	}
	if t[i] == '}' {
		return i + 1
	}
	var names [fewNames][]byte
	for n := range names {
		if i >= len(t) || t[i] != '"' {
			return -1
		}
		from := i + 1
		for i = from; i < len(t) && plain[t[i]]; i++ {
		}
		if i+1 >= len(t) || t[i] != '"' || t[i+1] != ':' || i-from > maxLiteral-2 {
			return -1
		}
		name := t[from:i]
		for _, before := range names[:n] {
			if bytes.Equal(before, name) {
				return -1
			}
		}
		names[n] = name
		if i = quick(t, i+2, left-1); i < 0 || i >= len(t) {
			return -1
		}
		if t[i] == '}' {
			return i + 1
		}
		if t[i] != ',' {
			return -1
		}
		i++
	}
	return -1
}

func quickArray(t []byte, i, left int) int {
	if i++; left == 0 || i >= len(t) {
		return -1
	}
	if t[i] == ']' {
		return i + 1
	}
	for {
		if i = quick(t, i, left-1); i < 0 || i >= len(t) {
			return -1
		}
		if t[i] == ']' {
			return i + 1
		}
		if t[i] != ',' {
			return -1
		}
		i++
	}
}
