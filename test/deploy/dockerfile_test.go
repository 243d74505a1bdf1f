package deploy

import (
	"encoding/json"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

type instruction struct {
	name string // FROM, RUN, …
	args string
}

type stage struct {
	image, name  string
	instructions []instruction
}

// last is the last instruction of a name, "" without.
func (s stage) last(name string) string {
	v := ""
	for _, i := range s.instructions {
		if i.name == name {
			v = i.args
		}
	}
	return v
}

// parseDockerfile splits a Dockerfile into stages: continued lines are joined,
// comments left out. Enough for a file without heredocs.
func parseDockerfile(t *testing.T, path string) []stage {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var stages []stage
	var logical string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		rest, continued := strings.CutSuffix(line, `\`)
		logical += rest
		if continued {
			continue
		}
		name, args, _ := strings.Cut(strings.TrimSpace(logical), " ")
		logical = ""
		name, args = strings.ToUpper(name), strings.Join(strings.Fields(args), " ")
		if name == "FROM" {
			f := slices.DeleteFunc(strings.Fields(args), func(f string) bool { return strings.HasPrefix(f, "--") })
			s := stage{image: f[0]}
			if len(f) == 3 && strings.EqualFold(f[1], "AS") {
				s.name = f[2]
			}
			stages = append(stages, s)
			continue
		}
		if len(stages) == 0 {
			t.Fatalf("%s comes before the first FROM", name)
		}
		s := &stages[len(stages)-1]
		s.instructions = append(s.instructions, instruction{name, args})
	}
	if logical != "" {
		t.Fatalf("the last line is continued: %s", logical)
	}
	return stages
}

func TestDockerfile(t *testing.T) {
	t.Parallel()
	stages := parseDockerfile(t, shipped("Dockerfile"))
	if len(stages) != 2 {
		t.Fatalf("got %d stages, want build and image", len(stages))
	}
	build, image := stages[0], stages[1]

	mod, err := os.ReadFile(filepath.Join(root(), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	goVersion := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(string(mod))[1]
	if !regexp.MustCompile(`^golang:` + regexp.QuoteMeta(goVersion) + `\.\d+-`).MatchString(build.image) {
		t.Errorf("built with %s, want golang:%s.x, pinned, as go.mod says", build.image, goVersion)
	}
	if !strings.Contains(build.last("ENV"), "CGO_ENABLED=0") {
		t.Errorf("ENV %s: want CGO_ENABLED=0, the image has no C library", build.last("ENV"))
	}
	if !regexp.MustCompile(`^gcr\.io/distroless/static-debian\d+:nonroot$`).MatchString(image.image) {
		t.Errorf("the image is made from %s, want distroless static, nonroot", image.image)
	}
	if got := image.last("USER"); got != "65532:65532" {
		t.Errorf("USER %s, want 65532:65532 (numeric: Kubernetes checks runAsNonRoot by number)", got)
	}
	var entrypoint []string
	if err := json.Unmarshal([]byte(image.last("ENTRYPOINT")), &entrypoint); err != nil || !slices.Equal(entrypoint, []string{"/lake"}) {
		t.Errorf(`ENTRYPOINT %s (%v), want ["/lake"]: there is no shell`, image.last("ENTRYPOINT"), err)
	}
	if got := image.last("EXPOSE"); got != "4222 9422" {
		t.Errorf("EXPOSE %s", got)
	}
	var copies []string
	for _, i := range image.instructions {
		switch i.name {
		case "COPY":
			copies = append(copies, i.args)
		case "RUN", "ADD":
			t.Errorf("%s %s: the image has no shell, and gets only what the build stage made", i.name, i.args)
		}
	}
	if want := []string{"--from=build /out/ /", "--from=build --chown=65532:65532 /empty/ /data/"}; build.name != "build" || !slices.Equal(copies, want) {
		t.Errorf("copies %q from stage %q, want %q", copies, build.name, want)
	}
}

// buildTargets are the directories that the Dockerfile builds.
func buildTargets(t *testing.T) []string {
	t.Helper()
	var dirs []string
	for _, i := range parseDockerfile(t, shipped("Dockerfile"))[0].instructions {
		_, args, ok := strings.Cut(i.args, "go build ")
		if i.name != "RUN" || !ok {
			continue
		}
		if !strings.Contains(args, "-trimpath") || !strings.Contains(args, "-o /out/ ") {
			t.Errorf("go build %s: want -trimpath and -o /out/", args)
		}
		for _, f := range strings.Fields(args) {
			if strings.HasPrefix(f, "./") {
				dirs = append(dirs, f)
			}
		}
	}
	return dirs
}

// Every program that the Dockerfile builds is there, and every program that the
// compose file starts is built.
func TestDockerfileBuildTargets(t *testing.T) {
	t.Parallel()
	var built []string
	for _, dir := range buildTargets(t) {
		built = append(built, "/"+filepath.Base(dir))
		if err := isCommand(filepath.Join(root(), dir)); err != nil {
			t.Errorf("go build %s: %v", dir, err)
		}
	}
	slices.Sort(built)
	if want := []string{"/healthcheck", "/ingest", "/lake", "/reader", "/snapshotter"}; !slices.Equal(built, want) {
		t.Errorf("built are %q, want %q", built, want)
	}
	for _, profile := range []string{"default", "full"} {
		for name, s := range project(t, profile).Services {
			if s.Build == nil {
				continue
			}
			for _, program := range s.Entrypoint {
				if !slices.Contains(built, program) {
					t.Errorf("%s starts %s, which is not in the image", name, program)
				}
			}
			if h := s.HealthCheck; h != nil && !h.Disable && (len(h.Test) < 2 || h.Test[0] != "CMD" || !slices.Contains(built, h.Test[1])) {
				t.Errorf("the health check of %s is %q, which is not in the image", name, h.Test)
			}
		}
	}
}

// isCommand checks that a directory holds a program.
func isCommand(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return err
	}
	for _, f := range files {
		ast, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.PackageClauseOnly)
		if err != nil {
			return err
		}
		if ast.Name.Name == "main" && !strings.HasSuffix(f, "_test.go") {
			return nil
		}
	}
	return os.ErrNotExist
}

// What must not get into a build's context, and what must.
func TestDockerignore(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(shipped("Dockerfile.dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(regexp.MustCompile(`(?m)^#.*$`).ReplaceAllString(string(text), ""))
	for _, want := range []string{".git", "**/.env", "**/lake-data"} {
		if !slices.Contains(lines, want) {
			t.Errorf("%s is not left out", want)
		}
	}
	for _, line := range lines {
		for _, need := range []string{"cmd", "pkg", "internal", "deploy", "web", "go.mod", "go.sum", "*.go"} {
			if strings.Trim(line, "*/") == need {
				t.Errorf("%s is left out, and the build needs it", line)
			}
		}
	}
}
