package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/nats-io/nats.go"

	"github.com/jsonlake/lake/internal/testenv"
)

// image is the directory that stands for the image's root: what the Dockerfile
// builds, once for all tests. Not with its flags: they would compile every
// dependency anew.
func image(t *testing.T) string {
	t.Helper()
	// Looking at the sources tells `go test` that a result depends on them.
	for _, dir := range []string{"cmd", "pkg", "internal", "deploy"} {
		_ = filepath.WalkDir(filepath.Join(root(), dir), func(path string, _ fs.DirEntry, _ error) error {
			if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
				_, _ = os.Stat(path)
			}
			return nil
		})
	}
	programs.Do(func() {
		programs.dir, programs.err = os.MkdirTemp("", "lake-deploy") //nolint:usetesting // outlives the test that builds them
		if programs.err != nil {
			return
		}
		cmd := exec.Command(testenv.Tool(t, "go", "see https://go.dev/doc/install"), append([]string{"build", "-o", programs.dir + "/"}, buildTargets(t)...)...)
		cmd.Dir = root()
		if b, err := cmd.CombinedOutput(); err != nil {
			programs.err = fmt.Errorf("build: %w\n%s", err, b)
		}
	})
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	return programs.dir
}

var programs struct {
	sync.Once
	dir string
	err error
}

func TestMain(m *testing.M) {
	code := m.Run()
	_ = os.RemoveAll(programs.dir)
	os.Exit(code)
}

// containers runs services of the image as processes of this machine: with
// their own commands, at the addresses of the test.
type containers struct {
	t         *testing.T
	image     string
	addresses *strings.Replacer
}

// argv is what a container runs, with ops as the address of /readyz.
func (c containers) argv(s types.ServiceConfig, ops string) []string {
	argv := []string(s.Entrypoint)
	if len(argv) == 0 {
		argv = []string{"/lake"} // the image's
	}
	argv = append(argv[:len(argv):len(argv)], s.Command...)
	for i := range argv {
		argv[i] = c.addresses.Replace(strings.ReplaceAll(argv[i], "0.0.0.0:9422", ops))
	}
	argv[0] = filepath.Join(c.image, argv[0])
	return argv
}

// start runs a service until the test ends. wait returns when its own health
// check is content.
func (c containers) start(s types.ServiceConfig) (wait func()) {
	c.t.Helper()
	ops := fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(c.t))
	argv := c.argv(s, ops)
	healthy := func(ctx context.Context) error {
		check := s.HealthCheck.Test // CMD, program, URL
		out, err := exec.CommandContext(ctx, filepath.Join(c.image, check[1]), strings.ReplaceAll(check[2], "127.0.0.1:9422", ops)).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	return launch(c.t, healthy, environment(s), argv[0], argv[1:]...)
}

// writeAndRead is one write and one strict read over NATS.
func writeAndRead(t *testing.T, url, catalog string) {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	const doc = `{"name":"Alice","age":30}`
	r, err := nc.Request("lake.v1.write.("+catalog, []byte(doc), 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var result struct{ Version string }
	if err := json.Unmarshal(r.Data, &result); err != nil || result.Version == "" || r.Header.Get("Nats-Service-Error") != "" {
		t.Fatalf("write: %v, %v %s", err, r.Header, r.Data)
	}
	r, err = nc.Request("lake.v1.read.("+catalog, nil, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(r.Data, &got); err != nil || got["name"] != "Alice" || got["age"] != 30.0 {
		t.Errorf("read: %v, %v %s, want %s", err, r.Header, r.Data, doc)
	}
}

// `docker compose up`: one process, its command as shipped, takes a write and
// gives it back.
func TestComposeLakeRuns(t *testing.T) {
	t.Parallel()
	addr := fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))
	c := containers{t: t, image: image(t), addresses: strings.NewReplacer("=/data", "="+t.TempDir(), "0.0.0.0:4222", addr)}
	c.start(project(t).Services["lake"])()
	writeAndRead(t, "nats://"+addr, "users")
}

// `docker compose --profile full up`: all of it on real servers with the
// shipped configurations. Every service becomes healthy by its own check, and a
// write comes back.
func TestComposeFullRuns(t *testing.T) {
	t.Parallel()
	p := project(t, "full")
	dir := image(t)

	index, indexPort := startRedis(t, "index.conf")
	_, cachePort := startRedis(t, "cache.conf")
	natsURL := startNATS(t, natsOptions(t)).ClientURL()
	endpoint, bucket := startStore(t, p)

	c := containers{t: t, image: dir, addresses: strings.NewReplacer(
		"nats://nats:4222", natsURL,
		"redis://index:6379", fmt.Sprintf("redis://127.0.0.1:%d", indexPort),
		"redis://cache:6379", fmt.Sprintf("redis://127.0.0.1:%d", cachePort),
		"http://s3:7070", endpoint,
	)}
	argv := c.argv(p.Services["streams"], "")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	// Compose starts them together: they probe the store and open the first epoch
	// at the same time.
	var waits []func()
	for _, name := range []string{"ingest", "reader", "snapshotter"} {
		s := p.Services[name]
		for range s.GetScale() {
			waits = append(waits, c.start(s))
		}
	}
	for _, wait := range waits {
		wait()
	}
	writeAndRead(t, natsURL, "users")

	if keys, err := index.Keys(t.Context(), "lake:*").Result(); err != nil || len(keys) == 0 {
		t.Errorf("the index holds %d keys, %v", len(keys), err)
	}
	if segments, err := filepath.Glob(filepath.Join(bucket, "wal", "*", "*.seg")); err != nil || len(segments) == 0 {
		t.Errorf("the bucket holds %d segments, %v", len(segments), err)
	}
	if left, _ := filepath.Glob(filepath.Join(bucket, "_lake", "probe", "*")); len(left) > 0 {
		t.Errorf("the start-up probes left %q", left)
	}
}
