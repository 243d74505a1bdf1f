package merge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// d is a delta in one line: "replace /a 1", "delete /a", "json-patch! / […]"
// (strict).
func d(s string) Delta {
	f := strings.SplitN(s, " ", 3)
	x := Delta{Path: f[1], Strict: strings.HasSuffix(f[0], "!")}
	t, err := ParseType(strings.TrimSuffix(f[0], "!"))
	if err != nil {
		panic(err)
	}
	x.Type = t
	if len(f) == 3 {
		x.Body = []byte(f[2])
	}
	return x
}

// o is an outcome in one word: "applied", "coerced", "test_failed:2".
func o(s string) Outcome {
	switch s {
	case "applied":
		return Outcome{Status: Applied, Op: -1}
	case "coerced":
		return Outcome{Status: Applied, Op: -1, Coerced: true}
	}
	r, op, ok := strings.Cut(s, ":")
	x := Outcome{Status: Noop, Op: -1}
	if err := x.Reason.UnmarshalText([]byte(r)); err != nil {
		panic(err)
	}
	if ok {
		fmt.Sscan(op, &x.Op)
	}
	return x
}

func outs(s string) (out []Outcome) {
	for _, f := range strings.Fields(s) {
		out = append(out, o(f))
	}
	return out
}

// semantics is every awkward case of the rules, by name. base and want "":
// absent.
var semantics = []struct {
	name   string
	base   string
	deltas []string
	want   string
	out    string
}{
	// Replace.
	{"replace the root", `{"a":1}`, []string{`replace / [1]`}, `[1]`, "applied"},
	{"replace keeps the place", `{"a":1,"b":2,"c":3}`, []string{`replace /b "x"`}, `{"a":1,"b":"x","c":3}`, "applied"},
	{"replace appends a new member", `{"a":1}`, []string{`replace /b 2`}, `{"a":1,"b":2}`, "applied"},
	{"replace makes the way", `{}`, []string{`replace /a/b/c 1`}, `{"a":{"b":{"c":1}}}`, "applied"},
	{"replace coerces a scalar at its place", `{"a":5,"b":1}`, []string{`replace /a/x 1`}, `{"a":{"x":1},"b":1}`, "coerced"},
	{"replace coerces null", `{"a":null}`, []string{`replace /a/x 1`}, `{"a":{"x":1}}`, "coerced"},
	{"replace coerces an array", `{"a":[1]}`, []string{`replace /a/0 1`}, `{"a":{"0":1}}`, "coerced"},
	{"replace coerces a scalar root", `5`, []string{`replace /a 1`}, `{"a":1}`, "coerced"},
	{"replace on nothing", ``, []string{`replace /a/b 1`}, `{"a":{"b":1}}`, "applied"},
	{"null is a value", `{"a":1}`, []string{`replace /a null`}, `{"a":null}`, "applied"},
	{"a root scalar is a document", ``, []string{`replace / 5`}, `5`, "applied"},
	{"null is a document", ``, []string{`replace / null`}, `null`, "applied"},
	{"a dot is part of the name", `{"a":{"0":1}}`, []string{`replace /a.0 2`}, `{"a":{"0":1},"a.0":2}`, "applied"},
	{"a slash ends no name twice", `{}`, []string{`replace /a 1`, `replace /a 2`}, `{"a":2}`, "applied applied"},
	{"the first to coerce is flagged", `{"a":5}`, []string{`replace /a/x 1`, `replace /a/y 2`}, `{"a":{"x":1,"y":2}}`, "coerced applied"},
	{"flagged even when hidden later", `{"a":5}`, []string{`replace /a/x 1`, `replace /a 2`}, `{"a":2}`, "coerced applied"},
	{"flagged even when deleted later", `{"a":{"b":5}}`, []string{`replace /a/b/c 1`, `delete /a`}, `{}`, "coerced applied"},
	{"flagged even when the root is deleted", `{"a":{"b":5}}`, []string{`replace /a/b/c 1`, `delete /`}, ``, "coerced applied"},
	{"a delete before coerces nothing", `{"a":5}`, []string{`delete /a/x`, `replace /a/y 1`}, `{"a":{"y":1}}`, "applied coerced"},

	// RFC 7396.
	{"merge keeps places, appends in order", `{"a":1,"b":2}`, []string{`merge-patch / {"z":1,"b":3,"y":2}`}, `{"a":1,"b":3,"z":1,"y":2}`, "applied"},
	{"merge null deletes", `{"a":1,"b":2}`, []string{`merge-patch / {"a":null}`}, `{"b":2}`, "applied"},
	{"merge null of a missing member", `{"b":2}`, []string{`merge-patch / {"a":null}`}, `{"b":2}`, "applied"},
	{"merge null into a missing object", `{}`, []string{`merge-patch / {"a":{"b":null}}`}, `{"a":{}}`, "applied"},
	{"merge of a scalar replaces", `{"a":{"b":1}}`, []string{`merge-patch /a 5`}, `{"a":5}`, "applied"},
	{"merge of null at a scope is the value null", `{"a":{"b":1}}`, []string{`merge-patch /a null`}, `{"a":null}`, "applied"},
	{"merge of null at the root is the document null", `{"a":1}`, []string{`merge-patch / null`}, `null`, "applied"},
	{"merge coerces inside", `{"a":5}`, []string{`merge-patch / {"a":{"b":1}}`}, `{"a":{"b":1}}`, "coerced"},
	{"merge coerces its target", `{"a":[1]}`, []string{`merge-patch /a {"b":1}`}, `{"a":{"b":1}}`, "coerced"},
	{"merge coerces its target for nothing", `{"a":[1]}`, []string{`merge-patch /a {}`}, `{"a":{}}`, "coerced"},
	{"merge replaces arrays whole", `{"a":[1,2]}`, []string{`merge-patch / {"a":[null]}`}, `{"a":[null]}`, "applied"},
	{"merge on nothing", ``, []string{`merge-patch / {"a":{"b":1,"c":null}}`}, `{"a":{"b":1}}`, "applied"},
	{"merge of {} on nothing is {}", ``, []string{`merge-patch / {}`}, `{}`, "applied"},

	// Delete.
	{"delete a member", `{"a":1,"b":2,"c":3}`, []string{`delete /b`}, `{"a":1,"c":3}`, "applied"},
	{"delete the only member", `{"a":1}`, []string{`delete /a`}, `{}`, "applied"},
	{"delete the root", `{"a":1}`, []string{`delete /`}, ``, "applied"},
	{"delete what is not there", `{"a":1}`, []string{`delete /b/c`}, `{"a":1}`, "applied"},
	{"delete through a scalar", `{"a":1}`, []string{`delete /a/b`}, `{"a":1}`, "applied"},
	{"delete through an array", `{"a":[1]}`, []string{`delete /a/0`}, `{"a":[1]}`, "applied"},
	{"delete on nothing", ``, []string{`delete /a`}, ``, "applied"},
	{"delete in a scalar document", `5`, []string{`delete /a`}, `5`, "applied"},
	{"delete and add moves to the end", `{"a":1,"b":2}`, []string{`delete /a`, `replace /a 3`}, `{"b":2,"a":3}`, "applied applied"},
	{"delete and add below is a new object", `{"a":{"x":1},"b":2}`, []string{`delete /a`, `replace /a/y 3`}, `{"b":2,"a":{"y":3}}`, "applied applied"},
	{"a delete below creates no order", `{}`, []string{`delete /a/x`, `replace /b 1`, `replace /a/y 2`}, `{"b":1,"a":{"y":2}}`, "applied applied applied"},
	{"write after the root is gone", `{"a":1}`, []string{`delete /`, `replace /b 1`}, `{"b":1}`, "applied applied"},

	// Literal text.
	{"literal text stays", `{"n":12345678901234567890123,"d":1.10,"e":1e400,"h":"<>&\u2028","\u0061":1}`, []string{`merge-patch / {"x":100000000000000000001,"a":2.50}`},
		`{"n":12345678901234567890123,"d":1.10,"e":1e400,"h":"<>&\u2028","\u0061":2.50,"x":100000000000000000001}`, "applied"},
	{"names are equal after unescaping", `{"\u0061\/b":1}`, []string{`json-patch / [{"op":"replace","path":"/a~1b","value":2}]`}, `{"\u0061\/b":2}`, "applied"},
	{"a lone surrogate is no replacement character", `{"\ud800":1}`, []string{`json-patch / [{"op":"test","path":"/\ufffd","value":1}]`}, `{"\ud800":1}`, "path_missing:0"},
	{"a lone surrogate as a new name", `{}`, []string{`json-patch / [{"op":"add","path":"/\uD800x","value":1}]`}, `{"\ud800x":1}`, "applied"},
	{"a surrogate pair is one character", `{"😀":1}`, []string{`json-patch / [{"op":"remove","path":"/\ud83d\ude00"}]`}, `{}`, "applied"},

	// RFC 6902: all or nothing.
	{"all or nothing", `{"a":1}`, []string{`json-patch / [{"op":"add","path":"/b","value":1},{"op":"remove","path":"/a"},{"op":"test","path":"/b","value":2}]`}, `{"a":1}`, "test_failed:2"},
	{"a no-op does not stop the rest", `{"a":1}`, []string{`json-patch / [{"op":"remove","path":"/x"}]`, `replace /b 2`}, `{"a":1,"b":2}`, "path_missing:0 applied"},
	{"undo an order", `{"a":1,"b":2}`, []string{`json-patch / [{"op":"remove","path":"/a"},{"op":"add","path":"/a","value":1},{"op":"test","path":"/c","value":1}]`}, `{"a":1,"b":2}`, "path_missing:2"},
	{"undo in arrays", `{"a":[1,2,3]}`, []string{`json-patch / [{"op":"remove","path":"/a/0"},{"op":"add","path":"/a/1","value":9},{"op":"move","from":"/a/2","path":"/a/0"},{"op":"remove","path":"/a/7"}]`}, `{"a":[1,2,3]}`, "bad_index:3"},
	{"an empty patch applies", `{"a":1}`, []string{`json-patch / []`}, `{"a":1}`, "applied"},
	{"an empty patch on nothing leaves nothing", ``, []string{`json-patch / []`, `json-patch /a []`}, ``, "applied applied"},
	{"all no-ops: still absent", ``, []string{`json-patch / [{"op":"remove","path":"/a"}]`, `json-patch / [{"op":"test","path":"","value":null}]`}, ``, "path_missing:0 path_missing:0"},

	// RFC 6902: scopes.
	{"pointers count from the scope", `{"a":{"b":[1]}}`, []string{`json-patch /a [{"op":"add","path":"/b/0","value":0}]`}, `{"a":{"b":[0,1]}}`, "applied"},
	{"a scope may be any value", `{"a":[1]}`, []string{`json-patch /a [{"op":"add","path":"/-","value":2}]`}, `{"a":[1,2]}`, "applied"},
	{"the way meets a scalar", `{"a":1}`, []string{`json-patch /a/b [{"op":"add","path":"/c","value":1}]`}, `{"a":1}`, "scope_not_object"},
	{"the way meets null", `{"a":null}`, []string{`json-patch /a/b [{"op":"add","path":"/c","value":1}]`}, `{"a":null}`, "scope_not_object"},
	{"the way meets an array", `{"a":[{}]}`, []string{`json-patch /a/0 [{"op":"add","path":"/c","value":1}]`}, `{"a":[{}]}`, "scope_not_object"},
	{"a missing scope is made", `{"z":1}`, []string{`json-patch /a/b [{"op":"add","path":"/c","value":1}]`}, `{"z":1,"a":{"b":{"c":1}}}`, "applied"},
	{"a missing scope becomes an array", `{}`, []string{`json-patch /a [{"op":"add","path":"/-","value":1}]`}, `{"a":[1]}`, "applied"},
	{"a missing scope is set whole", `{}`, []string{`json-patch /a [{"op":"add","path":"","value":7}]`}, `{"a":7}`, "applied"},
	{"a missing scope is not made by a no-op", `{}`, []string{`json-patch /a [{"op":"add","path":"/x","value":1},{"op":"remove","path":"/y"}]`}, `{}`, "path_missing:1"},
	{"strict: a missing scope", `{}`, []string{`json-patch! /a [{"op":"add","path":"/x","value":1}]`}, `{}`, "path_missing:0"},
	{"strict: a missing scope may be set", `{}`, []string{`json-patch! /a [{"op":"add","path":"","value":1}]`}, `{"a":1}`, "applied"},
	{"strict: not below a missing one", `{}`, []string{`json-patch! /a/b [{"op":"add","path":"","value":1}]`}, `{}`, "path_missing:0"},
	{"strict: nothing has no members", ``, []string{`json-patch! / [{"op":"add","path":"/x","value":1}]`}, ``, "path_missing:0"},
	{"strict: nothing may become something", ``, []string{`json-patch! / [{"op":"add","path":"","value":{}}]`}, `{}`, "applied"},
	{"nothing becomes an object", ``, []string{`json-patch / [{"op":"add","path":"/x/y","value":1}]`}, `{"x":{"y":1}}`, "applied"},

	// RFC 6902: the root of a scope.
	{"replace the scope", `{"a":1}`, []string{`json-patch / [{"op":"replace","path":"","value":[1]}]`}, `[1]`, "applied"},
	{"replace a missing scope", ``, []string{`json-patch / [{"op":"replace","path":"","value":[1]}]`}, ``, "path_missing:0"},
	{"remove the scope", `{"a":1}`, []string{`json-patch / [{"op":"remove","path":""}]`}, `{"a":1}`, "root_operation:0"},
	{"move the scope", `{"a":1}`, []string{`json-patch / [{"op":"move","from":"","path":"/b"}]`}, `{"a":1}`, "root_operation:0"},
	{"copy the scope into itself", `{"a":1}`, []string{`json-patch / [{"op":"copy","from":"","path":"/b"}]`}, `{"a":1,"b":{"a":1}}`, "applied"},
	{"move a member to the scope", `{"a":{"b":1}}`, []string{`json-patch / [{"op":"move","from":"/a","path":""}]`}, `{"b":1}`, "applied"},
	{"the empty token is a name", `{"":1,"a":2}`, []string{`json-patch / [{"op":"test","path":"/","value":1},{"op":"remove","path":"/"}]`}, `{"a":2}`, "applied"},

	// RFC 6902: move and copy.
	{"move into a child", `{"a":{"b":1}}`, []string{`json-patch / [{"op":"move","from":"/a","path":"/a/b"}]`}, `{"a":{"b":1}}`, "move_into_child:0"},
	{"move into a child that is an element", `[[1],2]`, []string{`json-patch / [{"op":"move","from":"/0","path":"/0/z"}]`}, `[[1],2]`, "move_into_child:0"},
	{"move to itself", `{"a":1,"b":2}`, []string{`json-patch / [{"op":"move","from":"/a","path":"/a"}]`}, `{"a":1,"b":2}`, "applied"},
	{"move what is missing to itself", `{"a":1}`, []string{`json-patch / [{"op":"move","from":"/x","path":"/x"}]`}, `{"a":1}`, "path_missing:0"},
	{"a common start is no parent", `{"a":1}`, []string{`json-patch / [{"op":"move","from":"/a","path":"/ab"}]`}, `{"ab":1}`, "applied"},
	{"move over a member keeps its place", `{"a":1,"b":2,"c":3}`, []string{`json-patch / [{"op":"move","from":"/c","path":"/a"}]`}, `{"a":3,"b":2}`, "applied"},
	{"move in an array counts after the removal", `[1,2,3]`, []string{`json-patch / [{"op":"move","from":"/0","path":"/2"}]`}, `[2,3,1]`, "applied"},
	{"move in an array past its end", `[1,2,3]`, []string{`json-patch / [{"op":"move","from":"/0","path":"/3"}]`}, `[1,2,3]`, "bad_index:0"},
	{"copy is a snapshot", `{"a":{"x":1}}`, []string{`json-patch / [{"op":"copy","from":"/a","path":"/b"},{"op":"add","path":"/a/y","value":2},{"op":"replace","path":"/b/x","value":3}]`}, `{"a":{"x":1,"y":2},"b":{"x":3}}`, "applied"},
	{"move undone leaves both ends", `{"a":{"x":{"p":1}},"b":{}}`, []string{`json-patch / [{"op":"add","path":"/a/x/q","value":2},{"op":"move","from":"/a/x","path":"/b/x"},{"op":"add","path":"/b/x/r","value":3},{"op":"test","path":"/b/x/r","value":4}]`}, `{"a":{"x":{"p":1}},"b":{}}`, "test_failed:3"},

	// RFC 6902: indices.
	{"add at the length", `[1]`, []string{`json-patch / [{"op":"add","path":"/1","value":2}]`}, `[1,2]`, "applied"},
	{"add past the length", `[1]`, []string{`json-patch / [{"op":"add","path":"/2","value":2}]`}, `[1]`, "bad_index:0"},
	{"a leading zero", `[1,2]`, []string{`json-patch / [{"op":"replace","path":"/01","value":3}]`}, `[1,2]`, "bad_index:0"},
	{"a sign", `[1,2]`, []string{`json-patch / [{"op":"replace","path":"/+1","value":3}]`, `json-patch / [{"op":"replace","path":"/-1","value":3}]`}, `[1,2]`, "bad_index:0 bad_index:0"},
	{"replace at the length", `[1]`, []string{`json-patch / [{"op":"replace","path":"/1","value":2}]`}, `[1]`, "bad_index:0"},
	{"an index beyond any integer", `[1]`, []string{`json-patch / [{"op":"add","path":"/99999999999999999999","value":2}]`}, `[1]`, "bad_index:0"},
	{"dash appends", `[1]`, []string{`json-patch / [{"op":"add","path":"/-","value":2}]`}, `[1,2]`, "applied"},
	{"dash is nothing to read", `[1]`, []string{`json-patch / [{"op":"test","path":"/-","value":1}]`, `json-patch / [{"op":"remove","path":"/-"}]`, `json-patch / [{"op":"replace","path":"/-","value":1}]`}, `[1]`, "bad_index:0 bad_index:0 bad_index:0"},
	{"dash in the middle", `[[1]]`, []string{`json-patch / [{"op":"add","path":"/-/0","value":2}]`}, `[[1]]`, "bad_index:0"},
	{"dash is a name in an object", `{"-":1}`, []string{`json-patch / [{"op":"replace","path":"/-","value":2}]`}, `{"-":2}`, "applied"},
	{"digits are a name in an object", `{"0":1}`, []string{`json-patch / [{"op":"add","path":"/00","value":2}]`}, `{"0":1,"00":2}`, "applied"},

	// Auto-parents.
	{"auto-parents make objects", `{}`, []string{`json-patch / [{"op":"add","path":"/a/b/c","value":1}]`}, `{"a":{"b":{"c":1}}}`, "applied"},
	{"auto-parents make an array before a dash", `{}`, []string{`json-patch / [{"op":"add","path":"/a/-","value":1}]`}, `{"a":[1]}`, "applied"},
	{"auto-parents make no array before an index", `{}`, []string{`json-patch / [{"op":"add","path":"/a/0","value":1}]`}, `{"a":{"0":1}}`, "applied"},
	{"auto-parents overwrite nothing", `{"a":1}`, []string{`json-patch / [{"op":"add","path":"/a/b","value":1}]`}, `{"a":1}`, "path_missing:0"},
	{"auto-parents do not take null for missing", `{"a":null}`, []string{`json-patch / [{"op":"add","path":"/a/b","value":1}]`}, `{"a":null}`, "path_missing:0"},
	{"auto-parents pad no array", `{"a":[]}`, []string{`json-patch / [{"op":"add","path":"/a/5/b","value":1}]`}, `{"a":[]}`, "bad_index:0"},
	{"auto-parents make no element", `{"a":[]}`, []string{`json-patch / [{"op":"add","path":"/a/0/b","value":1}]`}, `{"a":[]}`, "bad_index:0"},
	{"auto-parents in an element", `[{}]`, []string{`json-patch / [{"op":"add","path":"/0/a/b","value":1}]`}, `[{"a":{"b":1}}]`, "applied"},
	{"auto-parents are undone", `{}`, []string{`json-patch / [{"op":"add","path":"/a/b","value":1},{"op":"test","path":"/a/b","value":2}]`}, `{}`, "test_failed:1"},
	{"auto-parents for move and copy", `{"s":1}`, []string{`json-patch / [{"op":"copy","from":"/s","path":"/a/b"},{"op":"move","from":"/s","path":"/c/d"}]`}, `{"a":{"b":1},"c":{"d":1}}`, "applied"},
	{"no auto-parents for replace", `{}`, []string{`json-patch / [{"op":"replace","path":"/a/b","value":1}]`}, `{}`, "path_missing:0"},
	{"the example of Lake v2's README", `{}`, []string{`json-patch / [{"op":"add","path":"/a/b/c","value":1},{"op":"move","from":"/a/b/c","path":"/x/y/z"}]`}, `{"a":{"b":{}},"x":{"y":{"z":1}}}`, "applied"},
	{"strict", `{}`, []string{`json-patch! / [{"op":"add","path":"/a/b","value":1}]`}, `{}`, "path_missing:0"},

	// test.
	{"numbers by value", `{"n":1}`, []string{`json-patch / [{"op":"test","path":"/n","value":1.0},{"op":"test","path":"/n","value":10e-1},{"op":"test","path":"/n","value":0.1E+1}]`}, `{"n":1}`, "applied"},
	{"numbers beyond floats", `{"n":1e400}`, []string{`json-patch / [{"op":"test","path":"/n","value":10e399}]`, `json-patch / [{"op":"test","path":"/n","value":1e401}]`}, `{"n":1e400}`, "applied test_failed:0"},
	{"big integers differ in the last digit", `{"n":9007199254740993}`, []string{`json-patch / [{"op":"test","path":"/n","value":9007199254740992}]`}, `{"n":9007199254740993}`, "test_failed:0"},
	{"a number is no string", `{"n":1}`, []string{`json-patch / [{"op":"test","path":"/n","value":"1"}]`}, `{"n":1}`, "test_failed:0"},
	{"strings after unescaping", `{"s":"\u0061\/"}`, []string{`json-patch / [{"op":"test","path":"/s","value":"a/"}]`}, `{"s":"\u0061\/"}`, "applied"},
	{"objects whatever their order", `{"o":{"a":1,"b":[{}]}}`, []string{`json-patch / [{"op":"test","path":"/o","value":{"b":[{}],"a":1.0}}]`}, `{"o":{"a":1,"b":[{}]}}`, "applied"},
	{"objects with more members", `{"o":{"a":1,"b":2}}`, []string{`json-patch / [{"op":"test","path":"/o","value":{"a":1}}]`, `json-patch / [{"op":"test","path":"/o","value":{"a":1,"b":2,"c":3}}]`}, `{"o":{"a":1,"b":2}}`, "test_failed:0 test_failed:0"},
	{"arrays in order", `[1,2]`, []string{`json-patch / [{"op":"test","path":"","value":[2,1]}]`, `json-patch / [{"op":"test","path":"","value":[1]}]`, `json-patch / [{"op":"test","path":"","value":[1,2.0]}]`}, `[1,2]`, "test_failed:0 test_failed:0 applied"},
	{"null is there", `{"n":null}`, []string{`json-patch / [{"op":"test","path":"/n","value":null}]`, `json-patch / [{"op":"test","path":"/m","value":null}]`}, `{"n":null}`, "applied path_missing:0"},
	{"test sees blind writes", `{"a":{"b":1}}`, []string{`replace /a/c 2`, `delete /a/b`, `json-patch / [{"op":"test","path":"/a","value":{"c":2}}]`}, `{"a":{"c":2}}`, "applied applied applied"},
	{"test sees what deletes left", `{"a":5}`, []string{`delete /a/b`, `delete /x/y`, `json-patch / [{"op":"test","path":"","value":{"a":5}}]`}, `{"a":5}`, "applied applied applied"},

	// Bodies that bypassed Check.
	{"no JSON", `{"a":1}`, []string{`replace /a {`, `merge-patch / nul`, `json-patch / [}`, `replace /a`}, `{"a":1}`, "invalid_json invalid_json invalid_json invalid_json"},
	{"no UTF-8", `{"a":1}`, []string{"replace /a \"\xff\"", "replace /\xff 1"}, `{"a":1}`, "invalid_utf8 invalid_utf8"},
	{"no patch", `{"a":1}`, []string{`json-patch / {}`, `json-patch / [1]`, `json-patch / [{"op":"test","path":"/a","value":1},{"op":"spam","path":""}]`}, `{"a":1}`, "invalid_json invalid_json:0 invalid_json:1"},
}

func TestSemantics(t *testing.T) {
	t.Parallel()
	for _, c := range semantics {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var base []byte
			if c.base != "" {
				base = []byte(c.base)
			}
			var deltas []Delta
			for _, s := range c.deltas {
				deltas = append(deltas, d(s))
			}
			got, out, err := Merge(base, deltas, Limits{})
			if err != nil || string(got) != c.want || (got == nil) != (c.want == "") {
				t.Errorf("got %s, %v, want %s", got, err, c.want)
			}
			if want := outs(c.out); !slices.Equal(out, want) {
				t.Errorf("got %+v, want %+v", out, want)
			}
			// Cut everywhere, and against the model.
			for cut := range len(deltas) + 1 {
				checkModel(t, base, deltas, Limits{}, func(int) int { return cut })
			}
		})
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, c := range []struct {
		name   string
		lim    Limits
		base   string
		deltas []string
		want   string
		out    string
	}{
		{"a document at its limit", Limits{MaxDocument: 10}, `{"a":1}`, []string{`replace /a 1234`, `replace /a 12345`}, `{"a":1234}`, "applied too_large"},
		{"a merge patch over it is taken back whole", Limits{MaxDocument: 20}, `{"a":1,"b":2}`, []string{`merge-patch / {"a":9,"b":null,"c":"xxxxxxxxxx"}`, `replace /b 3`}, `{"a":1,"b":3}`, "too_large applied"},
		{"shrinking is always possible", Limits{MaxDocument: 5}, `{"a":"xxxxxxxxxx"}`, []string{`replace /a "xxxxxxxxxxx"`, `replace /a "xxxxx"`, `delete /a`}, `{}`, "too_large applied applied"},
		{"a copy over it", Limits{MaxDocument: 20}, `{"a":"xxxxxx"}`, []string{`json-patch / [{"op":"copy","from":"/a","path":"/b"}]`}, `{"a":"xxxxxx"}`, "too_large"},
		{"copies are counted together", Limits{MaxCopy: 5}, `{"a":"xx"}`, []string{`json-patch / [{"op":"copy","from":"/a","path":"/b"},{"op":"copy","from":"/a","path":"/b"}]`, `json-patch / [{"op":"copy","from":"/a","path":"/b"}]`}, `{"a":"xx","b":"xx"}`, "too_large:1 applied"},
		{"operations", Limits{MaxOps: 1}, `{}`, []string{`json-patch / [{"op":"test","path":"","value":{}},{"op":"test","path":"","value":{}}]`}, `{}`, "too_large"},
		{"depth of a body", Limits{MaxDepth: 3}, `{}`, []string{`replace /a ` + deep(3), `replace /a ` + deep(4)}, `{"a":[[[]]]}`, "applied too_deep"},
		{"depth below the scope", Limits{MaxDepth: 4}, `{}`, []string{`json-patch / [{"op":"add","path":"/a/b","value":[[]]}]`, `json-patch / [{"op":"add","path":"/a/b/c","value":[[]]}]`}, `{"a":{"b":[[]]}}`, "applied too_deep:0"},
		{"depth of a pointer", Limits{MaxDepth: 3}, `{}`, []string{`json-patch / [{"op":"add","path":"/a/b/c","value":1}]`, `json-patch / [{"op":"add","path":"/a/b/c/d","value":1}]`}, `{"a":{"b":{"c":1}}}`, "applied too_deep:0"},
		{"depth of a copy", Limits{MaxDepth: 4}, `{"a":[[[]]]}`, []string{`json-patch / [{"op":"copy","from":"/a","path":"/b"}]`, `json-patch / [{"op":"copy","from":"/a","path":"/b/c"}]`}, `{"a":[[[]]],"b":[[[]]]}`, "applied too_deep:0"},
		{"depth of a move", Limits{MaxDepth: 4}, `{"a":[[[]]]}`, []string{`json-patch / [{"op":"move","from":"/a","path":"/b"}]`, `json-patch / [{"op":"move","from":"/b","path":"/c/d"}]`}, `{"b":[[[]]]}`, "applied too_deep:0"},
	} {
		var deltas []Delta
		for _, s := range c.deltas {
			deltas = append(deltas, d(s))
		}
		got, out, err := Merge([]byte(c.base), deltas, c.lim)
		if err != nil || string(got) != c.want || !slices.Equal(out, outs(c.out)) {
			t.Errorf("%s: got %s %+v %v, want %s %s", c.name, got, out, err, c.want, c.out)
		}
		for cut := range len(deltas) + 1 {
			checkModel(t, []byte(c.base), deltas, c.lim, func(int) int { return cut })
		}
	}
}

// TestCopyOverLimit is the one way in which a patch passes the document's
// limit without a large body.
func TestCopyOverLimit(t *testing.T) {
	t.Parallel()
	base := []byte(`{"a":["` + strings.Repeat("x", 600) + `"],"b":{"c":5}}`)
	deltas := []Delta{
		d(`replace /b/c/d 1`), // coerces: flagged although the overlay is written out on the way
		d(`json-patch / [{"op":"copy","from":"/a","path":"/c"}]`),
		d(`json-patch / [{"op":"copy","from":"/a","path":"/d"},{"op":"copy","from":"/a","path":"/e"}]`),
		d(`json-patch / [{"op":"copy","from":"/a","path":"/d"}]`),
		d(`json-patch / [{"op":"copy","from":"/a","path":"/d"},{"op":"add","path":"/d/-","value":1}]`),
		d(`delete /c`),
		d(`json-patch / [{"op":"move","from":"/a","path":"/z"}]`),
		d(`json-patch / [{"op":"copy","from":"/z","path":"/y/x"}]`),
	}
	var seen []string
	for limit := int64(600); limit < 3_000; limit += 7 {
		lim := Limits{MaxDocument: limit}
		for cut := range len(deltas) + 1 {
			checkModel(t, base, deltas, lim, func(int) int { return cut })
		}
		_, out, _ := Merge(base, deltas, lim)
		for _, o := range out {
			if s := o.Reason.String(); !slices.Contains(seen, s) {
				seen = append(seen, s)
			}
		}
	}
	if !slices.Contains(seen, "too_large") || !slices.Contains(seen, "") {
		t.Errorf("got only %q", seen)
	}
}

func TestCorruptBase(t *testing.T) {
	t.Parallel()
	read := []Delta{d(`json-patch / [{"op":"test","path":"/z","value":1}]`)}
	write := []Delta{d(`replace /z 1`)}
	for _, base := range []string{``, ` `, `{`, `}`, `[`, `nul`, `01`, `"`, `{]`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{"a" 1}`, `{"a":"x}`, `{"a":[}`, `{a:1}`, `{"a":1 "b":2}`} {
		for _, deltas := range [][]Delta{read, write} {
			if doc, _, err := Merge([]byte(base), deltas, Limits{}); !errors.Is(err, ErrCorruptBase) {
				t.Errorf("%q: got %s, %v, want ErrCorruptBase", base, doc, err)
			}
		}
	}
	// Whatever the base is, nothing panics.
	good := []byte(`{"a":{"b":[1,{"c":"d\u00e9"}],"e":null},"f":[true,1.5e3,"x"]}`)
	deltas := []Delta{
		d(`replace /a/x 1`), d(`delete /f`), d(`merge-patch / {"a":{"b":null,"q":{"r":1}}}`),
		d(`json-patch / [{"op":"test","path":"/f/2","value":"x"}]`),
		d(`json-patch / [{"op":"move","from":"/a/b/1","path":"/n/m"},{"op":"copy","from":"","path":"/o"}]`),
		d(`json-patch /a [{"op":"add","path":"/b/-","value":1}]`),
	}
	for i := range good {
		for _, c := range []byte("{}[]\",:\\x\x00 1") {
			bad := bytes.Clone(good)
			bad[i] = c
			for k := range deltas {
				Merge(bad, deltas[k:], Limits{})
				Merge(bad[:i], deltas[k:], Limits{})
			}
			Get(bad, "/a/b/1/c")
			Diff(bad, good, JSONPatch)
		}
	}
}

func TestMergeSharesNothing(t *testing.T) {
	t.Parallel()
	base := []byte(`{"a":1}`)
	for _, deltas := range [][]Delta{nil, {d(`replace / {"b":2}`)}, {d(`replace /b 2`)}} {
		doc, _, err := Merge(base, deltas, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		want := bytes.Clone(doc)
		for _, x := range append(deltas, Delta{Body: base}) {
			clear(x.Body)
		}
		if !bytes.Equal(doc, want) {
			t.Errorf("got %q after base and bodies were cleared, want %q", doc, want)
		}
		copy(base, `{"a":1}`)
	}
}

func TestTypesText(t *testing.T) {
	t.Parallel()
	for typ, want := range map[Type]string{1: "replace", 2: "merge-patch", 3: "json-patch", 4: "delete"} {
		var back Type
		b, err := typ.MarshalText()
		if err != nil || string(b) != want || back.UnmarshalText(b) != nil || back != typ || typ.String() != want {
			t.Errorf("type %d: got %s, %v, %d, want %s", typ, b, err, back, want)
		}
	}
	if _, err := ParseType("patch"); err == nil {
		t.Error("got no error for an unknown type")
	}
	for s, want := range map[Status]string{1: "applied", 2: "noop", 3: "pruned"} {
		if s.String() != want {
			t.Errorf("status %d: got %s, want %s", s, s, want)
		}
	}
	// Frozen: these numbers stand in packs.
	want := []string{"", "test_failed", "path_missing", "bad_index", "scope_not_object", "move_into_child", "root_operation", "too_deep", "too_large", "invalid_json", "invalid_utf8"}
	for i, w := range want {
		if Reason(i).String() != w {
			t.Errorf("reason %d: got %s, want %s", i, Reason(i), w)
		}
	}
	if Reason(len(want)).Valid() {
		t.Error("the set of reasons has grown: add to this test")
	}
	for _, c := range []struct {
		out  Outcome
		json string
	}{
		{Outcome{Status: Applied, Op: -1}, `{"status":"applied"}`},
		{Outcome{Status: Applied, Op: -1, Coerced: true}, `{"status":"applied","coerced":true}`},
		{Outcome{Status: Noop, Reason: TestFailed, Op: 0}, `{"status":"noop","reason":"test_failed","op":0}`},
		{Outcome{Status: Noop, Reason: TooLarge, Op: -1}, `{"status":"noop","reason":"too_large"}`},
		{Outcome{Status: Pruned, Op: -1}, `{"status":"pruned"}`},
	} {
		b, err := json.Marshal(c.out)
		var back Outcome
		if err != nil || string(b) != c.json || json.Unmarshal(b, &back) != nil || back != c.out {
			t.Errorf("got %s %v, back %+v, want %s", b, err, back, c.json)
		}
	}
}

func TestPrune(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		deltas []string
		kept   []string
	}{
		{"hidden by the same path", []string{`replace /a 1`, `replace /a 2`}, []string{`replace /a null`, `replace /a 2`}},
		{"hidden from above", []string{`merge-patch /a/b {"x":1}`, `replace /a 2`}, []string{`replace /a null`, `replace /a 2`}},
		{"hidden by the root", []string{`replace /a 1`, `merge-patch / {"x":1}`, `replace / 2`}, []string{`replace / null`, `replace / null`, `replace / 2`}},
		{"a neighbour", []string{`replace /ab 1`, `replace /a 2`}, []string{`replace /ab 1`, `replace /a 2`}},
		{"above is not hidden", []string{`replace /a 1`, `replace /a/b 2`}, []string{`replace /a 1`, `replace /a/b 2`}},
		{"a patch may read it", []string{`replace /a 1`, `json-patch /a/b []`, `replace /a 2`}, []string{`replace /a 1`, `json-patch /a/b []`, `replace /a 2`}},
		{"a patch elsewhere may not", []string{`replace /a 1`, `json-patch /b []`, `replace /a 2`}, []string{`replace /a null`, `json-patch /b []`, `replace /a 2`}},
		{"a merge patch above may coerce it", []string{`replace /a 1`, `merge-patch / {"a":{}}`, `replace /a 2`}, []string{`replace /a 1`, `merge-patch / {"a":{}}`, `replace /a 2`}},
		{"a delete has no body to save", []string{`delete /a/b`, `replace /a 2`}, []string{`delete /a/b`, `replace /a 2`}},
	} {
		var deltas, want []Delta
		for _, s := range c.deltas {
			deltas = append(deltas, d(s))
		}
		for _, s := range c.kept {
			want = append(want, d(s))
		}
		kept, pruned := Prune(deltas)
		out := make([]Outcome, len(kept))
		MarkPruned(out, pruned)
		for i := range kept {
			if (out[i] == Outcome{Status: Pruned, Op: -1}) != pruned[i] {
				t.Errorf("%s: delta %d: got outcome %+v", c.name, i, out[i])
			}
			if kept[i].Type != want[i].Type || kept[i].Path != want[i].Path || !bytes.Equal(kept[i].Body, want[i].Body) {
				t.Errorf("%s: delta %d: got %v, want %v", c.name, i, kept[i], want[i])
			}
			if got := c.deltas[i] != c.kept[i]; got != pruned[i] {
				t.Errorf("%s: delta %d: got pruned %v, want %v", c.name, i, pruned[i], got)
			}
		}
	}
}

func TestGet(t *testing.T) {
	t.Parallel()
	doc := `{"foo":["bar","baz"],"":0,"a/b":1,"c%d":2,"e^f":3,"g|h":4,"i\\j":5,"k\"l":6," ":7,"m~n":8,"o":{"\u0070":[{},[9]]}}`
	for ptr, want := range map[string]string{
		// RFC 6901, section 5.
		"": doc, "/foo": `["bar","baz"]`, "/foo/0": `"bar"`, "/": "0", "/a~1b": "1", "/c%d": "2", "/e^f": "3", "/g|h": "4", `/i\j`: "5", `/k"l`: "6", "/ ": "7", "/m~0n": "8",
		"/o/p/1/0": "9", "/foo/2": "", "/foo/-": "", "/foo/01": "", "/x": "", "/foo/0/x": "", "/o/p/0/x": "",
	} {
		got, found, err := Get([]byte(doc), ptr)
		if err != nil || found != (want != "") || string(got) != want {
			t.Errorf("%q: got %s, %v, %v, want %s", ptr, got, found, err, want)
		}
	}
	for _, ptr := range []string{"foo", "/a~", "/a~2"} {
		if _, _, err := Get([]byte(doc), ptr); !errors.Is(err, ErrBadPointer) {
			t.Errorf("%q: got %v, want ErrBadPointer", ptr, err)
		}
	}
	if _, found, err := Get(nil, ""); found || err != nil {
		t.Errorf("absent document: got %v, %v", found, err)
	}
	for _, bad := range []string{`{"a"`, `{"a":1`, `[1,`, ``, `{} x`} {
		if _, _, err := Get([]byte(bad), ""); !errors.Is(err, ErrCorruptBase) {
			t.Errorf("%q: got %v, want ErrCorruptBase", bad, err)
		}
	}
}
