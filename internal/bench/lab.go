package bench

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/nats-io/nats.go"
	goredis "github.com/redis/go-redis/v9"

	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine/redis"
	"github.com/jsonlake/lake/pkg/engine/s3"
)

// lab is a running lake with what it stands on.
type lab struct {
	form     string
	nats     string
	prefix   string // of the subjects
	ops      map[string]string
	children []*child
	data     string // of the bucket's files, "" where they are not ours

	redis    *goredis.Client // of the index; nil in the embedded form
	redisURL string
	cacheURL string
	store    *door // nil in the embedded form
	bucket   s3.Config

	closers []func()
	say     func(format string, args ...any)
}

// target is the form of a lake that was there.
const target = "target"

// labOptions change how a lab is started.
type labOptions struct {
	putLatency time.Duration
	cache      bool     // a cache Redis, distributed
	flags      []string // of every process of the lake
	// only says which services run; none: ingest, snapshotter and reader.
	only []string
}

// quietly are flags of every process that the run starts.
var quietly = []string{"--log-level", "error", "--log-format", "json", "--events-max-bytes", strconv.Itoa(4 << 30)}

// start starts a lake of a form. The caller stops it.
func (b *bench) start(ctx context.Context, form string, o labOptions) (*lab, error) {
	if err := b.ownLake(); err != nil {
		return nil, err
	}
	if o.putLatency == 0 && form == Distributed {
		o.putLatency = b.PutLatency
	}
	b.say("start a lake, %s", form)
	l := &lab{form: form, ops: map[string]string{}, say: b.say}
	var err error
	if form == Embedded {
		err = b.startEmbedded(ctx, l, o)
	} else {
		err = b.startDistributed(ctx, l, o)
	}
	if err != nil {
		l.stop()
		return nil, err
	}
	return l, nil
}

// serving is the lake that is there, or one that is started, and a client of it.
// The caller stops it.
func (b *bench) serving(ctx context.Context, form string, o labOptions) (*lab, *client.Client, error) {
	l := &lab{form: target, nats: b.Target, prefix: b.SubjectPrefix}
	if b.Target == "" {
		var err error
		if l, err = b.start(ctx, form, o); err != nil {
			return nil, nil, err
		}
	}
	c, err := l.client()
	if err != nil {
		l.stop()
		return nil, nil, err
	}
	return l, c, nil
}

// stop ends what was started, the latest first. A child that has ended by itself
// explains what went wrong.
func (l *lab) stop() {
	for _, c := range l.children {
		select {
		case <-c.done:
			if l.say != nil {
				l.say("%s had ended by itself (%v):\n%s", c.name, c.cmd.ProcessState, c.out.String())
			}
		default:
		}
	}
	l.children = nil
	for i := len(l.closers) - 1; i >= 0; i-- {
		l.closers[i]()
	}
	l.closers = nil
}

func (l *lab) adopt(c *child) {
	l.children = append(l.children, c)
	l.closers = append(l.closers, c.stop)
}

func (b *bench) startEmbedded(ctx context.Context, l *lab, o labOptions) error {
	dir, err := b.temp("serve")
	if err != nil {
		return err
	}
	l.closers = append(l.closers, func() { empty(dir) })
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	ops, err := freeAddr()
	if err != nil {
		return err
	}
	l.nats, l.ops["serve"], l.data = "nats://"+addr, ops, filepath.Join(dir, "objects")
	args := append([]string{"serve", "--data", dir, "--nats-listen", addr, "--ops-listen", ops}, quietly...)
	args = append(args, b.profileFlags()...)
	// As whoever starts it has it, not with the GODEBUG of this program (app.FewWakeUps).
	c, err := spawn(ctx, "serve", []string{"GODEBUG="}, healthy("http://"+ops+"/readyz"), b.Program, append(args, o.flags...)...)
	if err != nil {
		return err
	}
	l.adopt(c)
	return nil
}

// The keys of the S3 server that the run starts for itself.
const (
	accessKey = "lakebench"
	secretKey = "lakebench-local-only"
	region    = "us-east-1"
	bucket    = "lake"
)

var bucketKeys = []string{"AWS_ACCESS_KEY_ID=" + accessKey, "AWS_SECRET_ACCESS_KEY=" + secretKey}

func (b *bench) startDistributed(ctx context.Context, l *lab, o labOptions) error {
	if err := b.startServers(ctx, l, o); err != nil {
		return err
	}
	streams, err := spawn(ctx, "streams", bucketKeys, func(context.Context) error { return nil }, b.Program, append([]string{"streams", "apply", "--nats", l.nats, "--redis", l.redisURL}, quietly...)...)
	if err != nil {
		return err
	}
	select {
	case <-streams.done:
		if streams.cmd.ProcessState == nil || !streams.cmd.ProcessState.Success() {
			return fmt.Errorf("make the streams:\n%s", streams.out.String())
		}
	case <-ctx.Done():
		streams.kill()
		return ctx.Err()
	}
	only := o.only
	if len(only) == 0 {
		only = []string{"ingest", "snapshotter", "reader"}
	}
	for _, name := range only {
		if err := b.startService(ctx, l, name, bucketKeys, o.flags); err != nil {
			return err
		}
	}
	if l.store != nil {
		l.store.putLatency.Store(int64(o.putLatency))
	}
	return nil
}

// shareOfCores gives each service half of the cores, as docs/operations.md advises where
// they share a machine with one another and with the servers; unless the environment says how many.
func shareOfCores() []string {
	if os.Getenv("GOMAXPROCS") != "" {
		return nil
	}
	return []string{fmt.Sprintf("GOMAXPROCS=%d", max(runtime.GOMAXPROCS(0)/2, 1))}
}

// startService starts a service; its name may have a number after a dash.
func (b *bench) startService(ctx context.Context, l *lab, name string, env, flags []string) error {
	ops, err := freeAddr()
	if err != nil {
		return err
	}
	role, _, _ := strings.Cut(name, "-")
	args := append([]string{"service", role, "--nats", l.nats, "--redis", l.redisURL, "--s3", l.bucketURL(), "--ops-listen", ops}, quietly...)
	args = append(args, b.profileFlags()...)
	if l.cacheURL != "" {
		args = append(args, "--cache-redis", l.cacheURL)
	}
	c, err := spawn(ctx, name, append(shareOfCores(), env...), healthy("http://"+ops+"/readyz"), b.Program, append(args, flags...)...)
	if err != nil {
		return err
	}
	l.ops[name] = ops
	l.adopt(c)
	return nil
}

func (l *lab) bucketURL() string {
	return fmt.Sprintf("s3://%s?endpoint=%s&region=%s&profile=%s", l.bucket.Bucket, url.QueryEscape(l.bucket.Endpoint), l.bucket.Region, l.bucket.Profile)
}

// startServers starts redis-server, nats-server and versitygw.
func (b *bench) startServers(ctx context.Context, l *lab, o labOptions) error {
	redisServer, err := find("redis-server", "install Redis 7, or `make servers`")
	if err != nil {
		return err
	}
	natsServer, err := find("nats-server", "make servers")
	if err != nil {
		return err
	}
	versity, err := find("versitygw", "make servers")
	if err != nil {
		return err
	}
	dir, err := b.temp("servers")
	if err != nil {
		return err
	}
	l.closers = append(l.closers, func() { empty(dir) })

	if l.redisURL, l.redis, err = b.startRedis(ctx, l, redisServer, dir, "redis",
		shippedIndex...); err != nil {
		return err
	}
	if o.cache {
		if l.cacheURL, _, err = b.startRedis(ctx, l, redisServer, dir, "cache", "--appendonly", "no", "--save", "", "--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru"); err != nil {
			return err
		}
	}
	if err := startNATS(ctx, l, natsServer, dir); err != nil {
		return err
	}
	return startVersity(ctx, l, versity, dir, o)
}

// shippedIndex is what deploy/redis/index.conf says of an index, but for the
// snapshots beside its log, which would fall into one round and not the next.
var shippedIndex = []string{"--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction",
	"--zset-max-listpack-entries", "512", "--zset-max-listpack-value", "256", "--hash-max-listpack-entries", "16", "--hash-max-listpack-value", "256",
	"--auto-aof-rewrite-min-size", "256mb", "--rdbcompression", "no", "--latency-tracking", "no"}

func (b *bench) startRedis(ctx context.Context, l *lab, path, dir, name string, settings ...string) (string, *goredis.Client, error) {
	addr, err := freeAddr()
	if err != nil {
		return "", nil, err
	}
	home := filepath.Join(dir, name)
	if err := os.Mkdir(home, 0o700); err != nil {
		return "", nil, err
	}
	_, port, _ := strings.Cut(addr, ":")
	c := goredis.NewClient(&goredis.Options{Addr: addr, ContextTimeoutEnabled: true, MaxRetries: -1, DialerRetries: 1})
	l.closers = append(l.closers, func() { _ = c.Close() })
	server, err := spawn(ctx, name, nil, func(ctx context.Context) error { return answers(ctx, addr, c) }, path,
		append([]string{"--bind", "127.0.0.1", "--port", port, "--dir", home}, settings...)...)
	if err != nil {
		return "", nil, err
	}
	l.adopt(server)
	return "redis://" + addr, c, nil
}

// answers pings Redis, once somebody listens: go-redis would log that nobody does.
func answers(ctx context.Context, addr string, c *goredis.Client) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	_ = conn.Close()
	return c.Ping(ctx).Err()
}

func startNATS(ctx context.Context, l *lab, path, dir string) error {
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	monitor, err := freeAddr()
	if err != nil {
		return err
	}
	conf := filepath.Join(dir, "nats.conf")
	text := fmt.Sprintf("listen: %q\nhttp: %q\nmax_payload: 8MB\njetstream { store_dir: %q, max_file_store: 20GB, max_memory_store: 256MB }\n", addr, monitor, filepath.Join(dir, "nats"))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return err
	}
	server, err := spawn(ctx, "nats-server", nil, healthy("http://"+monitor+"/healthz"), path, "-c", conf)
	if err != nil {
		return err
	}
	l.nats = "nats://" + addr
	l.adopt(server)
	return nil
}

func startVersity(ctx context.Context, l *lab, path, dir string, o labOptions) error {
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	l.data = filepath.Join(dir, "bucket")
	iam := filepath.Join(dir, "iam")
	for _, d := range []string{l.data, iam} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	server, err := spawn(ctx, "versitygw", nil, healthy("http://"+addr+"/health"), path,
		"--access", accessKey, "--secret", secretKey, "--region", region, "--port", addr, "--health", "/health", "--iam-dir", iam, "--keep-alive", "--quiet", "posix", l.data)
	if err != nil {
		return err
	}
	l.children = append(l.children, server)
	l.closers = append(l.closers, server.kill) // asked to end it waits for idle connections
	l.bucket = s3.Config{Bucket: bucket, Endpoint: "http://" + addr, Region: region, Profile: s3.Profile("versitygw"),
		Credentials: credentials.NewStaticCredentialsProvider(accessKey, secretKey, "")}
	api := awss3.New(awss3.Options{BaseEndpoint: &l.bucket.Endpoint, Region: region, UsePathStyle: true, Credentials: l.bucket.Credentials})
	if _, err := api.CreateBucket(ctx, &awss3.CreateBucketInput{Bucket: aws.String(bucket)}); err != nil {
		return fmt.Errorf("make the bucket (versitygw needs a file system with extended attributes, --dir chooses another): %w", err)
	}
	if o.putLatency > 0 {
		if l.store, err = openDoor(l.bucket.Endpoint); err != nil {
			return err
		}
		l.closers = append(l.closers, l.store.close)
		l.bucket.Endpoint = l.store.url
	}
	return nil
}

// connect is a connection to the lab's NATS, closed with the lab.
func (l *lab) connect(more ...nats.Option) (*nats.Conn, error) {
	nc, err := nats.Connect(l.nats, append(more, nats.Name("lake bench"), nats.ReconnectBufSize(-1), nats.Timeout(5*time.Second))...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", l.nats, err)
	}
	l.closers = append(l.closers, nc.Close)
	return nc, nil
}

// client is a client of the lab's lake, closed with the lab. Each write is a
// message of its own: what rows compare is one request with another.
func (l *lab) client() (*client.Client, error) {
	c, err := client.Connect(l.nats, client.WithPrefix(l.subjectPrefix()), client.WithoutCoalescing(), client.WithNATS(nats.Name("lake bench")))
	if err != nil {
		return nil, err
	}
	l.closers = append(l.closers, c.Close)
	return c, nil
}

func (l *lab) subjectPrefix() string {
	if l.prefix == "" {
		return "lake"
	}
	return l.prefix
}

// setEvents turns events on or off in the lab's Redis.
func (l *lab) setEvents(ctx context.Context, on bool) error {
	x, err := redis.OpenIndex(ctx, redis.Options{URL: l.redisURL})
	if err != nil {
		return err
	}
	defer x.Close()
	return x.SetEvents(ctx, on)
}

// objects opens the lab's bucket, closed with the lab.
func (l *lab) objects(ctx context.Context) (*s3.Objects, error) {
	c := l.bucket
	c.WithoutProbe = true
	o, err := s3.New(ctx, c)
	if err != nil {
		return nil, err
	}
	l.closers = append(l.closers, func() { _ = o.Close() })
	return o, nil
}

// stored is how many bytes lie in the bucket's files, and in how many.
func stored(dir string) (bytes int64, files int) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil //nolint:nilerr // what vanishes meanwhile is not stored
		}
		if info, err := d.Info(); err == nil {
			bytes += info.Size()
			files++
		}
		return nil
	})
	return bytes, files
}
