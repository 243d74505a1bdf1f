package merge

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"slices"
	"strconv"
	"unicode/utf8"
)

// The codes of a BodyError.
const (
	CodeInvalidJSON    = "invalid_json"    // not the grammar of RFC 8259
	CodeInvalidUTF8    = "invalid_utf8"    // a byte order mark is reported as invalid_json
	CodeDuplicateName  = "duplicate_name"  // an object names a member twice
	CodeTooDeep        = "too_deep"        // nested deeper than Limits.MaxDepth
	CodeTooLarge       = "too_large"       // over Limits.MaxDocument or MaxOps, or a name or number of more than 64 KiB
	CodeInvalidPatch   = "invalid_patch"   // JSON, but no JSON Patch
	CodeEmptyBody      = "empty_body"      // nothing where JSON is needed
	CodeUnexpectedBody = "unexpected_body" // a delete has no body
)

// BodyError says why a body was refused.
type BodyError struct {
	// Code is one of the Code constants: for programs.
	Code string
	// Rule is the rule that was broken, a phrase for people.
	Rule string
	// Offset is the first byte that is wrong, counted from 0; −1 if no byte
	// is to blame.
	Offset int
	// Pointer is the place in the body as a JSON Pointer (RFC 6901); "" is
	// the whole body.
	Pointer string
}

// Error is one sentence without a full stop: what is wrong, where, and which
// rule it breaks.
func (e *BodyError) Error() string {
	s := map[string]string{
		CodeInvalidJSON: "body is not valid JSON", CodeInvalidUTF8: "body is not valid UTF-8",
		CodeDuplicateName: "body names a member twice", CodeTooDeep: "body is nested too deep",
		CodeTooLarge: "body is too large", CodeInvalidPatch: "body is not a JSON Patch (RFC 6902)",
		CodeEmptyBody: "body is empty", CodeUnexpectedBody: "body must be empty",
	}[e.Code]
	if e.Offset >= 0 {
		s += " at byte " + strconv.Itoa(e.Offset)
	}
	if e.Pointer != "" {
		s += " (in " + strconv.Quote(e.Pointer) + ")"
	}
	if e.Rule != "" {
		s += ": " + e.Rule
	}
	return s
}

// Is makes errors.Is(err, ErrTooLarge) true for the code too_large.
func (e *BodyError) Is(target error) bool {
	return target == ErrTooLarge && e.Code == CodeTooLarge
}

// Check decides at ingest whether a body may become a delta of kind t, and
// returns it without its insignificant white space; names, numbers and
// strings keep their literal text. The error is always a *BodyError.
//
// The rules: RFC 8259 grammar, UTF-8 without a byte order mark, no object
// with two members whose names are equal after unescaping, depth and size
// within lim, no member name or number over 64 KiB. A JSON Patch must also consist
// of well-formed operations (RFC 6902, sections 3 and 4); that an operation
// can never succeed is no error here but a no-op when it is merged. Delete
// and Purge have an empty body, and the result is nil.
//
// Check does not retain body and the result does not share memory with it.
func Check(t Type, body []byte, lim Limits) ([]byte, error) {
	var c checker
	out, err := c.check(t, body, lim)
	if len(c.out) == 0 {
		out = bytes.Clone(out)
	}
	return out, err
}

// check is Check; the result shares memory with body or with c.out.
func (c *checker) check(t Type, body []byte, lim Limits) ([]byte, error) {
	lim = lim.withDefaults()
	switch {
	case !t.Valid():
		return nil, &BodyError{CodeInvalidJSON, fmt.Sprintf("%d is no merge type", uint8(t)), -1, ""}
	case t.bare():
		if len(body) != 0 {
			return nil, &BodyError{CodeUnexpectedBody, "a " + t.String() + " has no body", 0, ""}
		}
		return nil, nil
	case int64(len(body)) > lim.MaxDocument:
		return nil, &BodyError{CodeTooLarge, fmt.Sprintf("%d bytes, and at most %d are allowed", len(body), lim.MaxDocument), -1, ""}
	}
	start := skipSpace(body, 0)
	if start == len(body) {
		return nil, &BodyError{CodeEmptyBody, "a " + t.String() + " needs a JSON value", -1, ""}
	}
	if !utf8.Valid(body) {
		return nil, &BodyError{CodeInvalidUTF8, "JSON text is UTF-8 (RFC 8259, section 8.1)", invalidUTF8At(body), ""}
	}
	if bytes.HasPrefix(body, []byte("\xEF\xBB\xBF")) {
		return nil, &BodyError{CodeInvalidJSON, "a byte order mark is not allowed (RFC 8259, section 8.1)", 0, ""}
	}
	end := c.root(body, start, lim)
	if c.err == nil {
		if tail := skipSpace(body, end); tail != len(body) {
			c.fail(CodeInvalidJSON, "nothing may follow the value", tail)
		}
	}
	if c.err != nil {
		return nil, c.err
	}
	out := c.result(end)
	if t == JSONPatch {
		if err := checkPatch(out, lim); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// root checks the value that begins at t[at], whatever was checked before.
func (c *checker) root(t []byte, at int, lim Limits) (end int) {
	c.t, c.from, c.maxDepth, c.err = t, at, lim.MaxDepth, nil
	c.out, c.place, c.names = c.out[:0], c.place[:0], c.names[:0]
	if end = quick(t, at, lim.MaxDepth); end >= 0 {
		return end
	}
	return c.value(at, 0)
}

// result is the value that ends at end, without its white space.
func (c *checker) result(end int) []byte {
	if len(c.out) == 0 {
		return c.t[c.from:end:end]
	}
	c.out = append(c.out, c.t[c.from:end]...)
	return c.out
}

func checkPatch(body []byte, lim Limits) error {
	var p parser
	if _, f := p.parse(body, lim.MaxOps); f != nil {
		e := &BodyError{Code: CodeInvalidPatch, Rule: f.rule, Offset: -1}
		if f.rule == tooManyOps {
			e.Code, e.Rule = CodeTooLarge, fmt.Sprintf("a JSON Patch has at most %d operations", lim.MaxOps)
		}
		if f.op >= 0 {
			e.Pointer = "/" + strconv.Itoa(f.op)
			if f.field != "" {
				e.Pointer += "/" + f.field
			}
		}
		return e
	}
	if err := decodePatch(body); err != nil {
		return &BodyError{CodeInvalidPatch, err.Error(), -1, ""}
	}
	return nil
}

func invalidUTF8At(b []byte) int {
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// checker is the strict scanner with everything that an error must name. The
// first failure stops it.
type checker struct {
	t        []byte
	out      []byte // the text so far without white space …
	from     int    // … but for the stretch that begins here
	maxDepth int
	place    []step
	names    []uint32 // where the names of the open objects begin, innermost last
	table    []uint64
	err      *BodyError
}

// step is one token of the pointer to where the checker is: a raw name, or
// an index.
type step struct {
	name  []byte
	index int
}

func (c *checker) fail(code, rule string, at int) int {
	if c.err == nil {
		var p []byte
		for _, s := range c.place {
			p = append(p, '/')
			if s.name == nil {
				p = strconv.AppendInt(p, int64(s.index), 10)
			} else {
				p = appendToken(p, bytes.ToValidUTF8(unquote(s.name), []byte("\uFFFD")))
			}
			if len(p) > 1_000 {
				p = append(bytes.ToValidUTF8(p[:1_000], nil), "…"...)
				break
			}
		}
		c.err = &BodyError{code, rule, at, string(p)}
	}
	return -1
}

// appendToken appends a reference token with ~ and / escaped.
func appendToken(p, name []byte) []byte {
	for _, b := range name {
		switch b {
		case '~':
			p = append(p, '~', '0')
		case '/':
			p = append(p, '~', '1')
		default:
			p = append(p, b)
		}
	}
	return p
}

// space leaves the white space at i out of the result.
func (c *checker) space(i int) int {
	if i >= len(c.t) || c.t[i] > ' ' {
		return i
	}
	j := skipSpace(c.t, i)
	if j > i {
		if c.out == nil {
			c.out = make([]byte, 0, len(c.t))
		}
		c.out = append(c.out, c.t[c.from:i]...)
		c.from = j
	}
	return j
}

// value checks the value at i and returns the index behind it, or −1.
func (c *checker) value(i, depth int) int {
	if i >= len(c.t) {
		return c.fail(CodeInvalidJSON, "the text ends where a value should begin", i)
	}
	switch c.t[i] {
	case '{':
		return c.object(i, depth)
	case '[':
		return c.array(i, depth)
	}
	j, f := validate(c.t, i, 0)
	if f != faultNone {
		return c.fail(CodeInvalidJSON, scalarRule(c.t, i, j), j)
	}
	if j-i > maxLiteral && c.t[i] != '"' {
		return c.fail(CodeTooLarge, fmt.Sprintf("a number literal has at most %d bytes", maxLiteral), i)
	}
	return j
}

// scalarRule explains why the scalar at i is wrong at j.
func scalarRule(t []byte, i, j int) string {
	switch b := t[i]; {
	case b == '"' && j >= len(t):
		return "the string does not end"
	case b == '"' && t[j] < ' ':
		return "a control character in a string must be escaped"
	case b == '"':
		return "not an escape sequence of JSON"
	case b == '-' || isDigit(b):
		return "not a number of JSON"
	case j >= len(t):
		return "the text ends in a value"
	}
	return "a value must begin here: object, array, string, number, true, false or null"
}

func (c *checker) object(i, depth int) int {
	if depth >= c.maxDepth {
		return c.fail(CodeTooDeep, fmt.Sprintf("arrays and objects are nested at most %d deep", c.maxDepth), i)
	}
	first := len(c.names)
	c.place = append(c.place, step{})
	here := len(c.place) - 1
	i = c.space(i + 1)
	if i < len(c.t) && c.t[i] == '}' {
		c.place = c.place[:here]
		return i + 1
	}
	for {
		if i >= len(c.t) || c.t[i] != '"' {
			c.place = c.place[:here]
			return c.fail(CodeInvalidJSON, "a member name in double quotes must stand here", i)
		}
		j, f := validString(c.t, i)
		if f != faultNone {
			c.place = c.place[:here]
			return c.fail(CodeInvalidJSON, scalarRule(c.t, i, j), j)
		}
		if j-i > maxLiteral {
			c.place = c.place[:here]
			return c.fail(CodeTooLarge, fmt.Sprintf("a member name has at most %d bytes", maxLiteral), i)
		}
		c.place[here].name = c.t[i:j]
		if !c.name(i, first) {
			return -1
		}
		j = c.space(j)
		if j >= len(c.t) || c.t[j] != ':' {
			return c.fail(CodeInvalidJSON, "a colon must stand here", j)
		}
		if i = c.value(c.space(j+1), depth+1); i < 0 {
			return -1
		}
		i = c.space(i)
		if i < len(c.t) && c.t[i] == '}' {
			break
		}
		if i >= len(c.t) || c.t[i] != ',' {
			return c.fail(CodeInvalidJSON, "a comma or a closing brace must stand here", i)
		}
		i = c.space(i + 1)
	}
	if len(c.names)-first > fewNames && !c.distinct(c.names[first:], here) {
		return -1
	}
	c.names = c.names[:first]
	c.place = c.place[:here]
	return i + 1
}

func (c *checker) array(i, depth int) int {
	if depth >= c.maxDepth {
		return c.fail(CodeTooDeep, fmt.Sprintf("arrays and objects are nested at most %d deep", c.maxDepth), i)
	}
	i = c.space(i + 1)
	if i < len(c.t) && c.t[i] == ']' {
		return i + 1
	}
	c.place = append(c.place, step{})
	here := len(c.place) - 1
	for {
		if i = c.value(i, depth+1); i < 0 {
			return -1
		}
		i = c.space(i)
		if i < len(c.t) && c.t[i] == ']' {
			c.place = c.place[:here]
			return i + 1
		}
		if i >= len(c.t) || c.t[i] != ',' {
			return c.fail(CodeInvalidJSON, "a comma or a closing bracket must stand here", i)
		}
		i = c.space(i + 1)
		c.place[here].index++
	}
}

// fewNames is how many names of one object are compared pair by pair; from
// there on a hash table does it, once, at the end of the object.
const fewNames = 8

// name remembers the name at i and compares it with the few before it.
func (c *checker) name(i, first int) bool {
	if len(c.names) == cap(c.names) && len(c.names) >= 1_024 {
		// A name takes five bytes at least ("":0,): once is enough.
		c.names = slices.Grow(c.names, (len(c.t)-i)/5+1)
	}
	c.names = append(c.names, uint32(i))
	if n := len(c.names) - 1; n-first < fewNames {
		raw := c.place[len(c.place)-1].name
		for _, k := range c.names[first:n] {
			if equalStrings(c.t[k:skipString(c.t, int(k))], raw) {
				return c.duplicate(i) >= 0
			}
		}
	}
	return true
}

func (c *checker) duplicate(at int) int {
	return c.fail(CodeDuplicateName, "member names must differ after unescaping", at)
}

var seed = maphash.MakeSeed()

// distinct looks for a duplicate among the names that begin at the offsets.
func (c *checker) distinct(names []uint32, here int) bool {
	size := 32
	for size < len(names)+len(names)/2 {
		size *= 2
	}
	if cap(c.table) < size {
		c.table = make([]uint64, size)
	}
	table := c.table[:size]
	clear(table)
	for n, at := range names {
		raw := c.t[at:skipString(c.t, int(at))]
		h := maphash.Bytes(seed, unquote(raw))
		// Half of the hash stands in the table: the text of another name is
		// hardly ever looked at, which would be a cache miss each time.
		tag := h >> 32 << 32
		for k := int(h) & (size - 1); ; k = (k + 1) & (size - 1) {
			if table[k] == 0 {
				table[k] = tag | uint64(n+1)
				break
			}
			if table[k]>>32<<32 != tag {
				continue
			}
			o := names[uint32(table[k])-1]
			if equalStrings(c.t[o:skipString(c.t, int(o))], raw) {
				c.place = c.place[:here+1]
				c.place[here].name = raw
				c.duplicate(int(at))
				return false
			}
		}
	}
	return true
}
