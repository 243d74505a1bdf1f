package merge

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
	"time"
)

func TestDiff(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, a, b, mergePatch, jsonPatch string // "" as a patch: not expressible
	}{
		{"nothing", `{"a":1}`, `{"a":1}`, `{}`, `[]`},
		{"change", `{"a":1,"b":2}`, `{"a":1,"b":3}`, `{"b":3}`, `[{"op":"replace","path":"/b","value":3}]`},
		{"nested", `{"a":{"b":{"c":1},"d":"some longer text"}}`, `{"a":{"b":{"c":2},"d":"some longer text"}}`,
			`{"a":{"b":{"c":2}}}`, `[{"op":"replace","path":"/a/b/c","value":2}]`},
		{"remove and add", `{"a":1,"b":2,"c":"long enough to stay"}`, `{"b":2,"c":"long enough to stay","d":4}`, `{"a":null,"d":4}`,
			`[{"op":"remove","path":"/a"},{"op":"add","path":"/d","value":4}]`},
		{"order", `{"a":1,"b":2}`, `{"b":2,"a":1}`, "", `[{"op":"replace","path":"","value":{"b":2,"a":1}}]`},
		{"null", `{"a":1}`, `{"a":null}`, "", `[{"op":"replace","path":"/a","value":null}]`},
		{"big numbers keep their text", `{"n":1}`, `{"n":12345678901234567890.10}`, `{"n":12345678901234567890.10}`,
			`[{"op":"replace","path":"/n","value":12345678901234567890.10}]`},
		{"array", `{"l":["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",2,3,"bbbbbbbbbbbbbbbbbbb"]}`, `{"l":["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",2,"bbbbbbbbbbbbbbbbbbb"]}`,
			`{"l":["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",2,"bbbbbbbbbbbbbbbbbbb"]}`, `[{"op":"remove","path":"/l/2"}]`},
		{"absent before", ``, `{"a":1}`, `{"a":1}`, `[{"op":"add","path":"","value":{"a":1}}]`},
		{"absent before, nulls", ``, `{"a":null}`, "", `[{"op":"add","path":"","value":{"a":null}}]`},
		{"absent after", `{"a":1}`, ``, "", ""},
		{"scalars", `1`, `"x"`, `"x"`, `[{"op":"replace","path":"","value":"x"}]`},
		{"spelling of a new name", `{"a":1}`, `{"a":1,"\u0062":2}`, `{"\u0062":2}`, `[{"op":"replace","path":"","value":{"a":1,"\u0062":2}}]`},
		{"names with ~ and /", `{"m~n/o":1,"x":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}`, `{"m~n/o":2,"x":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}`,
			`{"m~n/o":2}`, `[{"op":"replace","path":"/m~0n~1o","value":2}]`},
	} {
		text := func(s string) []byte {
			if s == "" {
				return nil
			}
			return []byte(s)
		}
		for typ, want := range map[Type]string{MergePatch: c.mergePatch, JSONPatch: c.jsonPatch} {
			got, err := Diff(text(c.a), text(c.b), typ)
			if want == "" {
				if !errors.Is(err, ErrNotExpressible) {
					t.Errorf("%s, %s: got %s, %v, want ErrNotExpressible", c.name, typ, got, err)
				}
				continue
			}
			if err != nil || string(got) != want {
				t.Errorf("%s, %s: got %s, %v, want %s", c.name, typ, got, err, want)
			}
		}
	}
	for _, bad := range []string{"", "{", `{"a":}`, "nul"} {
		if _, err := Diff([]byte(bad), []byte("1"), JSONPatch); !errors.Is(err, ErrCorruptBase) {
			t.Errorf("%q: got %v, want ErrCorruptBase", bad, err)
		}
	}
	if _, err := Diff([]byte("1"), []byte("2"), Replace); err == nil {
		t.Error("got no error for a replace")
	}
}

// TestDiffLeadsThere holds the promise on random documents, with the model as
// the judge.
func TestDiffLeadsThere(t *testing.T) {
	t.Parallel()
	s := *seedFlag
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d (run again with -seed=%d)", s, s)
	g := gen{rand.New(rand.NewPCG(s, 3))}
	expressible := 0
	for range 5_000 {
		a := []byte(g.value(4))
		// b is another document, or a after a few changes.
		b := []byte(g.value(4))
		if g.IntN(3) > 0 {
			var ds []Delta
			for range 1 + g.IntN(3) {
				ds = append(ds, g.delta(mparse(a)))
			}
			if b, _, _ = Merge(a, ds, Limits{}); b == nil {
				continue
			}
		}
		for _, typ := range []Type{JSONPatch, MergePatch} {
			p, err := Diff(a, b, typ)
			if err != nil {
				if typ == JSONPatch || !errors.Is(err, ErrNotExpressible) {
					t.Fatalf("%s → %s as %s: %v", a, b, typ, err)
				}
				continue
			}
			expressible++
			if _, err := Check(typ, p, Limits{}); err != nil {
				t.Fatalf("%s → %s: %s is refused: %v", a, b, p, err)
			}
			if got, _ := modelMerge(a, []Delta{{Type: typ, Path: "/", Body: p}}, Limits{}); !bytes.Equal(got, b) {
				t.Fatalf("%s → %s: %s gives %s", a, b, p, got)
			}
		}
	}
	t.Logf("%d patches", expressible)
}
