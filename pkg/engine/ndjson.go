package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"
	"unicode/utf8"

	"github.com/jsonlake/lake/pkg/engine/merge"
)

// A batch as text is NDJSON: one delta a line, an object with these members in
// any order, none twice and no other:
//
//	{"path":"/a","merge":"merge-patch","body":…,"no_auto_parents":true}
//
// path: default "/". merge: replace, merge-patch (default), json-patch or delete.
// body: any JSON value; none of a delete. no_auto_parents: for a JSON Patch,
// default false. Lines end with "\n", the last one may do without; lines of white
// space are passed over.

// lineScanner lays out the deltas of such a text as the payload of a run, in one
// pass and without allocating for each: batches are the way to write fast.
type lineScanner struct {
	lim     merge.Limits
	maxBody int64
	check   merge.Checker
	path    []byte // of the line before, which often is the next one's too

	// Of the first delta: a run of one keeps them.
	typ  MergeType
	name string
}

var scanners = sync.Pool{New: func() any { return new(lineScanner) }}

// members of a line, by bit.
const (
	linePath = 1 << iota
	lineMerge
	lineBody
	lineStrict
)

// scan appends the deltas of a text to a payload, at most most of them. Errors
// name the line, counted from 1, and the byte of the text.
func (s *lineScanner) scan(payload, text []byte, most int) (_ []byte, n int, err error) {
	if !utf8.Valid(text) {
		at := 0
		for r, size := utf8.DecodeRune(text); r != utf8.RuneError || size != 1; r, size = utf8.DecodeRune(text[at:]) {
			at += size
		}
		return nil, 0, lineError(text, at, &merge.BodyError{Code: merge.CodeInvalidUTF8, Rule: "JSON text is UTF-8 (RFC 8259, section 8.1)", Offset: at})
	}
	for at := 0; at < len(text); {
		end := len(text)
		if i := bytes.IndexByte(text[at:], '\n'); i >= 0 {
			end = at + i
		}
		// What ends here ends the line's values: none may go on in the next line.
		begin := blank(text[:end], at)
		if begin < end {
			if n == most {
				return nil, 0, invalid("invalid_batch", "body", "a batch has 1 to %d deltas, and line %d is one more", most, lineOf(text, at))
			}
			if payload, err = s.line(payload, text[:end], begin, n == 0); err != nil {
				return nil, 0, lineError(text, begin, err)
			}
			n++
		}
		at = end + 1
	}
	if n == 0 {
		return nil, 0, invalid("invalid_batch", "body", "a batch has 1 to %d deltas, not 0", most)
	}
	return payload, n, nil
}

// line appends the delta of the line that begins at text[at] and ends with it.
func (s *lineScanner) line(payload, text []byte, at int, first bool) ([]byte, error) {
	if text[at] != '{' {
		return nil, lineSyntax(at, "a line of a batch is an object")
	}
	typ, strict := merge.MergePatch, false
	path := rootPath
	var body []byte // in text or in the Checker, so it must be used before the next call
	var bodyAt int
	var copied bool
	seen := 0
	at = blank(text, at+1)
	for more := at >= len(text) || text[at] != '}'; more; {
		if at >= len(text) || text[at] != '"' {
			return nil, lineSyntax(at, "a member name in double quotes must stand here")
		}
		nameAt := at
		member, end := plainMember(text, at)
		var name []byte
		if member == 0 {
			var err error
			if name, end, err = s.check.Value(text, at, s.lim); err != nil {
				return nil, err
			}
			member = lineMember(name)
		}
		switch {
		case member == 0:
			return nil, invalidAt("unknown_field", "body", nameAt, "member %.100s at byte %d is unknown (known: path, merge, body, no_auto_parents)", name, nameAt)
		case seen&member != 0:
			return nil, &merge.BodyError{Code: merge.CodeDuplicateName, Rule: "member names must differ after unescaping", Offset: nameAt}
		}
		seen |= member
		if at = blank(text, end); at >= len(text) || text[at] != ':' {
			return nil, lineSyntax(at, "a colon must stand here")
		}
		at = blank(text, at+1)
		if body != nil && !copied {
			// Another member follows the body: what the Checker compacted is lost with it.
			body, copied = bytes.Clone(body), true
		}
		value, end, err := s.check.Value(text, at, s.lim)
		if err != nil {
			return nil, err
		}
		switch member {
		case linePath:
			if path, err = s.checkPath(value, at); err != nil {
				return nil, err
			}
		case lineMerge:
			if typ, err = lineType(value, at); err != nil {
				return nil, err
			}
		case lineBody:
			body, bodyAt = value, at
		case lineStrict:
			if strict = string(value) == "true"; !strict && string(value) != "false" {
				return nil, invalidAt("invalid_batch", "body", at, "no_auto_parents at byte %d is true or false", at)
			}
		}
		at = blank(text, end)
		switch {
		case at < len(text) && text[at] == ',':
			at = blank(text, at+1)
		case at < len(text) && text[at] == '}':
			more = false
		default:
			return nil, lineSyntax(at, "a comma or a closing brace must stand here")
		}
	}
	if at = blank(text, at+1); at != len(text) {
		return nil, lineSyntax(at, "nothing may follow the object in its line")
	}
	switch {
	case typ == merge.Delete && seen&lineBody != 0:
		return nil, &merge.BodyError{Code: merge.CodeUnexpectedBody, Rule: "a delete has no body", Offset: bodyAt}
	case typ != merge.Delete && seen&lineBody == 0:
		return nil, &merge.BodyError{Code: merge.CodeEmptyBody, Rule: "a " + typ.String() + " needs a member body", Offset: -1}
	case int64(len(body)) > s.maxBody:
		return nil, fmt.Errorf("%w: the body has %d bytes, at most %d are allowed", ErrTooLarge, len(body), s.maxBody)
	case typ == merge.JSONPatch:
		if err := merge.CheckPatch(body, s.lim); err != nil {
			return nil, err
		}
	}
	if first {
		s.typ, s.name = typ, string(path)
	}
	return appendDeltaParts(payload, typ, strict, path, body), nil
}

var rootPath = []byte("/")

// plainMember is the bit of the member name at text[at], and the index behind it, if
// it is one of the usual, written as AppendLine does.
func plainMember(text []byte, at int) (member, end int) {
	switch rest := text[at:]; {
	case len(rest) >= 6 && string(rest[:6]) == `"body"`:
		return lineBody, at + 6
	case len(rest) >= 6 && string(rest[:6]) == `"path"`:
		return linePath, at + 6
	case len(rest) >= 7 && string(rest[:7]) == `"merge"`:
		return lineMerge, at + 7
	}
	return 0, at
}

// lineMember is the bit of a member name, a JSON string; 0 when it is unknown.
func lineMember(name []byte) int {
	switch string(name) {
	case `"path"`:
		return linePath
	case `"merge"`:
		return lineMerge
	case `"body"`:
		return lineBody
	case `"no_auto_parents"`:
		return lineStrict
	}
	if bytes.IndexByte(name, '\\') < 0 {
		return 0
	}
	var plain string
	if json.Unmarshal(name, &plain) != nil {
		return 0
	}
	switch plain { // not recursion: an escaped backslash would go on
	case "path":
		return linePath
	case "merge":
		return lineMerge
	case "body":
		return lineBody
	case "no_auto_parents":
		return lineStrict
	}
	return 0
}

// lineString is the text of a JSON string; false when the value is none.
func lineString(value []byte) ([]byte, bool) {
	if value[0] != '"' {
		return nil, false
	}
	if bytes.IndexByte(value, '\\') < 0 {
		return value[1 : len(value)-1], true
	}
	var plain string
	if json.Unmarshal(value, &plain) != nil {
		return nil, false
	}
	return []byte(plain), true
}

func (s *lineScanner) checkPath(value []byte, at int) ([]byte, error) {
	path, ok := lineString(value)
	switch {
	case !ok:
		return nil, invalidAt("invalid_path", "path", at, "path at byte %d is a string", at)
	case len(s.path) > 0 && bytes.Equal(path, s.path):
		return s.path, nil
	}
	if err := validatePath(path); err != nil {
		return nil, err
	}
	s.path = append(s.path[:0], path...)
	return s.path, nil
}

func lineType(value []byte, at int) (MergeType, error) {
	name, ok := lineString(value)
	if ok {
		switch string(name) {
		case "merge-patch":
			return merge.MergePatch, nil
		case "replace":
			return merge.Replace, nil
		case "json-patch":
			return merge.JSONPatch, nil
		case "delete":
			return merge.Delete, nil
		}
	}
	return 0, invalidAt("invalid_merge", "merge", at, "merge type %.50s at byte %d is none of replace, merge-patch, json-patch, delete", value, at)
}

// blank passes over the white space of JSON.
func blank(text []byte, at int) int {
	for at < len(text) && (text[at] == ' ' || text[at] == '\t' || text[at] == '\r') {
		at++
	}
	return at
}

func lineSyntax(at int, rule string) error {
	return &merge.BodyError{Code: merge.CodeInvalidJSON, Rule: rule, Offset: at}
}

func lineOf(text []byte, at int) int { return bytes.Count(text[:at], []byte("\n")) + 1 }

func lineError(text []byte, at int, err error) error {
	return fmt.Errorf("line %d of the batch: %w", lineOf(text, at), err)
}

// AppendLine appends a delta as a line of a batch, with its line feed. Of a
// request the path, the merge type, the body and NoAutoParents count; the body
// must be one JSON value in one line, as merge.Check leaves it.
func AppendLine(b []byte, w *WriteRequest) []byte {
	b = append(b, '{')
	if w.Path != "" && w.Path != "/" {
		b = append(b, `"path":"`...)
		b = append(b, w.Path...) // nothing in a path needs an escape
		b = append(b, `",`...)
	}
	if w.MergeType != 0 && w.MergeType != merge.MergePatch {
		b = append(b, `"merge":"`...)
		b = append(b, w.MergeType.String()...)
		b = append(b, `",`...)
	}
	if w.NoAutoParents {
		b = append(b, `"no_auto_parents":true,`...)
	}
	if w.MergeType == merge.Delete {
		b = bytes.TrimSuffix(b, []byte(","))
	} else {
		b = append(b, `"body":`...)
		b = append(b, w.Body...)
	}
	return append(b, '}', '\n')
}
