package merge

import (
	"slices"
	"testing"
)

func TestMembers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		object string
		want   []string
	}{
		{``, nil},
		{`[1]`, nil},
		{`{}`, nil},
		{` {"a" : {"b":1} , "\u0061b":"}", "":null} `, []string{"a", `{"b":1}`, "ab", `"}"`, "", "null"}},
		{`{"a":1,`, []string{"a", "1"}},
		{`{"a":`, nil},
	} {
		var got []string
		for name, val := range Members([]byte(tc.object)) {
			got = append(got, name, string(val))
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %q, want %q", tc.object, got, tc.want)
		}
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	for _, names := range [][]string{{}, {""}, {"a", "b"}, {"a/b", "m~n", "~1", "é"}} {
		p := ""
		for _, n := range names {
			p = AppendToken(p, n)
		}
		got, err := Tokens(p)
		if err != nil || !slices.Equal(got, names) {
			t.Errorf("%q: got %q, %v, want %q", p, got, err, names)
		}
	}
	for _, bad := range []string{"a", "/~", "/~2"} {
		if _, err := Tokens(bad); err == nil {
			t.Errorf("%q was split", bad)
		}
	}
}
