package merge

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
)

// FuzzMerge compares the engine with the eager model: bytes and outcomes, all
// at once, cut anywhere, pruned or not, strict or not. The script is one delta
// a line, as in the tests; deltas drawn from the seed follow.
func FuzzMerge(f *testing.F) {
	for i, c := range semantics {
		f.Add(uint64(i), []byte(c.base), []byte(strings.Join(c.deltas, "\n")))
	}
	// Pointers that do not begin with "/" although their first token would be fine.
	f.Add(uint64(0), []byte(`{"a":1}`), []byte(`json-patch / [{"op":"add","path":"~0a","value":1}]
json-patch / [{"op":"copy","path":"/b","from":"~1a"}]`))
	f.Fuzz(func(t *testing.T, seed uint64, base, script []byte) {
		if len(base)+len(script) > 1<<14 {
			return
		}
		g := gen{rand.New(rand.NewPCG(seed, 4))}
		var deltas []Delta
		trusted := true
		for _, line := range bytes.Split(script, []byte("\n")) {
			if x, ok := parseLine(line); ok && len(deltas) < 40 {
				if x.Type != Delete {
					body, err := Check(x.Type, x.Body, Limits{})
					if err == nil {
						x.Body = body
					}
					// A patch that Check refuses is fair for Merge. Other
					// bodies are, unless names are duplicate.
					trusted = trusted && (err == nil || err.(*BodyError).Code != CodeDuplicateName && err.(*BodyError).Code != CodeTooLarge)
				}
				deltas = append(deltas, x)
			}
		}
		if len(base) > 0 {
			text, err := Check(Replace, base, Limits{})
			if err != nil {
				// Whatever the base: no panic, and an error or a document.
				Merge(base, deltas, Limits{})
				return
			}
			base = text
		} else {
			base = nil
		}
		if !trusted {
			Merge(base, deltas, Limits{})
			return
		}
		root := (*mval)(nil)
		if base != nil {
			root = mparse(base)
		}
		for range seed % 6 {
			deltas = append(deltas, g.delta(root))
		}
		var lim Limits
		if seed%5 == 0 {
			lim = Limits{MaxDocument: 1 + int64(g.IntN(300)), MaxCopy: 1 + int64(g.IntN(60)), MaxDepth: 1 + g.IntN(8), MaxOps: 1 + g.IntN(6)}
		}
		checkModel(t, base, deltas, lim, g.IntN)
	})
}

// parseLine reads a line of a script.
func parseLine(line []byte) (Delta, bool) {
	f := bytes.SplitN(line, []byte(" "), 3)
	if len(f) < 2 || !validPath(f[1]) {
		return Delta{}, false
	}
	typ, err := ParseType(strings.TrimSuffix(string(f[0]), "!"))
	if err != nil {
		return Delta{}, false
	}
	x := Delta{Type: typ, Path: string(f[1]), Strict: bytes.HasSuffix(f[0], []byte("!"))}
	if len(f) == 3 && typ != Delete {
		x.Body = f[2]
	}
	return x, true
}

// validPath is the engine's rule: "/" or segments [A-Za-z_$][A-Za-z0-9_$.]*.
// (Without it "/-" would address a member here, an element in the model.)
func validPath(p []byte) bool {
	if string(p) == "/" {
		return true
	}
	if len(p) < 2 || p[0] != '/' {
		return false
	}
	start := true
	for _, c := range p[1:] {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '$'
		switch {
		case start && !letter, !letter && c != '/' && c != '.' && !isDigit(c):
			return false
		}
		start = c == '/'
	}
	return !start
}

// FuzzCheck holds the scanners against encoding/json.
func FuzzCheck(f *testing.F) {
	for _, s := range []string{`{}`, `[1,2.5e-3,"\u0041\n",true,null]`, ` { "a" : [ ] } `, `{"a":1,"\u0061":2}`, `"\ud83d\ude00"`, "\"\x7f\xc3\xa9\"", `[[[[`, `01`, `-`, "\xEF\xBB\xBF1"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		checkAgainstLibrary(t, body)
		if p, err := Check(JSONPatch, body, Limits{}); err == nil {
			if _, fault := new(parser).parse(p, DefaultMaxOps); fault != nil {
				t.Fatalf("%q: accepted, then %+v", body, fault)
			}
		}
	})
}

// FuzzDiff holds Diff's promise on any two documents.
func FuzzDiff(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":[1,2,{"c":3}]}`), []byte(`{"b":[1,{"c":4}],"a":null}`))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		a, errA := Check(Replace, a, Limits{MaxDepth: 100})
		b, errB := Check(Replace, b, Limits{MaxDepth: 100})
		if errA != nil || errB != nil {
			return
		}
		p, err := Diff(a, b, JSONPatch)
		if err != nil {
			t.Fatalf("%s → %s: %v", a, b, err)
		}
		if got, _ := modelMerge(a, []Delta{{Type: JSONPatch, Path: "/", Body: p}}, Limits{}); !bytes.Equal(got, b) {
			t.Fatalf("%s → %s: %s gives %s", a, b, p, got)
		}
		Diff(a, b, MergePatch)
	})
}

func TestCheckAgainstEncodingJSON(t *testing.T) {
	t.Parallel()
	s := uint64(42)
	if *seedFlag != 0 {
		s = *seedFlag
	}
	g := gen{rand.New(rand.NewPCG(s, 5))}
	for range 20_000 {
		body := []byte(g.value(4))
		for range g.IntN(4) { // damage it
			i := g.IntN(len(body))
			switch g.IntN(3) {
			case 0:
				body[i] = "{}[]\",:\\ \n0-e.tu\xff\x00"[g.IntN(18)]
			case 1:
				body = append(body[:i:i], body[i+1:]...)
			case 2:
				body = append(body[:i:i], append([]byte{" {}[],:\""[g.IntN(8)]}, body[i:]...)...)
			}
			if len(body) == 0 {
				break
			}
		}
		checkAgainstLibrary(t, body)
	}
}
