package redis

import (
	"sync"

	"github.com/tinylib/msgp/msgp"

	"github.com/jsonlake/lake/pkg/engine"
)

// texts collects the many small texts of a call in one piece of memory: a string for
// each was a part of what a write allocates that shows. What is added makes one text
// together, up to the next end.
type texts struct {
	b    []byte
	ends []int
}

var textsPool = sync.Pool{New: func() any { return new(texts) }}

// maxTexts is the most that is kept of one for the next call, bytes.
const maxTexts = 1 << 20

// newTexts is one without texts; strings ends its use.
func newTexts() *texts {
	t := textsPool.Get().(*texts)
	t.b, t.ends = t.b[:0], t.ends[:0]
	return t
}

func (t *texts) end() { t.ends = append(t.ends, len(t.b)) }

func (t *texts) text(s string) {
	t.b = append(t.b, s...)
	t.end()
}

// strings are the texts, and give t back.
func (t *texts) strings() []string {
	all := string(t.b)
	list := make([]string, len(t.ends))
	from := 0
	for i, to := range t.ends {
		list[i], from = all[from:to], to
	}
	if cap(t.b) <= maxTexts {
		textsPool.Put(t)
	}
	return list
}

// values are what a script reads by itself out of one argument, in MessagePack. An argument
// costs the server an object and a place in a table that grows, a value in a text neither, and a
// number need not be parsed.
type values struct {
	b    []byte
	text []byte // that is being put together; add adds it
}

var valuesPool = sync.Pool{New: func() any { return new(values) }}

// newValues is one without values; argument ends its use.
func newValues() *values {
	v := valuesPool.Get().(*values)
	v.b, v.text = v.b[:0], v.text[:0]
	return v
}

func (v *values) number(n int64)  { v.b = msgp.AppendInt64(v.b, n) }
func (v *values) string(s string) { v.b = msgp.AppendString(v.b, s) }
func (v *values) fixed(at engine.Version) {
	v.text = appendFixed(v.text, at)
	v.add()
}

// add adds the text that was put together.
func (v *values) add() {
	v.b = msgp.AppendStringFromBytes(v.b, v.text)
	v.text = v.text[:0]
}

func (v *values) flag(set bool) {
	if set {
		v.number(1)
	} else {
		v.number(0)
	}
}

// argument is the values as one text, and gives v back.
func (v *values) argument() string {
	s := string(v.b)
	if cap(v.b)+cap(v.text) <= maxTexts {
		valuesPool.Put(v)
	}
	return s
}
