package merge

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocs runs the table of examples in docs/merge.md.
func TestDocs(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "merge.md"))
	if err != nil {
		t.Fatal(err)
	}
	columns := regexp.MustCompile(`  +`)
	ran := 0
	for line := range strings.Lines(string(page)) {
		f := columns.Split(strings.TrimSpace(line), -1)
		if len(f) < 3 || !strings.Contains(f[1], " /") {
			continue
		}
		if _, err := ParseType(strings.Fields(f[1])[0]); err != nil {
			continue
		}
		delta, want := f[1], f[2]
		if !strings.HasPrefix(delta, "delete") {
			delta, want = f[1]+" "+f[2], f[3]
		}
		got, out, err := Merge([]byte(f[0]), []Delta{d(delta)}, Limits{})
		if err != nil || string(got) != want && (got != nil || !strings.HasPrefix(want, "no document")) {
			t.Errorf("%s: got %s, %v", line, got, err)
		}
		if coerced := strings.Contains(line, "coerced"); out[0].Coerced != coerced {
			t.Errorf("%s: got %+v", line, out[0])
		}
		ran++
	}
	if ran != 9 {
		t.Errorf("got %d examples, want 9", ran)
	}
	for _, s := range []string{`{"op":"test","path":"/a","value":2}`, `{"a":{"b":{}},"x":{"y":{"z":1}}}`} {
		if !strings.Contains(string(page), s) {
			t.Errorf("%s is gone from the page, but still in the tests", s)
		}
	}
	for r := TestFailed; r.Valid(); r++ {
		if !strings.Contains(string(page), "`"+r.String()+"`") {
			t.Errorf("the page does not explain %s", r)
		}
	}
}
