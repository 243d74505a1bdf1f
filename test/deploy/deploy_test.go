package deploy

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jsonlake/lake/internal/testenv"
)

// root is the directory of go.mod.
var root = sync.OnceValue(func() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
})

func shipped(path ...string) string {
	return filepath.Join(append([]string{root(), "deploy"}, path...)...)
}

// startServer runs a program until the test ends and waits until it answers. A
// program that ends earlier fails the test with what it printed.
func startServer(t *testing.T, answers func(context.Context) error, env []string, name string, args ...string) {
	t.Helper()
	launch(t, answers, env, name, args...)()
}

// launch is startServer that leaves the waiting to its caller, so that several
// programs can start at once.
func launch(t *testing.T, answers func(context.Context) error, env []string, name string, args ...string) (wait func()) {
	t.Helper()
	var out syncBuffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), env...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // how it ended shows in what it printed
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-done
		}
		if t.Failed() {
			t.Logf("%s printed:\n%s", name, out.String())
		}
	})
	return func() {
		t.Helper()
		testenv.WaitFor(t, time.Minute, func() bool {
			select {
			case <-done:
				t.Fatalf("%s %s ended at once:\n%s", name, strings.Join(args, " "), out.String())
			default:
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			return answers(ctx) == nil
		})
	}
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
