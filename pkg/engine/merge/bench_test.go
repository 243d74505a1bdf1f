package merge

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The benchmarks measure the shapes that decide whether merging is linear:
//
//	go test -run '^$' -bench . -short ./pkg/engine/merge    the table of targets and the baseline, under 3 minutes
//	go test -run '^$' -bench . ./pkg/engine/merge           every shape
//
// Documents are objects of records of about 220 bytes, {"users":{"u000000":{…}}};
// deltas touch records drawn at random.

// benchDoc makes a document of about size bytes and says how many records it has.
func benchDoc(size int) ([]byte, int) {
	var b strings.Builder
	b.Grow(size + 512)
	b.WriteString(`{"meta":{"kind":"users","version":3},"users":{`)
	n := 0
	for ; b.Len() < size-200 || n == 0; n++ {
		if n > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"u%06d":{"name":"Person Number %d","email":"person%d@example.org","age":%d,"active":%v,"tags":["alpha","beta","%x"],"address":{"street":"Main Street %d","city":"Springfield","zip":"%05d"}}`,
			n, n, n, n%90, n%3 == 0, n*2654435761, n%999, n%100000)
	}
	b.WriteString(`}}`)
	return []byte(b.String()), n
}

// kinds draws deltas for a document of n records.
var kinds = []struct {
	name string
	draw func(r *rand.Rand, n, i int) Delta
}{
	{"replace", func(r *rand.Rand, n, i int) Delta {
		return Delta{Type: Replace, Path: fmt.Sprintf("/users/u%06d/age", r.IntN(n)), Body: strconv.AppendInt(nil, int64(i), 10)}
	}},
	{"merge-scoped", func(r *rand.Rand, n, i int) Delta {
		return Delta{Type: MergePatch, Path: fmt.Sprintf("/users/u%06d", r.IntN(n)), Body: fmt.Appendf(nil, `{"age":%d,"address":{"zip":"%05d"},"note":"changed %d"}`, i%100, i, i)}
	}},
	{"merge-root", func(r *rand.Rand, n, i int) Delta {
		return Delta{Type: MergePatch, Path: "/", Body: fmt.Appendf(nil, `{"users":{"u%06d":{"age":%d,"address":{"zip":"%05d"},"note":"changed %d"}}}`, r.IntN(n), i%100, i, i)}
	}},
	{"patch-scoped", func(r *rand.Rand, n, i int) Delta {
		return Delta{Type: JSONPatch, Path: fmt.Sprintf("/users/u%06d", r.IntN(n)), Body: fmt.Appendf(nil, `[{"op":"test","path":"/address/city","value":"Springfield"},{"op":"replace","path":"/age","value":%d},{"op":"add","path":"/tags/-","value":"t%d"}]`, i%100, i)}
	}},
	{"patch-root", func(r *rand.Rand, n, i int) Delta {
		u := r.IntN(n)
		return Delta{Type: JSONPatch, Path: "/", Body: fmt.Appendf(nil, `[{"op":"test","path":"/users/u%06d/address/city","value":"Springfield"},{"op":"replace","path":"/users/u%06d/age","value":%d},{"op":"add","path":"/users/u%06d/tags/-","value":"t%d"}]`, u, u, i%100, u, i)}
	}},
}

// benchDeltas draws count deltas of a kind; "mixed" is all kinds and deletes.
func benchDeltas(kind string, n, count int) []Delta {
	r := rand.New(rand.NewPCG(7, uint64(count)))
	out := make([]Delta, count)
	for i := range out {
		k := i % (len(kinds) + 1)
		if kind == "mixed" && k == len(kinds) {
			out[i] = Delta{Type: Delete, Path: fmt.Sprintf("/users/u%06d/note", r.IntN(n))}
			continue
		}
		for j, x := range kinds {
			if x.name == kind || kind == "mixed" && j == k {
				out[i] = x.draw(r, n, i)
			}
		}
	}
	return out
}

var benchLimits = Limits{MaxDocument: 1 << 30}

// measure merges again and again and reports the time of one merge.
func measure(b *testing.B, doc []byte, deltas []Delta) time.Duration {
	b.Helper()
	b.ReportAllocs()
	b.SetBytes(int64(len(doc)))
	for b.Loop() {
		_, out, err := Merge(doc, deltas, benchLimits)
		if err != nil {
			b.Fatal(err)
		}
		for i := range out {
			if out[i].Status != Applied {
				b.Fatalf("delta %d: %+v", i, out[i])
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1e6, "ms/merge")
	return b.Elapsed() / time.Duration(b.N)
}

// naive applies the deltas one by one with json-patch, as Lake v2 does: the
// document is parsed and printed for each. Scoped ones are written from the
// root.
func naive(b *testing.B, doc []byte, deltas []Delta) {
	b.Helper()
	for _, d := range deltas {
		next, err := Reference(doc, d.Type, d.Body)
		if err != nil {
			b.Fatal(err)
		}
		doc = next
	}
}

// naiveTime measures the baseline with few deltas and multiplies.
func naiveTime(b *testing.B, doc []byte, kind string, records, count int) (t time.Duration, times int) {
	b.Helper()
	few := count
	if len(doc) > 100<<10 {
		few = min(count, 5)
	}
	deltas := benchDeltas(kind, records, few)
	if kind == "replace" || kind == "merge-scoped" {
		for i := range deltas { // the same write from the root
			deltas[i].Type = MergePatch
			segs := strings.Split(deltas[i].Path[1:], "/")
			body := string(deltas[i].Body)
			for k := len(segs) - 1; k >= 0; k-- {
				body = `{"` + segs[k] + `":` + body + "}"
			}
			deltas[i].Path, deltas[i].Body = "/", []byte(body)
		}
	}
	best := time.Duration(1 << 62)
	for range 2 {
		start := time.Now()
		naive(b, doc, deltas)
		best = min(best, time.Since(start))
	}
	return best * time.Duration(count/few), count / few
}

// BenchmarkTargets is the table of targets. "×naive" is how many times slower
// json-patch is when it applies the same deltas one by one; "naive-scaled"
// above 1 says that it was measured with that fraction of the deltas and
// multiplied.
func BenchmarkTargets(b *testing.B) {
	for _, c := range []struct {
		name  string
		size  int
		kind  string
		count int
		ms    float64 // target
		ratio float64 // target, 0: none
	}{
		{"1MB_1000_merge-root", 1 << 20, "merge-root", 1000, 6, 5_000},
		{"1MB_1000_patch-root", 1 << 20, "patch-root", 1000, 20, 2_000},
		{"10MB_1000_replace", 10 << 20, "replace", 1000, 35, 0},
		{"1KB_1000_merge-root", 1 << 10, "merge-root", 1000, 0.6, 0},
		{"1MB_1_replace", 1 << 20, "replace", 1, 2, 0},
	} {
		b.Run(c.name, func(b *testing.B) {
			doc, n := benchDoc(c.size)
			t := measure(b, doc, benchDeltas(c.kind, n, c.count))
			b.ReportMetric(c.ms, "ms-target")
			slow, scaled := naiveTime(b, doc, c.kind, n, c.count)
			b.ReportMetric(float64(slow)/float64(t), "×naive")
			b.ReportMetric(float64(scaled), "naive-scaled")
			if c.ratio > 0 {
				b.ReportMetric(c.ratio, "×target")
			}
		})
	}
	b.Run("100MB_1000_mixed", func(b *testing.B) {
		best := func(size, rounds int) time.Duration {
			doc, n := benchDoc(size)
			deltas := benchDeltas("mixed", n, 1000)
			best := time.Duration(1 << 62)
			for range rounds {
				start := time.Now()
				if _, _, err := Merge(doc, deltas, benchLimits); err != nil {
					b.Fatal(err)
				}
				best = min(best, time.Since(start))
			}
			return best
		}
		small, large := best(10<<20, 10), best(100<<20, 5)
		doc, n := benchDoc(100 << 20)
		measure(b, doc, benchDeltas("mixed", n, 1000))
		b.ReportMetric(float64(large)/float64(small), "×10MB")
		b.ReportMetric(12, "×target")
	})
}

// BenchmarkShapes is every size by every number of deltas by every kind.
func BenchmarkShapes(b *testing.B) {
	if testing.Short() {
		b.Skip("-short: the targets only")
	}
	for _, size := range []int{1 << 10, 100 << 10, 1 << 20, 10 << 20, 100 << 20} {
		doc, n := benchDoc(size)
		for _, count := range []int{1, 10, 100, 1000} {
			for _, kind := range []string{"replace", "merge-scoped", "merge-root", "patch-scoped", "patch-root", "mixed"} {
				deltas := benchDeltas(kind, n, count)
				b.Run(fmt.Sprintf("doc=%s/deltas=%d/%s", sizeName(size), count, kind), func(b *testing.B) { measure(b, doc, deltas) })
			}
		}
	}
}

func sizeName(n int) string {
	if n >= 1<<20 {
		return strconv.Itoa(n>>20) + "MB"
	}
	return strconv.Itoa(n>>10) + "KB"
}

// BenchmarkNaive is the baseline alone.
func BenchmarkNaive(b *testing.B) {
	if testing.Short() {
		b.Skip("-short: the targets only")
	}
	for _, size := range []int{1 << 10, 100 << 10, 1 << 20} {
		doc, n := benchDoc(size)
		for _, kind := range []string{"merge-root", "patch-root"} {
			deltas := benchDeltas(kind, n, 10)
			b.Run(fmt.Sprintf("doc=%s/deltas=10/%s", sizeName(size), kind), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					naive(b, doc, deltas)
				}
			})
		}
	}
}

// BenchmarkWideArray inserts, removes and moves in one array of many elements.
func BenchmarkWideArray(b *testing.B) {
	if testing.Short() {
		b.Skip("-short: the targets only")
	}
	for _, n := range []int{1_000, 100_000, 1_000_000} {
		doc := []byte(`{"list":[` + strings.Repeat("12345,", n-1) + "6]}")
		r := rand.New(rand.NewPCG(7, 7))
		deltas := make([]Delta, 1000)
		for i := range deltas {
			deltas[i] = Delta{Type: JSONPatch, Path: "/list", Body: fmt.Appendf(nil, `[{"op":"add","path":"/%d","value":%d},{"op":"remove","path":"/%d"},{"op":"move","from":"/%d","path":"/%d"}]`,
				r.IntN(n), i, r.IntN(n), r.IntN(n), r.IntN(n))}
		}
		b.Run(fmt.Sprintf("elements=%d/deltas=1000", n), func(b *testing.B) { measure(b, doc, deltas) })
	}
}

// BenchmarkDeepChain writes at the ends of a chain of nested objects.
func BenchmarkDeepChain(b *testing.B) {
	if testing.Short() {
		b.Skip("-short: the targets only")
	}
	for _, depth := range []int{10, 100} {
		pad := strings.Repeat("x", (1<<20)/depth)
		doc, path := `{"v":1}`, ""
		for range depth {
			doc = `{"pad":"` + pad + `","n":` + doc + `,"tail":0}`
			path += "/n"
		}
		for _, kind := range []string{"replace", "json-patch"} {
			deltas := make([]Delta, 1000)
			for i := range deltas {
				p := path[:2*(1+i%depth)]
				deltas[i] = Delta{Type: Replace, Path: p + "/v", Body: strconv.AppendInt(nil, int64(i), 10)}
				if kind == "json-patch" {
					deltas[i] = Delta{Type: JSONPatch, Path: "/", Body: fmt.Appendf(nil, `[{"op":"add","path":"%s/v","value":%d}]`, p, i)}
				}
			}
			b.Run(fmt.Sprintf("1MB/depth=%d/%s", depth, kind), func(b *testing.B) { measure(b, []byte(doc), deltas) })
		}
	}
}

// BenchmarkSlope is the cost of one more delta on a small document, and of a
// hot member written again and again.
func BenchmarkSlope(b *testing.B) {
	if testing.Short() {
		b.Skip("-short: the targets only")
	}
	doc, n := benchDoc(1 << 10)
	for _, count := range []int{1_000, 100_000} {
		deltas := benchDeltas("merge-root", n, count)
		b.Run(fmt.Sprintf("1KB/merge-root/deltas=%d", count), func(b *testing.B) {
			t := measure(b, doc, deltas)
			b.ReportMetric(float64(t.Nanoseconds())/float64(count), "ns/delta")
		})
	}
}

// BenchmarkBase is the parts that every merge is made of.
func BenchmarkBase(b *testing.B) {
	if testing.Short() {
		b.Skip("-short: the targets only")
	}
	doc, _ := benchDoc(1 << 20)
	b.Run("skip", func(b *testing.B) {
		b.SetBytes(int64(len(doc)))
		for b.Loop() {
			if skipValue(doc, 0) != len(doc) {
				b.Fatal("wrong end")
			}
		}
	})
	b.Run("validate", func(b *testing.B) {
		b.SetBytes(int64(len(doc)))
		for b.Loop() {
			if bodyFault(doc, 128) != ReasonNone {
				b.Fatal("invalid")
			}
		}
	})
	b.Run("check", func(b *testing.B) {
		b.SetBytes(int64(len(doc)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Check(Replace, doc, Limits{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("copy", func(b *testing.B) {
		b.SetBytes(int64(len(doc)))
		for b.Loop() {
			_ = append([]byte(nil), doc...)
		}
	})
}
