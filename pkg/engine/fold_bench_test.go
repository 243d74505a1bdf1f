package engine_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

// BenchmarkFold measures one fold of n small deltas, in runs of 1,000 or of one,
// onto a document of 1 MB with 1,000 members, on the memory adapters; -cpu 1
// gives it one core.
//
//	go test -run - -bench Fold -cpu 1 -benchtime 5x ./pkg/engine
func BenchmarkFold(b *testing.B) {
	for _, c := range []struct{ deltas, run int }{{10_000, 1000}, {100_000, 1000}, {10_000, 1}} {
		b.Run(fmt.Sprintf("deltas=%d/run=%d", c.deltas, c.run), func(b *testing.B) { benchmarkFold(b, c.deltas, c.run) })
	}
}

func benchmarkFold(b *testing.B, n, run int) {
	e, err := engine.New(b.Context(), memory.NewIndex(memory.Options{Exclusive: true}), memory.NewObjects(), engine.Options{DocumentCache: -1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.Close(b.Context()) })
	const members = 1000
	var doc strings.Builder
	for i := range members {
		fmt.Fprintf(&doc, `,"m%d":{"n":0,"pad":"%s"}`, i, strings.Repeat("x", 1000))
	}
	write := func(deltas []engine.WriteRequest) {
		if _, err := e.WriteBatch(b.Context(), engine.BatchRequest{Catalog: "c", Deltas: deltas}); err != nil {
			b.Fatal(err)
		}
	}
	fold := func() engine.FoldResult {
		r, err := e.Fold(b.Context(), "c")
		if err != nil {
			b.Fatal(err)
		}
		return r
	}
	write([]engine.WriteRequest{{Path: "/", MergeType: engine.MergeTypeReplace, Body: []byte("{" + doc.String()[1:] + "}")}})
	fold()
	deltas := make([]engine.WriteRequest, run)
	b.ReportAllocs()
	b.ResetTimer()
	for round := range b.N {
		b.StopTimer()
		for i := 0; i < n; i += run {
			for j := range deltas {
				k := round*n + i + j
				deltas[j] = engine.WriteRequest{Path: fmt.Sprintf("/m%d", k*7919%members), MergeType: engine.MergeTypeMergePatch, Body: fmt.Appendf(nil, `{"n":%d}`, k)}
			}
			write(deltas)
		}
		b.StartTimer()
		if r := fold(); r.Deltas != int64(n) || r.More {
			b.Fatalf("folded %d deltas, more %v, want %d", r.Deltas, r.More, n)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "deltas/s")
}
