package s3_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/s3"
)

const ossHost = "s3.oss-cn-hangzhou.aliyuncs.com"

// ossFake turns the path-style fake into what Aliyun documents of OSS: virtual
// hosts only, no If-None-Match on PutObject, no chunked encoding; create-only
// by a header that counts only when it is signed, and a code of its own for it.
// With versioning the header has no effect.
func ossFake(t *testing.T, versioning bool) wrap {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			bucket, ok := strings.CutSuffix(r.Host, "."+ossHost)
			if !ok {
				s3Error(w, http.StatusForbidden, "SecondLevelDomainForbidden")
				return
			}
			auth := r.Header.Get("Authorization")
			if !strings.Contains(auth, "/cn-hangzhou/s3/aws4_request") {
				t.Errorf("%s %s is signed for another region: %s", r.Method, r.URL, auth)
			}
			if r.Header.Get("If-None-Match") != "" || strings.Contains(r.Header.Get("Content-Encoding"), "aws-chunked") || len(r.TransferEncoding) > 0 {
				s3Error(w, http.StatusNotImplemented, "NotImplemented")
				return
			}
			if r.Method == http.MethodPut && !versioning {
				_, rest, _ := strings.Cut(auth, "SignedHeaders=")
				signed, _, _ := strings.Cut(rest, ",")
				if r.Header.Get("x-oss-forbid-overwrite") == "true" && strings.Contains(";"+signed+";", ";x-oss-forbid-overwrite;") {
					r.Header.Set("If-None-Match", "*")
				}
			}
			r.URL.Path = "/" + bucket + r.URL.Path
			r.URL.RawPath, r.Host = "", "127.0.0.1"
			next.ServeHTTP(&ossAnswer{ResponseWriter: w}, r)
		})
	}
}

// ossAnswer tells a failed create in OSS's words.
type ossAnswer struct {
	http.ResponseWriter
	muted bool
}

func (w *ossAnswer) WriteHeader(status int) {
	if status == http.StatusPreconditionFailed {
		w.muted = true
		w.Header().Del("Content-Length")
		s3Error(w.ResponseWriter, http.StatusConflict, "FileAlreadyExists")
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *ossAnswer) Write(b []byte) (int, error) {
	if w.muted {
		return len(b), nil
	}
	return w.ResponseWriter.Write(b)
}

// ossConfig reaches the fake under the names of the real service.
func ossConfig(t *testing.T, w ...wrap) s3.Config {
	srv := testenv.S3Fake(t, w...)
	addr := strings.TrimPrefix(srv.Endpoint, "http://")
	tr := &http.Transport{DialContext: func(ctx context.Context, network, host string) (net.Conn, error) {
		if !strings.HasSuffix(host, ".aliyuncs.com:80") {
			return nil, fmt.Errorf("%s was dialled", host)
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	c := configOf(srv)
	c.Endpoint, c.Region, c.Profile = "http://oss-cn-hangzhou.aliyuncs.com", "", s3.OSS
	c.HTTPClient = &http.Client{Transport: tr}
	return c
}

func TestOSS(t *testing.T) {
	t.Parallel()
	o := open(t, ossConfig(t, ossFake(t, false)))
	ctx := t.Context()
	if err := o.Put(ctx, "k", []byte("first")); err != nil {
		t.Fatal(err)
	}
	if err := o.Put(ctx, "k", []byte("second")); !errors.Is(err, engine.ErrExists) {
		t.Errorf("second put = %v, want %v", err, engine.ErrExists)
	}
	if got, err := o.Get(ctx, "k"); err != nil || string(got) != "first" {
		t.Errorf("get = %q, %v", got, err)
	}
}

// Another profile is not understood there, and says which one is meant.
func TestOSSWithoutItsProfile(t *testing.T) {
	t.Parallel()
	c := ossConfig(t, ossFake(t, false))
	c.Profile, c.Endpoint, c.Region = s3.Generic, "http://"+ossHost, "cn-hangzhou"
	virtual := false
	c.PathStyle = &virtual
	if _, err := s3.New(t.Context(), c); err == nil || !strings.Contains(err.Error(), "profile=") {
		t.Errorf("got %v, want a sentence on profile=", err)
	}
}

// On a bucket with versioning OSS ignores x-oss-forbid-overwrite in silence.
func TestOSSWithVersioningIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := s3.New(t.Context(), ossConfig(t, ossFake(t, true))); !errors.Is(err, s3.ErrRefused) {
		t.Errorf("got %v, want %v", err, s3.ErrRefused)
	}
}
