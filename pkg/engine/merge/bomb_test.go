package merge

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

// bombs are deltas (and documents) made to exhaust time or memory. Each ends
// in a typed outcome.
var bombs = []struct {
	name   string
	code   string // of Check; "" if the body is well-formed
	base   func() []byte
	deltas func() []Delta
	want   string // outcome of the last delta; "" if it depends on nothing here
}{
	{"copy doubles the document", "", lit(`{"a":"xxxxxxxxxxxxxxxx"}`), func() []Delta {
		return []Delta{patch("/", 10_000, func(i int) string { return fmt.Sprintf(`{"op":"copy","from":"","path":"/c%d"}`, i) })}
	}, "too_large:19"},
	{"copy doubles the document from delta to delta", "", lit(`{"a":"xxxxxxxxxxxxxxxx"}`), func() []Delta {
		var ds []Delta
		for i := range 200 {
			ds = append(ds, d(fmt.Sprintf(`json-patch / [{"op":"copy","from":"","path":"/c%d"}]`, i)))
		}
		return ds
	}, "too_large:0"},
	{"copy the same again and again", "", func() []byte { return []byte(`{"a":["` + strings.Repeat("x", 1<<20) + `"]}`) }, func() []Delta {
		return []Delta{patch("/", 10_000, func(i int) string {
			if i%2 == 0 {
				return `{"op":"copy","from":"/a","path":"/b"}`
			}
			return `{"op":"add","path":"/a/-","value":1}`
		})}
	}, "too_large:30"},
	{"move deeper and back", "", func() []byte { return []byte(`{"a":["` + strings.Repeat("x", 1<<20) + `"],"b":{}}`) }, func() []Delta {
		return []Delta{patch("/", 10_000, func(i int) string {
			if i%2 == 0 {
				return `{"op":"move","from":"/a","path":"/b/c"}`
			}
			return `{"op":"move","from":"/b/c","path":"/a"}`
		})}
	}, "too_large:30"},
	{"index padding", "", lit(`{"a":[]}`), func() []Delta {
		return []Delta{d(`json-patch / [{"op":"add","path":"/a/999999999","value":1}]`)}
	}, "bad_index:0"},
	{"index padding by auto-parents", "", lit(`{}`), func() []Delta {
		return []Delta{d(`json-patch / [{"op":"add","path":"/a/9999999/9999999/-","value":1}]`)}
	}, "applied"},
	{"a body 100,000 deep", CodeTooDeep, lit(`{}`), func() []Delta {
		return []Delta{{Type: Replace, Path: "/a", Body: []byte(strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000))}}
	}, "too_deep"},
	{"objects 100,000 deep", CodeTooDeep, lit(`{}`), func() []Delta {
		return []Delta{{Type: MergePatch, Path: "/", Body: []byte(strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_000))}}
	}, "too_deep"},
	{"a pointer 100,000 deep", "", lit(`{}`), func() []Delta {
		return []Delta{d(`json-patch / [{"op":"add","path":"` + strings.Repeat("/a", 100_000) + `","value":1}]`)}
	}, "too_deep:0"},
	{"a path 100,000 deep", "", lit(`{}`), func() []Delta {
		return []Delta{d(`replace ` + strings.Repeat("/a", 100_000) + ` 1`)}
	}, "too_deep"},
	{"deeper with each delta", "", lit(`{}`), func() []Delta {
		var ds []Delta
		for range 1_000 {
			ds = append(ds, d(`json-patch / [{"op":"copy","from":"","path":"/a"}]`))
		}
		return ds
	}, "too_deep:0"},
	{"1e999999999", "", lit(`{"n":1e999999999}`), func() []Delta {
		return []Delta{patch("/", 10_000, func(i int) string { return `{"op":"test","path":"/n","value":10e999999998}` })}
	}, "applied"},
	{"an exponent of 60,000 digits", "", func() []byte { return []byte(`{"n":1e` + strings.Repeat("9", 60_000) + `}`) }, func() []Delta {
		return []Delta{patch("/", 1_000, func(i int) string {
			if i < 999 {
				return `{"op":"test","path":"/n","value":1e` + strings.Repeat("9", 99) + `}`
			}
			return `{"op":"test","path":"/n","value":1}`
		})}
	}, "test_failed:0"},
	{"10 MB of [", CodeTooDeep, lit(`{}`), func() []Delta {
		return []Delta{{Type: Replace, Path: "/", Body: bytes.Repeat([]byte("["), 10<<20)}}
	}, "too_deep"},
	{"10 MB of duplicate names", CodeDuplicateName, nil, func() []Delta {
		return []Delta{{Type: Replace, Path: "/", Body: []byte(`{` + strings.Repeat(`"a":1,`, 10<<20/6) + `"a":1}`)}}
	}, ""},
	{"one duplicate at the end of 10 MB", CodeDuplicateName, nil, func() []Delta {
		var b bytes.Buffer
		b.WriteByte('{')
		for i := 0; b.Len() < 10<<20; i++ {
			fmt.Fprintf(&b, `"%d":1,`, i)
		}
		b.WriteString(`"0":1}`)
		return []Delta{{Type: Replace, Path: "/", Body: b.Bytes()}}
	}, ""},
	{"tests of a large value", "", func() []byte {
		return []byte(`{"a":["` + strings.Repeat("x", 8<<20) + `"],"b":"` + strings.Repeat("y", 1<<20) + `"}`)
	}, func() []Delta {
		return []Delta{patch("/", 10_000, func(i int) string {
			switch {
			case i == 0:
				return `{"op":"add","path":"/z","value":1}`
			case i == 9_999:
				return `{"op":"test","path":"","value":{}}`
			}
			return `{"op":"test","path":"/z","value":1}`
		})}
	}, "test_failed:9999"},
	{"tests that fail late", "", func() []byte { return []byte(`{"a":["` + strings.Repeat("x", 8<<20) + `"],"z":1}`) }, func() []Delta {
		ds := []Delta{d(`replace /z 2`)}
		for range 3_000 {
			ds = append(ds, d(`json-patch / [{"op":"test","path":"","value":{"z":3,"a":["y"]}}]`), d(`json-patch / [{"op":"test","path":"/a/0","value":"xxxxxxxxxxxxxxxxxx"}]`))
		}
		return ds
	}, "test_failed:0"},
	{"inserts before a million elements", "", func() []byte { return []byte(`{"a":[` + strings.Repeat("1,", 1<<20) + `1]}`) }, func() []Delta {
		return []Delta{patch("/a", 10_000, func(i int) string {
			if i%2 == 0 {
				return `{"op":"add","path":"/0","value":2}`
			}
			return `{"op":"move","from":"/0","path":"/500000"}`
		})}
	}, "applied"},
	{"patches that fail at their end", "", lit(`{"a":{}}`), func() []Delta {
		var ds []Delta
		for range 20 {
			ds = append(ds, patch("/a", 3_000, func(i int) string {
				if i == 2_999 {
					return `{"op":"remove","path":"/nothing"}`
				}
				return fmt.Sprintf(`{"op":"add","path":"/k%d","value":1}`, i)
			}))
		}
		return ds
	}, "path_missing:2999"},
	{"patches that fail after they removed much", "", func() []byte { return []byte(`{"a":{"p":["` + strings.Repeat("x", 8<<20) + `"],"n":{}}}`) }, func() []Delta {
		var ds []Delta
		for i := range 1_000 {
			ds = append(ds, d(fmt.Sprintf(`replace /a/n%d/y 1`, i)), d(`json-patch / [{"op":"test","path":"/a/n","value":{}},{"op":"replace","path":"/a","value":1},{"op":"test","path":"","value":0}]`))
		}
		return ds
	}, "test_failed:2"},
	{"a member deleted and added again and again", "", lit(`{"a":1}`), func() []Delta {
		var ds []Delta
		for range 20_000 {
			ds = append(ds, d(`delete /a`), d(`replace /a 1`))
		}
		return ds
	}, "applied"},
	{"a chain walked level by level", "", func() []byte {
		return []byte(strings.Repeat(`{"p":"`+strings.Repeat("x", 20_000)+`","a":`, 128) + "1" + strings.Repeat("}", 128))
	}, func() []Delta {
		return []Delta{patch("/", 5_000, func(i int) string { return `{"op":"test","path":"` + strings.Repeat("/a", 1+i%128) + `/p","value":""}` })}
	}, "test_failed:0"},
}

func lit(s string) func() []byte { return func() []byte { return []byte(s) } }

func patch(path string, n int, op func(i int) string) Delta {
	var b bytes.Buffer
	b.WriteByte('[')
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(op(i))
	}
	b.WriteByte(']')
	return Delta{Type: JSONPatch, Path: path, Body: b.Bytes()}
}

// TestBombs is not parallel: it counts what is allocated.
func TestBombs(t *testing.T) {
	const maxBytes, maxTime = 64 << 20, 5 * time.Second
	for _, c := range bombs {
		t.Run(c.name, func(t *testing.T) {
			deltas := c.deltas()
			var base []byte
			if c.base != nil {
				base = c.base()
			}
			var out []Outcome
			var err error
			var before, middle, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			start := time.Now()
			for i := range deltas {
				if _, err = Check(deltas[i].Type, deltas[i].Body, Limits{}); deltas[i].Type == Delete {
					err = nil
				}
				if i > 0 { // one is as good as all
					break
				}
			}
			checked := time.Since(start)
			runtime.ReadMemStats(&middle)
			start = time.Now()
			if c.want != "" {
				var mergeErr error
				if _, out, mergeErr = Merge(base, deltas, Limits{}); mergeErr != nil {
					t.Fatalf("merge: %v", mergeErr)
				}
			}
			merged := time.Since(start)
			runtime.ReadMemStats(&after)
			check, merge := middle.TotalAlloc-before.TotalAlloc, after.TotalAlloc-middle.TotalAlloc
			t.Logf("check %v, %d KiB in %d; merge %v, %d KiB in %d", checked.Round(time.Microsecond), check>>10, middle.Mallocs-before.Mallocs, merged.Round(time.Microsecond), merge>>10, after.Mallocs-middle.Mallocs)
			// A document that grows to its limit is the result asked for.
			allowed := uint64(maxBytes)
			if strings.Contains(c.name, "from delta to delta") {
				allowed = 8 * DefaultMaxDocument
			}
			if check > maxBytes || merge > allowed {
				t.Errorf("got %d and %d bytes allocated, want at most %d", check, merge, maxBytes)
			}
			if checked > maxTime || merged > maxTime {
				t.Errorf("got %v and %v, want at most %v", checked, merged, maxTime)
			}
			var e *BodyError
			if c.code == "" && err != nil || c.code != "" && (!errors.As(err, &e) || e.Code != c.code) {
				t.Errorf("check: got %v, want %q", err, c.code)
			}
			if c.want != "" && out[len(out)-1] != o(c.want) {
				t.Errorf("got %+v, want %s", out[len(out)-1], c.want)
			}
		})
	}
}

// BenchmarkBombs shows that a single hostile body costs ≤ 50 ms.
func BenchmarkBombs(b *testing.B) {
	if testing.Short() {
		b.Skip("-short: the targets only")
	}
	for _, c := range bombs {
		deltas := c.deltas()
		if len(deltas) > 1 {
			continue
		}
		b.Run(strings.ReplaceAll(c.name, " ", "_"), func(b *testing.B) {
			var base []byte
			if c.base != nil {
				base = c.base()
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Check(deltas[0].Type, deltas[0].Body, Limits{}); err == nil || c.want != "" {
					if _, _, err := Merge(base, deltas, Limits{}); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1e6, "ms/bomb")
		})
	}
}
