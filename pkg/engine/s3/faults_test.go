package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/s3"
)

type wrap = func(http.Handler) http.Handler

func s3Error(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("X-Amz-Request-Id", "REQ1")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>no</Message><RequestId>REQ1</RequestId></Error>`, code)
}

// answer makes a server that says the same to every request.
func answer(h http.HandlerFunc) wrap {
	return func(http.Handler) http.Handler { return h }
}

// unprobed opens a bucket behind wrap without the start-up probe.
func unprobed(t *testing.T, change func(*s3.Config), w ...wrap) *s3.Objects {
	t.Helper()
	c := configOf(testenv.S3Fake(t, w...))
	c.WithoutProbe = true
	if change != nil {
		change(&c)
	}
	return open(t, c)
}

// each runs every method and gives the errors by name.
func each(ctx context.Context, o *s3.Objects) map[string]error {
	errs := map[string]error{}
	errs["put"] = o.Put(ctx, "k", []byte("v"))
	_, errs["get"] = o.Get(ctx, "k")
	_, errs["range"] = o.GetRange(ctx, "k", 0, 1)
	errs["delete"] = o.Delete(ctx, "k")
	for _, err := range o.List(ctx, "", "") {
		errs["list"] = err
	}
	return errs
}

// What a store refuses is told with the next step, and is not taken for a
// missing object or for something that passes.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		status int
		code   string
		want   string
	}{
		{403, "AccessDenied", "s3:ListBucket"},
		{403, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"},
		{403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"},
		{403, "RequestTimeTooSkewed", "clock"},
		{404, "NoSuchBucket", "create it"},
		{301, "PermanentRedirect", "region="},
		{400, "AuthorizationHeaderMalformed", "region="},
		{501, "NotImplemented", "profile="},
		{400, "InvalidArgument", "InvalidArgument"},
	} {
		t.Run(tc.code, func(t *testing.T) {
			t.Parallel()
			o := unprobed(t, nil, answer(func(w http.ResponseWriter, r *http.Request) { s3Error(w, tc.status, tc.code) }))
			for op, err := range each(t.Context(), o) {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("%s: got %v, want a sentence with %q", op, err, tc.want)
				}
				for _, not := range []error{engine.ErrNotExist, engine.ErrExists, engine.ErrUnavailable, engine.ErrDamaged} {
					if errors.Is(err, not) {
						t.Errorf("%s: got %v, which is %v", op, err, not)
					}
				}
			}
		})
	}
}

// A proxy's 404 is not the store's word that an object does not exist.
func TestForeignNotFound(t *testing.T) {
	t.Parallel()
	o := unprobed(t, nil, answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, "<html>no such site</html>")
	}))
	for op, err := range each(t.Context(), o) {
		if err == nil || errors.Is(err, engine.ErrNotExist) || !strings.Contains(err.Error(), "is it an S3 server?") {
			t.Errorf("%s: got %v, want the doubt that this is an S3 server", op, err)
		}
	}
}

// Refusals of the real server, which checks signatures.
func TestRealRefusals(t *testing.T) {
	t.Parallel()
	srv := testenv.S3Versity(t)
	for _, tc := range []struct {
		name   string
		change func(*s3.Config)
		want   string
	}{
		{"bucket", func(c *s3.Config) { c.Bucket = "nowhere" }, "bucket nowhere does not exist"},
		{"access key", func(c *s3.Config) {
			c.Credentials = credentials.NewStaticCredentialsProvider("nobody", srv.SecretKey, "")
		}, "AWS_ACCESS_KEY_ID"},
		{"secret key", func(c *s3.Config) {
			c.Credentials = credentials.NewStaticCredentialsProvider(srv.AccessKey, "wrong", "")
		}, "AWS_SECRET_ACCESS_KEY"},
	} {
		c := configOf(&srv.S3Server)
		tc.change(&c)
		if o, err := s3.New(t.Context(), c); err == nil || !strings.Contains(err.Error(), tc.want) || errors.Is(err, s3.ErrRefused) {
			t.Errorf("%s: got %v, %v, want a sentence with %q", tc.name, o, err, tc.want)
		}
	}
}

// What may pass is retried, and after that ErrUnavailable.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]http.HandlerFunc{
		"SlowDown":      func(w http.ResponseWriter, r *http.Request) { s3Error(w, 503, "SlowDown") },
		"InternalError": func(w http.ResponseWriter, r *http.Request) { s3Error(w, 500, "InternalError") },
		"bare 502":      func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(502) },
		"429":           func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(429) },
		"reset":         func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var n atomic.Int64
			o := unprobed(t, nil, answer(func(w http.ResponseWriter, r *http.Request) { n.Add(1); h(w, r) }))
			err := o.Put(t.Context(), "k", []byte("v"))
			if !errors.Is(err, engine.ErrUnavailable) || errors.Is(err, engine.ErrExists) {
				t.Errorf("put: got %v, want %v", err, engine.ErrUnavailable)
			}
			if got := n.Load(); got != 4 {
				t.Errorf("put took %d requests, want 4", got)
			}
			if _, err := o.Get(t.Context(), "k"); !errors.Is(err, engine.ErrUnavailable) {
				t.Errorf("get: got %v, want %v", err, engine.ErrUnavailable)
			}
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		t.Parallel()
		o := unprobed(t, func(c *s3.Config) { c.Endpoint = fmt.Sprintf("http://127.0.0.1:%d", testenv.FreePort(t)) })
		for op, err := range each(t.Context(), o) {
			if !errors.Is(err, engine.ErrUnavailable) {
				t.Errorf("%s: got %v, want %v", op, err, engine.ErrUnavailable)
			}
		}
	})
}

// failFirst gives the first n requests of a method to h.
func failFirst(method string, n int64, h func(next http.Handler, w http.ResponseWriter, r *http.Request)) wrap {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == method && atomic.AddInt64(&n, -1) >= 0 {
				h(next, w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

func TestPassingFaults(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]func(next http.Handler, w http.ResponseWriter, r *http.Request){
		"SlowDown": func(_ http.Handler, w http.ResponseWriter, r *http.Request) { s3Error(w, 503, "SlowDown") },
		"ConditionalRequestConflict": func(_ http.Handler, w http.ResponseWriter, r *http.Request) {
			s3Error(w, 409, "ConditionalRequestConflict")
		},
		"OperationAborted": func(_ http.Handler, w http.ResponseWriter, r *http.Request) { s3Error(w, 409, "OperationAborted") },
		"reset":            func(http.Handler, http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := unprobed(t, nil, failFirst(http.MethodPut, 2, h))
			body := bytes.Repeat([]byte("body"), 100_000)
			if err := o.Put(t.Context(), "k", body); err != nil {
				t.Fatalf("put: %v", err)
			}
			if got, err := o.Get(t.Context(), "k"); err != nil || !bytes.Equal(got, body) {
				t.Errorf("get = %d bytes, %v, want the %d that were put: the repeated body must be whole", len(got), err, len(body))
			}
		})
	}
}

// A conflict that outlives its retries is unknown, never "exists".
func TestEndlessConflict(t *testing.T) {
	t.Parallel()
	o := unprobed(t, nil, answer(func(w http.ResponseWriter, r *http.Request) { s3Error(w, 409, "ConditionalRequestConflict") }))
	if err := o.Put(t.Context(), "k", nil); !errors.Is(err, engine.ErrUnavailable) || errors.Is(err, engine.ErrExists) {
		t.Errorf("got %v, want %v", err, engine.ErrUnavailable)
	}
}

// The SDK's own retry meets its own success: the put succeeded, its answer got
// lost. ErrExists comes back, and the object is there for the caller to compare.
func TestExistsAfterOwnRetry(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(w http.ResponseWriter){
		"answer lost": func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"500 instead": func(w http.ResponseWriter) { s3Error(w, 500, "InternalError") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := unprobed(t, nil, failFirst(http.MethodPut, 1, func(next http.Handler, w http.ResponseWriter, r *http.Request) {
				next.ServeHTTP(httptest.NewRecorder(), r)
				lose(w)
			}))
			if err := o.Put(t.Context(), "k", []byte("mine")); !errors.Is(err, engine.ErrExists) {
				t.Fatalf("got %v, want %v", err, engine.ErrExists)
			}
			if got, err := o.Get(t.Context(), "k"); err != nil || string(got) != "mine" {
				t.Errorf("get = %q, %v, want what was put", got, err)
			}
		})
	}
}

// cutBody ends the connection in the middle of every answered body, n times.
func cutBody(n int64) wrap {
	return failFirst(http.MethodGet, n, func(next http.Handler, w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.Header().Set("Content-Length", strconv.Itoa(rec.Body.Len()))
		w.WriteHeader(rec.Code)
		w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
}

func TestCutBody(t *testing.T) {
	t.Parallel()
	body := bytes.Repeat([]byte("0123456789"), 20_000)
	t.Run("passes", func(t *testing.T) {
		t.Parallel()
		o := unprobed(t, nil, cutBody(2))
		if err := o.Put(t.Context(), "k", body); err != nil {
			t.Fatal(err)
		}
		if got, err := o.Get(t.Context(), "k"); err != nil || !bytes.Equal(got, body) {
			t.Errorf("get after two cuts = %d bytes, %v, want %d", len(got), err, len(body))
		}
	})
	t.Run("stays", func(t *testing.T) {
		t.Parallel()
		o := unprobed(t, nil, cutBody(1<<40))
		if err := o.Put(t.Context(), "k", body); err != nil {
			t.Fatal(err)
		}
		if got, err := o.Get(t.Context(), "k"); !errors.Is(err, engine.ErrUnavailable) || got != nil {
			t.Errorf("get = %d bytes, %v, want %v and none", len(got), err, engine.ErrUnavailable)
		}
		if got, err := o.GetRange(t.Context(), "k", 10, 100_000); !errors.Is(err, engine.ErrUnavailable) || got != nil {
			t.Errorf("range = %d bytes, %v, want %v and none", len(got), err, engine.ErrUnavailable)
		}
		for info, err := range o.List(t.Context(), "", "") {
			if err == nil {
				t.Errorf("list from a cut page gave %v", info)
			}
		}
	})
}

// A store that answers a range with something else is found out.
func TestLyingRanges(t *testing.T) {
	t.Parallel()
	ranged := func(contentRange string, n int) wrap {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodGet {
					next.ServeHTTP(w, r)
					return
				}
				w.Header().Set("Content-Range", contentRange)
				w.WriteHeader(http.StatusPartialContent)
				w.Write(make([]byte, n))
			})
		}
	}
	for _, tc := range []struct {
		name string
		wrap wrap
		want error // nil: any
	}{
		{"other start", ranged("bytes 0-9/100", 10), nil},
		{"shorter", ranged("bytes 10-14/15", 5), engine.ErrDamaged},
		{"shorter than it says", ranged("bytes 10-19/100", 5), nil},
		{"longer", ranged("bytes 10-29/100", 20), nil},
		{"nonsense", ranged("a to b", 10), nil},
		{"past the end", ranged("bytes 10-19/12", 10), nil},
		{"ignored", func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.Header.Del("Range")
				next.ServeHTTP(w, r)
			})
		}, s3.ErrRefused},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			o := unprobed(t, nil, tc.wrap)
			if err := o.Put(t.Context(), "k", make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
			got, err := o.GetRange(t.Context(), "k", 10, 10)
			if err == nil || got != nil || tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("got %d bytes, %v, want an error (%v)", len(got), err, tc.want)
			}
		})
	}
}

// An answer without a length cannot be told from a cut one.
func TestLengthUnknown(t *testing.T) {
	t.Parallel()
	o := unprobed(t, nil, answer(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("part"))
		w.(http.Flusher).Flush()
		w.Write([]byte(" and part"))
	}))
	if got, err := o.Get(t.Context(), "k"); err == nil || got != nil || !strings.Contains(err.Error(), "length") {
		t.Errorf("got %q, %v, want an error on the length", got, err)
	}
}

// A listing is complete and in order, or an error.
func TestLyingLists(t *testing.T) {
	t.Parallel()
	page := func(truncated bool, token string, keys ...string) string {
		var b strings.Builder
		fmt.Fprintf(&b, `<?xml version="1.0"?><ListBucketResult><IsTruncated>%v</IsTruncated><NextContinuationToken>%s</NextContinuationToken>`, truncated, token)
		for _, k := range keys {
			fmt.Fprintf(&b, "<Contents><Key>%s</Key><Size>1</Size></Contents>", k)
		}
		return b.String() + "</ListBucketResult>"
	}
	for name, body := range map[string]string{
		"out of order":       page(false, "", "wal/2", "wal/1"),
		"twice":              page(false, "", "wal/1", "wal/1"),
		"truncated, no way":  page(true, "", "wal/1"),
		"the same page ever": page(true, "t", "wal/1"),
		"empty pages ever":   page(true, "t"),
		"another prefix":     page(false, "", "other"),
		"not XML":            "hello",
		"half a page":        page(false, "", "wal/1")[:150],
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := unprobed(t, nil, answer(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, body) }))
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			var last error
			n := 0
			for _, err := range o.List(ctx, "wal/", "") {
				if n++; last != nil {
					t.Fatalf("the listing goes on after %v", last)
				}
				last = err
			}
			if last == nil || ctx.Err() != nil {
				t.Errorf("%d results, then %v, want an error at once", n, last)
			}
		})
	}
}

// A server that hangs costs a deadline, the package's own or the caller's.
func TestHangs(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	hang := answer(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	t.Run("own deadline", func(t *testing.T) {
		t.Parallel()
		o := unprobed(t, func(c *s3.Config) { c.GetTimeout, c.PutTimeout = 100*time.Millisecond, 100*time.Millisecond }, hang)
		for op, err := range each(t.Context(), o) {
			if !errors.Is(err, engine.ErrUnavailable) {
				t.Errorf("%s: got %v, want %v", op, err, engine.ErrUnavailable)
			}
		}
	})
	t.Run("caller's deadline", func(t *testing.T) {
		t.Parallel()
		o := unprobed(t, nil, hang)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		for op, err := range each(ctx, o) {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: got %v, want %v", op, err, context.DeadlineExceeded)
			}
		}
	})
	t.Run("body stalls", func(t *testing.T) {
		t.Parallel()
		o := unprobed(t, func(c *s3.Config) { c.GetTimeout = 100 * time.Millisecond }, answer(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.Write([]byte("part"))
			w.(http.Flusher).Flush()
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}))
		if got, err := o.Get(t.Context(), "k"); !errors.Is(err, engine.ErrUnavailable) || got != nil {
			t.Errorf("got %q, %v, want %v", got, err, engine.ErrUnavailable)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		t.Parallel()
		o := unprobed(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for op, err := range each(ctx, o) {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: got %v, want %v", op, err, context.Canceled)
			}
		}
	})
}
