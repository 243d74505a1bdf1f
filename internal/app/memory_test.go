package app

import (
	"runtime/debug"
	"testing"
)

func TestLimitMemory(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	c := &Config{MaxPendingBytes: 32 << 20, DocumentCache: -1, FrameCache: 64 << 20}
	t.Setenv("GOMEMLIMIT", "")
	limitMemory(c)
	if got, want := debug.SetMemoryLimit(-1), int64(2*(32+64)+64)<<20; got != want {
		t.Errorf("the limit is %d, want %d", got, want)
	}
	// The environment's word is Go's already when the process begins.
	t.Setenv("GOMEMLIMIT", "1GiB")
	debug.SetMemoryLimit(1 << 30)
	limitMemory(c)
	if got := debug.SetMemoryLimit(-1); got != 1<<30 {
		t.Errorf("the limit is %d, want the environment's %d", got, 1<<30)
	}
}

// What a snapshotter keeps in place of writes that wait is within what the limit counts.
func TestSnapshotterFrames(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ frames, pending, want int64 }{{64 << 20, 256 << 20, 320 << 20}, {1 << 20, 1 << 20, 2 << 20}, {-1, 256 << 20, -1}, {0, 256 << 20, -1}} {
		if o := (&Config{FrameCache: tc.frames, DocumentCache: tc.frames}).engineOptions(); tc.frames <= 0 && (o.FrameCache >= 0 || o.DocumentCache >= 0) {
			t.Errorf("caches of %d bytes are %d and %d for the engine, where negative is none", tc.frames, o.FrameCache, o.DocumentCache)
		}
		if got := snapshotterFrames(&Config{FrameCache: tc.frames, MaxPendingBytes: tc.pending}); got != tc.want {
			t.Errorf("with %d bytes of frames and %d of writes a snapshotter keeps %d, want %d", tc.frames, tc.pending, got, tc.want)
		}
	}
}
