package engine_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

// BenchmarkPast measures questions about the past of a document of about 100 KB
// with 10,000 deltas in packs of 250, on the memory adapters: what a bucket
// costs comes on top, two objects for a read, one for each pack that a blame
// walks over.
//
//	go test -run - -bench Past -benchmem ./pkg/engine
func BenchmarkPast(b *testing.B) {
	e, err := engine.New(b.Context(), memory.NewIndex(memory.Options{Exclusive: true}), memory.NewObjects(), engine.Options{FoldMaxDeltas: 250, DocumentCache: -1, FrameCache: -1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.Close(b.Context()) })
	const n, members = 10_000, 1000
	var doc strings.Builder
	for i := range members {
		fmt.Fprintf(&doc, `,"m%d":{"n":0,"pad":"%s"}`, i, strings.Repeat("x", 70))
	}
	deltas := []engine.WriteRequest{{Path: "/", MergeType: engine.MergeTypeReplace, Body: []byte("{" + doc.String()[1:] + "}")}}
	versions := make([]engine.Version, 0, n)
	for i := 1; i < n; i++ {
		deltas = append(deltas, engine.WriteRequest{Path: fmt.Sprintf("/m%d", i%members), MergeType: engine.MergeTypeMergePatch, Body: fmt.Appendf(nil, `{"n":%d}`, i)})
	}
	for len(deltas) > 0 {
		r, err := e.WriteBatch(b.Context(), engine.BatchRequest{Catalog: "c", Deltas: deltas[:50]})
		if err != nil {
			b.Fatal(err)
		}
		for i := range r.Count {
			versions = append(versions, r.First.Add(i))
		}
		deltas = deltas[50:]
	}
	for more := true; more; {
		r, err := e.Fold(b.Context(), "c")
		if err != nil {
			b.Fatal(err)
		}
		more = r.More
	}
	run := func(name string, f func(i int) error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				if err := f(i); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("at", func(i int) error {
		_, err := e.Read(b.Context(), engine.ReadRequest{Catalog: "c", At: engine.AtVersion(versions[i*7919%n])})
		return err
	})
	run("diff", func(i int) error {
		k := i * 7919 % (n - 1)
		_, err := e.Diff(b.Context(), engine.DiffRequest{Catalog: "c", From: engine.At{Version: versions[k]}, To: engine.AtVersion(versions[k+1])})
		return err
	})
	run("log desc 100", func(i int) error {
		_, err := e.Log(b.Context(), engine.LogRequest{Catalog: "c", Order: engine.Descending, After: versions[100+i*7919%(n-100)], Limit: 100})
		return err
	})
	blame := func(pointer string, members bool) func(int) error {
		return func(int) error {
			_, err := e.Blame(b.Context(), engine.BlameRequest{Catalog: "c", Pointer: pointer, Members: members})
			return err
		}
	}
	run("blame newest", blame("/m999/n", false))
	run("blame 1000 deltas ago", blame("/m0/n", false))
	run("blame 10000 deltas ago", blame("/m5/pad", false))
	run("blame 1000 members", blame("", true))
}
