package merge

import (
	"bytes"
	"fmt"
)

// opKind is one of the six operations of RFC 6902.
type opKind uint8

const (
	opAdd opKind = iota + 1
	opRemove
	opReplace
	opMove
	opCopy
	opTest
)

// operation is one parsed step of a JSON Patch. Nothing is copied: tokens
// and value are parts of the body, but for tokens with escapes.
type operation struct {
	kind  opKind
	path  [][]byte // reference tokens, unescaped, in the form of unquote
	from  [][]byte // move and copy
	value []byte   // add, replace and test
}

// patchFault says which operation is not one (−1: the patch itself) and why.
type patchFault struct {
	op    int
	field string // the member to blame, "" for the operation
	rule  string
}

// tooManyOps is the rule of a patch over the limit.
const tooManyOps = "too many operations"

// parser parses JSON Patches, reusing its slices from patch to patch.
type parser struct {
	ops  []operation
	toks [][]byte
}

// parse takes the text of a valid JSON value apart. Members that RFC 6902
// does not define are ignored, as it demands.
func (p *parser) parse(body []byte, maxOps int) ([]operation, *patchFault) {
	p.ops, p.toks = p.ops[:0], p.toks[:0]
	i := skipSpace(body, 0)
	if i >= len(body) || body[i] != '[' {
		return nil, &patchFault{-1, "", "a JSON Patch is an array of operations"}
	}
	els := elementsOf(body[i:])
	for els.next() {
		n := len(p.ops)
		if n == maxOps {
			return nil, &patchFault{-1, "", tooManyOps}
		}
		t := els.t[els.pos:]
		if t[0] != '{' {
			return nil, &patchFault{n, "", "an operation is an object"}
		}
		o, end, f := p.operation(t)
		if f != nil {
			f.op = n
			return nil, f
		}
		els.pos += end
		p.ops = append(p.ops, o)
	}
	if els.bad {
		return nil, &patchFault{-1, "", "a JSON Patch is an array of operations"}
	}
	return p.ops, nil
}

func (p *parser) operation(t []byte) (o operation, end int, f *patchFault) {
	var kind, path, from []byte
	ms := membersOf(t)
	for ms.next() {
		v := ms.skip()
		name := ms.rawName
		if bytes.IndexByte(name, '\\') >= 0 {
			name = append(append([]byte{'"'}, unquote(name)...), '"')
		}
		switch string(name) {
		case `"op"`:
			kind = v
		case `"path"`:
			path = v
		case `"from"`:
			from = v
		case `"value"`:
			o.value = v
		}
	}
	if ms.bad {
		return o, 0, &patchFault{0, "", "an operation is an object"}
	}
	if len(kind) == 0 || kind[0] != '"' {
		return o, 0, &patchFault{0, "op", `"op" is required and is a string`}
	}
	switch string(unquote(kind)) {
	case "add":
		o.kind = opAdd
	case "remove":
		o.kind = opRemove
	case "replace":
		o.kind = opReplace
	case "move":
		o.kind = opMove
	case "copy":
		o.kind = opCopy
	case "test":
		o.kind = opTest
	default:
		return o, 0, &patchFault{0, "op", fmt.Sprintf("%.40s is no operation: use add, remove, replace, move, copy or test", kind)}
	}
	var rule string
	if o.path, rule = p.pointer(path); rule != "" {
		return o, 0, &patchFault{0, "path", `"path" ` + rule}
	}
	switch o.kind {
	case opMove, opCopy:
		if o.from, rule = p.pointer(from); rule != "" {
			return o, 0, &patchFault{0, "from", `"from" ` + rule}
		}
	case opAdd, opReplace, opTest:
		if o.value == nil {
			return o, 0, &patchFault{0, "value", `"value" is required (null must be written)`}
		}
	}
	return o, ms.pos, nil
}

// pointer parses a string that holds a JSON Pointer (RFC 6901). The rule
// that it breaks reads on from its name.
func (p *parser) pointer(raw []byte) ([][]byte, string) {
	if len(raw) == 0 {
		return nil, "is required"
	}
	if raw[0] != '"' {
		return nil, "is a string: a JSON Pointer"
	}
	start := len(p.toks)
	var ok bool
	if p.toks, ok = appendTokens(p.toks, unquote(raw)); !ok {
		p.toks = p.toks[:start]
		return nil, "is a JSON Pointer: empty, or beginning with /, and ~ only as ~0 or ~1"
	}
	return p.toks[start:len(p.toks):len(p.toks)], ""
}

// appendTokens splits a JSON Pointer into its unescaped reference tokens.
func appendTokens(toks [][]byte, ptr []byte) ([][]byte, bool) {
	if len(ptr) == 0 {
		return toks, true
	}
	if ptr[0] != '/' {
		return toks, false
	}
	for {
		ptr = ptr[1:]
		j := bytes.IndexByte(ptr, '/')
		tok := ptr
		if j >= 0 {
			tok = ptr[:j:j]
		}
		if bytes.IndexByte(tok, '~') >= 0 {
			var ok bool
			if tok, ok = unescapeToken(tok); !ok {
				return toks, false
			}
		}
		toks = append(toks, tok)
		if j < 0 {
			return toks, true
		}
		ptr = ptr[j:]
	}
}

func unescapeToken(tok []byte) ([]byte, bool) {
	out := make([]byte, 0, len(tok))
	for i := 0; i < len(tok); i++ {
		c := tok[i]
		if c == '~' {
			if i++; i >= len(tok) || tok[i] > '1' || tok[i] < '0' {
				return nil, false
			}
			c = "~/"[tok[i]-'0']
		}
		out = append(out, c)
	}
	return out, true
}

// arrayIndex reads a reference token as an array index below n: 0 or digits
// without a leading zero (RFC 6901, section 4); −1 if it is none.
func arrayIndex(tok []byte, n int) int {
	if len(tok) == 0 || len(tok) > 10 || tok[0] == '0' && len(tok) > 1 {
		return -1
	}
	x := 0
	for _, c := range tok {
		if !isDigit(c) {
			return -1
		}
		x = x*10 + int(c-'0')
	}
	if x >= n {
		return -1
	}
	return x
}

func isDash(tok []byte) bool { return len(tok) == 1 && tok[0] == '-' }

// startsWith reports whether prefix is a prefix of the tokens, itself included.
func startsWith(toks, prefix [][]byte) bool {
	if len(prefix) > len(toks) {
		return false
	}
	for i := range prefix {
		if !bytes.Equal(prefix[i], toks[i]) {
			return false
		}
	}
	return true
}
