package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
)

// cluster is the distributed form: every server and service a process.
type cluster struct {
	redis, cache *testenv.RedisServer
	nats         *testenv.NATSServerProcess
	s3           *testenv.Proxy // a door a service
	store        *testenv.VersityServer
	services     map[string]*testenv.Process
	ops          map[string]string // /readyz and /metrics, by service
	probes       int               // PUTs of the reader's start-up
}

// distributed starts one ingest, two snapshotters and one reader on real
// servers. Each PUT of the bucket takes putLatency longer than it would; extra is
// added to nats-server's configuration.
func distributed(t *testing.T, putLatency time.Duration, extra ...string) *cluster {
	t.Helper()
	c := &cluster{services: map[string]*testenv.Process{}, ops: map[string]string{}}
	c.redis = testenv.Redis(t, testenv.RedisConfig("appendonly", "yes"))
	c.cache = testenv.Redis(t, testenv.RedisCache())
	c.nats = testenv.NATSProcess(t, extra...)
	store := testenv.S3Versity(t)
	c.store = store
	c.s3 = testenv.S3Proxy(t, &store.S3Server)
	t.Setenv("AWS_ACCESS_KEY_ID", store.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", store.SecretKey)

	lake(t, "streams", "apply", "--nats", c.nats.URL, "--redis", c.redis.URL, "--events-max-bytes", "1073741824")
	for _, name := range []string{"ingest", "snapshotter-1", "snapshotter-2", "reader"} {
		c.start(t, name)
	}
	c.probes = c.s3.CountBy("reader", "PUT")
	c.s3.SetLatency("PUT", putLatency)
	return c
}

// start starts a service behind a door of its own to the bucket.
func (c *cluster) start(t *testing.T, name string) {
	t.Helper()
	door := c.s3.Door(name)
	c.ops[name] = fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))
	service, _, _ := strings.Cut(name, "-")
	c.services[name] = testenv.Program(t, testenv.Ready(c.ops[name]), program(service),
		"--nats", c.nats.URL, "--redis", c.redis.URL, "--cache-redis", c.cache.URL,
		"--s3", fmt.Sprintf("s3://%s?endpoint=%s&region=%s&profile=versitygw", door.Bucket, url.QueryEscape(door.Endpoint), door.Region),
		"--ops-listen", c.ops[name], "--events-max-bytes", "1073741824", "--log-level", "warn")
}

// 16 writers and 16 readers on one catalog over a bucket with 50 ms a PUT: no
// read fails, and the writers share their PUTs.
func TestOneHotCatalog(t *testing.T) {
	duration := 10 * time.Second
	d := distributed(t, 50*time.Millisecond)
	c, err := client.New(connect(t, d.nats.URL))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(t.Context(), engine.WriteRequest{Catalog: "hot", Body: []byte(`{"start":true}`)}); err != nil {
		t.Fatal(err)
	}
	before := d.s3.CountBy("ingest", "PUT")
	var writes, reads, readErrors atomic.Int64
	end := time.Now().Add(duration)
	last := make([]int, 16)
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := 1; time.Now().Before(end); i++ {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				_, err := c.Write(ctx, engine.WriteRequest{Catalog: "hot", Path: fmt.Sprintf("/w%d", w), Body: fmt.Append(nil, i)})
				cancel()
				if err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
				last[w] = i
				writes.Add(1)
			}
		})
		wg.Go(func() {
			var seen engine.Version
			for time.Now().Before(end) {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				r, err := c.Read(ctx, engine.ReadRequest{Catalog: "hot"})
				cancel()
				if err != nil {
					readErrors.Add(1)
					t.Errorf("read: %v", err)
					continue
				}
				if r.Version.Less(seen) {
					t.Errorf("read version %s after %s", r.Version, seen)
				}
				seen = r.Version
				reads.Add(1)
			}
		})
	}
	wg.Wait()
	puts := d.s3.CountBy("ingest", "PUT") - before
	t.Logf("%d writes, %d reads, %d read errors, %.0f PUTs a 1,000 writes", writes.Load(), reads.Load(), readErrors.Load(), 1000*float64(puts)/float64(writes.Load()))
	r, err := c.Read(t.Context(), engine.ReadRequest{Catalog: "hot"})
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(r.Body, &doc); err != nil {
		t.Fatal(err)
	}
	for w, want := range last {
		if got := doc[fmt.Sprintf("w%d", w)]; got != float64(want) {
			t.Errorf("writer %d: got %v, want %d", w, got, want)
		}
	}
	// Eight segments at once and sixteen writers: about two share one.
	if int64(puts)*10 > writes.Load()*8 {
		t.Errorf("%d PUTs for %d writes: they do not share", puts, writes.Load())
	}
}
