package testenv

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
)

// recorder is a test that remembers how it was ended.
type recorder struct {
	testing.TB
	fatal, skip string
}

// record runs f as a test of its own would: what fails or skips it ends it.
func record(t *testing.T, f func(testing.TB)) *recorder {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return r
}

func (r *recorder) Fatal(args ...any) {
	r.fatal = fmt.Sprint(args...)
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) { r.Fatal(fmt.Sprintf(format, args...)) }

func (r *recorder) Skip(args ...any) {
	r.skip = fmt.Sprint(args...)
	runtime.Goexit()
}

func TestMissing(t *testing.T) {
	for _, c := range []struct {
		require     string
		fatal, skip bool
	}{{"1", true, false}, {"", false, true}, {"0", false, true}} {
		t.Run("require="+c.require, func(t *testing.T) {
			t.Setenv("LAKE_TEST_REQUIRE", c.require)
			r := record(t, func(tb testing.TB) { missing(tb, "redis-server", "apt-get install -y redis-server") })
			if got := r.fatal != ""; got != c.fatal {
				t.Errorf("fatal: got %q, want %v", r.fatal, c.fatal)
			}
			if got := r.skip != ""; got != c.skip {
				t.Errorf("skip: got %q, want %v", r.skip, c.skip)
			}
			if msg := r.fatal + r.skip; !strings.Contains(msg, "apt-get install -y redis-server") {
				t.Errorf("message %q does not say how to install", msg)
			}
		})
	}
}

func TestTool(t *testing.T) {
	t.Setenv("LAKE_TEST_TOOL", "/nowhere/at/all")
	r := record(t, func(tb testing.TB) { tool(tb, "LAKE_TEST_TOOL", "sh") })
	if !strings.Contains(r.fatal, "/nowhere/at/all") {
		t.Errorf("a variable that names no program: got %q, want a failure that names it", r.fatal)
	}
	t.Setenv("LAKE_TEST_TOOL", "")
	if got := tool(t, "LAKE_TEST_TOOL", "sh"); !strings.HasSuffix(got, "/sh") {
		t.Errorf("sh: got %q, want the one in PATH", got)
	}
	if got := tool(t, "LAKE_TEST_TOOL", "lake-has-no-such-tool"); got != "" {
		t.Errorf("no such tool: got %q, want none", got)
	}
}

func TestFreePort(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", FreePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestWaitFor(t *testing.T) {
	t.Parallel()
	n := 0
	WaitFor(t, time.Minute, func() bool { n++; return n == 3 })
	if n != 3 {
		t.Errorf("polled %d times, want 3", n)
	}
	r := record(t, func(tb testing.TB) { WaitFor(tb, 20*time.Millisecond, func() bool { return false }) })
	if r.fatal == "" {
		t.Error("a condition that never holds: no failure")
	}
}
