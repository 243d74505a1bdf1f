package merge

import (
	"encoding/json"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

type mval struct {
	text string  // a scalar's literal text; "" for containers
	obj  bool    // an object, else an array (when text is "")
	mem  []mmem  // members in order
	el   []*mval // elements
}

type mmem struct {
	name string // UTF-16 code units, two bytes each
	raw  string // as it is spelled, with quotes
	v    *mval
}

func (v *mval) find(name string) int {
	for i := range v.mem {
		if v.mem[i].name == name {
			return i
		}
	}
	return -1
}

func (v *mval) isObj() bool { return v != nil && v.text == "" && v.obj }
func (v *mval) isArr() bool { return v != nil && v.text == "" && !v.obj }

func (v *mval) clone() *mval {
	if v == nil {
		return nil
	}
	c := &mval{text: v.text, obj: v.obj}
	for _, m := range v.mem {
		c.mem = append(c.mem, mmem{m.name, m.raw, m.v.clone()})
	}
	for _, e := range v.el {
		c.el = append(c.el, e.clone())
	}
	return c
}

func (v *mval) print(b *strings.Builder) {
	switch {
	case v.text != "":
		b.WriteString(v.text)
	case v.obj:
		b.WriteByte('{')
		for i, m := range v.mem {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(m.raw)
			b.WriteByte(':')
			m.v.print(b)
		}
		b.WriteByte('}')
	default:
		b.WriteByte('[')
		for i, e := range v.el {
			if i > 0 {
				b.WriteByte(',')
			}
			e.print(b)
		}
		b.WriteByte(']')
	}
}

func (v *mval) String() string {
	if v == nil {
		return ""
	}
	var b strings.Builder
	v.print(&b)
	return b.String()
}

func (v *mval) depth() int {
	if v.text != "" {
		return 0
	}
	d := 0
	for _, m := range v.mem {
		d = max(d, m.v.depth())
	}
	for _, e := range v.el {
		d = max(d, e.depth())
	}
	return d + 1
}

type mparser struct {
	s string
	i int
}

func (p *mparser) ws() {
	for p.i < len(p.s) && strings.IndexByte(" \t\r\n", p.s[p.i]) >= 0 {
		p.i++
	}
}

func (p *mparser) str() string {
	start := p.i
	for p.i++; p.s[p.i] != '"'; p.i++ {
		if p.s[p.i] == '\\' {
			p.i++
		}
	}
	p.i++
	return p.s[start:p.i]
}

func (p *mparser) value() *mval {
	p.ws()
	defer p.ws()
	switch p.s[p.i] {
	case '{':
		v := &mval{obj: true}
		p.i++
		for p.ws(); p.s[p.i] != '}'; p.ws() {
			if p.s[p.i] == ',' {
				p.i++
				p.ws()
			}
			raw := p.str()
			p.ws()
			p.i++ // colon
			v.mem = append(v.mem, mmem{munits(raw), raw, p.value()})
		}
		p.i++
		return v
	case '[':
		v := &mval{}
		p.i++
		for p.ws(); p.s[p.i] != ']'; p.ws() {
			if p.s[p.i] == ',' {
				p.i++
			}
			v.el = append(v.el, p.value())
		}
		p.i++
		return v
	case '"':
		return &mval{text: p.str()}
	}
	start := p.i
	for p.i < len(p.s) && strings.IndexByte(",]} \t\r\n", p.s[p.i]) < 0 {
		p.i++
	}
	return &mval{text: p.s[start:p.i]}
}

func mparse(s []byte) *mval { return (&mparser{s: string(s)}).value() }

// munits returns the code units of a JSON string literal.
func munits(raw string) string {
	var u []uint16
	s := raw[1 : len(raw)-1]
	for i := 0; i < len(s); {
		if s[i] != '\\' {
			r, n := utf8.DecodeRuneInString(s[i:])
			u = utf16.AppendRune(u, r)
			i += n
			continue
		}
		switch c := s[i+1]; c {
		case 'u':
			x, _ := strconv.ParseUint(s[i+2:i+6], 16, 16)
			u = append(u, uint16(x))
			i += 6
			continue
		default:
			u = append(u, uint16(map[byte]byte{'b': 8, 'f': 12, 'n': 10, 'r': 13, 't': 9, '"': '"', '\\': '\\', '/': '/'}[c]))
		}
		i += 2
	}
	b := make([]byte, 0, 2*len(u))
	for _, x := range u {
		b = append(b, byte(x>>8), byte(x))
	}
	return string(b)
}

// mname returns the code units of plain UTF-8 text.
func mname(s string) string {
	b := make([]byte, 0, 2*len(s))
	for _, x := range utf16.Encode([]rune(s)) {
		b = append(b, byte(x>>8), byte(x))
	}
	return string(b)
}

// mquote spells a name with as few escapes as JSON allows.
func mquote(name string) string {
	var u []uint16
	for i := 0; i < len(name); i += 2 {
		u = append(u, uint16(name[i])<<8|uint16(name[i+1]))
	}
	b := []byte{'"'}
	for i := 0; i < len(u); i++ {
		x := rune(u[i])
		if utf16.IsSurrogate(x) {
			if i+1 < len(u) {
				if r := utf16.DecodeRune(x, rune(u[i+1])); r != utf8.RuneError {
					b = utf8.AppendRune(b, r)
					i++
					continue
				}
			}
			b = append(b, `\u`+strconv.FormatInt(int64(x), 16)...)
			continue
		}
		if x == '<' || x == '>' || x == '&' || x == 0x2028 || x == 0x2029 || x == 0x7f || x == utf8.RuneError {
			b = utf8.AppendRune(b, x)
			continue
		}
		q, _ := json.Marshal(string(x))
		b = append(b, q[1:len(q)-1]...)
	}
	return string(append(b, '"'))
}

func mequal(a, b *mval) bool {
	switch {
	case a.text != "" && b.text != "":
		if a.text[0] == '"' || b.text[0] == '"' {
			return a.text[0] == '"' && b.text[0] == '"' && munits(a.text) == munits(b.text)
		}
		if strings.Contains("tfn", a.text[:1]) || strings.Contains("tfn", b.text[:1]) {
			return a.text == b.text
		}
		return mequalNumbers(a.text, b.text)
	case a.isObj() && b.isObj():
		if len(a.mem) != len(b.mem) {
			return false
		}
		for _, m := range a.mem {
			j := b.find(m.name)
			if j < 0 || !mequal(m.v, b.mem[j].v) {
				return false
			}
		}
		return true
	case a.isArr() && b.isArr():
		if len(a.el) != len(b.el) {
			return false
		}
		for i := range a.el {
			if !mequal(a.el[i], b.el[i]) {
				return false
			}
		}
		return true
	}
	return false
}

// mequalNumbers compares mantissas as integers after moving all digits before
// the point, exponents as integers.
func mequalNumbers(a, b string) bool {
	norm := func(s string) (*big.Int, *big.Int) {
		e := new(big.Int)
		if i := strings.IndexAny(s, "eE"); i >= 0 {
			e.SetString(strings.TrimPrefix(s[i+1:], "+"), 10)
			s = s[:i]
		}
		if i := strings.IndexByte(s, '.'); i >= 0 {
			e.Sub(e, big.NewInt(int64(len(s)-i-1)))
			s = s[:i] + s[i+1:]
		}
		m, _ := new(big.Int).SetString(s, 10)
		if m.Sign() == 0 {
			return m, new(big.Int)
		}
		ten, r := big.NewInt(10), new(big.Int)
		for {
			q, r := new(big.Int).QuoRem(m, ten, r)
			if r.Sign() != 0 {
				return m, e
			}
			m = q
			e.Add(e, big.NewInt(1))
		}
	}
	am, ae := norm(a)
	bm, be := norm(b)
	return am.Cmp(bm) == 0 && ae.Cmp(be) == 0
}
