package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jsonlake/lake/internal/loopback"
)

// child is a process of the run.
type child struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
	out  tail
}

// startTimeout is how long a child may take until it answers.
const startTimeout = 60 * time.Second

// spawn starts a program and waits until ready says that it answers.
func spawn(ctx context.Context, name string, env []string, ready func(ctx context.Context) error, path string, args ...string) (*child, error) {
	c := &child{name: name, done: make(chan struct{})}
	c.cmd = exec.Command(path, args...)
	c.cmd.Env = append(os.Environ(), env...)
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.out
	c.cmd.SysProcAttr = childAttr()
	started := make(chan error)
	go func() {
		// On Linux a child dies with the thread that began it, which takes it along
		// when this program is killed. So the thread must live as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(c.done)
		err := c.cmd.Start()
		started <- err
		if err == nil {
			_ = c.cmd.Wait() // how it ended shows in what it printed
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return c, nil
		}
		select {
		case <-c.done:
			return nil, fmt.Errorf("start %s: it ended at once:\n%s", name, c.out.String())
		case <-ctx.Done():
			c.stop()
			return nil, fmt.Errorf("start %s: no answer: %w\n%s", name, err, c.out.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// stop asks the child to end, and ends it when it has not after ten seconds.
func (c *child) stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.done:
	case <-time.After(10 * time.Second):
		c.kill()
	}
}

func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	<-c.done
}

// find looks for a program: in ./bin, beside this program, in PATH.
func find(name, install string) (string, error) {
	dirs := []string{"bin"}
	if self, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(self))
	}
	for _, d := range dirs {
		path, err := filepath.Abs(filepath.Join(d, name))
		if err != nil {
			continue
		}
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", &MissingError{What: name + " not found: " + install, Server: true}
	}
	return path, nil
}

// freeAddr is a loopback address nobody listens on.
func freeAddr() (string, error) {
	port, err := loopback.FreePort()
	return fmt.Sprintf("127.0.0.1:%d", port), err
}

// healthy asks a URL until it says 200.
func healthy(url string) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		_, err := fetch(ctx, url)
		return err
	}
}

// maxFetched bounds what is read of an operations port.
const maxFetched = 16 << 20

func fetch(ctx context.Context, url string) ([]byte, error) {
	return fetchWithin(ctx, url, 5*time.Second)
}

func fetchWithin(ctx context.Context, url string, timeout time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxFetched))
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, res.Status)
	}
	return body, nil
}

// tail keeps the last 8 KiB written to it.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *tail) Write(b []byte) (int, error) {
	const keep = 8 << 10
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(b)
	if over := t.buf.Len() - keep; over > 0 {
		t.buf.Next(over)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(t.buf.String())
}
