package app

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/jsonlake/lake/pkg/engine"
)

func parse(t *testing.T, args ...string) (*Config, []*kong.Flag, error) {
	t.Helper()
	var c Config
	p, err := kong.New(&c, append(KongOptions("test", ""), kong.Exit(func(int) {}))...)
	if err != nil {
		t.Fatal(err)
	}
	k, err := p.Parse(args)
	if err != nil {
		return nil, nil, err
	}
	return &c, k.Flags(), nil
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "lake.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Flags win over the environment, the environment over files with secrets,
// those over the configuration file, that over the defaults.
func TestPrecedence(t *testing.T) {
	conf := file(t, "redis: redis://file:1\nlinger: 3ms\nput:\n  timeout: 5s\n")
	secret := file(t, "redis://secret:1\n")

	c, _, err := parse(t)
	if err != nil || c.Redis != "redis://127.0.0.1:6379" {
		t.Fatalf("default: got %v %v", c, err)
	}
	c, _, err = parse(t, "--config", conf)
	if err != nil || c.Redis != "redis://file:1" || c.Linger.String() != "3ms" || c.PutTimeout.String() != "5s" {
		t.Fatalf("file: got %+v %v", c, err)
	}
	t.Setenv("LAKE_REDIS_FILE", secret)
	if c, _, err = parse(t, "--config", conf); err != nil || c.Redis != "redis://secret:1" {
		t.Fatalf("secret file: got %+v %v", c, err)
	}
	t.Setenv("LAKE_REDIS", "redis://env:1")
	if c, _, err = parse(t, "--config", conf); err != nil || c.Redis != "redis://env:1" {
		t.Fatalf("environment: got %+v %v", c, err)
	}
	if c, _, err = parse(t, "--config", conf, "--redis", "redis://flag:1"); err != nil || c.Redis != "redis://flag:1" {
		t.Fatalf("flag: got %+v %v", c, err)
	}
	t.Setenv("NATS_URL", "nats://env:1")
	if c, _, err = parse(t); err != nil || c.NATS != "nats://env:1" {
		t.Fatalf("NATS_URL: got %+v %v", c, err)
	}
}

// A flag's environment variable is named as the flag, which docs/operations.md says.
func TestEnvironmentNames(t *testing.T) {
	_, flags, err := parse(t)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range flags {
		if want := "LAKE_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_")); f.Name != "help" && !slices.Contains(f.Envs, want) {
			t.Errorf("--%s: got %v, want %s", f.Name, f.Envs, want)
		}
	}
}

func TestBadConfiguration(t *testing.T) {
	for _, tc := range []struct {
		args []string
		says string
	}{
		{[]string{"--config", file(t, "no-such-key: 1\n")}, `unknown key "no-such-key"`},
		{[]string{"--config", file(t, "a: [\n")}, "configuration file"},
		{[]string{"--config", "/no/such/file"}, "no such file"},
		{[]string{"--config", file(t, "linger: soon\n")}, "linger"},
		{[]string{"--no-such-flag"}, "no-such-flag"},
		{[]string{"--max-inflight", "0"}, "--max-inflight must be greater than 0"},
		{[]string{"--subject-prefix", "a.b"}, "subject-prefix"},
		{[]string{"--log-level", "loud"}, "log-level"},
		{[]string{"--redis", "redis://a", "--cache-redis", "redis://a"}, "start a second Redis"},
	} {
		if _, _, err := parse(t, tc.args...); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%v: got %v, want %q", tc.args, err, tc.says)
		}
	}
}

func TestShowHidesPasswords(t *testing.T) {
	_, flags, err := parse(t, "--redis", "redis://user:geheim@host:1", "--nats", "nats://a:geheim@h1,nats://b:geheim@h2")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, s := range Show(flags) {
		if strings.Contains(s.Value, "geheim") {
			t.Errorf("%s shows a password: %s", s.Name, s.Value)
		}
		if s.Name == "redis" && strings.Contains(s.Value, "host:1") || s.Name == "nats" && strings.Contains(s.Value, "h2") {
			found++
		}
	}
	if found != 2 {
		t.Errorf("got %d of 2 settings", found)
	}
}

func TestRetain(t *testing.T) {
	t.Parallel()
	c, _, err := parse(t, "--retain", "carts-=90d", "--retain", "=2y", "--retain", "a=b=36h")
	if err != nil {
		t.Fatal(err)
	}
	got := c.engineOptions().Retention
	want := []engine.Retention{{Prefix: "carts-", OlderThan: 90 * 24 * time.Hour}, {OlderThan: 2 * 365 * 24 * time.Hour}, {Prefix: "a=b", OlderThan: 36 * time.Hour}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, bad := range []string{"carts", "carts=", "carts=90", "carts=1h", "carts=-9d", "carts=9x", "=d", "=600y"} {
		if _, _, err := parse(t, "--retain", bad); err == nil || !strings.Contains(err.Error(), "retain") {
			t.Errorf("%q: got error %v, want one about --retain", bad, err)
		}
	}
}
