package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	lib "github.com/jsonlake/lake"
	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
)

var rebuildCatalogs = flag.Int("rebuild.catalogs", 0, "how many catalogs the rebuild tests write; 0: 5,000, and 1,000 where every object is a request")

// print is what stands in a catalog: its version and, where there is a document, a digest.
type print struct {
	version engine.Version
	sum     [sha256.Size]byte // zero: no document
}

// side does f for 0 to n−1, many at once, and stops at the first error. Writes that
// come together share segments: the more, the fewer puts.
func side(t *testing.T, n int, f func(ctx context.Context, i int) error) {
	t.Helper()
	ctx, stop := context.WithCancelCause(t.Context())
	defer stop(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, 512) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := f(ctx, i); err != nil {
					stop(fmt.Errorf("catalog %d: %w", i, err))
				}
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		t.Fatal(err)
	}
}

func catalogName(i int) string { return fmt.Sprintf("catalog-%06d", i) }

// populate writes n catalogs: of every merge type, patches that cannot apply, batches;
// some are folded, some of these written again, some deleted, with ids of their own.
func populate(t *testing.T, l *lib.Lake, n int) {
	t.Helper()
	side(t, n, func(ctx context.Context, i int) error {
		c := catalogName(i)
		writes := []engine.WriteRequest{
			{Catalog: c, MergeType: engine.MergeTypeReplace, Body: fmt.Appendf(nil, `{"n":%d,"name":"catalog %d","tags":["a","b",%d],"deep":{"x":{"y":null}}}`, i, i, i%7)},
			{Catalog: c, MergeType: engine.MergeTypeMergePatch, Body: fmt.Appendf(nil, `{"name":null,"deep":{"z":%d.50},"more":"ü%d"}`, i, i)},
			{Catalog: c, MergeType: engine.MergeTypeJSONPatch, Body: fmt.Appendf(nil, `[{"op":"test","path":"/n","value":%d},{"op":"add","path":"/tags/0","value":%d}]`, i+i%3/2, i)},
		}
		if i%10 == 0 {
			writes[0].ID = "first-" + c
		}
		for _, w := range writes {
			if _, err := l.Write(ctx, w); err != nil {
				return err
			}
		}
		if i%50 == 1 {
			if _, err := l.WriteBatch(ctx, engine.BatchRequest{Catalog: c, Deltas: []engine.WriteRequest{
				{Path: "/batch", MergeType: engine.MergeTypeReplace, Body: []byte(`[1]`)}, {Path: "/batch/more", MergeType: engine.MergeTypeReplace, Body: []byte(`2`)},
			}}); err != nil {
				return err
			}
		}
		if i%4 == 0 {
			if _, err := l.Fold(ctx, c); err != nil {
				return err
			}
		}
		switch {
		case i%16 == 4:
			_, err := l.Write(ctx, engine.WriteRequest{Catalog: c, MergeType: engine.MergeTypeDelete})
			return err
		case i%8 == 0:
			_, err := l.Write(ctx, engine.WriteRequest{Catalog: c, Path: "/after", MergeType: engine.MergeTypeReplace, Body: []byte(`true`)})
			return err
		}
		return nil
	})
}

// prints reads every catalog.
func prints(t *testing.T, l *lib.Lake, n int) []print {
	t.Helper()
	all := make([]print, n)
	side(t, n, func(ctx context.Context, i int) error {
		r, err := l.Read(ctx, engine.ReadRequest{Catalog: catalogName(i)})
		// 512 at once on a busy machine may hold up a lease or a reply: ask again, as it says.
		for try := 0; try < 20 && errors.Is(err, engine.ErrUnavailable); try++ {
			time.Sleep(500 * time.Millisecond)
			r, err = l.Read(ctx, engine.ReadRequest{Catalog: catalogName(i)})
		}
		if err != nil && !errors.Is(err, engine.ErrNotFound) {
			return err
		}
		all[i].version = r.Version
		if err == nil {
			all[i].sum = sha256.Sum256(r.Body)
		}
		return nil
	})
	return all
}

// rebuild writes a lake, loses its index, fills it again with `lake rebuild` and
// compares every document; `lake verify` has nothing to say then.
func rebuild(t *testing.T, n int, open func() *lib.Lake, lose func(), flags ...string) {
	t.Helper()
	if *rebuildCatalogs > 0 {
		n = *rebuildCatalogs
	}
	begin := time.Now()
	l := open()
	populate(t, l, n)
	t.Logf("%d catalogs written in %.1f s", n, time.Since(begin).Seconds())
	begin = time.Now()
	want := prints(t, l, n)
	t.Logf("read in %.1f s", time.Since(begin).Seconds())
	absent := 0
	for i, p := range want {
		if p.version.IsZero() {
			t.Fatalf("catalog %d has no version", i)
		}
		if p.sum == ([sha256.Size]byte{}) {
			absent++
		}
	}
	if absent != (n+11)/16 {
		t.Errorf("got %d deleted documents, want %d", absent, (n+11)/16)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	lose()

	var r struct {
		Epoch, Catalogs int
		Seconds         float64
		Steps           []struct {
			Step    string
			Seconds float64
		}
	}
	begin = time.Now()
	out := lake(t, append([]string{"rebuild", "--json", "--log-level", "warn"}, flags...)...)
	took := time.Since(begin)
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.Catalogs != n {
		t.Fatalf("rebuild printed %q (%v), want %d catalogs", out, err, n)
	}
	t.Logf("rebuilt %d catalogs in %.2f s (%.0f catalogs/s), with the start of the program and counting %.2f s", n, r.Seconds, float64(n)/r.Seconds, took.Seconds())
	for _, s := range r.Steps {
		t.Logf("  %-9s %6.2f s", s.Step, s.Seconds)
	}

	l = open()
	begin = time.Now()
	got := prints(t, l, n)
	differ := 0
	for i := range want {
		if got[i] != want[i] {
			if differ++; differ <= 10 {
				t.Errorf("%s: got %x at %s, want %x at %s", catalogName(i), got[i].sum, got[i].version, want[i].sum, want[i].version)
			}
		}
	}
	t.Logf("%d of %d documents differ, read in %.1f s", differ, n, time.Since(begin).Seconds())
	if w, err := l.Write(t.Context(), engine.WriteRequest{Catalog: catalogName(0), MergeType: engine.MergeTypeReplace, WriteOptions: engine.WriteOptions{ID: "first-" + catalogName(0)},
		Body: []byte(`{"n":0,"name":"catalog 0","tags":["a","b",0],"deep":{"x":{"y":null}}}`)}); err != nil || !w.Duplicate {
		t.Errorf("a write with an id of before: got %+v, %v, want a duplicate", w, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var v struct {
		engine.Verified
		Seconds  float64
		Findings []engine.Finding
	}
	out = lake(t, append([]string{"verify", "--json", "--log-level", "warn"}, flags...)...)
	if err := json.Unmarshal([]byte(out), &v); err != nil || v.Catalogs != n || v.Faults != 0 || v.Replayed != v.Snapshots || v.Snapshots == 0 {
		t.Errorf("verify printed %.2000q (%v), want no faults", out, err)
	}
	t.Logf("verified in %.1f s: %+v", v.Seconds, v.Verified)
}

// An embedded lake whose index directory is gone.
func TestRebuild(t *testing.T) {
	dir := t.TempDir()
	rebuild(t, 5000, func() *lib.Lake {
		l, err := lib.Open(t.Context(), lib.DirURL(dir), lib.WithoutBackground())
		if err != nil {
			t.Fatal(err)
		}
		return l
	}, func() {
		if err := os.RemoveAll(lib.IndexDir(dir)); err != nil {
			t.Fatal(err)
		}
	}, "--data", dir)
}

// A lake on Redis that was flushed, with its bucket in files.
func TestRebuildRedis(t *testing.T) {
	rebuildRedis(t, 5000, lib.DirURL(t.TempDir()))
}

// The same with the bucket in an S3 server.
func TestRebuildS3(t *testing.T) {
	s := testenv.S3Versity(t)
	t.Setenv("AWS_ACCESS_KEY_ID", s.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s.SecretKey)
	rebuildRedis(t, 1000, fmt.Sprintf("s3://%s?endpoint=%s&region=%s&profile=versitygw", s.Bucket, url.QueryEscape(s.Endpoint), s.Region))
}

func rebuildRedis(t *testing.T, n int, bucket string) {
	redis := testenv.Redis(t)
	rebuild(t, n, func() *lib.Lake {
		l, err := lib.Open(t.Context(), redis.URL, lib.WithBucket(bucket), lib.WithoutBackground())
		if err != nil {
			t.Fatal(err)
		}
		return l
	}, func() {
		if err := redis.Client(t).FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}, "--redis", redis.URL, "--s3", bucket)
}
