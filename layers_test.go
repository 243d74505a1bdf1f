package lake_test

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/jsonlake/lake"

// staircase gives every package its step, by its directory. A package imports
// only packages on lower steps, never a neighbour on its own:
//
//	5   the commands
//	4   internal/app: configuration, wiring, lifecycle; internal/bench: measuring it from outside
//	3   the library, the services, the doors
//	2   one package per technology, named for it
//	1   the lake itself, and every interface it needs
//	0   pure leaves
//
// Test files may import anything but internal/app and the commands. test/* may
// import anything, and nothing imports test/*.
var staircase = map[string]int{
	"cmd/ingest":         5,
	"cmd/lake":           5,
	"cmd/reader":         5,
	"cmd/snapshotter":    5,
	"deploy/healthcheck": 5, // a command of the container image; needs nothing of the lake

	"internal/app":   4,
	"internal/bench": 4, // starts lakes as processes, and knows nothing of their wiring

	".":                3,
	"internal/gateway": 3,
	"internal/service": 3,
	"pkg/client":       3,

	"internal/telemetry": 2,
	"pkg/engine/disk":    2,
	"pkg/engine/memory":  2,
	"pkg/engine/redis":   2,
	"pkg/engine/s3":      2,
	"pkg/events":         2,

	"pkg/engine": 1,

	"internal/loopback": 0,
	"pkg/engine/codec":  0,
	"pkg/engine/merge":  0,
	"pkg/engine/trace":  0,
	"web":               0,
}

// support holds the packages that only tests may import: test files and test/*.
// They stand beside step 2 and use the packages on it, as tests do.
var support = map[string]bool{
	"internal/testenv":        true,
	"internal/testenv/mimedb": true,
	"pkg/engine/enginetest":   true,
}

// foreign holds what the lake itself (steps 0 and 1) knows nothing of: the
// technologies at its edges, and logging, which belongs to the services.
var foreign = []string{
	"net/http",
	"github.com/aws/",
	"github.com/cockroachdb/pebble",
	"github.com/nats-io/",
	"github.com/prometheus/",
	"github.com/redis/",
	"github.com/rs/zerolog",
	"go.opentelemetry.io/",
}

// file is what the rules look at in a Go file.
type file struct {
	dir     string // of its package, relative to the module
	test    bool   // its name ends in _test.go
	imports []string
}

// violations returns what is wrong with a file, one sentence each.
func violations(f file) []string {
	if inTest(f.dir) {
		return nil
	}
	if !known(f.dir) {
		return []string{fmt.Sprintf("package %s is unknown: give it a step in the table of layers_test.go", f.dir)}
	}
	var wrong []string
	for _, imp := range f.imports {
		if why := violation(f, imp); why != "" {
			wrong = append(wrong, fmt.Sprintf("%s imports %s: %s", f.dir, imp, why))
		}
	}
	return wrong
}

// violation says why the file may not import imp, "" when it may.
func violation(f file, imp string) string {
	step := staircase[f.dir]
	to, ours := strings.CutPrefix(imp, module)
	if !ours || to != "" && to[0] != '/' {
		if f.test || support[f.dir] || step > 1 {
			return ""
		}
		for _, p := range foreign {
			if imp == strings.TrimSuffix(p, "/") || strings.HasPrefix(imp, p) {
				return "the lake itself knows no technology: put it behind an interface, in a package on step 2"
			}
		}
		return ""
	}
	if to = strings.TrimPrefix(to, "/"); to == "" {
		to = "."
	}
	switch {
	case inTest(to):
		return "nothing imports test/*"
	case !known(to):
		return "it is unknown: give it a step in the table of layers_test.go"
	case to == f.dir: // a test file in package x_test
		return ""
	case !support[f.dir] && !support[to] && staircase[to] < step:
		return "" // down the stairs: always
	case f.test && (to == "internal/app" || staircase[to] == 5):
		return "a test may not import what wires everything: run the command instead, from test/*"
	case f.test:
		return ""
	case support[to]:
		return "only test files and test/* may import test support"
	case support[f.dir] && staircase[to] <= 2:
		return ""
	case support[f.dir]:
		return "test support stands beside step 2"
	}
	return fmt.Sprintf("it is on step %d, not below step %d", staircase[to], step)
}

func known(dir string) bool {
	_, ok := staircase[dir]
	return ok || support[dir]
}

func inTest(dir string) bool { return dir == "test" || strings.HasPrefix(dir, "test/") }

// TestLayers reads every Go file of the repository. It parses them itself: a
// test that asks `go list` stays cached when an import changes.
func TestLayers(t *testing.T) {
	t.Parallel()
	root := os.DirFS(".")
	seen := map[string]bool{}
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := path.Base(name)
		if d.IsDir() {
			if name != "." && (base[0] == '.' || base[0] == '_' || base == "testdata" || base == "bin" || base == "node_modules") {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(base) != ".go" {
			return nil
		}
		src, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ImportsOnly)
		if err != nil {
			return err
		}
		f := file{dir: path.Dir(name), test: strings.HasSuffix(base, "_test.go")}
		for _, spec := range parsed.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			f.imports = append(f.imports, imp)
		}
		seen[f.dir] = true
		for _, v := range violations(f) {
			t.Errorf("%s: %s", name, v)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !seen["."] || !seen["pkg/engine"] || !seen["pkg/engine/codec"] {
		t.Errorf("saw the packages %v only: does the test run at the root?", seen)
	}
}

// TestLayerRules shows each rule at work.
func TestLayerRules(t *testing.T) {
	t.Parallel()
	const m = module + "/"
	for _, c := range []struct {
		name string
		from string
		test bool
		imp  string
		want string // a piece of the complaint, "" for none
	}{
		{"down one step", "pkg/engine/redis", false, m + "pkg/engine", ""},
		{"down many", "internal/app", false, m + "pkg/engine/codec", ""},
		{"a command uses the wiring", "cmd/lake", false, m + "internal/app", ""},
		{"the wiring uses the library", "internal/app", false, module, ""},
		{"up", "pkg/engine", false, m + "pkg/engine/redis", "on step 2, not below step 1"},
		{"up to the library", "pkg/events", false, module, "on step 3"},
		{"a neighbour", "pkg/engine/redis", false, m + "pkg/engine/s3", "on step 2, not below step 2"},
		{"a neighbour among leaves", "pkg/engine/merge", false, m + "pkg/engine/codec", "on step 0"},
		{"unknown package", "pkg/util", false, "fmt", "give it a step in the table"},
		{"import of an unknown package", "pkg/engine", false, m + "pkg/util", "give it a step in the table"},
		{"a test goes up", "pkg/engine", true, m + "pkg/engine/memory", ""},
		{"a test of its own package", "pkg/engine", true, m + "pkg/engine", ""},
		{"a test goes to the wiring", "pkg/engine", true, m + "internal/app", "a test may not import"},
		{"a test goes to a command", "internal/app", true, m + "cmd/lake", "a test may not import"},
		{"a command's test goes down", "cmd/lake", true, m + "internal/app", ""},
		{"the wiring's own test", "internal/app", true, m + "internal/app", ""},
		{"a test uses test support", "pkg/engine/s3", true, m + "internal/testenv", ""},
		{"a package uses test support", "pkg/engine/s3", false, m + "internal/testenv", "only test files"},
		{"a command uses test support", "cmd/lake", false, m + "pkg/engine/enginetest", "only test files"},
		{"test support uses step 2", "pkg/engine/enginetest", false, m + "pkg/engine/memory", ""},
		{"test support uses step 3", "pkg/engine/enginetest", false, m + "pkg/client", "beside step 2"},
		{"test support uses test support", "pkg/engine/enginetest", false, m + "internal/testenv", "only test files"},
		{"test support's own test", "pkg/engine/enginetest", true, m + "internal/testenv", ""},
		{"test/* imports anything", "test/e2e", false, m + "internal/app", ""},
		{"nothing imports test/*", "pkg/engine", true, m + "test/sim", "nothing imports test/*"},
		{"a technology in the lake", "pkg/engine", false, "github.com/redis/go-redis/v9", "knows no technology"},
		{"HTTP in a leaf", "pkg/engine/merge", false, "net/http", "knows no technology"},
		{"HTTP's parts are not HTTP", "pkg/engine", false, "net/url", ""},
		{"a technology in its adapter", "pkg/engine/redis", false, "github.com/redis/go-redis/v9", ""},
		{"a technology in a test", "pkg/engine", true, "net/http", ""},
		{"a module whose name begins alike", "pkg/engine", false, module + "house/x", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := strings.Join(violations(file{c.from, c.test, []string{c.imp}}), "\n")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
