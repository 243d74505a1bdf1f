package e2e

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	lib "github.com/jsonlake/lake"
	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
)

// exit runs a command of the command line: what it printed, on both ways, and its
// exit status.
func exit(t *testing.T, args ...string) (out string, status int) {
	t.Helper()
	out, err := tryLake(args...)
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended):
		return out + err.Error(), ended.ExitCode()
	case err != nil:
		t.Fatal(err)
	}
	return out, 0
}

// A byte that changed in the bucket, or an end that is missing: `lake verify` says
// which object it is, and exits with 8. Whole again, it exits with 0.
func TestVerifyNamesDamage(t *testing.T) {
	dir := t.TempDir()
	l, err := lib.Open(t.Context(), lib.DirURL(dir), lib.WithoutBackground())
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{`{"a":1}`, `{"b":"folded"}`, `{"c":"live"}`} {
		if _, err := l.Write(t.Context(), engine.WriteRequest{Catalog: "users", MergeType: engine.MergeTypeMergePatch, Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(body, "folded") {
			if _, err := l.Fold(t.Context(), "users"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	verify := []string{"verify", "--data", dir, "--log-level", "error"}
	if out, status := exit(t, verify...); status != 0 || !strings.Contains(out, "0 faults") {
		t.Fatalf("a whole lake: exit %d: %s", status, out)
	}
	objects := map[string]string{} // one of each kind, by its end
	root := lib.ObjectsDir(dir)
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			objects[filepath.Ext(path)] = path // the last segment is the live one
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{".seg", ".snap", ".pack"} {
		path := objects[kind]
		key, err := filepath.Rel(root, path)
		if err != nil || path == "" {
			t.Fatalf("there is no %s object: %v, %v", kind, objects, err)
		}
		key = filepath.ToSlash(key)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		flipped := append([]byte(nil), whole...)
		flipped[len(flipped)/2] ^= 0x10
		for how, bytes := range map[string][]byte{"flipped": flipped, "cut": whole[:len(whole)-1]} {
			replace(t, path, bytes)
			if out, status := exit(t, verify...); status != 8 || !strings.Contains(out, key) {
				t.Errorf("%s %s: exit %d, want 8 and the object's name: %s", key, how, status, out)
			}
		}
		out, status := exit(t, append(verify, "--json")...)
		var report struct{ Findings []engine.Finding }
		if err := json.NewDecoder(strings.NewReader(out)).Decode(&report); err != nil || status != 8 || len(report.Findings) == 0 || !strings.Contains(report.Findings[0].Detail, key) {
			t.Errorf("%s, as JSON: exit %d, %v, want 8 and the object's name: %s", key, status, err, out)
		}
		replace(t, path, whole)
	}
	if out, status := exit(t, verify...); status != 0 {
		t.Errorf("mended: exit %d: %s", status, out)
	}
}

// replace changes an object, which the store made for reading only.
func replace(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// `lake doctor` exits with 0 when nothing is unsafe, warnings or not, and with 6 when
// something is.
func TestDoctorExits(t *testing.T) {
	index, cache := testenv.Redis(t), testenv.Redis(t, testenv.RedisCache())
	nats := testenv.NATS(t)
	lake(t, "streams", "apply", "--nats", nats.URL, "--redis", index.URL, "--events-max-bytes", "268435456")
	with := func(redis, nats string) []string {
		return []string{"doctor", "--s3", lib.DirURL(t.TempDir()), "--redis", redis, "--nats", nats}
	}
	for name, tc := range map[string]struct {
		args   []string
		status int
		say    []string
	}{
		"safe":             {with(index.URL, nats.URL), 0, []string{"ok    redis-eviction", "ok    redis-persistence", "ok    events", "ok    streams", "warn  redis-flush"}},
		"a cache as index": {with(cache.URL, nats.URL), 6, []string{"fail  redis-eviction", "fail  redis-persistence", "2 checks failed"}},
		"no redis":         {with("redis://127.0.0.1:1", nats.URL), 6, []string{"fail  redis:", "fail  setting"}},
		"embedded":         {[]string{"doctor", "--data", t.TempDir()}, 0, []string{"ok    file-system", "ok    nats-listen"}},
		"open to all":      {[]string{"doctor", "--data", t.TempDir(), "--nats-listen", "0.0.0.0:4222"}, 6, []string{"fail  nats-listen"}},
	} {
		out, status := exit(t, tc.args...)
		if status != tc.status {
			t.Errorf("%s: exit %d, want %d: %s", name, status, tc.status, out)
		}
		for _, s := range tc.say {
			if !strings.Contains(out, s) {
				t.Errorf("%s: it does not say %q: %s", name, s, out)
			}
		}
	}
	out, status := exit(t, append(with(cache.URL, nats.URL), "--json")...)
	var found []struct{ Level, Check string }
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&found); err != nil || status != 6 || len(found) < 8 {
		t.Errorf("as JSON: exit %d, %v: %s", status, err, out)
	}
}
