package fault

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/client"
)

// cluster is the distributed form on real servers: two ingests, two
// snapshotters, two readers as processes, each behind doors of its own to Redis,
// NATS and the bucket. Beside the Redis that is the index stands a second one,
// empty until it is made a replica.
type cluster struct {
	t     *testing.T
	redis [2]*testenv.RedisServer
	index int // which of the two is the index
	cache *testenv.RedisServer
	nats  *testenv.NATSServerProcess
	store *testenv.VersityServer
	shed  *shedder
	s3    *testenv.Proxy // before the store: 503s

	services []*service
	flags    []string // of every service, beside the addresses
	clients  *door    // of the load to NATS
}

type service struct {
	*testenv.Process
	kind  string // ingest, snapshotter, reader
	name  string
	redis *door
	nats  *door
	s3    *door
}

func (s *service) doors() []*door { return []*door{s.redis, s.nats, s.s3} }

// newCluster starts everything; flags go to every service.
func newCluster(t *testing.T, flags ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, flags: flags, shed: &shedder{}}
	for i := range c.redis {
		c.redis[i] = testenv.Redis(t)
	}
	c.cache = testenv.Redis(t, testenv.RedisCache())
	c.nats = testenv.NATSProcess(t)
	c.store = testenv.S3Versity(t)
	c.s3 = testenv.S3Proxy(t, &c.store.S3Server, c.shed.wrap)
	t.Setenv("AWS_ACCESS_KEY_ID", c.store.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", c.store.SecretKey)
	c.applyStreams("lake")
	c.clients = newDoor(t, "clients-nats", hostOf(c.nats.URL))
	for _, kind := range []string{"ingest", "snapshotter", "reader"} {
		for i := range 2 {
			c.services = append(c.services, c.start(kind, fmt.Sprintf("%s-%d", kind, i+1), hostOf(c.s3.Endpoint), "lake"))
		}
	}
	return c
}

// start starts a service that reaches the bucket by way of s3, host:port.
func (c *cluster) start(kind, name, s3, prefix string) *service {
	c.t.Helper()
	s := &service{
		kind: kind, name: name,
		redis: newDoor(c.t, name+"-redis", c.redis[c.index].Addr),
		nats:  newDoor(c.t, name+"-nats", hostOf(c.nats.URL)),
		s3:    newDoor(c.t, name+"-s3", s3),
	}
	ops := fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(c.t))
	bucket := fmt.Sprintf("s3://%s?endpoint=%s&region=%s&profile=versitygw", c.store.Bucket, url.QueryEscape("http://"+s.s3.listen), c.store.Region)
	s.Process = testenv.Program(c.t, testenv.Ready(ops), filepath.Join(bin, kind), append([]string{
		"--nats", "nats://" + s.nats.listen, "--redis", "redis://" + s.redis.listen, "--cache-redis", c.cache.URL, "--s3", bucket,
		"--subject-prefix", prefix, "--ops-listen", ops, "--events-max-bytes", "67108864", "--log-level", "warn", "--log-format", "json",
	}, c.flags...)...)
	return s
}

func hostOf(address string) string {
	_, host, _ := strings.Cut(address, "://")
	return host
}

// applyStreams is `lake streams apply`, as an operator does it.
func (c *cluster) applyStreams(prefix string) {
	c.t.Helper()
	apply := func() error {
		out, err := exec.Command(filepath.Join(bin, "lake"), "streams", "apply", "--subject-prefix", prefix,
			"--nats", c.nats.URL, "--redis", c.redis[c.index].URL, "--events-max-bytes", "67108864").CombinedOutput()
		if err != nil {
			return fmt.Errorf("lake streams apply: %w: %s", err, out)
		}
		return nil
	}
	var err error
	for range 10 { // a server that has just been started may still be loading
		if err = apply(); err == nil {
			return
		}
		time.Sleep(300 * time.Millisecond)
	}
	c.t.Fatal(err)
}

// connect gives a client of the cluster's own door, closed with the test.
func (c *cluster) connect(opts ...client.Option) *client.Client {
	c.t.Helper()
	l, err := client.Connect("nats://"+c.clients.listen, opts...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(l.Close)
	return l
}

// of are the services of a kind.
func (c *cluster) of(kind string) (out []*service) {
	for _, s := range c.services {
		if s.kind == kind {
			out = append(out, s)
		}
	}
	return out
}

// ready waits until every service says that it is; none may have ended by itself.
func (c *cluster) ready(limit time.Duration) {
	c.t.Helper()
	for _, s := range c.services {
		var err error
		ok := wait(limit, func() bool {
			err = s.Answers()
			return err == nil || !s.Running()
		})
		switch {
		case !s.Running():
			c.t.Fatalf("%s has ended by itself:\n%s", s.name, s.Output())
		case !ok:
			c.t.Fatalf("%s is not ready after %v: %v\n%s", s.name, limit, err, s.Output())
		}
	}
}

// wait polls until cond holds; false when it does not within limit.
func wait(limit time.Duration, cond func() bool) bool {
	for end := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		if cond() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// cutAOF takes the last part of a stopped Redis's append-only file away, as a
// lost second does, and tells how many bytes.
func cutAOF(t *testing.T, s *testenv.RedisServer, part float64) int64 {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.Dir, "appendonlydir", "*.incr.aof"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no append-only file in %s: %v", s.Dir, err)
	}
	last := files[len(files)-1]
	info, err := os.Stat(last)
	if err != nil {
		t.Fatal(err)
	}
	lost := int64(float64(info.Size()) * part)
	if err := os.Truncate(last, info.Size()-lost); err != nil {
		t.Fatal(err)
	}
	return lost
}
