package s3

import (
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// Config says where the bucket is. The zero value of every field but Bucket is
// usable.
type Config struct {
	Bucket   string  // name of an existing bucket; required
	Prefix   string  // folder inside the bucket for every key, without slashes at its ends; "" is the bucket itself
	Endpoint string  // http://host:port or https://host; "" is AWS, or what AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL say
	Region   string  // "": AWS_REGION or the shared files, else the profile's default
	Profile  Profile // "": AWS without an endpoint, Generic with one

	// PathStyle puts the bucket into the path instead of the host name. nil is
	// the profile's default.
	PathStyle *bool

	Credentials aws.CredentialsProvider // nil: the SDK's default chain
	HTTPClient  aws.HTTPClient          // nil: a client with this package's settings

	GetTimeout    time.Duration // for one attempt to read an object, plus 1 s a MiB; default 10 s
	PutTimeout    time.Duration // for a put with all its retries, plus 1 s a MiB; default 30 s
	MaxObjectSize int64         // bytes; larger objects are refused on both ways; default 512 MiB, at most 5 GiB, S3's own limit of a put

	// WithoutProbe leaves the start-up probe out: for a process whose
	// credentials only allow reading.
	WithoutProbe bool
}

// Option changes the Config that Open reads from a URL.
type Option func(*Config)

// WithCredentials replaces the SDK's default chain of credentials.
func WithCredentials(p aws.CredentialsProvider) Option {
	return func(c *Config) { c.Credentials = p }
}

// WithHTTPClient replaces the HTTP client, and with it the limits on
// connections and the wait for response headers.
func WithHTTPClient(h aws.HTTPClient) Option {
	return func(c *Config) { c.HTTPClient = h }
}

// WithoutProbe leaves the start-up probe out: for a process whose credentials
// only allow reading.
func WithoutProbe() Option {
	return func(c *Config) { c.WithoutProbe = true }
}

const (
	defaultGetTimeout    = 10 * time.Second
	defaultPutTimeout    = 30 * time.Second
	defaultMaxObjectSize = 512 << 20
	maxMaxObjectSize     = 5 << 30
	maxPrefix            = 256 // bytes; keys of a lake are below 700, S3 allows 1,024
)

// ParseURL reads s3://bucket[/prefix]?endpoint=&region=&profile=&path_style=.
// A query key that it does not know is an error, and so are credentials in
// the URL: they come from AWS_*.
func ParseURL(raw string) (Config, error) {
	u, err := url.Parse(raw)
	if err != nil {
		// url.Error repeats the URL, which may hold what should not be logged.
		return Config{}, fmt.Errorf("bucket URL cannot be parsed: write it as s3://bucket/prefix?endpoint=http://host:port")
	}
	switch {
	case u.Scheme != "s3":
		return Config{}, fmt.Errorf("bucket URL has the scheme %q: write it as s3://bucket/prefix?endpoint=http://host:port", u.Scheme)
	case u.User != nil:
		return Config{}, fmt.Errorf("bucket URL of %s holds credentials: give them in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", u.Host)
	case u.Port() != "":
		return Config{}, fmt.Errorf("bucket URL has a port after the bucket %q: the server's address goes into ?endpoint=http://host:port", u.Hostname())
	case u.Fragment != "":
		return Config{}, fmt.Errorf("bucket URL has a fragment %q: a # in a prefix is written %%23", u.Fragment)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Config{}, fmt.Errorf("bucket URL has a malformed query: %w", err)
	}
	c := Config{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/")}
	for _, key := range slices.Sorted(maps.Keys(query)) {
		values := query[key]
		if len(values) > 1 {
			return Config{}, fmt.Errorf("bucket URL gives %s %d times: give it once", key, len(values))
		}
		v := values[0]
		switch key {
		case "endpoint":
			c.Endpoint = v
		case "region":
			c.Region = v
		case "profile":
			c.Profile = Profile(v)
		case "path_style":
			if v == "" {
				continue
			}
			b, err := strconv.ParseBool(v)
			if err != nil {
				return Config{}, fmt.Errorf("bucket URL has path_style=%q: write true or false", v)
			}
			c.PathStyle = &b
		default:
			return Config{}, fmt.Errorf("bucket URL has an unknown setting %q: known are endpoint, region, profile, path_style", key)
		}
	}
	if _, err := c.resolve(); err != nil {
		return Config{}, err
	}
	return c, nil
}

var (
	bucketName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]$`)
	regionName = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)
)

// resolve checks the settings, and gives them with every default that does not
// need the environment.
func (c Config) resolve() (Config, error) {
	if c.Bucket == "" {
		return c, fmt.Errorf("bucket name is missing: write s3://bucket/prefix")
	}
	if !bucketName.MatchString(c.Bucket) {
		return c, fmt.Errorf("bucket name %q is not valid: 3 to 63 letters, digits, dots and hyphens", c.Bucket)
	}
	c.Prefix = strings.Trim(c.Prefix, "/")
	if err := checkPrefix(c.Prefix); err != nil {
		return c, err
	}
	if c.Profile == "" {
		c.Profile = AWS
		if c.Endpoint != "" {
			c.Profile = Generic
		}
	}
	t, ok := profiles[c.Profile]
	if !ok {
		return c, fmt.Errorf("profile %q is unknown: known are %s", c.Profile, profileNames())
	}
	if t.endpoint && c.Endpoint == "" {
		return c, fmt.Errorf("profile %s needs an endpoint: add endpoint=http://host:port", c.Profile)
	}
	pathStyle := t.pathStyle
	if c.PathStyle != nil {
		pathStyle = *c.PathStyle
	}
	if pathStyle && t.virtualOnly {
		return c, fmt.Errorf("profile %s has virtual hosts only: leave path_style out", c.Profile)
	}
	c.PathStyle = &pathStyle
	if c.Region != "" && !regionName.MatchString(c.Region) {
		return c, fmt.Errorf("region %q is not valid: letters, digits and hyphens", c.Region)
	}
	if c.Endpoint != "" {
		if c.Profile == OSS {
			c.Endpoint = expandOSS(c.Endpoint)
		}
		u, err := checkEndpoint(c.Endpoint, c.Profile, pathStyle)
		if err != nil {
			return c, err
		}
		if c.Profile == OSS && c.Region == "" {
			if c.Region = regionOfOSS(u.Hostname()); c.Region == "" {
				return c, fmt.Errorf("endpoint %s does not tell the OSS region: add region=cn-hangzhou or the like", u.Host)
			}
		}
	}
	if c.GetTimeout < 0 || c.PutTimeout < 0 || c.MaxObjectSize < 0 {
		return c, fmt.Errorf("timeouts and sizes of bucket %s must not be negative", c.Bucket)
	}
	if c.MaxObjectSize > maxMaxObjectSize {
		return c, fmt.Errorf("largest object of bucket %s is set to %d bytes: S3 takes at most %d in one put", c.Bucket, c.MaxObjectSize, int64(maxMaxObjectSize))
	}
	if c.GetTimeout == 0 {
		c.GetTimeout = defaultGetTimeout
	}
	if c.PutTimeout == 0 {
		c.PutTimeout = defaultPutTimeout
	}
	if c.MaxObjectSize == 0 {
		c.MaxObjectSize = defaultMaxObjectSize
	}
	return c, nil
}

// checkPrefix refuses what a store or a proxy before it would rewrite: then
// keys would not be found where they were put.
func checkPrefix(p string) error {
	if len(p) > maxPrefix {
		return fmt.Errorf("prefix has %d bytes: at most %d", len(p), maxPrefix)
	}
	if !utf8.ValidString(p) {
		return fmt.Errorf("prefix %q is not UTF-8", p)
	}
	for _, r := range p {
		if r < 0x20 || r == 0x7f || r == '\\' {
			return fmt.Errorf("prefix %q has a character that stores treat differently: use letters, digits, -_.~ and slashes", p)
		}
	}
	if p == "" {
		return nil
	}
	for part := range strings.SplitSeq(p, "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("prefix %q has an empty, . or .. part: stores and proxies rewrite those", p)
		}
	}
	return nil
}
