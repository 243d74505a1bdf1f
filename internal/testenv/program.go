package testenv

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Programs builds all commands of this repository into a new directory, which
// the caller removes: once, in TestMain.
func Programs() (dir string, err error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	if dir, err = os.MkdirTemp("", "lake-programs"); err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-o", dir, "./"+filepath.Join("cmd", "..."))
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		os.RemoveAll(dir)
		return "", fmt.Errorf("build the commands: %w\n%s", err, out)
	}
	return dir, nil
}

// Ready asks a program's /readyz on its operations port, host:port.
func Ready(ops string) func() error {
	return func() error { return Healthy(context.Background(), "http://"+ops+"/readyz") }
}

// Healthy asks a URL, which has to say 200 within two seconds.
func Healthy(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, res.Status)
	}
	return nil
}

// Program runs a program of this repository, or any other, as a process of its
// own, and waits until ready says that it answers. Its environment is the
// test's (use t.Setenv before).
func Program(tb testing.TB, ready func() error, path string, args ...string) *Process {
	tb.Helper()
	p := newProcess(tb, path, args, ready)
	p.Start()
	return p
}

// Tool finds an installed program, in the repository's bin directory or in
// PATH. One that is missing skips the test, or fails it with
// LAKE_TEST_REQUIRE=1, naming the command that installs it.
func Tool(tb testing.TB, name, install string) string {
	tb.Helper()
	path := tool(tb, "", name)
	if path == "" {
		missing(tb, name, install)
	}
	return path
}
