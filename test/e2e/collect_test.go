package e2e

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jsonlake/lake/pkg/engine"
)

// segments counts the segments of a directory's lake.
func segments(t *testing.T, data string) (n int) {
	t.Helper()
	err := filepath.WalkDir(data, func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".seg") {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// What is folded is collected, by `lake gc` and by the server itself; documents,
// log and a start after kill -9 do not miss it.
func TestCollect(t *testing.T) {
	data := t.TempDir()
	s := serve(t, data)
	at := func(args ...string) []string { return append(args, "--lake", s.url) }
	for i := range 20 {
		lake(t, at("patch", "users", "/", fmt.Sprintf(`{"n%d":%d}`, i, i))...)
	}
	lake(t, at("snapshot", "users")...)
	lake(t, at("patch", "users", "/", `{"live":1}`)...)
	want := lake(t, at("get", "users")...)
	s.Kill()
	if _, err := tryLake("gc", "--data", data, "--retain", "users=1h"); err == nil || !strings.Contains(err.Error(), "24h") {
		t.Errorf("a retention of an hour: got %v, want it refused", err)
	}
	gc := func(flags ...string) (did engine.Collected) {
		t.Helper()
		out := lake(t, append([]string{"gc", "--data", data, "--gc-grace", "1ms", "--json"}, flags...)...)
		if err := json.Unmarshal([]byte(out), &did); err != nil {
			t.Fatalf("gc printed %q: %v", out, err)
		}
		return did
	}
	before := segments(t, data)
	if did := gc("--dry-run"); segments(t, data) != before {
		t.Errorf("a dry run tells %+v of %d segments, and %d are left", did, before, segments(t, data))
	}
	// Events that nobody has published yet hold their segments: the server
	// publishes them first.
	s.Start()
	if got := lake(t, at("get", "users")...); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	s.Stop()
	if did := gc(); did.Segments < 20 {
		t.Errorf("got %+v, want the folded segments deleted", did)
	}
	if left := segments(t, data); left > before-20 {
		t.Errorf("%d of %d segments are left", left, before)
	}
	s.Start()
	if got := lake(t, at("get", "users")...); got != want {
		t.Errorf("after the collection: got %s, want %s", got, want)
	}
	if got := strings.Count(lake(t, at("log", "users", "--json")...), "\n"); got != 21 {
		t.Errorf("the log has %d lines, want 21", got)
	}
	s.Stop()
	var rebuilt struct{ Epoch, Catalogs int }
	out := lake(t, "rebuild", "--data", data, "--json")
	if err := json.Unmarshal([]byte(out), &rebuilt); err != nil || rebuilt.Catalogs != 1 {
		t.Errorf("rebuild printed %q (%v), want one catalog", out, err)
	}
	s.Start()
	if got := lake(t, at("get", "users")...); got != want {
		t.Errorf("after the rebuild: got %s, want %s", got, want)
	}
	if out, err := tryLake("rebuild", "--data", data); err == nil || !strings.Contains(err.Error(), "lake get") {
		t.Errorf("beside a server: got %q and %v, want it refused", out, err)
	}
}
