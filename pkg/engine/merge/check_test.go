package merge

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	many := `{`
	for i := range 20 {
		many += `"n` + string(rune('a'+i)) + `":1,`
	}
	for _, c := range []struct {
		name    string
		typ     Type
		body    string
		code    string
		offset  int
		pointer string
	}{
		{"empty", Replace, "", CodeEmptyBody, -1, ""},
		{"white space", MergePatch, " \n", CodeEmptyBody, -1, ""},
		{"a delete with a body", Delete, "{}", CodeUnexpectedBody, 0, ""},
		{"half an object", Replace, `{"a":1`, CodeInvalidJSON, 6, "/a"},
		{"no value", Replace, `{"a":}`, CodeInvalidJSON, 5, "/a"},
		{"a trailing comma", Replace, `{"a":1,}`, CodeInvalidJSON, 7, ""},
		{"a trailing comma in an array", Replace, `{"x":[1,]}`, CodeInvalidJSON, 8, "/x/1"},
		{"a comma too few", Replace, `{"a":[1 2]}`, CodeInvalidJSON, 8, "/a/0"},
		{"a name without quotes", Replace, `{a:1}`, CodeInvalidJSON, 1, ""},
		{"single quotes", Replace, `{'a':1}`, CodeInvalidJSON, 1, ""},
		{"a second value", Replace, `{} {}`, CodeInvalidJSON, 3, ""},
		{"a leading zero", Replace, `{"a":{"b":01}}`, CodeInvalidJSON, 11, "/a/b"},
		{"a plus", Replace, `+1`, CodeInvalidJSON, 0, ""},
		{"NaN", Replace, `[NaN]`, CodeInvalidJSON, 1, "/0"},
		{"a word cut short", Replace, `nul`, CodeInvalidJSON, 3, ""},
		{"an exponent without digits", Replace, `1e`, CodeInvalidJSON, 2, ""},
		{"a control character", Replace, "\"a\nb\"", CodeInvalidJSON, 2, ""},
		{"a false escape", Replace, `"\x"`, CodeInvalidJSON, 2, ""},
		{"half a \\u", Replace, `"\u12"`, CodeInvalidJSON, 5, ""},
		{"an open string", Replace, `"abc`, CodeInvalidJSON, 4, ""},
		{"a byte order mark", Replace, "\xEF\xBB\xBF{}", CodeInvalidJSON, 0, ""},
		{"Latin-1", Replace, "{\"a\":\"\xe9\"}", CodeInvalidUTF8, 6, ""},
		{"an encoded surrogate", Replace, "\"\xed\xa0\x80\"", CodeInvalidUTF8, 1, ""},
		{"a duplicate name", Replace, `{"x":[0,{"a":1,"b":2,"a":3}]}`, CodeDuplicateName, 21, "/x/1/a"},
		{"a duplicate after unescaping", Replace, `{"a/b":1,"\u0061\/b":2}`, CodeDuplicateName, 9, "/a~1b"},
		{"a duplicate among many", Replace, many + `"nc":1}`, CodeDuplicateName, len(many), "/nc"},
		{"a duplicate in a patch", JSONPatch, `[{"op":"add","op":"remove","path":""}]`, CodeDuplicateName, 13, "/0/op"},
		{"129 deep", Replace, strings.Repeat("[", 129) + strings.Repeat("]", 129), CodeTooDeep, 128, strings.Repeat("/0", 128)},
		{"a long number", Replace, `{"a":` + strings.Repeat("1", 70_000) + `}`, CodeTooLarge, 5, "/a"},
		{"a long name", Replace, `{"` + strings.Repeat("a", 70_000) + `":1}`, CodeTooLarge, 1, ""},

		{"a patch that is an object", JSONPatch, `{"op":"add","path":"/a","value":1}`, CodeInvalidPatch, -1, ""},
		{"an operation that is none", JSONPatch, `[1]`, CodeInvalidPatch, -1, "/0"},
		{"no op", JSONPatch, `[{"path":"/a"}]`, CodeInvalidPatch, -1, "/0/op"},
		{"op is no string", JSONPatch, `[{"op":1,"path":"/a"}]`, CodeInvalidPatch, -1, "/0/op"},
		{"an unknown op", JSONPatch, `[{"op":"remove","path":"/a"},{"op":"spam","path":"/a"}]`, CodeInvalidPatch, -1, "/1/op"},
		{"op in capitals", JSONPatch, `[{"op":"ADD","path":"/a","value":1}]`, CodeInvalidPatch, -1, "/0/op"},
		{"no path", JSONPatch, `[{"op":"remove"}]`, CodeInvalidPatch, -1, "/0/path"},
		{"path is null", JSONPatch, `[{"op":"remove","path":null}]`, CodeInvalidPatch, -1, "/0/path"},
		{"path without a slash", JSONPatch, `[{"op":"remove","path":"a"}]`, CodeInvalidPatch, -1, "/0/path"},
		{"path with a bare ~", JSONPatch, `[{"op":"remove","path":"/a~"}]`, CodeInvalidPatch, -1, "/0/path"},
		{"path with ~2", JSONPatch, `[{"op":"remove","path":"/a~2"}]`, CodeInvalidPatch, -1, "/0/path"},
		{"no value", JSONPatch, `[{"op":"test","path":"/a"}]`, CodeInvalidPatch, -1, "/0/value"},
		{"no from", JSONPatch, `[{"op":"move","path":"/a"}]`, CodeInvalidPatch, -1, "/0/from"},
		{"from without a slash", JSONPatch, `[{"op":"copy","path":"/a","from":"b"}]`, CodeInvalidPatch, -1, "/0/from"},
	} {
		_, err := Check(c.typ, []byte(c.body), Limits{})
		var e *BodyError
		if !errors.As(err, &e) {
			t.Errorf("%s: got %v, want a BodyError", c.name, err)
			continue
		}
		if e.Code != c.code || e.Offset != c.offset || e.Pointer != c.pointer {
			t.Errorf("%s: got %s at %d in %q (%v), want %s at %d in %q", c.name, e.Code, e.Offset, e.Pointer, err, c.code, c.offset, c.pointer)
		}
		if errors.Is(err, ErrTooLarge) != (c.code == CodeTooLarge) {
			t.Errorf("%s: got errors.Is(ErrTooLarge) %v", c.name, errors.Is(err, ErrTooLarge))
		}
		if e.Error() == "" || e.Rule == "" {
			t.Errorf("%s: got no sentence", c.name)
		}
	}
	for _, c := range []struct {
		typ  Type
		body string
		lim  Limits
		code string
	}{
		{Replace, `"12345"`, Limits{MaxDocument: 6}, CodeTooLarge},
		{Replace, `[[1]]`, Limits{MaxDepth: 1}, CodeTooDeep},
		{JSONPatch, `[{"op":"remove","path":"/a"},{"op":"remove","path":"/a"}]`, Limits{MaxOps: 1}, CodeTooLarge},
		{Type(9), `1`, Limits{}, CodeInvalidJSON},
	} {
		var e *BodyError
		if _, err := Check(c.typ, []byte(c.body), c.lim); !errors.As(err, &e) || e.Code != c.code {
			t.Errorf("%s with %+v: got %v, want %s", c.body, c.lim, err, c.code)
		}
	}
	_, err := Check(Replace, []byte(`{"x":[0,{"a":1,"b":2,"a":3}]}`), Limits{})
	if got, want := err.Error(), `body names a member twice at byte 21 (in "/x/1/a"): member names must differ after unescaping`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestCheckNormalises(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		typ        Type
		body, want string
	}{
		{Replace, `1`, `1`},
		{Replace, " \t\r\n{ \"a\" : [ 1 , 2.50 , { } , [ ] ] , \"b\" : \"x y\" } \n", `{"a":[1,2.50,{},[]],"b":"x y"}`},
		{Replace, `{"a b":" c "}`, `{"a b":" c "}`},
		{MergePatch, `{"n":12345678901234567890.10e5, "e":"\u003c\/"}`, `{"n":12345678901234567890.10e5,"e":"\u003c\/"}`},
		{Replace, `"\ud800"`, `"\ud800"`},
		{Replace, `{"\ud800":1,"\ud801":2}`, `{"\ud800":1,"\ud801":2}`},
		{JSONPatch, `[ ]`, `[]`},
		{JSONPatch, `[ {"op":"add", "path":"", "value":null, "extra":{"a":1}} ]`, `[{"op":"add","path":"","value":null,"extra":{"a":1}}]`},
		{JSONPatch, `[{"\u006fp":"move","from":"/a","path":"/a/b"}]`, `[{"\u006fp":"move","from":"/a","path":"/a/b"}]`},
		{Replace, strings.Repeat("[", 128) + strings.Repeat("]", 128), strings.Repeat("[", 128) + strings.Repeat("]", 128)},
	} {
		in := []byte(c.body)
		got, err := Check(c.typ, in, Limits{})
		if err != nil || string(got) != c.want {
			t.Errorf("%s: got %s, %v, want %s", c.body, got, err, c.want)
		}
		if string(in) != c.body {
			t.Errorf("%s: body was modified", c.body)
		}
		clear(in)
		if string(got) != c.want {
			t.Errorf("%s: the result shares memory with the body", c.body)
		}
	}
	if got, err := Check(Delete, nil, Limits{}); got != nil || err != nil {
		t.Errorf("delete: got %s, %v", got, err)
	}
}

// checkAgainstLibrary holds the scanners against encoding/json.
func checkAgainstLibrary(t *testing.T, body []byte) {
	t.Helper()
	got, err := Check(Replace, body, Limits{MaxDepth: hardMaxDepth})
	if err != nil {
		var e *BodyError
		if !errors.As(err, &e) {
			t.Fatalf("%q: got %v, want a BodyError", body, err)
		}
		if json.Valid(body) && (e.Code == CodeInvalidJSON || e.Code == CodeEmptyBody) {
			t.Fatalf("%q: got %v, but encoding/json takes it", body, err)
		}
		return
	}
	if !json.Valid(body) {
		t.Fatalf("%q: accepted, but encoding/json does not take it", body)
	}
	var want bytes.Buffer
	if err := json.Compact(&want, body); err != nil {
		t.Fatal(err)
	}
	if end := quick(body, 0, hardMaxDepth); end >= 0 {
		c := checker{t: body, maxDepth: hardMaxDepth}
		if slow := c.value(0, 0); slow != end || c.err != nil || c.from != 0 {
			t.Fatalf("%q: quick stops at %d, the checker at %d (%v)", body, end, slow, c.err)
		}
	}
	// json.Compact leaves U+2028 and <>& alone: only white space differs.
	if !bytes.Equal(got, want.Bytes()) {
		t.Fatalf("%q: got %s, want %s", body, got, want.Bytes())
	}
	if r := bodyFault(body, hardMaxDepth); r != ReasonNone {
		t.Fatalf("%q: validate says %s", body, r)
	}
	if end := skipValue(got, 0); end != len(got) {
		t.Fatalf("%q: skipValue stops at %d of %d", got, end, len(got))
	}
	if want := mparse(got).depth(); depthOf(got) != want {
		t.Fatalf("%q: got depth %d, want %d", got, depthOf(got), want)
	}
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("9", 40)
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"1", "1.0", true}, {"1", "10e-1", true}, {"1", "0.001E+3", true}, {"0", "-0", true}, {"0", "0e99", true}, {"-0.0", "0.000e-5", true},
		{"1e400", "1e401", false}, {"1e400", "10e399", true}, {"1", "-1", false}, {"1", "2", false}, {"12", "1.2e1", true}, {"120", "12", false}, {"1.20", "1.2", true},
		{"9007199254740993", "9007199254740992", false}, {"0.1", "0.10000000000000000000001", false},
		{"1e999999999", "10e999999998", true}, {"1e-999999999", "0.1e-999999998", true}, {"1e999999999", "1e-999999999", false},
		{"1e" + big, "1e" + big, true}, {"1e" + big, "10e" + big[1:] + "7", false}, {"10e" + big[:39] + "8", "1e" + big, true}, {"0.1e1" + strings.Repeat("0", 40), "1e" + big, true},
		{"1e-" + big, "0.1e-" + big[:39] + "8", true}, {"1e+0000000000000000000000005", "100000", true},
	} {
		if got := equalNumbers([]byte(c.a), []byte(c.b)); got != c.want {
			t.Errorf("%s = %s: got %v, want %v", c.a, c.b, got, c.want)
		}
		if got := equalNumbers([]byte(c.b), []byte(c.a)); got != c.want {
			t.Errorf("%s = %s: got %v, want %v", c.b, c.a, got, c.want)
		}
	}
}

func TestQuoteIsInverse(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{`""`, `"a"`, `"\""`, `"\\"`, `"\/"`, `"\u0000\u001f\n\t\r\b\f"`, `"é😀"`, `"\ud800"`, `"\udc00\ud800"`, `"\ud800\udc00"`, `"\ufffd"`, `"\u007f<>&\u2028"`} {
		name := unquote([]byte(raw))
		q := quote(name)
		if !json.Valid(q) {
			t.Errorf("%s: got %s, which is no JSON", raw, q)
		}
		if !bytes.Equal(unquote(q), name) || munits(string(q)) != munits(raw) || !sameName([]byte(raw), name) || !sameName(q, name) {
			t.Errorf("%s: got %s, another name", raw, q)
		}
		if want := mquote(munits(raw)); string(q) != want {
			t.Errorf("%s: got %s, want %s", raw, q, want)
		}
	}
}

// TestQuick: what quick takes is plainly in order; what it leaves alone, the checker
// judges.
func TestQuick(t *testing.T) {
	t.Parallel()
	const nine = `{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1}`
	for _, c := range []struct {
		body string
		left int
		want bool
	}{
		{`{"w1":{"n":1,"sum":-2.5e3,"pad":"a\u0041é"}}`, 2, true}, {`[{},[],true,null,"x"]`, 2, true}, {`{"":0}`, 1, true}, {`7`, 0, true},
		{`{"a":{}}`, 1, false}, {`[[]]`, 1, false}, {`[]`, 0, false}, {`{"a":1,"a":2}`, 9, false}, {`{"\u0061":1}`, 9, false}, {`{"a": 1}`, 9, false},
		{`{"a" :1}`, 9, false}, {`{"a":1,}`, 9, false}, {`[1,]`, 9, false}, {`{"a":01}`, 9, false}, {`{"a":"` + "\x01" + `"}`, 9, false},
		{nine, 9, false}, {`{"a"`, 9, false}, {`{"a":`, 9, false}, {`{`, 9, false}, {`[1`, 9, false}, {``, 9, false},
		{`{"` + strings.Repeat("n", maxLiteral) + `":1}`, 9, false}, {strings.Repeat("1", maxLiteral+1), 9, false},
	} {
		end := quick([]byte(c.body), 0, c.left)
		if got := end >= 0; got != c.want || got && end != len(c.body) {
			t.Errorf("quick(%.60q, %d): got %d, want it taken: %v", c.body, c.left, end, c.want)
		}
	}
}
