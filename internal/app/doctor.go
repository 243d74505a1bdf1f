package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/jsonlake/lake"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/disk"
	"github.com/jsonlake/lake/pkg/engine/redis"
	"github.com/jsonlake/lake/pkg/engine/s3"
	"github.com/jsonlake/lake/pkg/events"
)

// Level says how bad a diagnosis is.
type Level string

// The levels.
const (
	LevelOK   Level = "ok"
	LevelWarn Level = "warn" // works, and should not stay so
	LevelFail Level = "fail" // not safe, or does not work
)

// Diagnosis is the result of one check.
type Diagnosis struct {
	Level  Level  `json:"level"`
	Check  string `json:"check"`
	Detail string `json:"detail"` // a sentence; with the next step where one is needed
}

// doctorTimeout bounds each server's part.
const doctorTimeout = 15 * time.Second

// Doctor looks at what a deployment stands on: the distributed one if the
// configuration names a bucket, else the embedded one. It changes nothing but for
// the objects of the probe of an S3 store, which it removes again.
func Doctor(ctx context.Context, c *Config) []Diagnosis {
	d := &doctor{c: c}
	if c.S3 == "" {
		d.embedded()
		return d.found
	}
	for _, look := range []func(context.Context){d.redis, d.setting, d.bucket, d.nats} {
		lctx, cancel := context.WithTimeout(ctx, doctorTimeout)
		look(lctx)
		cancel()
	}
	return d.found
}

type doctor struct {
	c     *Config
	found []Diagnosis
}

func (d *doctor) say(l Level, check, format string, args ...any) {
	d.found = append(d.found, Diagnosis{Level: l, Check: check, Detail: fmt.Sprintf(format, args...)})
}

func (d *doctor) embedded() {
	dir, err := absolute(d.c.Data)
	if err != nil {
		d.say(LevelFail, "data", "%v", err)
		return
	}
	there := dir
	if _, err := os.Stat(dir); err != nil {
		there = filepath.Dir(dir)
		d.say(LevelWarn, "data", "%s is not there yet: `lake serve` makes it; what follows is about %s", dir, there)
	}
	d.fileSystem(there)
	if addr, err := disk.Address(lake.IndexDir(dir)); err == nil && addr != "" {
		d.say(LevelOK, "lock", "a process serves the lake at %s", addr)
	}
	if err := checkListen(d.c); err != nil {
		d.say(LevelFail, "nats-listen", "%v", err)
	} else {
		d.say(LevelOK, "nats-listen", "the embedded NATS server listens on %q", d.c.NATSListen)
		if d.c.Insecure {
			d.say(LevelWarn, "nats-listen", "--insecure lets it listen for other machines without authentication; leave it out unless the network is yours alone")
		}
	}
}

func (d *doctor) fileSystem(dir string) {
	network, known := disk.NetworkFS(dir)
	d.standsOn(dir, network, known)
	free, err := disk.FreeSpace(dir)
	d.space(dir, free, err)
}

// standsOn judges the file system of a directory: the name of a network file
// system, "" for a local one.
func (d *doctor) standsOn(dir, network string, known bool) {
	switch {
	case network != "":
		d.say(LevelFail, "file-system", "%s is on %s, which does not promise what a lake needs (create-only links, fsync, locks); use a local disk, or a bucket with --s3", dir, network)
	case !known:
		d.say(LevelWarn, "file-system", "this machine does not tell what %s is on; make sure that it is a local disk", dir)
	default:
		d.say(LevelOK, "file-system", "%s is on a local file system", dir)
	}
}

// space judges how many bytes are free.
func (d *doctor) space(dir string, free uint64, err error) {
	const fail, warn = 64 << 20, 1 << 30
	switch {
	case err != nil:
		d.say(LevelWarn, "disk-space", "how much is free at %s is not known: %v; look yourself", dir, err)
	case free < fail:
		d.say(LevelFail, "disk-space", "%d MiB are free at %s: writes are about to be refused; make room", free>>20, dir)
	case free < warn:
		d.say(LevelWarn, "disk-space", "%d MiB are free at %s; make room", free>>20, dir)
	default:
		d.say(LevelOK, "disk-space", "%d MiB are free at %s", free>>20, dir)
	}
}

func (d *doctor) redis(ctx context.Context) {
	d.tls("redis", d.c.Redis, "rediss")
	f, err := redis.Inspect(ctx, d.c.Redis, d.c.Name)
	if err != nil {
		d.say(LevelFail, "redis", "%v; check --redis", err)
		return
	}
	d.redisVersion(f.Version)
	if len(f.Config) == 0 {
		d.say(LevelWarn, "redis-config", "these credentials may not read CONFIG: make sure that maxmemory-policy is noeviction and appendonly is yes")
	} else {
		d.redisConfig(f.Config)
	}
	switch {
	case f.Flush == nil:
		d.say(LevelWarn, "redis-flush", "the server does not tell whether FLUSHALL is allowed (it is older than Redis 7, or these credentials may not run EVAL): make sure that the services' user may not run it")
	case *f.Flush:
		d.say(LevelWarn, "redis-flush", "FLUSHALL is allowed: one command costs a rebuild; take it from the services' user (ACL: -@dangerous +info +config|get) or rename it")
	default:
		d.say(LevelOK, "redis-flush", "FLUSHALL is not allowed")
	}
	if f.Events < engine.Shards {
		d.say(LevelWarn, "events", "events are on in %d of %d shards: what is committed in the others has none; run `lake streams apply`", f.Events, engine.Shards)
	} else {
		d.say(LevelOK, "events", "events are on")
	}
	d.clock(time.Until(f.Time))
	if d.c.CacheRedis == "" {
		return
	}
	d.tls("cache-redis", d.c.CacheRedis, "rediss")
	switch cache, err := redis.Inspect(ctx, d.c.CacheRedis, d.c.Name); {
	case err != nil:
		d.say(LevelWarn, "cache-redis", "%v; reads work without it, slower", err)
	case cache.RunID == f.RunID:
		d.say(LevelFail, "cache-redis", "the cache and the index are the same Redis server: a cache evicts, an index must not; start a second one")
	default:
		d.say(LevelOK, "cache-redis", "the cache is another server than the index")
	}
}

func (d *doctor) redisVersion(v string) {
	if major, err := strconv.Atoi(strings.SplitN(v, ".", 2)[0]); err != nil || major < 7 {
		d.say(LevelFail, "redis-version", "the index Redis is version %s; use 7 or newer", v)
	} else {
		d.say(LevelOK, "redis-version", "the index Redis is version %s", v)
	}
}

// clock judges how far the clock of the index Redis is ahead of this machine's.
func (d *doctor) clock(ahead time.Duration) {
	if skew := ahead.Abs(); skew > 2*time.Second {
		d.say(LevelWarn, "clock", "this machine's clock and that of the index Redis are %v apart; set both by NTP", skew.Round(time.Millisecond))
	} else {
		d.say(LevelOK, "clock", "this machine and the index Redis agree on the time")
	}
}

func (d *doctor) redisConfig(c map[string]string) {
	switch policy := c["maxmemory-policy"]; {
	case policy == "noeviction":
		d.say(LevelOK, "redis-eviction", "the index Redis does not evict")
	case c["maxmemory"] == "0":
		d.say(LevelWarn, "redis-eviction", "maxmemory-policy is %s; it evicts as soon as maxmemory is set: CONFIG SET maxmemory-policy noeviction", policy)
	default:
		d.say(LevelFail, "redis-eviction", "the index Redis evicts keys (maxmemory-policy %s): each costs a new epoch; set maxmemory-policy noeviction", policy)
	}
	switch {
	case c["appendonly"] != "yes" && c["save"] == "":
		d.say(LevelFail, "redis-persistence", "the index Redis keeps nothing on disk: every restart costs a rebuild from the bucket; set appendonly yes")
	case c["appendonly"] != "yes":
		d.say(LevelWarn, "redis-persistence", "the index Redis only saves snapshots (%q): a crash costs reading back what came since; set appendonly yes", c["save"])
	case c["appendfsync"] == "no":
		d.say(LevelWarn, "redis-persistence", "appendfsync is no; set everysec")
	default:
		d.say(LevelOK, "redis-persistence", "the index Redis appends to a file, synced %s", c["appendfsync"])
	}
}

func (d *doctor) setting(ctx context.Context) {
	switch s, err := redis.ReadSetting(ctx, d.c.Redis); {
	case errors.Is(err, engine.ErrNotExist):
	case err != nil:
		d.say(LevelFail, "setting", "%v", err)
	case s.HasPlainSecrets():
		d.say(LevelWarn, "setting", "lake.setting holds secrets in plain text: whoever reads the Redis has the bucket's keys; write env:NAME or file:/path in their place")
	default:
		d.say(LevelOK, "setting", "lake.setting holds no secrets in plain text")
	}
}

func (d *doctor) bucket(ctx context.Context) {
	if dir, ok := strings.CutPrefix(d.c.S3, "file://"); ok {
		d.fileSystem(filepath.FromSlash(dir))
		return
	}
	if u, err := url.Parse(d.c.S3); err == nil {
		if endpoint := u.Query().Get("endpoint"); strings.HasPrefix(endpoint, "http:") {
			d.tls("bucket", endpoint, "https")
		}
	}
	o, err := s3.Open(ctx, d.c.S3) // which probes
	if err != nil {
		d.say(LevelFail, "bucket", "%v", err)
		return
	}
	_ = o.Close() // nothing is under way
	d.say(LevelOK, "bucket", "of eight racers on one key one wins, and what was put reads back, whole and by ranges")
}

func (d *doctor) nats(ctx context.Context) {
	for u := range strings.SplitSeq(d.c.NATS, ",") {
		d.tls("nats", u, "tls")
	}
	nc, err := connectNATS(ctx, d.c, "lake-doctor/"+version, zerolog.New(io.Discard))
	if err != nil {
		d.say(LevelFail, "nats", "%v", err)
		return
	}
	defer nc.Close()
	d.natsVersion(nc.ConnectedServerVersion())
	js, err := jetstream.New(nc)
	if err != nil {
		d.say(LevelFail, "streams", "%v", err)
		return
	}
	drifts, err := events.Check(ctx, js, d.c.streams(false))
	switch {
	case err != nil:
		d.say(LevelFail, "streams", "%v", err)
	case len(drifts) > 0:
		for _, drift := range drifts {
			d.say(LevelWarn, "streams", "%s; run `lake streams apply`", drift)
		}
	default:
		d.say(LevelOK, "streams", "the streams are as `lake streams apply` makes them")
	}
}

func (d *doctor) natsVersion(v string) {
	var major, minor int
	if _, err := fmt.Sscanf(v, "%d.%d", &major, &minor); err != nil || major < 2 || major == 2 && minor < 11 {
		d.say(LevelFail, "nats-version", "nats-server is version %s; use 2.11 or newer", v)
	} else {
		d.say(LevelOK, "nats-version", "nats-server is version %s", v)
	}
}

// tls warns of a connection to another machine that anybody between can read.
func (d *doctor) tls(check, raw, safe string) {
	raw = strings.TrimSpace(raw)
	if !strings.Contains(raw, "://") { // a NATS server may be named by host and port alone
		raw = "//" + raw
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "unix" || strings.HasPrefix(u.Scheme, safe) || loopback(u.Hostname()) {
		return
	}
	d.say(LevelWarn, check+"-tls", "%s is reached without TLS: passwords and documents can be read on the way; use %s://", u.Redacted(), safe)
}
