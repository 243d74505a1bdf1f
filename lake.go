// Package lake opens a lake as a library: documents made of many small writes,
// every version kept, over Redis and a bucket or in one directory.
//
//	l, err := lake.Open(ctx, "file:///var/lib/lake")
//	l, err := lake.Open(ctx, "redis://localhost:6379", lake.WithBucket("s3://bucket"))
//
// The types are the engine's; package engine documents them.
package lake

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/disk"
	"github.com/jsonlake/lake/pkg/engine/redis"
	"github.com/jsonlake/lake/pkg/engine/s3"
)

// The engine's types, under this package's name.
type (
	WriteRequest = engine.WriteRequest
	BatchRequest = engine.BatchRequest
	WriteResult  = engine.WriteResult
	ReadRequest  = engine.ReadRequest
	ReadResult   = engine.ReadResult
	LogRequest   = engine.LogRequest
	LogEntry     = engine.LogEntry
	List         = engine.List
	Version      = engine.Version
	MergeType    = engine.MergeType
	Objects      = engine.Objects
)

// The merge types.
const (
	MergeTypeReplace    = engine.MergeTypeReplace
	MergeTypeMergePatch = engine.MergeTypeMergePatch
	MergeTypeJSONPatch  = engine.MergeTypeJSONPatch
	MergeTypeDelete     = engine.MergeTypeDelete
)

// What errors.Is finds.
var (
	ErrInvalid       = engine.ErrInvalid
	ErrNotFound      = engine.ErrNotFound
	ErrPendingWrites = engine.ErrPendingWrites
	ErrUnavailable   = engine.ErrUnavailable
	ErrUnknown       = engine.ErrUnknown
)

// ReadBytes merges the document of a list.
func ReadBytes(ctx context.Context, l *List) ([]byte, error) { return engine.ReadBytes(ctx, l) }

// ReadMap merges the document of a list into a map.
func ReadMap(ctx context.Context, l *List) (map[string]any, error) { return engine.ReadMap(ctx, l) }

// Read merges the document of a list into a T, by encoding/json.
func Read[T any](ctx context.Context, l *List) (T, error) { return engine.Read[T](ctx, l) }

// Lake is an open lake.
type Lake struct {
	*engine.Engine
	parts *Parts
}

// Parts are what a lake stands on, opened and not yet used.
type Parts struct {
	Index interface {
		engine.IndexAdapter
		engine.Outbox
	}
	Objects engine.Objects
	Options engine.Options // with the shared cache and the lake's name filled in
	// Warnings are sentences about what works but should not stay so.
	Warnings []string

	closers []func() error // in the order of opening
}

type options struct {
	engine     engine.Options
	objects    engine.Objects
	bucket     string
	cacheURL   string
	background bool
	strict     bool
}

// Option changes how Open opens a lake.
type Option func(*options)

// WithStorage uses a bucket of the caller's making.
func WithStorage(objects Objects) Option { return func(o *options) { o.objects = objects } }

// WithBucket names the bucket:
// s3://bucket[/prefix]?endpoint=&region=&profile=&path_style=, or file:///dir.
func WithBucket(url string) Option { return func(o *options) { o.bucket = url } }

// WithSnapCacheMetaURL uses a Redis, separate from the index, as a cache that
// processes share; entries live for ttl.
func WithSnapCacheMetaURL(url string, ttl time.Duration) Option {
	return func(o *options) { o.cacheURL, o.engine.CacheTTL = url, ttl }
}

// WithStrictPending makes reading a list ErrPendingWrites while a write younger than 120 s
// is being committed. Without it such a list reads what was committed before.
func WithStrictPending() Option { return func(o *options) { o.strict = true } }

// WithoutBackground leaves folding and sweeping to other processes.
func WithoutBackground() Option { return func(o *options) { o.background = false } }

// WithOptions gives the engine's own options.
func WithOptions(e engine.Options) Option { return func(o *options) { o.engine = e } }

// Open opens the lake of an index:
//
//	redis://… rediss://… redis+sentinel://… redis+cluster://…   an index on Redis. The bucket comes from WithBucket or
//	                                      WithStorage, else from the key lake.setting of that Redis
//	file:///dir                           an embedded lake, held by one process at a time
//
// The lake folds and sweeps in this process, unless WithoutBackground.
func Open(ctx context.Context, url string, opts ...Option) (*Lake, error) {
	p, err := OpenParts(ctx, url, opts...)
	if err != nil {
		return nil, err
	}
	for _, w := range p.Warnings {
		if p.Options.Hooks.Trouble != nil {
			p.Options.Hooks.Trouble("configuration", errors.New(w))
		}
	}
	e, err := engine.New(ctx, p.Index, p.Objects, p.Options)
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return &Lake{Engine: e, parts: p}, nil
}

// closeTimeout bounds how long Close waits for writes that are under way.
const closeTimeout = 30 * time.Second

// Close waits for the writes that are under way and closes what Open opened.
func (l *Lake) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return errors.Join(l.Engine.Close(ctx), l.parts.Close())
}

// OpenParts opens the index, the bucket and the cache of a lake, for a program
// that puts an engine of its own on them. The arguments are Open's.
func OpenParts(ctx context.Context, rawURL string, opts ...Option) (*Parts, error) {
	o := options{background: true}
	for _, opt := range opts {
		opt(&o)
	}
	p := &Parts{}
	if err := p.open(ctx, &o, rawURL); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	p.Objects, p.Options = o.objects, o.engine
	return p, nil
}

func (p *Parts) open(ctx context.Context, o *options, rawURL string) error {
	u, err := url.Parse(rawURL)
	if err != nil {
		return fmt.Errorf("%w: open a lake: the address is not a URL", ErrInvalid) // its text may hold a password
	}
	switch {
	case u.Scheme == "file":
		if u.Path == "" || u.Host != "" && u.Host != "localhost" {
			return fmt.Errorf("%w: open a lake: %q names no directory; write file:///absolute/path", ErrInvalid, rawURL)
		}
		err = p.openDisk(o, filepath.FromSlash(u.Path))
	case strings.HasPrefix(u.Scheme, "redis"):
		err = p.openRedis(ctx, o, rawURL)
	default:
		err = fmt.Errorf("%w: open a lake: %q is neither redis://… nor file:///…", ErrInvalid, u.Redacted())
	}
	if err != nil {
		return err
	}
	if o.cacheURL != "" {
		cache, err := redis.OpenCache(redis.Options{URL: o.cacheURL, Name: o.engine.Name})
		if err != nil {
			return err
		}
		p.closers = append(p.closers, cache.Close)
		o.engine.Cache = cache
	}
	if o.background {
		o.engine.Sweep, o.engine.Collect = true, true
		o.engine.FoldWorkers = max(1, o.engine.FoldWorkers)
	}
	o.engine.StrictPending = o.engine.StrictPending || o.strict
	return nil
}

func (p *Parts) openDisk(o *options, dir string) error {
	trouble := func(err error) {
		if o.engine.Hooks.Trouble != nil {
			o.engine.Hooks.Trouble("index", err)
		}
	}
	index, err := disk.OpenIndex(IndexDir(dir), disk.Options{Trouble: trouble})
	if err != nil {
		return err
	}
	p.Index = index
	p.closers = append(p.closers, index.Close)
	if o.objects != nil {
		return nil
	}
	return p.openFiles(o, ObjectsDir(dir))
}

func (p *Parts) openFiles(o *options, dir string) error {
	objects, err := disk.OpenObjects(dir)
	if err != nil {
		return err
	}
	p.closers = append(p.closers, objects.Close)
	o.objects = objects
	return nil
}

// splitCommit is the default of engine.Options.SplitCommit on one Redis, where a segment
// is a script a shard whether they are sent together or not: four runs a script. The
// servers of a cluster are better asked at once.
const splitCommit = 4 * engine.Shards

func (p *Parts) openRedis(ctx context.Context, o *options, rawURL string) error {
	setting, err := redis.ReadSetting(ctx, rawURL)
	if err != nil && !errors.Is(err, engine.ErrNotExist) {
		return err
	}
	if setting != nil {
		if setting.HasPlainSecrets() {
			p.Warnings = append(p.Warnings, "lake.setting holds secrets in plain text: whoever reads the Redis has the bucket's keys; write env:NAME or file:/path in their place")
		}
		if setting.AESPwd != "" {
			return fmt.Errorf("%w: lake.setting has an AESPwd, and this version does not encrypt; remove it, or use a version that does", ErrInvalid)
		}
		if o.engine.Name == "" {
			o.engine.Name = setting.Name
		}
	}
	index, err := redis.OpenIndex(ctx, redis.Options{URL: rawURL, Name: o.engine.Name})
	if err != nil {
		return err
	}
	p.Index = index
	p.closers = append(p.closers, index.Close)
	if o.engine.SplitCommit == 0 && !index.Clustered() {
		o.engine.SplitCommit = splitCommit
	}
	switch {
	case o.objects != nil:
		return nil
	case strings.HasPrefix(o.bucket, "file://"):
		return p.openFiles(o, filepath.FromSlash(strings.TrimPrefix(o.bucket, "file://")))
	case o.bucket != "":
		return p.openS3(o, func() (*s3.Objects, error) { return s3.Open(ctx, o.bucket) })
	case setting != nil && setting.Storage == "file":
		return p.openFiles(o, setting.BasePath)
	case setting != nil && setting.Bucket != "":
		c, err := settingConfig(setting)
		if err != nil {
			return err
		}
		return p.openS3(o, func() (*s3.Objects, error) { return s3.New(ctx, c) })
	default:
		return fmt.Errorf("%w: no bucket: give WithBucket or WithStorage (--s3 for the services), or set the key lake.setting in the Redis", ErrInvalid)
	}
}

func (p *Parts) openS3(o *options, open func() (*s3.Objects, error)) error {
	objects, err := open()
	if err != nil {
		return err
	}
	p.closers = append(p.closers, objects.Close)
	o.objects = objects
	return nil
}

// settingConfig is the bucket of Lake v2's shared configuration.
func settingConfig(setting *redis.Setting) (s3.Config, error) {
	r, err := setting.Resolve()
	if err != nil {
		return s3.Config{}, err
	}
	c := s3.Config{Bucket: r.Bucket, Prefix: r.Prefix, Endpoint: r.Endpoint, Region: r.Region}
	switch r.Storage {
	case "oss":
		c.Profile = s3.OSS
	case "s3", "":
	default:
		return c, fmt.Errorf("%w: lake.setting: Storage %q is none of s3, oss, file", ErrInvalid, r.Storage)
	}
	if r.AccessKey != "" {
		c.Credentials = credentials.NewStaticCredentialsProvider(r.AccessKey, r.SecretKey, "")
	}
	return c, nil
}

// Close closes what OpenParts opened, the latest first.
func (p *Parts) Close() error {
	var errs []error
	for i := len(p.closers) - 1; i >= 0; i-- {
		errs = append(errs, p.closers[i]())
	}
	p.closers = nil
	return errors.Join(errs...)
}

// DirURL is the URL of an embedded lake in an absolute directory.
func DirURL(dir string) string {
	return (&url.URL{Scheme: "file", Path: filepath.ToSlash(dir)}).String()
}

// IndexDir is where an embedded lake in dir keeps its index.
func IndexDir(dir string) string { return filepath.Join(dir, "index") }

// ObjectsDir is where an embedded lake in dir keeps its bucket.
func ObjectsDir(dir string) string { return filepath.Join(dir, "objects") }
