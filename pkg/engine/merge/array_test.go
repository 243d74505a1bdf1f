package merge

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestArray compares a chunked array with a slice, from chunks of every size.
func TestArray(t *testing.T) {
	t.Parallel()
	s := uint64(1)
	if *seedFlag != 0 {
		s = *seedFlag
	}
	r := rand.New(rand.NewPCG(s, 8))
	for _, n := range []int{0, 1, 31, 32, 33, 1_000, 5_000} {
		for _, oneChunk := range []bool{false, true} {
			var want []string
			for i := range n {
				want = append(want, strconv.Itoa(i))
			}
			text := "[" + strings.Join(want, " , ") + "]"
			m := &machine{}
			c := m.openArray([]byte(text + "]]"))
			if m.corrupt || c.baseEnd != len(text) || c.arr.n != n {
				t.Fatalf("%d elements: got %d, text up to %d of %d", n, c.arr.n, c.baseEnd, len(text))
			}
			if oneChunk && n > 0 { // as in an array of many million elements
				c.arr.chunks = []chunk{{src: []byte(text[1 : len(text)-1]), n: n}}
			}
			a := c.arr
			for i := range 3_000 {
				v := value{text: []byte("n" + strconv.Itoa(i))}
				switch k := r.IntN(len(want) + 1); {
				case r.IntN(2) == 0:
					a.insert(k, v)
					want = slices.Insert(want, k, string(v.text))
				case k == len(want):
				case r.IntN(2) == 0:
					if got := a.remove(k); string(got.text) != want[k] {
						t.Fatalf("remove %d: got %s, want %s", k, got.text, want[k])
					}
					want = slices.Delete(want, k, k+1)
				default:
					p := a.at(k)
					if string(p.text) != want[k] {
						t.Fatalf("at %d: got %s, want %s", k, p.text, want[k])
					}
					*p = v
					want[k] = string(v.text)
				}
				if a.n != len(want) {
					t.Fatalf("got %d elements, want %d", a.n, len(want))
				}
			}
			got := string(m.emitAll(value{c: c}, 0))
			if strip := strings.ReplaceAll(got, " ", ""); strip != "["+strings.Join(want, ",")+"]" {
				t.Fatalf("%d elements: got %s, want %s", n, got, want)
			}
		}
	}
}

// TestHugeArray opens chunks that are too large to be split as one.
func TestHugeArray(t *testing.T) {
	t.Parallel()
	n := 2_300_000
	text := []byte("[" + strings.Repeat("7,", n-1) + "7]")
	got, out, err := Merge(text, []Delta{
		d(`json-patch / [{"op":"replace","path":"/2299999","value":8},{"op":"add","path":"/2250000","value":9},{"op":"remove","path":"/0"},{"op":"test","path":"/2249999","value":9},{"op":"test","path":"/2299999","value":8}]`),
	}, Limits{})
	if err != nil || out[0].Status != Applied {
		t.Fatalf("got %+v, %v", out, err)
	}
	want := "[" + strings.Repeat("7,", 2_249_999) + "9," + strings.Repeat("7,", 49_999) + "8]"
	if string(got) != want {
		t.Errorf("got another array of %d bytes, want %d", len(got), len(want))
	}
}
