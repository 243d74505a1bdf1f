package engine

import (
	"fmt"
	"testing"
)

// BenchmarkShard asks for the shards of a thousand catalogs, again and again.
func BenchmarkShard(b *testing.B) {
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprintf("catalog-%d", i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		Shard(names[i%len(names)])
	}
}
