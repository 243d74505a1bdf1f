package merge

import (
	"errors"
	"fmt"
	"slices"
)

// ErrBadPointer says that a JSON Pointer is malformed.
var ErrBadPointer = errors.New("malformed JSON Pointer")

// Get finds the value at a JSON Pointer (RFC 6901) in a document: "" is the
// whole, "/a/0" element 0 of member a. The value is a part of doc, not a
// copy. found is false where the pointer leads to nothing, and for an absent
// document (nil). A malformed pointer is ErrBadPointer; text that is not JSON
// as far as it had to be read is ErrCorruptBase.
func Get(doc []byte, pointer string) (value []byte, found bool, err error) {
	toks, ok := appendTokens(nil, []byte(pointer))
	if !ok {
		return nil, false, fmt.Errorf("%w %.100q: it is empty or begins with /, and ~ stands only in ~0 and ~1", ErrBadPointer, pointer)
	}
	if doc == nil {
		return nil, false, nil
	}
	pos := skipSpace(doc, 0)
	for _, tok := range toks {
		if pos >= len(doc) {
			return nil, false, ErrCorruptBase
		}
		next := -1
		var bad bool
		switch doc[pos] {
		case '{':
			ms := membersOf(doc[pos:])
			for ms.next() {
				if sameName(ms.rawName, tok) {
					next = pos + ms.pos
					break
				}
				ms.skip()
			}
			bad = ms.bad
		case '[':
			n := arrayIndex(tok, len(doc))
			if n < 0 {
				return nil, false, nil
			}
			es := elementsOf(doc[pos:])
			for ; es.next(); n-- {
				if n == 0 {
					next = pos + es.pos
					break
				}
				es.skip()
			}
			bad = es.bad
		}
		if bad {
			return nil, false, ErrCorruptBase
		}
		if next < 0 {
			return nil, false, nil
		}
		pos = next
	}
	v, end := span(doc, pos)
	if end < 0 || len(toks) == 0 && skipSpace(doc, end) != len(doc) {
		return nil, false, ErrCorruptBase
	}
	return slices.Clip(v), true, nil
}
