package testenv

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestProcessThatEnds(t *testing.T) {
	t.Parallel()
	p := newProcess(t, "sh", []string{"-c", "echo no; exit 3"}, func() error { return context.Canceled })
	if err := p.start(); err == nil || !strings.Contains(err.Error(), "ended at once") {
		t.Errorf("got %v, want that it ended at once", err)
	}
	WaitFor(t, time.Second, func() bool { return p.Output() == "no\n" })
	if p.Running() || p.Pid() != 0 {
		t.Errorf("running %v, pid %d, want neither", p.Running(), p.Pid())
	}
	if err := newProcess(t, "/nowhere/at/all", nil, nil).start(); err == nil {
		t.Error("a program that does not exist: no error")
	}
}

func TestTail(t *testing.T) {
	t.Parallel()
	var out tail
	for range 100 {
		_, _ = out.Write([]byte(strings.Repeat("x", 1000)))
	}
	_, _ = out.Write([]byte("end"))
	if got := out.String(); len(got) != 16<<10 || !strings.HasSuffix(got, "xend") {
		t.Errorf("kept %d bytes ending in %q, want the last 16 KiB", len(got), got[len(got)-4:])
	}
}

// TestDiesWithTheTest kills a test binary that runs a server: the server must go too.
func TestDiesWithTheTest(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ends a child with its parent")
	}
	if os.Getenv("LAKE_TEST_ORPHAN") == "1" {
		s := Redis(t)
		os.Stdout.WriteString("listens " + s.Addr + "\n")
		select {} // until killed
	}
	redisPath(t)
	child := exec.Command(os.Args[0], "-test.run=^TestDiesWithTheTest$")
	child.Env = append(os.Environ(), "LAKE_TEST_ORPHAN=1", "TMPDIR="+t.TempDir())
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	addr := ""
	for lines := bufio.NewScanner(out); addr == "" && lines.Scan(); {
		addr, _ = strings.CutPrefix(lines.Text(), "listens ")
	}
	_ = child.Process.Kill()
	_ = child.Wait()
	if addr == "" {
		t.Fatal("the child started no server")
	}
	WaitFor(t, 10*time.Second, func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
}
