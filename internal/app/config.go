package app

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/merge"
	"github.com/jsonlake/lake/pkg/events"
)

// Config is the configuration of every process of a lake: one struct for flags,
// the LAKE_* environment and a YAML file. Flags win over the environment, the
// environment over the file, the file over the defaults. A process looks at
// what concerns it.
type Config struct {
	Config kong.ConfigFlag `help:"YAML file: flags by name, without the dashes." placeholder:"FILE"`

	Data       string `help:"Directory of the embedded lake." default:"./lake-data" group:"Embedded" placeholder:"DIR"`
	NATSListen string `name:"nats-listen" help:"Address on which the embedded NATS server listens; empty: in this process only." default:"127.0.0.1:4222" group:"Embedded"`
	Insecure   bool   `help:"Allow the embedded NATS server to listen on other than loopback addresses, without authentication." group:"Embedded"`

	NATS       string        `name:"nats" help:"NATS servers." default:"nats://127.0.0.1:4222" env:"LAKE_NATS,NATS_URL" group:"Servers" secret:""`
	NATSCreds  string        `name:"nats-creds" help:"NATS credentials file." env:"LAKE_NATS_CREDS,NATS_CREDS" group:"Servers" placeholder:"FILE"`
	Redis      string        `help:"Index Redis: redis://, rediss://, redis+sentinel://, redis+cluster://." default:"redis://127.0.0.1:6379" group:"Servers" secret:""`
	CacheRedis string        `help:"Cache Redis, separate from the index; empty: none." group:"Servers" secret:"" placeholder:"URL"`
	CacheTTL   time.Duration `name:"cache-ttl" help:"How long the cache Redis keeps an entry." default:"5m" group:"Servers"`
	S3         string        `name:"s3" help:"Bucket: s3://bucket[/prefix]?endpoint=&region=&profile=&path_style=; credentials from AWS_*." env:"LAKE_S3" group:"Servers" placeholder:"URL"`

	Name          string `help:"Name of the lake: keeps two lakes apart in one Redis, and out of each other's buckets." group:"Lake" placeholder:"NAME"`
	SubjectPrefix string `help:"First token of every NATS subject." default:"lake" group:"Lake"`
	Replicas      int    `help:"Replicas of the JetStream streams (streams apply)." default:"1" group:"Lake"`

	EventsMaxBytes int64 `help:"Bytes that the events stream may take; its server reserves them. 0: 10 GiB, embedded 1 GiB." default:"0" group:"Lake"`

	OpsListen string `help:"Address of /livez, /readyz and /metrics; empty: none." default:"127.0.0.1:9422" group:"Operations"`
	Pprof     bool   `name:"pprof" help:"Serve /debug/pprof on that address too: CPU and memory profiles. Who reaches it can slow the process down." default:"false" group:"Operations"`
	LogLevel  string `help:"Least severe log level: ${enum}." enum:"debug,info,warn,error" default:"info" group:"Operations"`
	LogFormat string `help:"Log format: ${enum}; auto is console on a terminal." enum:"auto,json,console" default:"auto" group:"Operations"`

	Retain       []string      `help:"History to keep, by catalog prefix: PREFIX=AGE, as in carts-=90d; a snapshot and its deltas that are older go. The longest prefix counts. None: everything is kept." group:"Garbage" placeholder:"PREFIX=AGE"`
	GCGrace      time.Duration `name:"gc-grace" help:"How long what is not needed any more is kept in the bucket." default:"1h" group:"Garbage"`
	CompactAfter time.Duration `help:"Age from which segments with a few live writes are copied together." default:"1h" group:"Garbage"`

	Workers         int           `help:"Requests handled at once; 0: 1,024 for ingest, 64 for a reader, 4 folds for a snapshotter, 4 catalogs for verify." default:"0" group:"Limits"`
	MaxBody         int64         `help:"Largest body of a write over NATS, bytes." default:"1048576" group:"Limits"`
	MaxDocument     int64         `help:"Largest document, bytes." default:"67108864" group:"Limits"`
	MaxDepth        int           `help:"Deepest nesting of a document or body." default:"128" group:"Limits"`
	MaxOps          int           `name:"max-ops" help:"Most operations of one JSON Patch." default:"10000" group:"Limits"`
	MaxPendingBytes int64         `help:"Bytes of writes that wait to be committed; more are refused." default:"268435456" group:"Limits"`
	MaxUnfolded     int64         `help:"Deltas of one catalog that may wait to be folded; over it its writers wait, and are then refused. Negative: any number." default:"4000000" group:"Limits"`
	DocumentCache   int64         `help:"In-process cache of merged documents, bytes; 0 or negative: none." default:"268435456" group:"Limits"`
	FrameCache      int64         `help:"In-process cache of segments and small objects as they are stored, bytes; a snapshotter adds the bytes of writes that it does not have to keep. 0 or negative: none." default:"67108864" group:"Limits"`
	MaxInflight     int           `help:"Segments on their way to the bucket at once." default:"12" group:"Tuning"`
	Linger          time.Duration `help:"How long a group commit waits for company although it could leave." default:"0s" group:"Tuning"`
	PutTimeout      time.Duration `help:"How long the put of a segment is tried, plus a second a MiB." default:"8s" group:"Tuning"`
	FoldDeltas      int64         `help:"A snapshot is due at max(this, document bytes / 256) deltas, or up to a quarter less, by catalog." default:"512" group:"Tuning"`
	FoldBytes       int64         `help:"A snapshot is due at max(this, document bytes / 4) bytes of deltas, or up to a quarter less, by catalog." default:"131072" group:"Tuning"`
	FoldAge         time.Duration `help:"A snapshot is due when the oldest delta is older." default:"24h" group:"Tuning"`
	RequeueEvery    time.Duration `help:"How often catalogs are looked through for snapshots that no event announced." default:"10m" group:"Tuning"`
}

// Validate is called by kong after parsing, with every source taken in.
func (c *Config) Validate() error {
	if err := c.subjects().Validate(); err != nil {
		return fmt.Errorf("--subject-prefix: %w", err)
	}
	for _, f := range []struct {
		name string
		v    int64
	}{
		{"max-body", c.MaxBody}, {"max-document", c.MaxDocument}, {"max-depth", int64(c.MaxDepth)}, {"max-ops", int64(c.MaxOps)},
		{"max-pending-bytes", c.MaxPendingBytes}, {"max-inflight", int64(c.MaxInflight)}, {"fold-deltas", c.FoldDeltas}, {"fold-bytes", c.FoldBytes},
		{"put-timeout", int64(c.PutTimeout)}, {"fold-age", int64(c.FoldAge)}, {"requeue-every", int64(c.RequeueEvery)}, {"cache-ttl", int64(c.CacheTTL)}, {"replicas", int64(c.Replicas)},
		{"gc-grace", int64(c.GCGrace)}, {"compact-after", int64(c.CompactAfter)},
	} {
		if f.v <= 0 {
			return fmt.Errorf("--%s must be greater than 0, not %d", f.name, f.v)
		}
	}
	if c.Linger < 0 || c.Workers < 0 || c.EventsMaxBytes < 0 {
		return errors.New("--linger, --workers and --events-max-bytes must not be negative")
	}
	if c.S3 != "" && c.GCGrace < minGrace {
		return fmt.Errorf("--gc-grace must be at least %v: a put of another process may still be under way", minGrace)
	}
	if _, err := c.retention(); err != nil {
		return err
	}
	if c.CacheRedis != "" && c.CacheRedis == c.Redis {
		return errors.New("--cache-redis is the same server as --redis: the cache may evict, the index must not; start a second Redis or leave --cache-redis out")
	}
	return nil
}

// minGrace is above what a writer may take to find out what became of its put.
const minGrace = 10 * time.Minute

// retention parses --retain.
func (c *Config) retention() ([]engine.Retention, error) {
	var rules []engine.Retention
	for _, r := range c.Retain {
		at := strings.LastIndexByte(r, '=')
		if at < 0 {
			return nil, fmt.Errorf("--retain %q is not PREFIX=AGE, as in carts-=90d or =1y for all", r)
		}
		age, err := parseAge(r[at+1:])
		if err != nil {
			return nil, fmt.Errorf("--retain %q: %w", r, err)
		}
		rules = append(rules, engine.Retention{Prefix: r[:at], OlderThan: age})
	}
	return rules, nil
}

// parseAge parses a duration that may be in days (d), weeks (w) or years of 365
// days (y), of at least a day: for so long idempotency ids are kept.
func parseAge(s string) (time.Duration, error) {
	var age time.Duration
	var err error
	day := map[byte]time.Duration{'d': 1, 'w': 7, 'y': 365}
	if n := len(s) - 1; n > 0 && day[s[n]] > 0 {
		var count uint64
		unit := day[s[n]] * 24 * time.Hour
		count, err = strconv.ParseUint(s[:n], 10, 32)
		if err == nil && count > uint64(math.MaxInt64/unit) {
			err = strconv.ErrRange
		}
		age = time.Duration(count) * unit
	} else {
		age, err = time.ParseDuration(s)
	}
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q is no age; write 90d, 12w, 2y or 36h", s)
	case age < engine.IDTTL:
		return 0, fmt.Errorf("an age of %s is less than the %v for which idempotency ids are kept", s, engine.IDTTL)
	}
	return age, nil
}

// streams is what the streams should be like.
func (c *Config) streams(embedded bool) events.Config {
	return events.Config{Subjects: c.subjects(), Replicas: c.Replicas, MaxBytes: c.EventsMaxBytes, Embedded: embedded}
}

func (c *Config) subjects() events.Subjects { return events.Subjects{Prefix: c.SubjectPrefix} }

// engineOptions are the engine's share of the configuration.
func (c *Config) engineOptions() engine.Options {
	retention, _ := c.retention() // Validate has looked at it
	return engine.Options{
		Retention:       retention,
		Grace:           c.GCGrace,
		CompactAfter:    c.CompactAfter,
		Name:            c.Name,
		Limits:          merge.Limits{MaxDocument: c.MaxDocument, MaxDepth: c.MaxDepth, MaxOps: c.MaxOps},
		MaxPendingBytes: c.MaxPendingBytes,
		MaxUnfolded:     c.MaxUnfolded,
		DocumentCache:   cacheBytes(c.DocumentCache),
		FrameCache:      cacheBytes(c.FrameCache),
		MaxInflight:     c.MaxInflight,
		Linger:          c.Linger,
		PutTimeout:      c.PutTimeout,
		CacheTTL:        c.CacheTTL,
		Policy:          engine.Policy{MinDeltas: c.FoldDeltas, MinBytes: c.FoldBytes, MaxAge: c.FoldAge},
	}
}

// cacheBytes is the bound of a cache as the engine takes it: 0, which is none here, is
// the default there.
func cacheBytes(n int64) int64 {
	if n == 0 {
		return -1
	}
	return n
}

// Setting is a flag with its value in force, for `lake config show`.
type Setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	Help  string `json:"help"`
}

// Show lists the settings in force; passwords in URLs are replaced.
func Show(flags []*kong.Flag) []Setting {
	var out []Setting
	for _, f := range flags {
		if f.Name == "help" || f.Name == "config" || f.Hidden || f.Group == nil {
			continue
		}
		v := fmt.Sprint(reflect.Indirect(f.Target).Interface())
		if f.Tag.Has("secret") {
			v = redact(v)
		}
		out = append(out, Setting{Name: f.Name, Value: v, Help: f.Help})
	}
	return out
}

// redact hides the passwords of a comma-separated list of URLs.
func redact(list string) string {
	parts := strings.Split(list, ",")
	for i, s := range parts {
		u, err := url.Parse(s)
		if err != nil {
			parts[i] = "(not shown)"
			continue
		}
		parts[i] = u.Redacted()
	}
	return strings.Join(parts, ",")
}
