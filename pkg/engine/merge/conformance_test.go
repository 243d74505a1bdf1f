package merge

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/jsonlake/lake/internal/testenv/mimedb"
)

type patchCase struct {
	Comment  string          `json:"comment"`
	Doc      json.RawMessage `json:"doc"`
	Patch    json.RawMessage `json:"patch"`
	Expected json.RawMessage `json:"expected"`
	Error    string          `json:"error"`
	Disabled bool            `json:"disabled"`
}

func loadPatchCases(t testing.TB) []patchCase {
	t.Helper()
	var all []patchCase
	for _, f := range []string{"spec_tests.json", "tests.json"} {
		b, err := os.ReadFile(filepath.Join("testdata", "json-patch-tests", f))
		if err != nil {
			t.Fatal(err)
		}
		var cs []patchCase
		if err := json.Unmarshal(b, &cs); err != nil {
			t.Fatal(err)
		}
		for _, c := range cs {
			if !c.Disabled && c.Patch != nil {
				all = append(all, c)
			}
		}
	}
	return all
}

// runPatchCase merges as the lake does, Check first, and says what is wrong.
func runPatchCase(c patchCase, strict bool) string {
	doc, err := Check(Replace, c.Doc, Limits{})
	if err != nil {
		return err.Error()
	}
	body, err := Check(JSONPatch, c.Patch, Limits{})
	if err != nil {
		if c.Error == "" {
			return err.Error()
		}
		return ""
	}
	got, out, err := Merge(doc, []Delta{{Type: JSONPatch, Path: "/", Body: body, Strict: strict}}, Limits{})
	if err != nil {
		return err.Error()
	}
	if c.Error != "" {
		if out[0].Status != Noop || !bytes.Equal(got, doc) {
			return fmt.Sprintf("got %s, want error %q", got, c.Error)
		}
		return ""
	}
	if out[0].Status != Applied {
		return fmt.Sprintf("got %+v, want applied", out[0])
	}
	want := c.Expected
	if want == nil { // only tests: the document stays
		want = c.Doc
	}
	if !mequal(mparse(got), mparse(want)) {
		return fmt.Sprintf("got %s, want %s", got, want)
	}
	return ""
}

func TestJSONPatchSuiteStrict(t *testing.T) {
	t.Parallel()
	cases := loadPatchCases(t)
	passed := 0
	for i, c := range cases {
		if msg := runPatchCase(c, true); msg != "" {
			t.Errorf("case %d %q: %s", i, c.Comment, msg)
			continue
		}
		passed++
	}
	t.Logf("strict: %d of %d pass", passed, len(cases))
	if len(cases) != 108 {
		t.Errorf("got %d cases, want 108", len(cases))
	}
}

func TestJSONPatchSuiteAutoParents(t *testing.T) {
	t.Parallel()
	// Auto-parents are the one intended difference from RFC 6902: these two
	// cases demand that a missing object is not created.
	differs := map[string]bool{
		"4.1. add with missing object":           true,
		"A.12.  Adding to a Non-existent Target": true,
	}
	cases := loadPatchCases(t)
	passed := 0
	for i, c := range cases {
		msg := runPatchCase(c, false)
		if (msg != "") != differs[c.Comment] {
			t.Errorf("case %d %q: differs %v: %s", i, c.Comment, msg != "", msg)
		}
		if msg == "" {
			passed++
		} else {
			t.Logf("by intent: %q: %s", c.Comment, msg)
		}
	}
	t.Logf("auto-parents: %d of %d pass", passed, len(cases))
	if passed != 106 {
		t.Errorf("got %d passes, want 106", passed)
	}
}

func TestRFC7396(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ doc, patch, want string }{
		// Appendix A, in order.
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`["a","b"]`, `["c","d"]`, `["c","d"]`},
		{`{"a":"b"}`, `["c"]`, `["c"]`},
		{`{"a":"foo"}`, `null`, `null`},
		{`{"a":"foo"}`, `"bar"`, `"bar"`},
		{`{"e":null}`, `{"a":1}`, `{"e":null,"a":1}`},
		{`[1,2]`, `{"a":"b","c":null}`, `{"a":"b"}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
		// Section 3's example.
		{`{"title":"Goodbye!","author":{"givenName":"John","familyName":"Doe"},"tags":["example","sample"],"content":"This will be unchanged"}`,
			`{"title":"Hello!","phoneNumber":"+01-123-456-7890","author":{"familyName":null},"tags":["example"]}`,
			`{"title":"Hello!","author":{"givenName":"John"},"tags":["example"],"content":"This will be unchanged","phoneNumber":"+01-123-456-7890"}`},
		// Arrays are values: nulls in them stay.
		{`{"a":1}`, `{"a":[null,{"b":null}]}`, `{"a":[null,{"b":null}]}`},
		{`{"a":1}`, `{"a":{"b":{"c":null}}}`, `{"a":{"b":{}}}`},
		{`{"a":{"b":1}}`, `{"a":{}}`, `{"a":{"b":1}}`},
		{`{"a":1}`, `{}`, `{"a":1}`},
		{`1`, `{"a":null}`, `{}`},
	} {
		base, patch, want := []byte(c.doc), []byte(c.patch), c.want
		// The case itself, and nested: by path, by patch, and by both.
		for level := range 4 {
			for _, d := range []Delta{
				{Type: MergePatch, Path: "/" + pathOf(level), Body: patch},
				{Type: MergePatch, Path: "/", Body: nest(patch, level)},
				{Type: MergePatch, Path: "/" + pathOf(level/2), Body: nest(patch, level-level/2)},
			} {
				if level > 0 && c.patch == "null" && d.Path != "/"+pathOf(level) {
					continue // a null member of a patch deletes
				}
				got, out, err := Merge(nest(base, level), []Delta{d}, Limits{})
				if err != nil || out[0].Status != Applied || string(got) != string(nest([]byte(want), level)) {
					t.Errorf("%s + %s at %s: got %s %+v %v, want %s", nest(base, level), d.Body, d.Path, got, out, err, nest([]byte(want), level))
				}
			}
		}
	}
}

func pathOf(level int) string {
	p := ""
	for i := range level {
		if i > 0 {
			p += "/"
		}
		p += "n"
	}
	return p
}

func nest(doc []byte, level int) []byte {
	for range level {
		doc = append(append([]byte(`{"n":`), doc...), '}')
	}
	return doc
}

// mimeDB gives the history of a real document as deltas, every second strict.
func mimeDB(t testing.TB) (revs []mimedb.Revision, deltas []Delta) {
	t.Helper()
	revs = mimedb.History(t, "../../..")
	for _, r := range revs {
		d := Delta{Path: "/", Strict: r.N%2 == 0}
		err := d.Type.UnmarshalText([]byte(r.Merge))
		if err == nil {
			d.Body, err = Check(d.Type, r.Body, Limits{})
		}
		if err != nil {
			t.Fatalf("delta %d: %v", r.N, err)
		}
		deltas = append(deltas, d)
	}
	return revs, deltas
}

func TestMimeDBHistory(t *testing.T) {
	t.Parallel()
	revs, deltas := mimeDB(t)
	mustMerge := func(base []byte, d []Delta) []byte {
		t.Helper()
		doc, out, err := Merge(base, d, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		for i, o := range out {
			if o.Status != Applied || o.Coerced {
				t.Fatalf("delta %d of %d: got %+v, want applied", i, len(d), o)
			}
		}
		return doc
	}
	// One at a time: the reference, with a checksum at every version.
	docs := make([][]byte, len(deltas)+1)
	for i := range deltas {
		docs[i+1] = mustMerge(docs[i], deltas[i:i+1])
		if got := mimedb.Checksum(t, docs[i+1]); got != revs[i].SHA256 {
			t.Fatalf("version %d: got sha256 %s, want %s", i+1, got, revs[i].SHA256)
		}
	}
	last := docs[len(deltas)]
	if got := mustMerge(nil, deltas); !bytes.Equal(got, last) {
		t.Fatalf("all at once: got another document")
	}
	for cut := range len(deltas) + 1 {
		head := mustMerge(nil, deltas[:cut])
		if !bytes.Equal(head, docs[cut]) {
			t.Fatalf("first %d at once: got another document", cut)
		}
		if got := mustMerge(head, deltas[cut:]); !bytes.Equal(got, last) {
			t.Fatalf("cut at %d: got another document", cut)
		}
	}
	t.Logf("%d deltas, %d cuts, last document %d bytes, sha256 %s", len(deltas), len(deltas)+1, len(last), revs[len(revs)-1].SHA256)
}
