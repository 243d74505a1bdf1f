package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jsonlake/lake/internal/testenv"
)

// What the README shows is what happens. Its one command to run a lake is run
// as it stands there, with ports and directory from the environment; then its
// console blocks, line by line; then its Go program.
func TestReadme(t *testing.T) {
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := string(b)
	natsCLI := testenv.Tool(t, "nats", "make tools")

	url, ops := "127.0.0.1:"+port(t), "127.0.0.1:"+port(t)
	t.Setenv("LAKE_NATS_LISTEN", url)
	t.Setenv("LAKE_OPS_LISTEN", ops)
	t.Setenv("LAKE_DATA", t.TempDir())
	t.Setenv("NATS_URL", "nats://"+url)
	path := t.TempDir()
	link(t, natsCLI, filepath.Join(path, "nats"))
	link(t, program("lake"), filepath.Join(path, "lake"))
	t.Setenv("PATH", path+":"+os.Getenv("PATH"))

	command := strings.Fields(blocks(readme, "sh")[0])
	if strings.Join(command, " ") != "go run ./cmd/lake serve" {
		t.Fatalf("the README's first command is %q", command)
	}
	// `go run` leaves its child behind when it is killed, so the same program is
	// started as it was built; that the command itself builds is TestMain's part.
	testenv.Program(t, testenv.Ready(ops), program("lake"), command[3:]...)

	commands := 0
	for _, block := range blocks(readme, "console") {
		for _, step := range strings.Split(block, "$ ")[1:] {
			line, want, _ := strings.Cut(step, "\n")
			cmd := exec.Command("bash", "-c", line)
			var errs bytes.Buffer
			cmd.Stderr = &errs
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%s: %v\n%s", line, err, errs.String())
			}
			if got, want := timeless(string(out)), timeless(want); got != want {
				t.Errorf("%s\ngot  %s\nwant %s", line, got, want)
			}
			commands++
		}
	}
	if commands < 9 {
		t.Errorf("only %d commands were found in the README", commands)
	}

	dir := t.TempDir()
	file := filepath.Join(dir, "main.go")
	if err := os.WriteFile(file, []byte(blocks(readme, "go")[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "run", file)
	cmd.Dir = "../.."
	out, err := cmd.CombinedOutput()
	if got, want := strings.TrimSpace(string(out)), "map[age:30 name:Alice]"; err != nil || got != want {
		t.Errorf("the README's program: got %s (%v), want %s", got, err, want)
	}
	if !strings.Contains(readme, "It prints `map[age:30 name:Alice]`") {
		t.Error("the README does not say what its program prints")
	}
}

// blocks gives the fenced blocks of a language.
func blocks(md, lang string) []string {
	var out []string
	for _, part := range strings.Split(md, "\n```"+lang+"\n")[1:] {
		body, _, _ := strings.Cut(part, "\n```")
		out = append(out, body)
	}
	return out
}

var (
	versions = regexp.MustCompile(`\d{10}_\d+`)
	dates    = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`)
)

// timeless replaces what differs from run to run.
func timeless(s string) string {
	return strings.TrimSpace(dates.ReplaceAllString(versions.ReplaceAllString(s, "VERSION"), "DATE"))
}

func link(t *testing.T, from, to string) {
	t.Helper()
	abs, err := filepath.Abs(from)
	if err == nil {
		err = os.Symlink(abs, to)
	}
	if err != nil {
		t.Fatal(err)
	}
}
