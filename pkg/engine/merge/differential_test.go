package merge

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// The differential tests compare the engine with json-patch. Where neither of
// the known divergences plays, they must agree; and each known divergence is
// reproduced, with the section that decides who is right.

// TestLibraryAgrees draws documents and patches that keep clear of the known
// divergences: containers at the root, no null, integers without exponents,
// no empty token, no operation on "", canonical indices, no move into a child.
func TestLibraryAgrees(t *testing.T) {
	t.Parallel()
	s := *seedFlag
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d (run again with -seed=%d)", s, s)
	g := gen{rand.New(rand.NewPCG(s, 6))}
	var value func(depth int) string
	value = func(depth int) string {
		n := g.IntN(4)
		switch {
		case depth == 0 || n == 0:
			return g.pick("true", "false", "1", "2", "-3", "12345678901234567890", `""`, `"a"`, `"\u0061"`, `"<&>é"`)
		case n == 1:
			var l []string
			for range g.IntN(4) {
				l = append(l, value(depth-1))
			}
			return "[" + strings.Join(l, ",") + "]"
		}
		var l []string
		for _, k := range g.Perm(5)[:g.IntN(4)] {
			l = append(l, fmt.Sprintf(`"%s":%s`, []string{"a", "b", "c", "a/b", "m~n"}[k], value(depth-1)))
		}
		return "{" + strings.Join(l, ",") + "}"
	}
	var doc string
	var places func(v *mval, at string) []string
	places = func(v *mval, at string) (all []string) {
		for _, m := range v.mem {
			p := at + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(strings.Trim(m.raw, `"`))
			all = append(append(all, p), places(m.v, p)...)
		}
		for i, e := range v.el {
			p := fmt.Sprintf("%s/%d", at, i)
			all = append(append(all, p), places(e, p)...)
		}
		return all
	}
	pointer := func() string {
		p := ""
		if all := places(mparse([]byte(doc)), ""); len(all) > 0 && g.IntN(5) > 0 {
			if p = all[g.IntN(len(all))]; g.IntN(3) > 0 {
				return p
			}
			return p + "/" + g.pick("a", "b", "x", "0", "-")
		}
		for range 1 + g.IntN(3) {
			p += "/" + g.pick("a", "a", "b", "c", "a~1b", "m~0n", "0", "0", "1", "2", "-", "x")
		}
		return p
	}
	agreed := map[string]int{}
	for range 40_000 {
		doc = value(3)
		for doc[0] != '{' && doc[0] != '[' {
			doc = value(3)
		}
		typ, body := JSONPatch, ""
		if g.IntN(4) == 0 {
			typ = MergePatch
			for body = value(3); body[0] != '{'; {
				body = value(3)
			}
			if doc[0] != '{' {
				continue
			}
			// Members deleted at the top: nulls below are a divergence.
			body = strings.TrimSuffix(body, "}") + g.pick("", "", `,"x":null`) + "}"
			if strings.HasPrefix(body, "{,") {
				body = "{" + body[2:]
			}
		} else {
			var ops []string
			for range 1 + g.IntN(3) {
				p, q := pointer(), pointer()
				switch g.IntN(6) {
				case 0:
					ops = append(ops, fmt.Sprintf(`{"op":"remove","path":"%s"}`, p))
				case 1:
					ops = append(ops, fmt.Sprintf(`{"op":"replace","path":"%s","value":%s}`, p, value(2)))
				case 2:
					if strings.HasPrefix(q, p) {
						continue
					}
					ops = append(ops, fmt.Sprintf(`{"op":"move","from":"%s","path":"%s"}`, p, q))
				case 3:
					ops = append(ops, fmt.Sprintf(`{"op":"copy","from":"%s","path":"%s"}`, p, q))
				case 4:
					v := value(2)
					if x, found, _ := Get([]byte(doc), p); found && g.IntN(4) > 0 {
						v = string(x)
					}
					ops = append(ops, fmt.Sprintf(`{"op":"test","path":"%s","value":%s}`, p, v))
				default:
					ops = append(ops, fmt.Sprintf(`{"op":"add","path":"%s","value":%s}`, p, value(2)))
				}
			}
			body = "[" + strings.Join(ops, ",") + "]"
		}
		ours, out, err := Merge([]byte(doc), []Delta{{Type: typ, Path: "/", Body: []byte(body), Strict: true}}, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		theirs, refErr := Reference([]byte(doc), typ, []byte(body))
		if (out[0].Status == Applied) != (refErr == nil) {
			t.Fatalf("%s + %s: got %+v %s, json-patch says %s, %v", doc, body, out[0], ours, theirs, refErr)
		}
		if refErr == nil && !mequal(mparse(ours), mparse(theirs)) {
			t.Fatalf("%s + %s: got %s, json-patch says %s", doc, body, ours, theirs)
		}
		agreed[typ.String()+" "+out[0].Status.String()]++
	}
	t.Logf("agreed: %v", agreed)
}

// divergences are the known ones, in the words of library.go. theirs is what
// json-patch v5.9.11 gives: a document, "error" or "panic". If an upgrade of
// the library mends one, its case fails here, and the list gets shorter.
var divergences = []struct {
	class, why string
	typ        Type
	doc, body  string
	ours       string // a document, or a reason
	theirs     string
}{
	{"nested-null", "RFC 6902 4.6: arrays are equal if their values are; null and 1 are not", JSONPatch,
		`{"a":[null]}`, `[{"op":"test","path":"/a","value":[1]}]`, "test_failed", "panic"},
	{"null-is-missing", "RFC 6902 4.6 tests a value at the target location; a missing member has none", JSONPatch,
		`{"a":1}`, `[{"op":"test","path":"/b","value":null}]`, "path_missing", `{"a":1}`},
	{"test-number", "RFC 6902 4.6: numbers are equal if their values are numerically equal", JSONPatch,
		`{"a":1}`, `[{"op":"test","path":"/a","value":1.0}]`, `{"a":1}`, "error"},
	{"empty-token", "RFC 6901 5: / is the member with the empty name", JSONPatch,
		`{"":{"a":1}}`, `[{"op":"replace","path":"//a","value":2}]`, `{"":{"a":2}}`, "error"},
	{"empty-token", "RFC 6901 5: / is the member with the empty name", JSONPatch,
		`{"":1}`, `[{"op":"copy","from":"/","path":"/b"}]`, `{"":1,"b":1}`, "differs"},
	{"root-target", "RFC 6902 4.4 moves any value to any location, the root included", JSONPatch,
		`{"a":{"b":1}}`, `[{"op":"move","from":"/a","path":""}]`, `{"b":1}`, "differs"},
	{"move-into-child", "RFC 6902 4.4: from must not be a proper prefix of path", JSONPatch,
		`[{"a":1},{"b":2}]`, `[{"op":"move","from":"/0","path":"/0/z"}]`, "move_into_child", `[{"b":2,"z":{"a":1}}]`},
	{"index-grammar", "RFC 6901 4: digits without a leading zero", JSONPatch,
		`[1,2]`, `[{"op":"replace","path":"/01","value":3}]`, "bad_index", `[1,3]`},
	{"index-grammar", "RFC 6901 4: digits without a sign", JSONPatch,
		`[1,2]`, `[{"op":"replace","path":"/+1","value":3}]`, "bad_index", `[1,3]`},
	{"scalar-document", "RFC 6902 1 works on any JSON document", JSONPatch,
		`1`, `[{"op":"replace","path":"","value":2}]`, `2`, "error"},
	{"array-nulls", "RFC 7396 2: a patch that is no object replaces the target as it is", MergePatch,
		`{}`, `{"a":[{"b":null}]}`, `{"a":[{"b":null}]}`, `{"a":[{}]}`},
	{"html-escapes", "RFC 8259 7 does not ask for it: literal text stays", MergePatch,
		`{"a":"<&>"}`, `{"b":"<"}`, `{"a":"<&>","b":"<"}`, "rewritten"},
}

func TestLibraryDivergences(t *testing.T) {
	t.Parallel()
	for _, c := range divergences {
		body, err := Check(c.typ, []byte(c.body), Limits{})
		if err != nil {
			t.Errorf("%s: %v", c.class, err)
			continue
		}
		doc, out, err := Merge([]byte(c.doc), []Delta{{Type: c.typ, Path: "/", Body: body, Strict: true}}, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		ours := string(doc)
		if out[0].Status == Noop {
			ours = out[0].Reason.String()
		}
		if ours != c.ours {
			t.Errorf("%s (%s): got %s, want %s", c.class, c.why, ours, c.ours)
		}
		ref, err := Reference([]byte(c.doc), c.typ, body)
		theirs := string(ref)
		switch {
		case err != nil && strings.Contains(err.Error(), "panic"):
			theirs = "panic"
		case err != nil:
			theirs = "error"
		case c.theirs == "differs" && theirs != ours:
			theirs = "differs"
		case c.theirs == "rewritten" && theirs != ours && mequal(mparse(ref), mparse(doc)):
			theirs = "rewritten"
		}
		if theirs != c.theirs {
			t.Errorf("%s: json-patch gives %s (%v), the list says %s", c.class, theirs, err, c.theirs)
		}
	}
	// member-order: MergePatch walks a Go map. Sooner or later two runs differ.
	doc, patch := []byte(`{}`), []byte(`{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6,"g":7,"h":8}`)
	first, err := Reference(doc, MergePatch, patch)
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		next, _ := Reference(doc, MergePatch, patch)
		if !bytes.Equal(first, next) {
			break
		}
		if n == 1_000 {
			t.Error("member-order: json-patch gives one order: take it off the list")
			break
		}
	}
	if got, _, _ := Merge(doc, []Delta{{Type: MergePatch, Path: "/", Body: patch}}, Limits{}); !bytes.Equal(got, patch) {
		t.Errorf("member-order: got %s, want %s", got, patch)
	}
}
