package disk_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/jsonlake/lake/pkg/engine/disk"
)

// Some tests need a process that can be killed or left broken: this binary,
// told by its environment what to do.
const (
	childWork = "LAKE_DISK_TEST_WORK"
	childDir  = "LAKE_DISK_TEST_DIR"
	childSeed = "LAKE_DISK_TEST_SEED"
)

func childMain() {
	work, ok := map[string]func(dir string, seed uint64) error{
		"index":          workUntilKilled,
		"objects":        putUntilKilled,
		"broken":         func(dir string, _ uint64) error { return disk.WorkOnBrokenDisk(dir, false) },
		"broken at sync": func(dir string, _ uint64) error { return disk.WorkOnBrokenDisk(dir, true) },
	}[os.Getenv(childWork)]
	if !ok {
		return
	}
	seed, err := strconv.ParseUint(os.Getenv(childSeed), 10, 64)
	if err == nil {
		err = work(os.Getenv(childDir), seed)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func child(t *testing.T, work, dir string, seed uint64) (cmd *exec.Cmd, out io.Reader, stderr *strings.Builder) {
	t.Helper()
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childWork+"="+work, childDir+"="+dir, childSeed+"="+strconv.FormatUint(seed, 10))
	stderr = new(strings.Builder)
	cmd.Stderr = stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return cmd, out, stderr
}

// killAfter kills a process when it has written some lines, and gives all that
// it had written.
func killAfter(t *testing.T, work, dir string, seed uint64, after int) (lines []string) {
	t.Helper()
	cmd, out, stderr := child(t, work, dir, seed)
	killed := false
	for r := bufio.NewReader(out); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			break // the kill may have cut the line
		}
		lines = append(lines, strings.TrimSuffix(line, "\n"))
		if len(lines) >= after && !killed {
			killed = true
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait()
	if !killed {
		t.Fatalf("the process ended by itself: %s", stderr)
	}
	return lines
}

// A disk that stops writing stops the index, not the process.
func TestBrokenDisk(t *testing.T) {
	t.Parallel()
	for _, work := range []string{"broken", "broken at sync"} {
		t.Run(work, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cmd, _, stderr := child(t, work, dir, 0)
			if err := cmd.Wait(); err != nil {
				t.Fatalf("got %v: %s", err, stderr)
			}
			if x := openIndex(t, dir, disk.Options{}); x.Clean() {
				t.Error("got a clean index")
			}
		})
	}
}
