package merge

import (
	"fmt"
	"iter"
)

// Members yields the members of an object, in the order of its text: the name
// without its escapes, and the text of the value, which is a part of object.
// Text that is no object has none. It is for text that Merge or Check made:
// what is not JSON ends the sequence.
func Members(object []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		t := trim(object)
		if len(t) == 0 || t[0] != '{' {
			return
		}
		ms := membersOf(t)
		for ms.next() {
			name, val := string(unquote(ms.rawName)), ms.skip()
			if val == nil || !yield(name, val) {
				return
			}
		}
	}
}

// Tokens splits a JSON Pointer (RFC 6901) into its reference tokens, without
// their escapes: none of "", the whole document. A malformed pointer is
// ErrBadPointer.
func Tokens(pointer string) ([]string, error) {
	raw, ok := appendTokens(nil, []byte(pointer))
	if !ok {
		return nil, fmt.Errorf("%w %.100q: it is empty or begins with /, and ~ stands only in ~0 and ~1", ErrBadPointer, pointer)
	}
	toks := make([]string, len(raw))
	for i, t := range raw {
		toks[i] = string(t)
	}
	return toks, nil
}

// AppendToken appends "/" and a name to a JSON Pointer, with the escapes that
// the name needs. Tokens is its inverse.
func AppendToken(pointer, name string) string {
	return pointer + "/" + string(appendToken(nil, []byte(name)))
}
