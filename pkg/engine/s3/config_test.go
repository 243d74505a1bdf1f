package s3

import (
	"strings"
	"testing"
)

func TestParseURL(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		url  string
		want Config // the fields below only
		path bool
		err  string // part of the sentence
	}{
		{url: "s3://bucket", want: Config{Bucket: "bucket", Profile: AWS}},
		{url: "s3://bucket/", want: Config{Bucket: "bucket", Profile: AWS}},
		{url: "s3://bucket/a/b/", want: Config{Bucket: "bucket", Prefix: "a/b", Profile: AWS}},
		{url: "s3://bucket?region=eu-central-1", want: Config{Bucket: "bucket", Region: "eu-central-1", Profile: AWS}},
		{url: "s3://bucket?path_style=true", want: Config{Bucket: "bucket", Profile: AWS}, path: true},
		{url: "s3://bucket?endpoint=http://127.0.0.1:7070", want: Config{Bucket: "bucket", Endpoint: "http://127.0.0.1:7070", Profile: Generic}, path: true},
		{url: "s3://lake/p?endpoint=http%3A%2F%2Fgw%3A7070&region=&profile=versitygw&path_style=", want: Config{Bucket: "lake", Prefix: "p", Endpoint: "http://gw:7070", Profile: Versitygw}, path: true},
		{url: "s3://bucket?endpoint=https://s3.example.org&path_style=false", want: Config{Bucket: "bucket", Endpoint: "https://s3.example.org", Profile: Generic}},
		{url: "s3://bucket?endpoint=oss-cn-hangzhou&profile=oss", want: Config{Bucket: "bucket", Endpoint: "https://s3.oss-cn-hangzhou.aliyuncs.com", Region: "cn-hangzhou", Profile: OSS}},
		{url: "s3://bucket?endpoint=oss-cn-hangzhou-internal&profile=oss", want: Config{Bucket: "bucket", Endpoint: "https://s3.oss-cn-hangzhou-internal.aliyuncs.com", Region: "cn-hangzhou", Profile: OSS}},
		{url: "s3://bucket?endpoint=http://oss-ap-southeast-1.aliyuncs.com/&profile=oss", want: Config{Bucket: "bucket", Endpoint: "http://s3.oss-ap-southeast-1.aliyuncs.com", Region: "ap-southeast-1", Profile: OSS}},
		{url: "s3://bucket?endpoint=https://s3.oss-us-west-1.aliyuncs.com&profile=oss&region=oss-us-west-1", want: Config{Bucket: "bucket", Endpoint: "https://s3.oss-us-west-1.aliyuncs.com", Region: "oss-us-west-1", Profile: OSS}},

		{url: "", err: "write it as s3://"},
		{url: "://", err: "cannot be parsed"},
		{url: "redis://x", err: `scheme "redis"`},
		{url: "s3://", err: "bucket name is missing"},
		{url: "s3:///prefix", err: "bucket name is missing"},
		{url: "s3://a", err: "not valid"},
		{url: "s3://user:secret@bucket", err: "AWS_SECRET_ACCESS_KEY"},
		{url: "s3://bucket:7070", err: "endpoint="},
		{url: "s3://bucket/a#b", err: "fragment"},
		{url: "s3://bucket?bogus=1", err: `unknown setting "bogus"`},
		{url: "s3://bucket?Region=x", err: `unknown setting "Region"`},
		{url: "s3://bucket?secret_key=x", err: `unknown setting "secret_key"`},
		{url: "s3://bucket?region=a&region=b", err: "2 times"},
		{url: "s3://bucket?region=a;b", err: "malformed query"},
		{url: "s3://bucket?region=a%20b", err: "region"},
		{url: "s3://bucket?path_style=yes", err: "true or false"},
		{url: "s3://bucket?profile=minio&endpoint=http://h", err: "known are aws, generic, oss, versitygw"},
		{url: "s3://bucket?profile=versitygw", err: "needs an endpoint"},
		{url: "s3://bucket?profile=oss&endpoint=oss-cn-hangzhou&path_style=1", err: "virtual hosts only"},
		{url: "s3://bucket?profile=oss&endpoint=https://files.example.org", err: "add region="},
		{url: "s3://bucket?profile=oss&endpoint=http://10.0.0.1:80", err: "is an address"},
		{url: "s3://bucket?endpoint=127.0.0.1:7070", err: "not a URL"},
		{url: "s3://bucket?endpoint=gw:7070", err: "not a URL"},
		{url: "s3://bucket?endpoint=ftp://gw", err: "not a URL"},
		{url: "s3://bucket?endpoint=http://u:p@gw", err: "holds credentials"},
		{url: "s3://bucket?endpoint=http://gw/bucket", err: "more than a host"},
		{url: "s3://bucket?endpoint=http://10.0.0.1&path_style=false", err: "is an address"},
		{url: "s3://bucket/a//b", err: "empty"},
		{url: "s3://bucket/a/../b", err: ".."},
		{url: "s3://bucket/a%01", err: "character"},
		{url: "s3://bucket/%ff", err: "UTF-8"},
		{url: "s3://bucket/" + strings.Repeat("p", 257), err: "at most 256"},
	} {
		got, err := ParseURL(tc.url)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("ParseURL(%q) = %+v, %v, want an error with %q", tc.url, got, err, tc.err)
			}
			if err != nil && (strings.Contains(err.Error(), "secret@") || strings.Contains(err.Error(), "u:p@")) {
				t.Errorf("ParseURL(%q) repeats credentials: %v", tc.url, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("ParseURL(%q): %v", tc.url, err)
			continue
		}
		// What ParseURL gives may be resolved again, with the same result.
		got, err = got.resolve()
		if err != nil {
			t.Errorf("resolve %q: %v", tc.url, err)
			continue
		}
		if path := *got.PathStyle; path != tc.path {
			t.Errorf("ParseURL(%q) has path style %v, want %v", tc.url, path, tc.path)
		}
		if got.Bucket != tc.want.Bucket || got.Prefix != tc.want.Prefix || got.Endpoint != tc.want.Endpoint || got.Region != tc.want.Region || got.Profile != tc.want.Profile {
			t.Errorf("ParseURL(%q) = %+v, want %+v", tc.url, got, tc.want)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("s3://bucket/prefix?endpoint=http://127.0.0.1:7070&region=x&profile=versitygw&path_style=true")
	f.Add("s3://b?profile=oss&endpoint=oss-cn-hangzhou")
	f.Fuzz(func(t *testing.T, url string) {
		c, err := ParseURL(url)
		if err != nil {
			return
		}
		if r, err := c.resolve(); err != nil || r.Bucket == "" || r.PathStyle == nil {
			t.Errorf("ParseURL(%q) = %+v, which does not resolve: %v", url, c, err)
		}
	})
}
