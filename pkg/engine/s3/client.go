package s3

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"

	"github.com/jsonlake/lake/pkg/engine"
)

const (
	maxConns      = 512 // a host; net/http keeps 2 idle ones by default, the SDK 10: at group commit's pace each put would dial
	dialTimeout   = 3 * time.Second
	headerTimeout = 15 * time.Second // from the end of the request to the response's header
	idleTimeout   = 90 * time.Second
	maxAttempts   = 4
	firstBackoff  = 50 * time.Millisecond
	maxBackoff    = 3 * time.Second
)

// Open reads the bucket's URL (see ParseURL), connects, and probes the store.
// It fails with a sentence that says what to do: an unknown setting, a missing
// bucket, credentials that are refused, a store whose create-only put has more
// than one winner.
func Open(ctx context.Context, url string, opts ...Option) (*Objects, error) {
	c, err := ParseURL(url)
	if err != nil {
		return nil, err
	}
	for _, o := range opts {
		o(&c)
	}
	return New(ctx, c)
}

// New connects to the bucket of a Config and, unless told not to, probes it.
// Close lets its connections go.
func New(ctx context.Context, c Config) (*Objects, error) {
	// What the environment says of the endpoint decides the profile: ask first.
	if c.Endpoint == "" && (c.Profile == "" || profiles[c.Profile].endpoint) {
		probe, err := config.LoadDefaultConfig(ctx)
		if err != nil {
			return nil, fmt.Errorf("read AWS settings of environment and shared files: %w", err)
		}
		c.Endpoint = aws.ToString(awss3.NewFromConfig(probe).Options().BaseEndpoint)
	}
	c, err := c.resolve()
	if err != nil {
		return nil, err
	}
	t := profiles[c.Profile]

	load := []func(*config.LoadOptions) error{
		config.WithHTTPClient(transportSettings()),
		config.WithRetryer(retryer),
		config.WithLogger(logging.Nop{}), // an adapter returns errors, it does not log
	}
	if c.Region != "" {
		load = append(load, config.WithRegion(c.Region))
	}
	if t.region != "" {
		load = append(load, config.WithDefaultRegion(t.region))
	}
	if c.Credentials != nil {
		load = append(load, config.WithCredentialsProvider(c.Credentials))
	} else if c.Profile != AWS {
		// Roles of EC2 instances are of no use elsewhere; asking for them only
		// hides for seconds that no credentials were given.
		load = append(load, config.WithEC2IMDSClientEnableState(imds.ClientDisabled))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fmt.Errorf("read AWS settings of environment and shared files: %w", err)
	}
	if cfg.Region == "" {
		return nil, fmt.Errorf("region of bucket %s is not known: add region=eu-central-1 or the like to its URL, or set AWS_REGION", c.Bucket)
	}
	if c.Credentials == nil && cfg.Credentials != nil {
		// Once, before eight racers of the probe each wait for a role that is not there.
		if _, err := cfg.Credentials.Retrieve(ctx); err != nil {
			err = fmt.Errorf("credentials for bucket %s: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or check the role: %w", c.Bucket, err)
			if isNetwork(err) {
				err = fmt.Errorf("%w: %w", engine.ErrUnavailable, err)
			}
			return nil, err
		}
	}
	client, own := c.HTTPClient, (*http.Client)(nil)
	if client == nil {
		if own, err = httpClient(cfg); err != nil {
			return nil, err
		}
		client = own
	}
	o := &Objects{
		cfg:    c,
		traits: t,
		prefix: c.Prefix,
		own:    own,
		client: awss3.NewFromConfig(cfg, func(o *awss3.Options) {
			o.HTTPClient = client
			if c.Endpoint != "" {
				o.BaseEndpoint = aws.String(c.Endpoint)
			}
			o.UsePathStyle = *c.PathStyle
			if !t.checksums {
				// Look-alikes stumble over the optional checksums, above all over
				// their aws-chunked form. Frames carry their own.
				o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
				o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
			}
			o.DisableLogOutputChecksumValidationSkipped = true
		}),
	}
	if o.prefix != "" {
		o.prefix += "/"
	}
	if !c.WithoutProbe {
		probeCtx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		if err := o.Probe(probeCtx); err != nil {
			return nil, errors.Join(err, o.Close())
		}
	}
	return o, nil
}

// transportSettings stay a BuildableClient while the configuration is loaded,
// which adds to it what the environment asks for (AWS_CA_BUNDLE).
func transportSettings() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().
		WithTransportOptions(func(t *http.Transport) {
			t.MaxIdleConns = 2 * maxConns
			t.MaxIdleConnsPerHost = maxConns
			t.MaxConnsPerHost = maxConns
			t.IdleConnTimeout = idleTimeout
			t.ResponseHeaderTimeout = headerTimeout
		}).
		WithDialerOptions(func(d *net.Dialer) { d.Timeout = dialTimeout })
}

// httpClient is a plain client over the loaded transport: the SDK's own gives
// only copies of its transport away, so that its connections could not be closed.
func httpClient(cfg aws.Config) (*http.Client, error) {
	b, ok := cfg.HTTPClient.(*awshttp.BuildableClient)
	if !ok {
		return nil, fmt.Errorf("AWS settings replaced the HTTP client by a %T", cfg.HTTPClient)
	}
	return &http.Client{
		Transport: b.GetTransport(),
		// Only redirects that keep method and body; S3's other ones carry an
		// error that is worth reading (PermanentRedirect: another region).
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if s := r.Response.StatusCode; len(via) >= 5 || s != http.StatusTemporaryRedirect && s != http.StatusPermanentRedirect {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}, nil
}

// retryer is the SDK's standard one, whose token bucket makes the many retries
// of an outage fail fast. It also repeats a put that S3 refused because of
// another conditional request on the same key at the same moment, and what is
// throttled by its status alone.
func retryer() aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = maxAttempts
		o.MaxBackoff = maxBackoff
		o.Backoff = retry.BackoffDelayerFunc(backoff)
		o.Retryables = append(o.Retryables,
			retry.RetryableErrorCode{Codes: map[string]struct{}{codeConditionalConflict: {}, codeOperationAborted: {}, codeIsDirectory: {}}},
			retry.RetryableHTTPStatusCode{Codes: map[int]struct{}{http.StatusTooManyRequests: {}, http.StatusRequestTimeout: {}}},
		)
	})
}

// backoff waits about 50, 200, 800 ms before the next attempts. The SDK's own
// begins at half a second, which is many times what a put takes, and a commit
// is not tried for longer than eight seconds. Attempts count from 1.
func backoff(attempt int, _ error) (time.Duration, error) {
	d := firstBackoff
	for range attempt - 1 {
		if d *= 4; d >= maxBackoff {
			d = maxBackoff
			break
		}
	}
	return d/2 + rand.N(d), nil
}

// Close lets idle connections go. Calls that are under way are not ended.
func (o *Objects) Close() error {
	if o.own != nil {
		o.own.CloseIdleConnections()
	}
	return nil
}

// String names the place, without credentials: "s3://bucket/prefix at AWS".
func (o *Objects) String() string {
	s := "s3://" + o.cfg.Bucket
	if o.cfg.Prefix != "" {
		s += "/" + o.cfg.Prefix
	}
	return s + " at " + o.where()
}
