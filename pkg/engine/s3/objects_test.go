package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"go.uber.org/goleak"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/enginetest"
	"github.com/jsonlake/lake/pkg/engine/s3"
)

func TestMain(m *testing.M) {
	// Clients of the servers' own set-up keep idle connections of the default
	// transport; this package's are closed by Close.
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		http.DefaultClient.CloseIdleConnections()
	}))
}

// configOf is the Config of a test server; tests change what they need.
func configOf(srv *testenv.S3Server) s3.Config {
	return s3.Config{
		Bucket:      srv.Bucket,
		Endpoint:    srv.Endpoint,
		Region:      srv.Region,
		Credentials: credentials.NewStaticCredentialsProvider(srv.AccessKey, srv.SecretKey, ""),
	}
}

func open(tb testing.TB, c s3.Config) *s3.Objects {
	tb.Helper()
	o, err := s3.New(context.Background(), c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := o.Close(); err != nil {
			tb.Error(err)
		}
	})
	return o
}

// servers runs a test over the fake and over the real server.
func servers(t *testing.T, test func(t *testing.T, srv *testenv.S3Server)) {
	t.Helper()
	t.Run("gofakes3", func(t *testing.T) {
		t.Parallel()
		test(t, testenv.S3Fake(t))
	})
	t.Run("versitygw", func(t *testing.T) {
		t.Parallel()
		test(t, &testenv.S3Versity(t).S3Server)
	})
}

func keysOf(t *testing.T, o engine.Objects, prefix, after string) []string {
	t.Helper()
	var keys []string
	for info, err := range o.List(t.Context(), prefix, after) {
		if err != nil {
			t.Fatalf("list %q after %q: %v", prefix, after, err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

func TestObjects(t *testing.T) {
	t.Parallel()
	t.Run("gofakes3", func(t *testing.T) {
		t.Parallel()
		enginetest.TestObjects(t, func(t *testing.T) engine.Objects { return open(t, configOf(testenv.S3Fake(t))) })
	})
	// One gateway: each case has a folder of its own in its bucket.
	t.Run("versitygw", func(t *testing.T) {
		t.Parallel()
		srv := testenv.S3Versity(t)
		var n atomic.Int64
		enginetest.TestObjects(t, func(t *testing.T) engine.Objects {
			c := configOf(&srv.S3Server)
			c.Profile, c.Prefix = s3.Versitygw, fmt.Sprintf("case-%d", n.Add(1))
			return open(t, c)
		})
	})
	t.Run("oss fake", func(t *testing.T) {
		t.Parallel()
		enginetest.TestObjects(t, func(t *testing.T) engine.Objects { return open(t, ossConfig(t, ossFake(t, false))) })
	})
}

func TestOpenByURL(t *testing.T) {
	srv := testenv.S3Versity(t)
	t.Setenv("AWS_ACCESS_KEY_ID", srv.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", srv.SecretKey)
	t.Setenv("AWS_CONFIG_FILE", t.TempDir()+"/none")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", t.TempDir()+"/none")
	for _, url := range []string{
		"s3://lake?endpoint=" + srv.Endpoint,
		"s3://lake/some/folder?endpoint=" + srv.Endpoint + "&profile=versitygw&region=us-east-1&path_style=true",
	} {
		o, err := s3.Open(t.Context(), url)
		if err != nil {
			t.Fatalf("open %s: %v", url, err)
		}
		if err := o.Put(t.Context(), "k", []byte("v")); err != nil {
			t.Errorf("put after open %s: %v", url, err)
		}
		if got, want := o.String(), strings.TrimSuffix(strings.Split(url, "?")[0], "/")+" at "+srv.Endpoint; got != want {
			t.Errorf("String() = %q, want %q", got, want)
		}
		o.Close()
	}
	t.Run("endpoint from the environment", func(t *testing.T) {
		t.Setenv("AWS_ENDPOINT_URL_S3", srv.Endpoint)
		o, err := s3.Open(t.Context(), "s3://lake")
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		if got, err := o.Get(t.Context(), "k"); err != nil || string(got) != "v" {
			t.Errorf("get = %q, %v", got, err)
		}
	})
	t.Run("unknown setting", func(t *testing.T) {
		if _, err := s3.Open(t.Context(), "s3://lake?endpiont="+srv.Endpoint); err == nil || !strings.Contains(err.Error(), `"endpiont"`) {
			t.Errorf("got %v, want the unknown setting named", err)
		}
	})
	t.Run("no region", func(t *testing.T) {
		if _, err := s3.Open(t.Context(), "s3://lake"); err == nil || !strings.Contains(err.Error(), "region=") {
			t.Errorf("got %v, want a sentence on region=", err)
		}
	})
	t.Run("no role on AWS", func(t *testing.T) {
		t.Setenv("AWS_ACCESS_KEY_ID", "")
		t.Setenv("AWS_SECRET_ACCESS_KEY", "")
		t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", fmt.Sprintf("http://127.0.0.1:%d", testenv.FreePort(t)))
		if _, err := s3.Open(t.Context(), "s3://lake?region=eu-central-1"); !errors.Is(err, engine.ErrUnavailable) || !strings.Contains(err.Error(), "set AWS_ACCESS_KEY_ID") {
			t.Errorf("got %v, want a sentence on AWS_ACCESS_KEY_ID", err)
		}
	})
	t.Run("no credentials", func(t *testing.T) {
		t.Setenv("AWS_ACCESS_KEY_ID", "")
		t.Setenv("AWS_SECRET_ACCESS_KEY", "")
		if _, err := s3.Open(t.Context(), "s3://lake?endpoint="+srv.Endpoint); err == nil || !strings.Contains(err.Error(), "set AWS_ACCESS_KEY_ID") {
			t.Errorf("got %v, want a sentence on AWS_ACCESS_KEY_ID", err)
		}
	})
}

// A folder is a lake of its own: keys of another one, or beside it, are not seen.
func TestPrefix(t *testing.T) {
	t.Parallel()
	servers(t, func(t *testing.T, srv *testenv.S3Server) {
		ctx := t.Context()
		root := open(t, configOf(srv))
		c := configOf(srv)
		c.Prefix = "/prod/"
		prod := open(t, c)
		for _, key := range []string{"wal/1", "wal/2", "x"} {
			if err := prod.Put(ctx, key, []byte(key)); err != nil {
				t.Fatal(err)
			}
		}
		if err := root.Put(ctx, "production", nil); err != nil {
			t.Fatal(err)
		}
		if got, want := keysOf(t, prod, "", ""), []string{"wal/1", "wal/2", "x"}; !slices.Equal(got, want) {
			t.Errorf("list of the folder = %q, want %q", got, want)
		}
		if got, want := keysOf(t, prod, "wal/", "wal/1"), []string{"wal/2"}; !slices.Equal(got, want) {
			t.Errorf("list of the folder after a key = %q, want %q", got, want)
		}
		if got, want := keysOf(t, root, "prod/", ""), []string{"prod/wal/1", "prod/wal/2", "prod/x"}; !slices.Equal(got, want) {
			t.Errorf("list of the bucket = %q, want %q", got, want)
		}
		if got, err := root.Get(ctx, "prod/wal/2"); err != nil || string(got) != "wal/2" {
			t.Errorf("get = %q, %v", got, err)
		}
	})
}

// More objects than a page of a listing holds.
func TestListPages(t *testing.T) {
	t.Parallel()
	servers(t, func(t *testing.T, srv *testenv.S3Server) {
		ctx := t.Context()
		o := open(t, configOf(srv))
		const n = 2100
		want := make([]string, n)
		var wg sync.WaitGroup
		next := make(chan string)
		for range 16 {
			wg.Go(func() {
				for key := range next {
					if err := o.Put(ctx, key, []byte(key)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		for i := range want {
			want[i] = fmt.Sprintf("wal/000001/%010d-abcdefgh-%08d.seg", 1700000000+i/10, i)
			next <- want[i]
		}
		close(next)
		wg.Wait()
		if got := keysOf(t, o, "wal/", ""); !slices.Equal(got, want) {
			t.Errorf("list has %d keys, want %d in order", len(got), n)
		}
		if got := keysOf(t, o, "wal/", want[999]); !slices.Equal(got, want[1000:]) {
			t.Errorf("list after key 1000 has %d keys, want %d", len(got), n-1000)
		}
		if got := keysOf(t, o, "wal/", "wal/000001/1700000001"); !slices.Equal(got, want[10:]) {
			t.Errorf("list after no key of its own has %d keys, want %d", len(got), n-10)
		}
		seen := 0
		for _, err := range o.List(ctx, "wal/", "") {
			if err != nil {
				t.Fatal(err)
			}
			if seen++; seen == 3 {
				break
			}
		}
		if seen != 3 {
			t.Errorf("a listing that was left gave %d keys, want 3", seen)
		}
	})
}

func TestRanges(t *testing.T) {
	t.Parallel()
	servers(t, func(t *testing.T, srv *testenv.S3Server) {
		ctx := t.Context()
		o := open(t, configOf(srv))
		data := bytes.Repeat([]byte("0123456789"), 30_000)
		if err := o.Put(ctx, "big", data); err != nil {
			t.Fatal(err)
		}
		if err := o.Put(ctx, "empty", []byte{}); err != nil {
			t.Fatal(err)
		}
		size := int64(len(data))
		for _, tc := range []struct {
			key      string
			off, len int64
			err      error
		}{
			{"big", 0, 1, nil},
			{"big", 5, 7, nil},
			{"big", size - 1, 1, nil},
			{"big", 0, size, nil},
			{"big", 70_001, 200_000, nil},
			{"big", 17, 0, nil},
			{"big", size, 0, nil},
			{"big", size + 1, 0, engine.ErrDamaged},
			{"big", size - 1, 2, engine.ErrDamaged},
			{"big", size, 1, engine.ErrDamaged},
			{"big", 1 << 40, 1, engine.ErrDamaged},
			{"big", 0, size + 1, engine.ErrDamaged},
			{"big", 0, 400 << 20, engine.ErrDamaged},
			{"big", 0, 1 << 40, engine.ErrDamaged},
			{"big", 1, 1<<63 - 1, engine.ErrDamaged},
			{"big", 1<<63 - 1, 1<<63 - 1, engine.ErrDamaged},
			{"empty", 0, 0, nil},
			{"empty", 0, 1, engine.ErrDamaged},
			{"missing", 0, 1, engine.ErrNotExist},
			{"missing", 0, 0, engine.ErrNotExist},
		} {
			got, err := o.GetRange(ctx, tc.key, tc.off, tc.len)
			if tc.err != nil {
				if !errors.Is(err, tc.err) || !strings.Contains(err.Error(), tc.key) {
					t.Errorf("GetRange(%s, %d, %d) = %v, want %v", tc.key, tc.off, tc.len, err, tc.err)
				}
				continue
			}
			var want []byte
			if tc.key == "big" {
				want = data[tc.off : tc.off+tc.len]
			}
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("GetRange(%s, %d, %d) = %d bytes, %v, want %d bytes", tc.key, tc.off, tc.len, len(got), err, tc.len)
			}
		}
		for _, tc := range [][2]int64{{-1, 1}, {0, -1}, {-1 << 63, 10}} {
			if _, err := o.GetRange(ctx, "big", tc[0], tc[1]); err == nil {
				t.Errorf("GetRange(big, %d, %d) gives no error", tc[0], tc[1])
			}
		}
	})
}

func TestLimits(t *testing.T) {
	t.Parallel()
	srv := testenv.S3Fake(t)
	c := configOf(srv)
	big := open(t, c)
	c.MaxObjectSize = 1000
	small := open(t, c)
	ctx := t.Context()
	if err := small.Put(ctx, "k", make([]byte, 1001)); !errors.Is(err, engine.ErrTooLarge) {
		t.Errorf("put of 1001 bytes = %v, want %v", err, engine.ErrTooLarge)
	}
	if err := big.Put(ctx, "k", make([]byte, 1001)); err != nil {
		t.Fatal(err)
	}
	if _, err := small.Get(ctx, "k"); !errors.Is(err, engine.ErrTooLarge) {
		t.Errorf("get of 1001 bytes = %v, want %v", err, engine.ErrTooLarge)
	}
	if _, err := small.GetRange(ctx, "k", 0, 1001); !errors.Is(err, engine.ErrTooLarge) {
		t.Errorf("range of 1001 bytes = %v, want %v", err, engine.ErrTooLarge)
	}
	if _, err := small.GetRange(ctx, "k", 1, 2000); !errors.Is(err, engine.ErrDamaged) {
		t.Errorf("range of 2000 bytes = %v, want %v", err, engine.ErrDamaged)
	}
	for _, key := range []string{"", strings.Repeat("k", 1025)} {
		if err := big.Put(ctx, key, nil); err == nil {
			t.Errorf("put under a key of %d bytes gives no error", len(key))
		}
		if _, err := big.Get(ctx, key); err == nil || errors.Is(err, engine.ErrNotExist) {
			t.Errorf("get of a key of %d bytes = %v", len(key), err)
		}
		if _, err := big.GetRange(ctx, key, 0, 0); err == nil || errors.Is(err, engine.ErrNotExist) {
			t.Errorf("range of a key of %d bytes = %v", len(key), err)
		}
		if err := big.Delete(ctx, key); err == nil {
			t.Errorf("delete of a key of %d bytes gives no error", len(key))
		}
	}
}

// Every put goes out in one piece with its length, create-only, and without the
// optional checksums that look-alikes refuse.
func TestPutOnTheWire(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var puts []*http.Request
	srv := testenv.S3Fake(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut {
				mu.Lock()
				puts = append(puts, r.Clone(context.Background()))
				mu.Unlock()
			}
			next.ServeHTTP(w, r)
		})
	})
	c := configOf(srv)
	c.WithoutProbe = true
	o := open(t, c)
	for _, size := range []int{0, 1, 3 << 20} {
		if err := o.Put(t.Context(), fmt.Sprintf("k%d", size), make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		r := puts[len(puts)-1]
		mu.Unlock()
		if r.ContentLength != int64(size) || len(r.TransferEncoding) > 0 || r.Header.Get("Content-Encoding") != "" {
			t.Errorf("put of %d bytes: length %d, transfer %v, encoding %q", size, r.ContentLength, r.TransferEncoding, r.Header.Get("Content-Encoding"))
		}
		if got := r.Header.Get("If-None-Match"); got != "*" {
			t.Errorf("put of %d bytes: If-None-Match %q, want *", size, got)
		}
		if !strings.Contains(r.Header.Get("Authorization"), "if-none-match") {
			t.Errorf("put of %d bytes: If-None-Match is not signed: %s", size, r.Header.Get("Authorization"))
		}
		for name := range r.Header {
			if strings.HasPrefix(name, "X-Amz-Checksum") || strings.HasPrefix(name, "X-Amz-Trailer") {
				t.Errorf("put of %d bytes carries %s", size, name)
			}
		}
	}
}

// With many puts at once the connections are kept.
func TestConnectionsAreReused(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	remotes := map[string]bool{}
	srv := testenv.S3Fake(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			remotes[r.RemoteAddr] = true
			mu.Unlock()
			next.ServeHTTP(w, r)
		})
	})
	o := open(t, configOf(srv))
	const workers, rounds = 64, 5
	for round := range rounds {
		var wg sync.WaitGroup
		for i := range workers {
			wg.Go(func() {
				if err := o.Put(t.Context(), fmt.Sprintf("r%d/k%d", round, i), []byte("x")); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	mu.Lock()
	defer mu.Unlock()
	if len(remotes) > workers+10 {
		t.Errorf("%d puts over %d workers opened %d connections", workers*rounds, workers, len(remotes))
	}
}

// What is handed out belongs to the caller, what was handed in is not kept.
func TestBytesAreNotShared(t *testing.T) {
	t.Parallel()
	o := open(t, configOf(testenv.S3Fake(t)))
	data := []byte("before")
	if err := o.Put(t.Context(), "k", data); err != nil {
		t.Fatal(err)
	}
	copy(data, "after!")
	got, err := o.Get(t.Context(), "k")
	if err != nil || string(got) != "before" {
		t.Fatalf("get = %q, %v", got, err)
	}
	copy(got, "after!")
	if got, err = o.Get(t.Context(), "k"); err != nil || string(got) != "before" {
		t.Errorf("get = %q, %v", got, err)
	}
}

var _ io.Closer = (*s3.Objects)(nil)
