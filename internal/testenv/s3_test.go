package testenv

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// key has what object keys of a lake have and URLs have not.
const key = "9bc6/(users/snap/0_0~1700000000_1.snap"

func put(ctx context.Context, s *S3Server, key string, body []byte, opts ...func(*s3.Options)) error {
	_, err := s.Client(opts...).PutObject(ctx, &s3.PutObjectInput{Bucket: &s.Bucket, Key: &key, Body: bytes.NewReader(body), IfNoneMatch: aws.String("*")})
	return err
}

func get(ctx context.Context, s *S3Server, key, span string) ([]byte, error) {
	in := &s3.GetObjectInput{Bucket: &s.Bucket, Key: &key}
	if span != "" {
		in.Range = &span
	}
	out, err := s.Client().GetObject(ctx, in)
	if err != nil {
		return nil, err
	}
	defer out.Body.Close()
	return io.ReadAll(out.Body)
}

func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// works runs what a lake asks of a store.
func works(t *testing.T, s *S3Server) {
	t.Helper()
	ctx := t.Context()
	body := bytes.Repeat([]byte("0123456789"), 1000)
	if err := put(ctx, s, key, body); err != nil {
		t.Fatal(err)
	}
	if err := put(ctx, s, key, []byte("other")); code(err) != "PreconditionFailed" {
		t.Errorf("second create-only put: got %v, want PreconditionFailed", err)
	}
	if got, err := get(ctx, s, key, ""); err != nil || !bytes.Equal(got, body) {
		t.Errorf("get: %d bytes, %v, want %d", len(got), err, len(body))
	}
	if got, err := get(ctx, s, key, "bytes=11-14"); err != nil || string(got) != "1234" {
		t.Errorf("range: got %q, %v, want %q", got, err, "1234")
	}
	if _, err := get(ctx, s, "none", ""); code(err) != "NoSuchKey" {
		t.Errorf("get of nothing: got %v, want NoSuchKey", err)
	}
	list, err := s.Client().ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &s.Bucket, Prefix: aws.String("9bc6/")})
	if err != nil || len(list.Contents) != 1 || *list.Contents[0].Key != key {
		t.Errorf("list: got %+v, %v, want %s", list, err, key)
	}

	var won atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			switch err := put(ctx, s, "race", body); {
			case err == nil:
				won.Add(1)
			case code(err) != "PreconditionFailed" && code(err) != "ConditionalRequestConflict":
				t.Errorf("racing put: %v", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d racers created one key, want 1", won.Load())
	}
}

func TestS3Fake(t *testing.T) {
	t.Parallel()
	works(t, S3Fake(t))
}

func TestS3FakeWrap(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	s := S3Fake(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if asked.Add(1) == 1 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	if err := put(t.Context(), s, key, nil); err != nil {
		t.Errorf("put that is retried: %v", err)
	}
	if got := asked.Load(); got != 2 {
		t.Errorf("requests: got %d, want the failed one and its repetition", got)
	}
}

func TestS3Versity(t *testing.T) {
	t.Parallel()
	s := S3Versity(t)
	works(t, &s.S3Server)

	wrong := s.S3Server
	wrong.SecretKey += "x"
	if err := put(t.Context(), &wrong, "k", nil); code(err) != "SignatureDoesNotMatch" {
		t.Errorf("wrong secret: got %v, want SignatureDoesNotMatch", err)
	}
	s.Kill()
	s.Start()
	if got, err := get(t.Context(), &s.S3Server, "race", "bytes=0-2"); err != nil || string(got) != "012" {
		t.Errorf("after a crash: got %q, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(s.Dir, s.Bucket, "race")); err != nil {
		t.Errorf("object as a file: %v", err)
	}
}

func TestS3Proxy(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	versity := S3Versity(t) // it verifies signatures, the fake does not
	p := S3Proxy(t, &versity.S3Server)
	works(t, &p.S3Server)

	p.Reset()
	door := p.Door("ingest-1")
	named := func(o *s3.Options) {
		o.APIOptions = append(o.APIOptions, smithyhttp.AddHeaderValue(CallerHeader, "ingest-2"))
	}
	for i, err := range []error{put(ctx, door, "a", nil), put(ctx, &p.S3Server, "b", nil, named), put(ctx, &p.S3Server, "c", nil)} {
		if err != nil {
			t.Fatalf("put %d: %v", i, err)
		}
	}
	if _, err := get(ctx, door, "b", ""); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		caller, method string
		want           int
	}{{"ingest-1", "PUT", 1}, {"ingest-1", "GET", 1}, {"ingest-1", "", 2}, {"ingest-2", "PUT", 1}, {"", "PUT", 1}, {"nobody", "", 0}} {
		if got := p.CountBy(c.caller, c.method); got != c.want {
			t.Errorf("CountBy(%q, %q): got %d, want %d", c.caller, c.method, got, c.want)
		}
	}
	if put, all := p.Count("PUT"), p.Count(""); put != 3 || all != 4 {
		t.Errorf("Count: got %d PUTs of %d requests, want 3 of 4", put, all)
	}

	const wait = 60 * time.Millisecond
	p.SetLatency("PUT", wait)
	begin := time.Now()
	if err := put(ctx, door, "slow", nil); err != nil || time.Since(begin) < wait {
		t.Errorf("put: %v after %v, want none after at least %v", err, time.Since(begin), wait)
	}
	p.SetLatency("", time.Hour)
	p.SetLatency("PUT", 0)
	if err := put(ctx, door, "fast", nil); err != nil {
		t.Errorf("put: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if _, err := get(short, door, "fast", ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("get behind an hour of latency: got %v, want %v", err, context.DeadlineExceeded)
	}

	p.SetLatency("", 0)
	versity.Kill()
	once := func(o *s3.Options) { o.RetryMaxAttempts = 1 }
	var res *smithyhttp.ResponseError
	if err := put(ctx, door, "x", nil, once); !errors.As(err, &res) || res.HTTPStatusCode() != http.StatusBadGateway {
		t.Errorf("target away: got %v, want 502", err)
	}
}
