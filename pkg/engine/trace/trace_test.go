package trace_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jsonlake/lake/pkg/engine/trace"
)

func TestDump(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx := trace.WithTrace(t.Context(), "Write")
		tr := trace.FromContext(ctx)
		if got, want := tr.Dump(), "=== Trace [Write]: Total 0s ===\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		begin := tr.Now()
		time.Sleep(31 * time.Microsecond)
		tr.Step("Init", begin)
		begin = tr.Now()
		time.Sleep(1234567 * time.Nanosecond)
		tr.Step("PreCommit", begin).Int("runs", 3).Str("catalog", "users")
		begin = tr.Now()
		time.Sleep(246_600 * time.Microsecond)
		trace.FromContext(trace.Continue(context.Background(), tr)).Step("StoragePut", begin)
		want := "=== Trace [Write]: Total 248ms ===\n1. Init: 31µs\n2. PreCommit: 1.23ms {runs=3, catalog=users}\n3. StoragePut: 247ms\n"
		time.Sleep(time.Second)
		if got := tr.Dump(); got != want {
			t.Errorf("got\n%s, want\n%s", got, want)
		}
		if got, want := tr.ServerTiming(), `Init;dur=0.031, PreCommit;dur=1.234;desc="runs=3, catalog=users", StoragePut;dur=246.6`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		far := trace.FromContext(trace.WithTrace(t.Context(), "Write"))
		if got, want := far.AddServerTiming(tr.ServerTiming()), 247865*time.Microsecond; got != want {
			t.Errorf("together: got %v, want %v", got, want)
		}
		if got, want := far.Dump(), strings.Replace(want, "Total 248ms", "Total 0s", 1); got != want {
			t.Errorf("over the wire: got\n%s, want\n%s", got, want)
		}
	})
}

// What comes over the wire may be anything.
func TestAddServerTiming(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ value, want string }{
		{"", ""},
		{"cache", ""},
		{"a;dur=x, b;dur=-1, c;dur=1e99, d;dur=NaN, e;dur=2", "1. e: 2ms\n"},
		{`a;dur=1;desc="x, \"y\" \\ z;=" , b;dur=2;desc=`, "1. a: 1ms {x, \"y\" \\ z;=}\n2. b: 2ms\n"},
		{`a;desc="open`, ""},
		{",,;;==,", ""},
	} {
		tr := trace.FromContext(trace.WithTrace(t.Context(), "Read"))
		tr.AddServerTiming(tc.value)
		if _, got, _ := strings.Cut(tr.Dump(), "\n"); got != tc.want {
			t.Errorf("%q: got %q, want %q", tc.value, got, tc.want)
		}
	}
	tr := trace.FromContext(trace.WithTrace(t.Context(), "Read"))
	tr.AddServerTiming(strings.Repeat("a;dur=1,", 100_000))
	if got := strings.Count(tr.Dump(), "\n"); got > 1000 {
		t.Errorf("a trace keeps %d lines, want a bound", got)
	}
}

// Steps may be added by several goroutines, also after the request ended.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	tr := trace.FromContext(trace.WithTrace(t.Context(), "Read"))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				tr.Step("Load", tr.Now()).Int("n", 1)
				_ = tr.Dump() + tr.ServerTiming()
			}
		})
	}
	wg.Wait()
}

// off is what the engine does for a request without a trace.
func off(ctx context.Context) {
	t := trace.FromContext(ctx)
	begin := t.Now()
	t.Step("Load", begin).Int("objects", 7).Str("catalog", "users")
	_ = trace.FromContext(trace.Continue(ctx, t)).Dump() + t.ServerTiming()
}

func TestOffAllocatesNothing(t *testing.T) { // alone: it counts what the process allocates
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if n := testing.AllocsPerRun(1000, func() { off(ctx) }); n != 0 {
		t.Errorf("a trace that is off allocates %v times", n)
	}
}

func BenchmarkOff(b *testing.B) {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		off(ctx)
	}
}

func BenchmarkOn(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		t := trace.FromContext(trace.WithTrace(b.Context(), "Read"))
		t.Step("View", t.Now()).Int("runs", 7)
	}
}
