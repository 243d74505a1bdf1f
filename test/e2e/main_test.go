// Package e2e runs Lake's programs as a user would: built, started as
// processes, spoken to over NATS and by the command line.
package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jsonlake/lake/internal/testenv"
)

// bin is where this run's programs were built.
var bin string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := testenv.Programs()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	return m.Run()
}

func program(name string) string { return filepath.Join(bin, name) }

// server is a running `lake serve`.
type server struct {
	*testenv.Process
	url, ops, data string
}

// serve starts `lake serve` on free ports.
func serve(t *testing.T, data string, flags ...string) *server {
	t.Helper()
	s := &server{data: data}
	s.url = fmt.Sprintf("nats://127.0.0.1:%d", testenv.FreePort(t))
	s.ops = fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))
	args := append([]string{"serve", "--data", data, "--nats-listen", strings.TrimPrefix(s.url, "nats://"), "--ops-listen", s.ops}, flags...)
	s.Process = testenv.Program(t, testenv.Ready(s.ops), program("lake"), args...)
	return s
}

// lake runs a command of the command line and gives what it printed.
func lake(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tryLake(args...)
	if err != nil {
		t.Fatalf("lake %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func tryLake(args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := exec.Command(program("lake"), args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, errs.String())
	}
	return out.String(), nil
}

func connect(t *testing.T, url string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatalf("connect to %s: %v", url, err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// metric sums the samples of a metric whose line holds all of the given labels.
func metric(t *testing.T, ops, name string, labels ...string) float64 {
	t.Helper()
	r, err := http.Get("http://" + ops + "/metrics")
	if err != nil {
		t.Fatalf("metrics: %v", err)
	}
	defer r.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(r.Body); err != nil {
		t.Fatal(err)
	}
	var sum float64
lines:
	for line := range strings.Lines(b.String()) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(line, l) {
				continue lines
			}
		}
		var v float64
		if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &v); err != nil {
			t.Fatalf("metric %q: %v", line, err)
		}
		sum += v
	}
	return sum
}
