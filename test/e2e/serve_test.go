package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jsonlake/lake/internal/testenv"
)

func port(t *testing.T) string { return fmt.Sprint(testenv.FreePort(t)) }

// natsCommand runs the real nats CLI.
func natsCommand(t *testing.T, url string, args ...string) string {
	t.Helper()
	cli := testenv.Tool(t, "nats", "make tools")
	out, err := exec.Command(cli, append([]string{"--server", url}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("nats %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// A fresh `lake serve` with the nats CLI, killed and started again.
func TestServeWithTheNATSCommandLine(t *testing.T) {
	start := time.Now()
	s := serve(t, t.TempDir())
	t.Logf("ready after %s", time.Since(start))

	var answer struct{ Version string }
	out := natsCommand(t, s.url, "req", "lake.v1.write.(users", `{"name":"Alice"}`, "-H", "Lake-Path:/profile", "--raw")
	if err := json.Unmarshal([]byte(out), &answer); err != nil || !versions.MatchString(answer.Version) {
		t.Fatalf("write answered %q (%v)", out, err)
	}
	want := `{"profile":{"name":"Alice"}}`
	read := func() string {
		return strings.TrimSpace(natsCommand(t, s.url, "req", "lake.v1.read.(users", "", "--raw"))
	}
	if got := read(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	services := natsCommand(t, s.url, "service", "ls")
	for _, name := range []string{"lake-ingest", "lake-reader", "lake-snapshotter"} {
		if !strings.Contains(services, name) {
			t.Errorf("`nats service ls` does not list %s:\n%s", name, services)
		}
	}
	s.Kill()
	s.Start()
	if got := read(); got != want {
		t.Errorf("after kill -9: got %s, want %s", got, want)
	}
	// A write without a reply subject is applied like any other.
	natsCommand(t, s.url, "pub", "lake.v1.write.(users", `{"age":31}`, "-H", "Lake-Path:/profile")
	testenv.WaitFor(t, 10*time.Second, func() bool { return read() == `{"profile":{"name":"Alice","age":31}}` })
}

// The command line, on a server and on a directory that nobody serves.
func TestCommandLine(t *testing.T) {
	data := t.TempDir()
	s := serve(t, data)
	at := func(args ...string) []string { return append(args, "--lake", s.url) }
	lake(t, at("put", "c", "/", `{"a":1,"b":{"c":[1,2]}}`)...)
	lake(t, at("patch", "c", "/b", `{"d":"x"}`, "--author", "bob")...)
	lake(t, at("rm", "c", "/a")...)
	const want = `{"b":{"c":[1,2],"d":"x"}}`
	for _, target := range []string{s.url, data} { // a served directory is reached through its server
		if got := strings.TrimSpace(lake(t, "get", "c", "--lake", target)); got != want {
			t.Errorf("get --lake %s: got %s, want %s", target, got, want)
		}
	}
	if got := lake(t, at("get", "c", "/b/c/1")...); got != "2\n" {
		t.Errorf("part: got %s", got)
	}
	if got := strings.Count(lake(t, at("log", "c", "--json")...), "\n"); got != 3 {
		t.Errorf("log: %d lines, want 3", got)
	}
	once := at("patch", "c", "/", `{"once":1}`, "--id", "job-7")
	first := lake(t, once...)
	if again := lake(t, once...); again != first {
		t.Errorf("the same id again: got %s, want %s", again, first)
	}
	if got := lake(t, at("outcome", "c", "job-7")...); got != "committed "+first {
		t.Errorf("outcome: got %s, want committed %s", got, first)
	}
	lake(t, at("rm", "c", "/once", "--if-version", strings.TrimSpace(first))...)
	if got := lake(t, at("ls", "--json")...); !strings.Contains(got, `"catalog":"c"`) {
		t.Errorf("ls: %s", got)
	}
	if got := lake(t, at("snapshot", "c")...); !strings.Contains(got, "5 deltas folded") {
		t.Errorf("snapshot: %s", got)
	}
	if got := lake(t, at("watch", "c", "--from-start", "--count", "1", "--json")...); !strings.Contains(got, `"kind":"committed"`) {
		t.Errorf("watch: %s", got)
	}
	for want, args := range map[string][]string{
		"9bc6/(users\n": {"encode", "--dir", "users"}, "a7ba/4s4k3zuwq4\n": {"encode", "--dir", "中文"}, "中文\n": {"encode", "--decode", "4s4k3zuwq4"},
	} {
		if got := lake(t, args...); got != want {
			t.Errorf("%v: got %s, want %s", args, got, want)
		}
	}
	for _, tc := range []struct {
		args []string
		exit int
		says string
	}{
		{at("get", "never"), 3, "never"},
		{at("put", "c", "/user-name", "1"), 2, "user-name"},
		{at("put", "c", "/", "{"), 2, "JSON"},
		{at("put", "c", "/", "{}", "--if-version", "0_0"), 4, "current version"},
		{at("put", "c", "/", "{}", "--if-absent"), 4, "there is a document"},
		{at("patch", "c", "/", `{"once":2}`, "--id", "job-7"), 2, "take a new id"},
		{[]string{"get", "c", "--lake", "nats://127.0.0.1:1"}, 6, "is `lake serve` running?"},
		{[]string{"serve", "--no-such-flag"}, 2, "--no-such-flag"},
		{[]string{"serve", "--nats-listen", "0.0.0.0:4222", "--data", t.TempDir(), "--ops-listen", ""}, 2, "--insecure"},
		{[]string{"serve", "--data", data, "--ops-listen", "", "--nats-listen", ""}, 6, s.url},
	} {
		_, err := tryLake(tc.args...)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != tc.exit || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("lake %v: got %v, want exit %d and %q", tc.args, err, tc.exit, tc.says)
		}
	}
	s.Stop()
	if got := strings.TrimSpace(lake(t, "get", "c", "--lake", data)); got != want {
		t.Errorf("get from the directory: got %s, want %s", got, want)
	}
}
