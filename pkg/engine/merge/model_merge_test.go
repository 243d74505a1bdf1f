package merge

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	deltasFlag = flag.Int("deltas", 50_000, "how many random deltas TestModel merges")
	seedFlag   = flag.Uint64("seed", 0, "seed of TestModel; 0 draws one")
)

// gen draws documents and deltas from few names, so that they meet.
type gen struct{ *rand.Rand }

var genNames = []string{`"a"`, `"b"`, `"c"`, `"\u0061"`, `"-"`, `"0"`, `"1"`, `""`, `"a/b"`, `"m~n"`, `"é"`, `"\u00e9"`, `"\ud800"`, `"\ud83d\ude00"`, `"😀"`, `"x<y"`, `"q\"q"`, `"d"`, `"e"`, `"f"`, `"g"`, `"h"`, `"i"`, `"j"`, `"k"`, `"l"`, `"m"`, `"n"`}

func (g gen) pick(s ...string) string { return s[g.IntN(len(s))] }

func (g gen) name() string {
	if g.IntN(3) > 0 {
		return genNames[g.IntN(3)]
	}
	if g.IntN(2) > 0 {
		return genNames[g.IntN(17)]
	}
	return genNames[g.IntN(len(genNames))]
}

func (g gen) scalar() string {
	return g.pick("null", "true", "false", "0", "-0", "1", "1.0", "10e-1", "1e400", "1e401", "12345678901234567890", "1.10", `""`, `"a"`, `"\u0061"`, `"<&>"`, `"\ud800"`, `"é\n"`)
}

func (g gen) value(depth int) string {
	switch n := g.IntN(10); {
	case n < 4 || depth <= 0:
		return g.scalar()
	case n < 8:
		return g.object(depth)
	}
	var b strings.Builder
	b.WriteByte('[')
	for i := range g.IntN(5) {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(g.value(depth - 1))
	}
	return b.String() + "]"
}

func (g gen) object(depth int) string {
	var b strings.Builder
	b.WriteByte('{')
	var seen []string
	n := g.IntN(5)
	if g.IntN(20) == 0 {
		n = 30
	}
	for range n {
		name := g.name()
		u := munits(name)
		if slices.Contains(seen, u) {
			continue
		}
		if len(seen) > 0 {
			b.WriteByte(',')
		}
		seen = append(seen, u)
		b.WriteString(name + ":" + g.value(depth-1))
	}
	return b.String() + "}"
}

func (g gen) path() string {
	p := ""
	for range g.IntN(4) {
		p += "/" + g.pick("a", "a", "b", "b", "c", "d", "a.0", "é")
	}
	if p == "" {
		return "/"
	}
	return p
}

func (g gen) pointer() string {
	p := ""
	for range g.IntN(4) {
		p += "/" + g.pick("a", "a", "a", "b", "b", "c", "0", "0", "1", "2", "-", "", "01", "a~1b", "m~0n", `\u0061`, `\ud800`, "é", "😀", "x<y", "d", "e")
	}
	return p
}

func (g gen) patch() string {
	var b strings.Builder
	b.WriteByte('[')
	for i := range g.IntN(5) + g.IntN(2) {
		if i > 0 {
			b.WriteByte(',')
		}
		switch g.IntN(8) {
		case 0, 1, 2:
			fmt.Fprintf(&b, `{"op":"add","path":"%s","value":%s}`, g.pointer(), g.value(2))
		case 3:
			fmt.Fprintf(&b, `{"path":"%s","op":"remove"}`, g.pointer())
		case 4:
			fmt.Fprintf(&b, `{"op":"replace","value":%s,"path":"%s"}`, g.value(2), g.pointer())
		case 5:
			fmt.Fprintf(&b, `{"op":"move","from":"%s","path":"%s"}`, g.pointer(), g.pointer())
		case 6:
			fmt.Fprintf(&b, `{"op":"copy","from":"%s","path":"%s"}`, g.pointer(), g.pointer())
		case 7:
			fmt.Fprintf(&b, `{"op":"test","path":"%s","value":%s}`, g.pointer(), g.value(1))
		}
	}
	return b.String() + "]"
}

// guidedPatch tests and moves what is really there, so that patches succeed.
func (g gen) guidedPatch(root *mval, segs []string) string {
	v := root
	for _, s := range segs {
		if !v.isObj() || v.find(s) < 0 {
			return g.patch()
		}
		v = v.mem[v.find(s)].v
	}
	if v == nil {
		return g.patch()
	}
	// somewhere walks to an existing value.
	somewhere := func() (string, *mval) {
		p, x := "", v
		for g.IntN(4) > 0 {
			if x.isObj() && len(x.mem) > 0 {
				m := x.mem[g.IntN(len(x.mem))]
				p += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(m.raw[1:len(m.raw)-1])
				x = m.v
			} else if x.isArr() && len(x.el) > 0 {
				i := g.IntN(len(x.el))
				p += fmt.Sprintf("/%d", i)
				x = x.el[i]
			} else {
				break
			}
		}
		return p, x
	}
	var ops []string
	for range 1 + g.IntN(3) {
		p, x := somewhere()
		q, y := somewhere()
		if y.isArr() {
			q += g.pick("/-", "/0", "/1")
		} else if y.isObj() {
			q += "/" + g.pick("a", "b", "c", "new", "new/deep", "new/-")
		}
		switch g.IntN(6) {
		case 0:
			ops = append(ops, fmt.Sprintf(`{"op":"test","path":"%s","value":%s}`, p, g.vary(x)))
		case 1:
			ops = append(ops, fmt.Sprintf(`{"op":"move","from":"%s","path":"%s"}`, p, q))
		case 2:
			ops = append(ops, fmt.Sprintf(`{"op":"copy","from":"%s","path":"%s"}`, p, q))
		case 3:
			ops = append(ops, fmt.Sprintf(`{"op":"remove","path":"%s"}`, p))
		case 4:
			ops = append(ops, fmt.Sprintf(`{"op":"replace","path":"%s","value":%s}`, p, g.value(2)))
		case 5:
			ops = append(ops, fmt.Sprintf(`{"op":"add","path":"%s","value":%s}`, q, g.value(2)))
		}
	}
	return "[" + strings.Join(ops, ",") + "]"
}

// vary spells an equal value otherwise.
func (g gen) vary(v *mval) string {
	c := v.clone()
	if c.isObj() {
		g.Shuffle(len(c.mem), func(i, j int) { c.mem[i], c.mem[j] = c.mem[j], c.mem[i] })
	}
	if c.text == "1" {
		return g.pick("1.0", "10e-1", "0.1E1")
	}
	return c.String()
}

func (g gen) delta(root *mval) Delta {
	d := Delta{Path: g.path()}
	if g.IntN(3) == 0 {
		d.Path = "/"
	}
	switch n := g.IntN(20); {
	case n < 4:
		d.Type, d.Body = Replace, []byte(g.value(3))
		if d.Path == "/" && g.IntN(3) > 0 {
			d.Path = "/a"
		}
	case n < 10:
		d.Type, d.Body = MergePatch, []byte(g.object(4))
		if g.IntN(10) == 0 {
			d.Body = []byte(g.value(3))
		}
	case n < 13:
		d.Type = Delete
		if d.Path == "/" && g.IntN(4) > 0 {
			d.Path = "/a/b"
		}
	default:
		d.Type, d.Strict = JSONPatch, g.IntN(3) == 0
		if g.IntN(2) == 0 {
			d.Body = []byte(g.patch())
		} else {
			d.Body = []byte(g.guidedPatch(root, msegments(d.Path)))
		}
	}
	return d
}

// wide draws a document with many members and elements, so that tables,
// indexes and chunks are at work.
func (g gen) wide() []byte {
	n := 1 + g.IntN(60)
	if g.IntN(4) == 0 {
		n = 1 + g.IntN(2_500)
	}
	var b strings.Builder
	b.WriteString(`{"a":{`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"k%d":%s`, i, g.value(1))
	}
	b.WriteString(`},"b":[`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(g.value(1))
	}
	return []byte(b.String() + `],"c":` + g.value(3) + "}")
}

// wideDelta draws a delta that meets a wide document.
func (g gen) wideDelta(n int) Delta {
	key := func() string { return fmt.Sprintf("k%d", g.IntN(n+5)) }
	ptr := func() string {
		switch g.IntN(6) {
		case 0:
			return "/b/-"
		case 1:
			return "/a/" + key() + "/" + g.pick("a", "b", "0", "-")
		case 2, 3:
			return "/a/" + key()
		}
		return fmt.Sprintf("/b/%d%s", g.IntN(n+5), g.pick("", "", "", "/0", "/a", "/-"))
	}
	switch g.IntN(12) {
	case 0:
		return Delta{Type: Replace, Path: "/a/" + key(), Body: []byte(g.value(2))}
	case 1:
		return Delta{Type: Delete, Path: "/a/" + key() + g.pick("", "/a")}
	case 2, 3:
		var b strings.Builder
		fmt.Fprintf(&b, `{"a":{"k%d":%s`, n+10, g.value(1))
		for i := range g.IntN(20) {
			fmt.Fprintf(&b, `,"k%d":%s`, (i*7+g.IntN(7))%(n+9), g.value(2))
		}
		return Delta{Type: MergePatch, Path: "/", Body: []byte(b.String() + "}}")}
	}
	var ops []string
	for range 1 + g.IntN(8) {
		switch g.IntN(9) {
		case 0, 1:
			ops = append(ops, fmt.Sprintf(`{"op":"remove","path":"%s"}`, ptr()))
		case 2:
			ops = append(ops, fmt.Sprintf(`{"op":"replace","path":"%s","value":%s}`, ptr(), g.value(2)))
		case 3:
			ops = append(ops, fmt.Sprintf(`{"op":"move","from":"%s","path":"%s"}`, ptr(), ptr()))
		case 4:
			ops = append(ops, fmt.Sprintf(`{"op":"copy","from":"%s","path":"%s"}`, ptr(), ptr()))
		case 5:
			ops = append(ops, fmt.Sprintf(`{"op":"test","path":"%s","value":%s}`, ptr(), g.value(0)))
		default:
			ops = append(ops, fmt.Sprintf(`{"op":"add","path":"%s","value":%s}`, ptr(), g.value(2)))
		}
	}
	if g.IntN(3) > 0 { // one that may succeed
		ops = ops[:1]
	}
	return Delta{Type: JSONPatch, Path: "/", Body: []byte("[" + strings.Join(ops, ",") + "]"), Strict: g.IntN(3) == 0}
}

func TestModelWide(t *testing.T) {
	t.Parallel()
	s := *seedFlag
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d (run again with -seed=%d)", s, s)
	g := gen{rand.New(rand.NewPCG(s, 2))}
	statuses := map[string]int{}
	for n := 0; n < *deltasFlag/10; {
		base := g.wide()
		width := bytes.Count(base, []byte(`"k`))
		var lim Limits
		if g.IntN(8) == 0 {
			lim.MaxDocument = int64(len(base) - 20 + g.IntN(200))
		}
		deltas := make([]Delta, 1+g.IntN(40))
		for i := range deltas {
			if g.IntN(5) == 0 {
				deltas[i] = g.delta(nil)
			} else {
				deltas[i] = g.wideDelta(width)
			}
			if d := &deltas[i]; d.Path == "/" && d.Type != JSONPatch && d.Type != MergePatch {
				d.Path = "/c"
			}
		}
		checkModel(t, base, deltas, lim, g.IntN)
		n += len(deltas)
		if n < 2_000 {
			_, out, _ := Merge(base, deltas, lim)
			for _, o := range out {
				statuses[o.Status.String()+" "+o.Reason.String()]++
			}
		}
	}
	t.Logf("outcomes of the first %v", statuses)
}

// checkModel merges the deltas in many ways and compares each with the model.
func checkModel(t testing.TB, base []byte, deltas []Delta, lim Limits, cut func(n int) int) {
	t.Helper()
	wantDoc, want := modelMerge(base, deltas, lim)
	fail := func(how string, doc []byte, out []Outcome, err error) {
		t.Helper()
		var b strings.Builder
		for i, d := range deltas {
			fmt.Fprintf(&b, "\n  %d %-11s %s strict=%v %s\n      want %+v", i, d.Type, d.Path, d.Strict, d.Body, want[i])
			if i < len(out) && out[i] != want[i] {
				fmt.Fprintf(&b, "\n      GOT  %+v", out[i])
			}
		}
		t.Fatalf("%s: differs from the model (limits %+v)\nbase %s%s\ngot  %s (%v)\nwant %s", how, lim, base, b.String(), doc, err, wantDoc)
	}
	keepBase := bytes.Clone(base)
	doc, out, err := Merge(base, deltas, lim)
	if err != nil || !bytes.Equal(doc, wantDoc) || (doc == nil) != (wantDoc == nil) || !slices.Equal(out, want) {
		fail("all at once", doc, out, err)
	}
	if !bytes.Equal(base, keepBase) {
		t.Fatalf("base was modified")
	}
	// Cut twice, anywhere.
	i, j := cut(len(deltas)+1), cut(len(deltas)+1)
	if i > j {
		i, j = j, i
	}
	doc, out = base, nil
	for _, part := range [][]Delta{deltas[:i], deltas[i:j], deltas[j:]} {
		var o []Outcome
		if doc, o, err = Merge(doc, part, lim); err != nil {
			break
		}
		out = append(out, o...)
	}
	if err != nil || !bytes.Equal(doc, wantDoc) || !slices.Equal(out, want) {
		fail(fmt.Sprintf("cut at %d and %d", i, j), doc, out, err)
	}
	if lim != (Limits{}) {
		return // pruning promises nothing where limits bite
	}
	for i, x := range deltas {
		if x.Type != JSONPatch && want[i].Status == Noop {
			return // nor for bodies that Check refuses
		}
	}
	kept, pruned := Prune(deltas)
	doc, out, err = Merge(base, kept, lim)
	for i := range out {
		if pruned[i] {
			out[i] = want[i]
		}
	}
	if err != nil || !bytes.Equal(doc, wantDoc) || !slices.Equal(out, want) {
		fail(fmt.Sprintf("pruned %v", pruned), doc, out, err)
	}
}

func TestModel(t *testing.T) {
	t.Parallel()
	s := *seedFlag
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d (run again with -seed=%d)", s, s)
	g := gen{rand.New(rand.NewPCG(s, 1))}
	statuses := map[string]int{}
	pruned := 0
	for n := 0; n < *deltasFlag; {
		var base []byte
		if g.IntN(8) > 0 {
			base = []byte(g.value(4))
		}
		var lim Limits
		if g.IntN(6) == 0 {
			lim = Limits{MaxDocument: 20 + int64(g.IntN(200)), MaxCopy: 1 + int64(g.IntN(60)), MaxDepth: 2 + g.IntN(6), MaxOps: 1 + g.IntN(6)}
			if int64(len(base)) > lim.MaxDocument && g.IntN(2) > 0 {
				base = nil
			}
		}
		var root *mval
		if base != nil {
			root = mparse(base)
		}
		m := &mmodel{root: root, lim: lim.withDefaults()}
		deltas := make([]Delta, 1+g.IntN(12))
		for i := range deltas {
			deltas[i] = g.delta(m.root)
			o := m.apply(deltas[i])
			statuses[o.Status.String()+" "+o.Reason.String()]++
		}
		checkModel(t, base, deltas, lim, g.IntN)
		_, p := Prune(deltas)
		for _, p := range p {
			if p {
				pruned++
			}
		}
		n += len(deltas)
	}
	t.Logf("outcomes %v, pruned %d", statuses, pruned)
}
