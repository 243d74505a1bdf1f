package codec

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
)

var benchSizes = []struct {
	name string
	n    int
}{{"100B", 100}, {"10KB", 10 << 10}, {"1MB", 1 << 20}}

var benchComps = []struct {
	name string
	c    Compression
}{{"none", None}, {"s2", S2}, {"zstd", Zstd}}

// benchFrame holds JSON with the entropy of real deltas: names repeat, values do not.
func benchFrame(n int) *Frame {
	r := rand.New(rand.NewPCG(1, 1))
	p := make([]byte, 0, n+64)
	for len(p) < n {
		p = append(p, `{"id":`...)
		p = strconv.AppendUint(p, r.Uint64N(1e9), 10)
		p = append(p, `,"name":"user-`...)
		p = strconv.AppendUint(p, r.Uint64N(1e6), 36)
		p = append(p, `","active":true},`...)
	}
	return &Frame{Header{Kind: KindRun, Catalog: "users", First: Version{1_700_000_000, 1}, N: 1, Writer: "abcdefgh", Author: "alice",
		Epoch: 3, Created: 1_700_000_000_123}, p[:n]}
}

func BenchmarkAppend(b *testing.B) {
	for _, size := range benchSizes {
		for _, comp := range benchComps {
			b.Run(fmt.Sprintf("%s/%s", size.name, comp.name), func(b *testing.B) {
				f, o := benchFrame(size.n), Options{Compression: comp.c}
				b.SetBytes(int64(size.n))
				b.ReportAllocs()
				var dst []byte
				for b.Loop() {
					dst, _ = Append(dst[:0], f, o)
				}
				b.ReportMetric(float64(len(dst)), "stored-B")
			})
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, size := range benchSizes {
		for _, comp := range benchComps {
			b.Run(fmt.Sprintf("%s/%s", size.name, comp.name), func(b *testing.B) {
				enc, err := Append(nil, benchFrame(size.n), Options{Compression: comp.c})
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(size.n))
				b.ReportAllocs()
				for b.Loop() {
					if _, _, err := Decode(enc, Options{}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
