package lake_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/jsonlake/lake"
	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/disk"
)

func put(t *testing.T, l *lake.Lake, catalog string, v int) {
	t.Helper()
	_, err := l.Write(t.Context(), lake.WriteRequest{Catalog: catalog, Path: "/v", Body: fmt.Append(nil, v), MergeType: lake.MergeTypeReplace})
	if err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, l *lake.Lake, catalog, doc string) {
	t.Helper()
	b, err := lake.ReadBytes(t.Context(), l.List(t.Context(), catalog))
	if err != nil || string(b) != doc {
		t.Errorf("got %s (%v), want %s", b, err, doc)
	}
}

func open(t *testing.T, url string, opts ...lake.Option) *lake.Lake {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	l, err := lake.Open(ctx, url, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return l
}

// An embedded lake is there again after a close, also when its index is gone.
func TestOpenDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range 3 {
		l := open(t, "file://"+dir)
		if i > 0 {
			want(t, l, "c", fmt.Sprintf(`{"v":%d}`, i-1))
		}
		put(t, l, "c", i)
		if _, err := lake.Open(t.Context(), "file://"+dir); !errors.Is(err, disk.ErrLocked) {
			t.Errorf("a second open: got %v, want locked", err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// The index on Redis, the bucket in files and on S3, with the shared cache, and
// with everything said in lake.setting.
func TestOpenRedis(t *testing.T) {
	t.Parallel()
	r := testenv.Redis(t)
	cache := testenv.Redis(t, testenv.RedisCache())
	a := open(t, r.URL, lake.WithBucket("file://"+t.TempDir()), lake.WithSnapCacheMetaURL(cache.URL, time.Minute))
	put(t, a, "c", 1)
	want(t, a, "c", `{"v":1}`)
	if _, err := a.Fold(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	want(t, a, "c", `{"v":1}`)

	s := testenv.S3Fake(t)
	c := redis.NewClient(&redis.Options{Addr: r.Addr})
	defer c.Close()
	setting := fmt.Sprintf(`{"Name":"other","Storage":"s3","Bucket":%q,"Endpoint":%q,"Region":%q,"AccessKey":%q,"SecretKey":%q}`, s.Bucket, s.Endpoint, s.Region, s.AccessKey, s.SecretKey)
	if err := c.Set(t.Context(), "lake.setting", setting, 0).Err(); err != nil {
		t.Fatal(err)
	}
	warned := make(chan string, 1)
	b := open(t, r.URL, lake.WithOptions(engine.Options{Hooks: engine.Hooks{Trouble: func(_ string, err error) {
		select {
		case warned <- err.Error():
		default:
		}
	}}}))
	put(t, b, "c", 2)
	want(t, b, "c", `{"v":2}`)
	want(t, a, "c", `{"v":1}`) // another lake in the same Redis
	if got := <-warned; !strings.Contains(got, "plain text") {
		t.Errorf("got %q, want a warning about plain secrets", got)
	}
}

func TestOpenRefusals(t *testing.T) {
	t.Parallel()
	for url, says := range map[string]string{
		"postgres://localhost": "neither", "file://": "names no directory", "redis://127.0.0.1:1": "", "file://elsewhere/dir": "names no directory", ":": "not a URL",
	} {
		if _, err := lake.Open(t.Context(), url); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want %q", url, err, says)
		}
	}
	r := testenv.Redis(t)
	if _, err := lake.Open(t.Context(), r.URL); err == nil || !strings.Contains(err.Error(), "no bucket") {
		t.Errorf("got %v, want a word about the missing bucket", err)
	}
}

// Without WithStrictPending a list with a pending write reads what was
// committed; with it, that is an error.
func TestStrictPending(t *testing.T) {
	t.Parallel()
	r, dir := testenv.Redis(t), t.TempDir()
	relaxed := open(t, r.URL, lake.WithBucket("file://"+dir), lake.WithoutBackground())
	strict := open(t, r.URL, lake.WithBucket("file://"+dir), lake.WithoutBackground(), lake.WithStrictPending())
	put(t, relaxed, "c", 1)
	want(t, strict, "c", `{"v":1}`)
	p, err := lake.OpenParts(t.Context(), r.URL, lake.WithBucket("file://"+dir))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	seg := engine.SegmentID{Epoch: relaxed.Epoch(), Unix: time.Now().Unix(), Writer: "aaaaaaaa", N: 1}
	res, err := p.Index.PreCommit(t.Context(), engine.PreCommit{Epoch: relaxed.Epoch(), Segment: seg, Runs: []engine.Reserve{{Catalog: "c", N: 1, Type: lake.MergeTypeReplace, Path: "/v"}}})
	if err != nil || res.Runs[0].Err != nil {
		t.Fatal(err, res)
	}
	if l := relaxed.List(t.Context(), "c"); !l.HasPending || l.Err != nil {
		t.Errorf("got %+v, want a pending list without an error", l)
	}
	want(t, relaxed, "c", `{"v":1}`)
	if _, err := lake.ReadBytes(t.Context(), strict.List(t.Context(), "c")); !errors.Is(err, lake.ErrPendingWrites) {
		t.Errorf("got %v, want pending writes", err)
	}
}
