package deploy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/s3"
)

// project loads compose.yaml as `docker compose [--profile …] config` does,
// .env included, with nothing from the test's own environment.
func project(t *testing.T, profiles ...string) *types.Project {
	t.Helper()
	o, err := cli.NewProjectOptions(
		[]string{shipped("compose", "compose.yaml")},
		cli.WithWorkingDirectory(shipped("compose")),
		cli.WithEnvFiles(),
		cli.WithDotEnv,
		cli.WithDefaultProfiles(profiles...),
	)
	if err != nil {
		t.Fatal(err)
	}
	p, err := o.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func services(p *types.Project) []string { return slices.Sorted(maps.Keys(p.Services)) }

func TestComposeProfiles(t *testing.T) {
	t.Parallel()
	full := []string{"cache", "index", "ingest", "nats", "reader", "s3", "snapshotter", "streams"}
	for _, tc := range []struct {
		profiles []string
		want     []string
	}{
		{nil, []string{"lake"}}, // `docker compose up`
		{[]string{"default"}, []string{"lake"}},
		{[]string{"full"}, full},
	} {
		if got := services(project(t, tc.profiles...)); !slices.Equal(got, tc.want) {
			t.Errorf("profiles %q: got %q, want %q", tc.profiles, got, tc.want)
		}
	}
	p := project(t, "full")
	for name, want := range map[string]int{"ingest": 1, "reader": 1, "snapshotter": 2} {
		if s := p.Services[name]; s.GetScale() != want {
			t.Errorf("%s: got %d containers, want %d", name, s.GetScale(), want)
		}
	}
}

var pinned = regexp.MustCompile(`^[a-z0-9./-]+:v?\d+\.\d+\.\d+(-[a-z0-9.]+)?$`)

// What holds for every container, in every profile.
func TestComposeContainers(t *testing.T) {
	t.Parallel()
	for _, profile := range []string{"default", "full"} {
		p := project(t, profile)
		for name, s := range p.Services {
			t.Run(profile+"/"+name, func(t *testing.T) {
				if s.Build != nil {
					if s.Image != "jsonlake/lake:dev" {
						t.Errorf("image: got %s, want the one that is built, by its own tag", s.Image)
					}
					if want := shipped("Dockerfile"); filepath.Join(s.Build.Context, s.Build.Dockerfile) != want {
						t.Errorf("built from %s in %s, want %s", s.Build.Dockerfile, s.Build.Context, want)
					}
				} else if !pinned.MatchString(s.Image) {
					t.Errorf("image %s is not pinned to a version", s.Image)
				}
				if s.Privileged || s.Pid != "" || s.NetworkMode == "host" || s.Ipc != "" || s.UserNSMode != "" || len(s.CapAdd) > 0 || len(s.Devices) > 0 {
					t.Errorf("the container has rights it does not need")
				}
				if !slices.Contains(s.CapDrop, "ALL") || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") || !s.ReadOnly {
					t.Errorf("got cap_drop %q, security_opt %q, read_only %v, want all of them", s.CapDrop, s.SecurityOpt, s.ReadOnly)
				}
				for _, port := range s.Ports {
					if port.HostIP != "127.0.0.1" {
						t.Errorf("port %s is published on %q, want loopback only", port.Published, port.HostIP)
					}
				}
				for _, v := range s.Volumes {
					if v.Type != types.VolumeTypeBind {
						continue
					}
					if !isFile(v.Source) || !v.ReadOnly {
						t.Errorf("%s is mounted from %s (read only: %v), want a file that is there, read only", v.Target, v.Source, v.ReadOnly)
					}
				}
				if name == "streams" { // runs once
					if s.Restart == types.RestartPolicyAlways || s.Restart == types.RestartPolicyUnlessStopped {
						t.Errorf("restart %s would run it for ever", s.Restart)
					}
					return
				}
				if h := s.HealthCheck; h == nil || h.Disable || len(h.Test) < 2 || h.Interval == nil || h.Timeout == nil || h.Retries == nil {
					t.Errorf("health check: got %+v, want a command with interval, timeout and retries", h)
				}
				if s.Restart != types.RestartPolicyUnlessStopped {
					t.Errorf("restart: got %q, want %s", s.Restart, types.RestartPolicyUnlessStopped)
				}
			})
		}
	}
}

func TestComposeLake(t *testing.T) {
	t.Parallel()
	s := project(t).Services["lake"]
	if len(s.Command) == 0 || s.Command[0] != "serve" || len(s.Entrypoint) != 0 {
		t.Errorf("got entrypoint %q and command %q, want the image's and serve", s.Entrypoint, s.Command)
	}
	for _, flag := range []string{"--data=/data", "--nats-listen=0.0.0.0:4222", "--ops-listen=0.0.0.0:9422", "--insecure"} {
		if !slices.Contains(s.Command, flag) {
			t.Errorf("command %q has no %s", s.Command, flag)
		}
	}
	if !slices.ContainsFunc(s.Volumes, func(v types.ServiceVolumeConfig) bool { return v.Type == types.VolumeTypeVolume && v.Target == "/data" }) {
		t.Errorf("volumes %+v do not keep /data", s.Volumes)
	}
	var ports []uint32
	for _, p := range s.Ports {
		ports = append(ports, p.Target)
	}
	if slices.Sort(ports); !slices.Equal(ports, []uint32{4222, 9422}) {
		t.Errorf("ports: got %v", ports)
	}
}

// Every service finds what it talks to, by its name, port and role, and waits for it.
func TestComposeFullWiring(t *testing.T) {
	t.Parallel()
	p := project(t, "full")
	want := []string{
		"--nats=nats://nats:4222",
		"--redis=redis://index:6379",
		"--cache-redis=redis://cache:6379",
		"--s3=s3://lake?endpoint=http://s3:7070&region=us-east-1&profile=versitygw",
		"--ops-listen=0.0.0.0:9422",
	}
	for _, name := range []string{"ingest", "snapshotter", "reader"} {
		s := p.Services[name]
		if !slices.Equal(s.Entrypoint, []string{"/" + name}) || !slices.Equal(s.Command, want) {
			t.Errorf("%s: got %q %q, want /%s %q", name, s.Entrypoint, s.Command, name, want)
		}
		if !slices.Equal(s.HealthCheck.Test, []string{"CMD", "/healthcheck", "http://127.0.0.1:9422/readyz"}) {
			t.Errorf("%s: health check %q", name, s.HealthCheck.Test)
		}
		for _, env := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
			if v := s.Environment[env]; v == nil || *v == "" {
				t.Errorf("%s: %s is not set", name, env)
			}
		}
		for dep, condition := range map[string]string{
			"index": types.ServiceConditionHealthy, "cache": types.ServiceConditionHealthy, "nats": types.ServiceConditionHealthy, "s3": types.ServiceConditionHealthy,
			"streams": types.ServiceConditionCompletedSuccessfully,
		} {
			if got := s.DependsOn[dep].Condition; got != condition {
				t.Errorf("%s waits for %s until %q, want %q", name, dep, got, condition)
			}
		}
		if _, ok := s.Networks["backend"]; !ok || len(s.Networks) != 1 {
			t.Errorf("%s: networks %v, want backend alone", name, s.Networks)
		}
	}
	if got, want := []string(p.Services["streams"].Command), []string{"streams", "apply", "--nats=nats://nats:4222", "--redis=redis://index:6379"}; !slices.Equal(got, want) {
		t.Errorf("streams: got %q, want %q", got, want)
	}
	if !p.Networks["backend"].Internal {
		t.Error("the network of Redis and the store reaches the outside")
	}
	for _, name := range []string{"index", "cache", "s3"} {
		if len(p.Services[name].Ports) > 0 {
			t.Errorf("%s publishes ports", name)
		}
	}
	for name, conf := range map[string]string{"index": "index.conf", "cache": "cache.conf"} {
		s := p.Services[name]
		if len(s.Command) < 2 || s.Command[0] != "redis-server" || s.Command[1] != "/etc/redis/"+conf {
			t.Errorf("%s: got %q, want redis-server with %s", name, s.Command, conf)
		}
		mounted := slices.ContainsFunc(s.Volumes, func(v types.ServiceVolumeConfig) bool {
			return v.Source == shipped("redis", conf) && v.Target == "/etc/redis/"+conf
		})
		if !mounted {
			t.Errorf("%s: %s is not mounted where the command reads it", name, conf)
		}
	}
	// The index keeps its data, the cache none.
	if !slices.ContainsFunc(p.Services["index"].Volumes, func(v types.ServiceVolumeConfig) bool { return v.Type == types.VolumeTypeVolume && v.Target == "/data" }) {
		t.Error("the index has no volume on /data")
	}
	// maxmemory leaves a quarter of the limit for what is not data.
	for name, conf := range map[string]string{"index": "index.conf", "cache": "cache.conf"} {
		s := p.Services[name]
		i := slices.Index(s.Command, "--maxmemory")
		if i < 0 {
			t.Errorf("%s has no --maxmemory", name)
			continue
		}
		var mb int64
		if _, err := fmt.Sscanf(s.Command[i+1], "%dmb", &mb); err != nil {
			t.Errorf("%s: --maxmemory %s: %v", name, s.Command[i+1], err)
		}
		limit := int64(s.Deploy.Resources.Limits.MemoryBytes)
		if mb<<20 > limit*3/4 || mb == 0 {
			t.Errorf("%s (%s): maxmemory %d MiB of %d MiB, want at most three quarters", name, conf, mb, limit>>20)
		}
	}
}

// The commands of the Redis containers run on a real redis-server.
func TestComposeRedisCommands(t *testing.T) {
	t.Parallel()
	p := project(t, "full")
	for name, policy := range map[string]string{"index": "noeviction", "cache": "allkeys-lru"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := p.Services[name]
			c, _ := startRedis(t, strings.TrimPrefix(s.Command[1], "/etc/redis/"), s.Command[slices.Index(s.Command, "--maxmemory"):]...)
			info, err := c.Info(t.Context(), "memory").Result()
			if err != nil || !strings.Contains(info, "maxmemory_policy:"+policy) || strings.Contains(info, "maxmemory:0\r") {
				t.Errorf("INFO memory: %v, want %s and a limit in\n%s", err, policy, info)
			}
		})
	}
}

// The store of the full profile, run with its own command and keys, holds a
// lake: the bucket is the mounted directory, which nobody has created by S3.
func TestComposeStore(t *testing.T) {
	t.Parallel()
	p := project(t, "full")
	reader := p.Services["reader"]
	endpoint, dir := startStore(t, p)

	// The services' own URL, at the address of the test.
	var url string
	for _, arg := range reader.Command {
		if v, ok := strings.CutPrefix(arg, "--s3="); ok {
			url = strings.ReplaceAll(v, "http://s3:7070", endpoint)
		}
	}
	open := func(secret string) (*s3.Objects, error) {
		return s3.Open(t.Context(), url, s3.WithCredentials(credentials.NewStaticCredentialsProvider(*reader.Environment["AWS_ACCESS_KEY_ID"], secret, "")))
	}
	o, err := open(*reader.Environment["AWS_SECRET_ACCESS_KEY"])
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	ctx := context.Background()
	if err := o.Put(ctx, "wal/000001/a.seg", []byte("a")); err != nil {
		t.Fatal(err)
	}
	if err := o.Put(ctx, "wal/000001/a.seg", []byte("b")); !errors.Is(err, engine.ErrExists) {
		t.Errorf("second put: got %v, want %v", err, engine.ErrExists)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "wal/000001/a.seg")); err != nil || string(got) != "a" {
		t.Errorf("the object on the volume: %q, %v", got, err)
	}
	if _, err := open("another secret"); err == nil {
		t.Error("the store takes other keys than its own")
	}
}

// startStore runs versitygw with the command and keys of the full profile, and
// gives its address and the directory that is the bucket.
func startStore(t *testing.T, p *types.Project) (endpoint, dir string) {
	t.Helper()
	store := p.Services["s3"]
	path := testenv.Tool(t, "versitygw", "make bin/versitygw")
	data, port := t.TempDir(), testenv.FreePort(t)
	for _, v := range store.Volumes {
		if rest, ok := strings.CutPrefix(v.Target, "/data/"); ok && v.Type == types.VolumeTypeVolume {
			dir = filepath.Join(data, rest)
		}
	}
	if dir == "" {
		t.Fatalf("no volume below /data: %+v", store.Volumes)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var args []string
	for _, arg := range store.Command {
		arg = strings.ReplaceAll(arg, "0.0.0.0:7070", fmt.Sprintf("127.0.0.1:%d", port))
		if arg == "/data" {
			arg = data
		}
		args = append(args, arg)
	}
	endpoint = fmt.Sprintf("http://127.0.0.1:%d", port)
	startServer(t, func(ctx context.Context) error { return testenv.Healthy(ctx, endpoint+"/health") }, environment(store), path, args...)
	return endpoint, dir
}

func environment(s types.ServiceConfig) []string {
	var env []string
	for k, v := range s.Environment {
		env = append(env, k+"="+*v)
	}
	return env
}
