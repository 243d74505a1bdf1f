package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jsonlake/lake/pkg/engine/merge"
)

func scanLines(text string, most int) ([]byte, int, error) {
	s := lineScanner{lim: merge.Limits{}, maxBody: 1 << 20}
	return s.scan(nil, []byte(text), most)
}

// referenceLines is the batch by encoding/json and merge.Check: slow, and
// obviously right.
func referenceLines(text string, most int) ([]byte, int, error) {
	var payload []byte
	n := 0
	for line := range strings.SplitSeq(text, "\n") {
		if strings.Trim(line, " \t\r") == "" {
			continue
		}
		checked, err := merge.Check(merge.Replace, []byte(line), merge.Limits{MaxDepth: merge.DefaultMaxDepth + 1})
		if err != nil {
			return nil, 0, err
		}
		var members map[string]json.RawMessage
		if checked[0] != '{' || json.Unmarshal(checked, &members) != nil {
			return nil, 0, errors.New("not an object")
		}
		d := merge.Delta{Type: merge.MergePatch, Path: "/"}
		var body []byte
		for name, raw := range members {
			switch name {
			case "path":
				if raw[0] != '"' {
					return nil, 0, errors.New("path")
				}
				err = json.Unmarshal(raw, &d.Path)
				if err == nil {
					err = ValidatePath(d.Path)
				}
			case "merge":
				var typ string
				if raw[0] != '"' {
					return nil, 0, errors.New("merge")
				}
				if err = json.Unmarshal(raw, &typ); err == nil {
					d.Type, err = merge.ParseType(typ)
				}
			case "body":
				body = raw
			case "no_auto_parents":
				if raw[0] != 't' && raw[0] != 'f' {
					return nil, 0, errors.New("no_auto_parents")
				}
				err = json.Unmarshal(raw, &d.Strict)
			default:
				err = errors.New("unknown")
			}
			if err != nil {
				return nil, 0, err
			}
		}
		if d.Body, err = merge.Check(d.Type, body, merge.Limits{}); err != nil {
			return nil, 0, err
		}
		payload = appendDelta(payload, &d)
		n++
	}
	if n == 0 || n > most {
		return nil, 0, errors.New("count")
	}
	return payload, n, nil
}

func TestLines(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{"body":{"a":1}}`,
		"{\"path\":\"/a\",\"merge\":\"replace\",\"body\":[1, 2 ,{\"x\" : 1.50}]}\r\n\n  \t\n{\"merge\":\"delete\",\"path\":\"/b\"}\n",
		`{ "body" : { "a" : [ 1 , 2 ] } , "path" : "/deep/er" }`, // compacted, then another member
		`{"merge":"json-patch","body":[{"op":"add","path":"/a","value":1}],"no_auto_parents":true}`,
		`{"p\u0061th":"\u002fa","merge":"repl\u0061ce","body":null}`,
		"{\"path\":\"/a\",\"body\":1}\n{\"path\":\"/a\",\"body\":2}\n{\"body\":3}\n{\"path\":\"/a\",\"body\":4}",
	} {
		got, n, err := scanLines(text, 10)
		want, wantN, wantErr := referenceLines(text, 10)
		if err != nil || wantErr != nil || n != wantN || !bytes.Equal(got, want) {
			t.Errorf("%s: got %d %q %v, want %d %q %v", text, n, got, err, wantN, want, wantErr)
		}
	}
}

func TestLinesRefused(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", 129) + strings.Repeat("]", 129)
	for _, c := range []struct {
		text, code string
		line       int
		offset     int
	}{
		{"", "invalid_batch", 0, -1},
		{" \n\n", "invalid_batch", 0, -1},
		{"{\"body\":1}\n{\"body\":2}\n{\"body\":3}\n{\"body\":4}\n", "invalid_batch", 0, -1},
		{"{\"body\":1}\n[]", "invalid_json", 2, 11},
		{`{"body":1`, "invalid_json", 1, 9},
		{"{\"body\":\n1}", "invalid_json", 1, 8}, // a value does not go on in the next line
		{`{"body":1}{"body":2}`, "invalid_json", 1, 10},
		{`{"body":1,}`, "invalid_json", 1, 10},
		{`{"body":01}`, "invalid_json", 1, 9},
		{`{"body":{"a":1,"\u0061":2}}`, "duplicate_name", 1, 15},
		{`{"body":1,"b\u006fdy":2}`, "duplicate_name", 1, 10},
		{"{\"body\":1}\n{\"body\":" + deep + "}", "too_deep", 2, 19 + 128},
		{"{\"body\":\"\xff\"}", "invalid_utf8", 1, 9},
		{`{"path":"/a"}`, "empty_body", 1, -1},
		{`{"merge":"delete","body":1}`, "unexpected_body", 1, 25},
		{`{"merge":"json-patch","body":[{"op":"nonsense"}]}`, "invalid_patch", 1, -1},
		{`{"merge":"upsert","body":1}`, "invalid_merge", 1, 9},
		{`{"merge":1,"body":1}`, "invalid_merge", 1, 9},
		{`{"path":"a","body":1}`, "invalid_path", 1, 0},
		{`{"path":7,"body":1}`, "invalid_path", 1, 8},
		{`{"path":"","body":1}`, "invalid_path", 1, -1},
		{`{"no_auto_parents":1,"body":1}`, "invalid_batch", 1, 19},
		{`{"body":1,"id":"x"}`, "unknown_field", 1, 10},
	} {
		_, _, err := scanLines(c.text, 3)
		p := ProblemOf(err, "")
		offset := -1
		if p.Offset != nil {
			offset = *p.Offset
		}
		if p.Code != c.code || offset != c.offset || c.line > 0 && !strings.Contains(p.Detail, fmt.Sprintf("line %d ", c.line)) {
			t.Errorf("%.80q: got %s at %d: %s; want %s at %d in line %d", c.text, p.Code, offset, p.Detail, c.code, c.offset, c.line)
		}
	}
	long := lineScanner{maxBody: 3}
	if _, _, err := long.scan(nil, []byte(`{"body":"long"}`), 3); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v, want too large", err)
	}
}

func TestAppendLine(t *testing.T) {
	t.Parallel()
	for _, w := range []WriteRequest{
		{Body: []byte(`{"a":1}`)},
		{Path: "/a/b.c", MergeType: MergeTypeReplace, Body: []byte(`"x"`)},
		{Path: "/a", MergeType: MergeTypeDelete},
		{MergeType: MergeTypeDelete},
		{MergeType: MergeTypeJSONPatch, NoAutoParents: true, Body: []byte(`[]`)},
	} {
		line := AppendLine(nil, &w)
		got, n, err := scanLines(string(line), 1)
		d := merge.Delta{Type: w.MergeType, Path: w.Path, Body: w.Body, Strict: w.NoAutoParents}
		if d.Path == "" {
			d.Path = "/"
		}
		if d.Type == 0 {
			d.Type = merge.MergePatch
		}
		if want := appendDelta(nil, &d); err != nil || n != 1 || !bytes.Equal(got, want) {
			t.Errorf("%s: got %q %v, want %q", line, got, err, want)
		}
	}
}

func FuzzLines(f *testing.F) {
	f.Add("{\"path\":\"/a\",\"merge\":\"merge-patch\",\"body\":{\"a\":1}}\n{\"merge\":\"delete\"}")
	f.Add(`{"body" : [1 , {"a":"\u00e9"}] , "path":"/x" , "no_auto_parents":false}`)
	f.Add(`{"merge":"json-patch","body":[{"op":"test","path":"","value":1}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<16 {
			return
		}
		got, n, err := scanLines(text, 20)
		want, wantN, wantErr := referenceLines(text, 20)
		if (err == nil) != (wantErr == nil) || n != wantN || !bytes.Equal(got, want) {
			t.Fatalf("%q: got %d %q %v, want %d %q %v", text, n, got, err, wantN, want, wantErr)
		}
	})
}

// A delta of a batch costs no allocation.
func TestLinesAllocate(t *testing.T) {
	text := []byte(hundredByteLines(1000))
	payload := make([]byte, 0, len(text))
	s := lineScanner{maxBody: 1 << 20}
	allocs := testing.AllocsPerRun(10, func() {
		if _, n, err := s.scan(payload, text, 1000); n != 1000 || err != nil {
			t.Fatal(n, err)
		}
	})
	if allocs > 1 {
		t.Errorf("got %v allocations for 1,000 lines, want at most 1", allocs)
	}
}

// hundredByteLines are n lines with a merge patch of 100 bytes each.
func hundredByteLines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"path":"/m%d","body":{"n":%08d,"name":"%s","on":true,"rate":12.5}}`+"\n", i%100, 10_000_000+i, strings.Repeat("x", 54))
	}
	return b.String()
}

func BenchmarkLines(b *testing.B) {
	text := []byte(hundredByteLines(5000))
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	payload := make([]byte, 0, len(text))
	s := lineScanner{maxBody: 1 << 20}
	for b.Loop() {
		if _, _, err := s.scan(payload, text, 5000); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(b.N)/5000, "ns/line")
}
