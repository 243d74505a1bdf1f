package engine_test

import (
	"context"
	"regexp"
	"testing"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/trace"
)

// The steps of a write and of reads, in the format of Lake v2.
func TestTrace(t *testing.T) {
	t.Parallel()
	e := newHouse(t).open(engine.Options{DocumentCache: 1 << 20, FrameCache: -1})
	traced := func(name string, f func(ctx context.Context) error) string {
		t.Helper()
		ctx := trace.WithTrace(t.Context(), name)
		if err := f(ctx); err != nil {
			t.Fatal(err)
		}
		return trace.FromContext(ctx).Dump()
	}
	write := func(ctx context.Context) error {
		_, err := e.Write(ctx, engine.WriteRequest{Catalog: "users", Path: "/a", Body: []byte(`{"b":1}`)})
		return err
	}
	read := func(ctx context.Context) error {
		_, err := e.Read(ctx, engine.ReadRequest{Catalog: "users"})
		return err
	}
	const took = `: [0-9.]+[mµ]?s `
	for _, tc := range []struct {
		name string
		f    func(ctx context.Context) error
		want string
	}{
		{"Write", write, `^=== Trace \[Write\]: Total [0-9.]+[mµ]?s ===
1\. Init` + took + `\{catalog=users, deltas=1\}
2\. PreCommit` + took + `\{runs=1, try=1\}
3\. StoragePut` + took + `\{segment=wal/000001/[0-9]+-[a-z2-7]+-00000001\.seg, runs=1, bytes=[0-9]+\}
4\. Commit` + took + `\{version=[0-9]+_1\}
$`},
		{"Read", read, `^=== Trace \[Read\]: Total [0-9.]+[mµ]?s ===
1\. Init` + took + `\{catalog=users\}
2\. View` + took + `\{version=[0-9]+_1, have=0_0, runs=1\}
3\. Load` + took + `\{runs=1, memory=0, shared=0, gets=1\}
4\. Merge` + took + `\{deltas=1, bytes=13\}
$`},
		{"Again", read, `^=== Trace \[Again\]: Total [0-9.]+[mµ]?s ===
1\. Init` + took + `\{catalog=users\}
2\. View` + took + `\{version=([0-9]+_1), have=[0-9]+_1, runs=0\}
$`},
	} {
		if got := traced(tc.name, tc.f); !regexp.MustCompile(tc.want).MatchString(got) {
			t.Errorf("got\n%s, want\n%s", got, tc.want)
		}
	}
	if got := trace.FromContext(t.Context()).Dump(); got != "" {
		t.Errorf("without a trace: got %q", got)
	}
}
