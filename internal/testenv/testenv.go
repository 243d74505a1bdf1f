// Package testenv starts the real servers a test needs: redis-server,
// nats-server, an S3 server. Each listens on a free loopback port, keeps its data
// in the test's own temporary directory, and is ended with the test.
//
// A server that is not installed skips the test with the command that installs
// it. With LAKE_TEST_REQUIRE=1, as `make test` and CI set it, that is a failure:
// nothing is left out in silence.
//
// Only test files may import this package.
package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jsonlake/lake/internal/loopback"
)

// startTimeout is how long a server may take until it answers. Machines that
// test in parallel on few cores are slow; a server that is dead is seen at once.
const startTimeout = 30 * time.Second

// missing ends the test because a server is not installed: by a failure when
// LAKE_TEST_REQUIRE=1, else by a skip.
func missing(tb testing.TB, what, install string) {
	tb.Helper()
	msg := fmt.Sprintf("%s is not installed: run `%s`", what, install)
	if os.Getenv("LAKE_TEST_REQUIRE") == "1" {
		tb.Fatal(msg)
	}
	tb.Skip(msg + " (LAKE_TEST_REQUIRE=1 makes this a failure)")
}

// FreePort is loopback.FreePort; none is a failure of the test.
func FreePort(tb testing.TB) int {
	tb.Helper()
	port, err := loopback.FreePort()
	if err != nil {
		tb.Fatal(err)
	}
	return port
}

// WaitFor polls cond until it holds, and fails the test when it does not within
// timeout. It must be called from the test's own goroutine.
func WaitFor(tb testing.TB, timeout time.Duration, cond func() bool) {
	tb.Helper()
	if !poll(timeout, cond) {
		tb.Fatalf("condition does not hold after %v", timeout)
	}
}

func poll(timeout time.Duration, cond func() bool) bool {
	for deadline := time.Now().Add(timeout); ; {
		if cond() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// moduleRoot is the directory of Lake's go.mod, above the directory the test runs
// in; modules of their own may lie between.
var moduleRoot = sync.OnceValues(func() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if line, _, _ := strings.Cut(string(mod), "\n"); err == nil && strings.TrimSpace(line) == "module github.com/jsonlake/lake" {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod of github.com/jsonlake/lake above the test's directory")
		}
		dir = up
	}
})

// tool finds a program: where the environment variable says, in the repository's
// bin directory, or in PATH. It returns "" when there is none.
func tool(tb testing.TB, env, name string) string {
	tb.Helper()
	if env != "" && os.Getenv(env) != "" {
		path := os.Getenv(env)
		if _, err := os.Stat(path); err != nil {
			tb.Fatalf("%s: %v", env, err)
		}
		return path
	}
	if root, err := moduleRoot(); err == nil {
		path := filepath.Join(root, "bin", name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return path
}
