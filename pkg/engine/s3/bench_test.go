package s3_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine/s3"
)

// overStores runs a benchmark over the fake, which shows what client and
// protocol cost, and over versitygw.
func overStores(b *testing.B, bench func(b *testing.B, o *s3.Objects)) {
	b.Helper()
	b.Run("store=gofakes3", func(b *testing.B) { bench(b, open(b, configOf(testenv.S3Fake(b)))) })
	b.Run("store=versitygw", func(b *testing.B) { bench(b, open(b, configOf(&testenv.S3Versity(b).S3Server))) })
}

func BenchmarkPut(b *testing.B) {
	overStores(b, func(b *testing.B, o *s3.Objects) {
		for _, size := range []int{1 << 10, 256 << 10, 4 << 20} {
			b.Run(fmt.Sprintf("size=%dKiB", size>>10), func(b *testing.B) {
				data := make([]byte, size)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				n := nextKey.Add(1)
				for i := 0; b.Loop(); i++ {
					if err := o.Put(b.Context(), fmt.Sprintf("one/%d/%d", n, i), data); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		b.Run("size=1KiB,parallel=32", func(b *testing.B) {
			data := make([]byte, 1<<10)
			n := nextKey.Add(1)
			var i atomic.Int64
			b.SetParallelism(16) // times GOMAXPROCS, 2 where the numbers were taken
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := o.Put(b.Context(), fmt.Sprintf("many/%d/%d", n, i.Add(1)), data); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	})
}

var nextKey atomic.Int64 // a benchmark runs several times over one store

// A frame out of a segment: the range alone, or the segment whole?
func BenchmarkGet(b *testing.B) {
	overStores(b, func(b *testing.B, o *s3.Objects) {
		for _, size := range []int64{1 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20} {
			key := fmt.Sprintf("get/%d", size)
			if err := o.Put(b.Context(), key, make([]byte, size)); err != nil {
				b.Fatal(err)
			}
			b.Run(fmt.Sprintf("segment=%dKiB/whole", size>>10), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := o.Get(b.Context(), key); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run(fmt.Sprintf("segment=%dKiB/range=1KiB", size>>10), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := o.GetRange(b.Context(), key, size-1<<10, 1<<10); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	})
}
