package s3

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// Profile names what a store does differently from the others.
type Profile string

const (
	// AWS is Amazon S3 itself: virtual hosts, SDK checksums on. It is the
	// profile without an endpoint.
	AWS Profile = "aws"
	// Versitygw is the Versity S3 gateway: path style, no optional checksums.
	Versitygw Profile = "versitygw"
	// Generic is any other store with If-None-Match on PutObject (R2, Garage,
	// SeaweedFS, MinIO …): path style, no optional checksums. It is the profile
	// with an endpoint.
	Generic Profile = "generic"
	// OSS is Aliyun OSS through its S3-compatible endpoint: virtual hosts only,
	// no chunked encoding, x-oss-forbid-overwrite in place of If-None-Match. It
	// follows the vendor's documentation and is tested against a fake that
	// demands all of this; it has not been tried on the real service.
	OSS Profile = "oss"
)

// traits is what a profile decides.
type traits struct {
	pathStyle    bool   // default of path_style
	virtualOnly  bool   // path style is refused by the store
	checksums    bool   // the SDK's optional checksums stay on
	endpoint     bool   // an endpoint must be given
	region       string // default region, "" when it must be known
	createHeader string // what makes a put create-only: a header to sign with the value "true"; "" is If-None-Match: *
}

var profiles = map[Profile]traits{
	AWS:       {checksums: true},
	Versitygw: {pathStyle: true, endpoint: true, region: "us-east-1"},
	Generic:   {pathStyle: true, endpoint: true, region: "us-east-1"},
	OSS:       {virtualOnly: true, endpoint: true, createHeader: "X-Oss-Forbid-Overwrite"},
}

func profileNames() string {
	names := make([]string, 0, len(profiles))
	for p := range profiles {
		names = append(names, string(p))
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

var (
	ossShort  = regexp.MustCompile(`^(?:s3\.)?oss-[a-z0-9-]+$`)
	ossRegion = regexp.MustCompile(`^(?:s3\.)?oss-([a-z0-9-]+?)(?:-internal)?\.aliyuncs\.com$`)
)

// expandOSS turns "oss-cn-hangzhou" and the native "oss-cn-hangzhou.aliyuncs.com"
// into the S3-compatible endpoint of that region, and leaves any other endpoint
// as it is.
func expandOSS(endpoint string) string {
	scheme, host, found := strings.Cut(endpoint, "://")
	if !found {
		scheme, host = "https", endpoint
	}
	host = strings.TrimSuffix(host, "/")
	if ossShort.MatchString(host) {
		host += ".aliyuncs.com"
	}
	if !ossRegion.MatchString(host) {
		return endpoint
	}
	if !strings.HasPrefix(host, "s3.") {
		host = "s3." + host
	}
	return scheme + "://" + host
}

// regionOfOSS is the region that requests to an OSS endpoint are signed for,
// "cn-hangzhou"; "" when the host does not tell (a custom domain).
func regionOfOSS(host string) string {
	if m := ossRegion.FindStringSubmatch(host); m != nil && m[1] != "accelerate" {
		return m[1]
	}
	return ""
}

// checkEndpoint parses an endpoint and says what is wrong with it.
func checkEndpoint(endpoint string, profile Profile, pathStyle bool) (*url.URL, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("endpoint %q is not a URL: write it as http://host:port or https://host", endpoint)
	}
	if u.User != nil {
		return nil, fmt.Errorf("endpoint of host %s holds credentials: give them in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", u.Host)
	}
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("endpoint %q has more than a host: write it as http://host:port or https://host", endpoint)
	}
	if !pathStyle {
		if _, err := netip.ParseAddr(u.Hostname()); err == nil {
			return nil, fmt.Errorf("endpoint %q is an address, which has no virtual hosts (bucket.host): use a name, or path_style=true where the %s profile has it", endpoint, profile)
		}
	}
	return u, nil
}

// createOnly makes one PutObject create-only in the store's own way.
func (t traits) createOnly(in *awss3.PutObjectInput) []func(*awss3.Options) {
	if t.createHeader == "" {
		in.IfNoneMatch = aws.String("*")
		return nil
	}
	return []func(*awss3.Options){awss3.WithAPIOptions(signedHeader(t.createHeader, "true"))}
}

// signedHeader sets a header in the build step, which runs before the
// signature: a store may ignore (or a proxy strip) what is not signed.
func signedHeader(name, value string) func(*middleware.Stack) error {
	return func(s *middleware.Stack) error {
		return s.Build.Add(middleware.BuildMiddlewareFunc("lake:"+name,
			func(ctx context.Context, in middleware.BuildInput, next middleware.BuildHandler) (middleware.BuildOutput, middleware.Metadata, error) {
				req, ok := in.Request.(*smithyhttp.Request)
				if !ok {
					return middleware.BuildOutput{}, middleware.Metadata{}, fmt.Errorf("set header %s: unexpected transport %T", name, in.Request)
				}
				req.Header.Set(name, value)
				return next.HandleBuild(ctx, in)
			}), middleware.After)
	}
}
