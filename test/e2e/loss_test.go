package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	lib "github.com/jsonlake/lake"
	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
)

// segmentFiles lists the segments of a bucket in files, oldest first.
func segmentFiles(t *testing.T, objects string) (keys []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(objects, "wal"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".seg") {
			key, rerr := filepath.Rel(objects, path)
			if rerr != nil {
				return rerr
			}
			keys = append(keys, filepath.ToSlash(key))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// flipByte damages a file in its middle.
func flipByte(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

const lossCatalogs = 4

// fillForLoss writes catalogs of two runs each, every run in a segment of its own;
// the first run of the even ones is folded.
func fillForLoss(t *testing.T, l interface {
	Write(context.Context, engine.WriteRequest) (engine.WriteResult, error)
	Fold(context.Context, string) (engine.FoldResult, error)
}) {
	t.Helper()
	for i := range lossCatalogs {
		c := fmt.Sprintf("loss-%d", i)
		for _, path := range []string{"/first", "/second"} {
			if _, err := l.Write(t.Context(), engine.WriteRequest{Catalog: c, Path: path, MergeType: engine.MergeTypeReplace, Body: fmt.Append(nil, i)}); err != nil {
				t.Fatal(err)
			}
			if path == "/first" && i%2 == 0 {
				if _, err := l.Fold(t.Context(), c); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// wantLoss reads what fillForLoss has written, of which "loss-1" has lost its first run.
func wantLoss(t *testing.T, when string, l interface {
	Read(context.Context, engine.ReadRequest) (engine.ReadResult, error)
}) {
	t.Helper()
	for i := range lossCatalogs {
		want := fmt.Sprintf(`{"first":%d,"second":%d}`, i, i)
		if i == 1 {
			want = `{"second":1}`
		}
		r, err := l.Read(t.Context(), engine.ReadRequest{Catalog: fmt.Sprintf("loss-%d", i)})
		if err != nil || string(r.Body) != want {
			t.Errorf("%s: catalog %d: got %s, %v, want %s", when, i, r.Body, err, want)
		}
	}
}

// hurtForLoss damages the first segments of "loss-0" and "loss-1".
func hurtForLoss(t *testing.T, objects string) (folded, lost string) {
	t.Helper()
	keys := segmentFiles(t, objects)
	if len(keys) != 2*lossCatalogs {
		t.Fatalf("got segments %v, want %d", keys, 2*lossCatalogs)
	}
	flipByte(t, filepath.Join(objects, keys[0]))
	flipByte(t, filepath.Join(objects, keys[2]))
	return keys[0], keys[2]
}

func wantRefused(t *testing.T, what string, err error, folded, lost string) {
	t.Helper()
	if err == nil {
		t.Fatalf("%s: got no error, want damage", what)
	}
	for _, part := range []string{"--accept-loss " + folded, "--accept-loss " + lost} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s: got %v, want %q in it", what, err, part)
		}
	}
}

// acceptLosses rebuilds and checks the report.
func acceptLosses(t *testing.T, folded, lost string, flags ...string) {
	t.Helper()
	if _, err := tryLake(append([]string{"rebuild", "--accept-loss", "wal/000001/0000000001-aaaaaaaa-00000001.seg"}, flags...)...); err == nil || !strings.Contains(err.Error(), "there is no") {
		t.Errorf("an object that is not there: got %v, want it refused", err)
	}
	var r struct {
		Catalogs int
		Accepted []engine.Loss
	}
	out := lake(t, append([]string{"rebuild", "--json", "--accept-loss", folded, "--accept-loss", lost}, flags...)...)
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.Catalogs != lossCatalogs || len(r.Accepted) != 2 {
		t.Fatalf("rebuild printed %s (%v), want two accepted losses", out, err)
	}
	for i, want := range []struct{ key, catalog, in string }{{folded, "loss-0", "snapshot"}, {lost, "loss-1", ""}} {
		l := r.Accepted[i]
		if l.Object != want.key || len(l.Lost) != 1 || l.Lost[0].Catalog != want.catalog || l.Lost[0].In != want.in || !strings.Contains(l.By, "@") {
			t.Errorf("got %+v, want %+v", l, want)
		}
	}
}

// wantAccepted verifies: two losses that were accepted, and no faults.
func wantAccepted(t *testing.T, flags ...string) {
	t.Helper()
	var v struct {
		engine.Verified
		Findings []engine.Finding
	}
	out := lake(t, append([]string{"verify", "--json"}, flags...)...)
	if err := json.Unmarshal([]byte(out), &v); err != nil || v.Faults != 0 || v.Accepted != 2 || len(v.Findings) != 2 || v.Findings[0].Kind != engine.FindingAcceptedLoss {
		t.Errorf("verify printed %s (%v), want two accepted losses and no faults", out, err)
	}
}

// `lake serve` does not start over a damaged segment: it names the object and says what
// to do. After that it starts, and starts again when the index is lost once more.
func TestAcceptLossServe(t *testing.T) {
	data := t.TempDir()
	s := serve(t, data)
	dial := func() *client.Client {
		c, err := client.New(connect(t, s.url))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	fillForLoss(t, dial())
	s.Stop()
	folded, lost := hurtForLoss(t, lib.ObjectsDir(data))
	loseIndex := func() {
		if err := os.RemoveAll(lib.IndexDir(data)); err != nil {
			t.Fatal(err)
		}
	}
	loseIndex()
	_, err := tryLake("serve", "--data", data, "--nats-listen", "", "--ops-listen", "")
	wantRefused(t, "serve", err, folded, lost)
	acceptLosses(t, folded, lost, "--data", data)
	s.Start()
	wantLoss(t, "accepted", dial())
	s.Stop()
	loseIndex()
	s.Start()
	wantLoss(t, "index lost again", dial())
	s.Stop()
	wantAccepted(t, "--data", data)
}

// The same of a lake on Redis that was flushed.
func TestAcceptLossRedis(t *testing.T) {
	redis, dir := testenv.Redis(t), t.TempDir()
	bucket := lib.DirURL(dir)
	flags := []string{"--redis", redis.URL, "--s3", bucket}
	open := func() *lib.Lake {
		l, err := lib.Open(t.Context(), redis.URL, lib.WithBucket(bucket), lib.WithoutBackground())
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	flush := func() {
		if err := redis.Client(t).FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
	l := open()
	fillForLoss(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	folded, lost := hurtForLoss(t, dir)
	flush()
	_, err := tryLake(append([]string{"rebuild"}, flags...)...)
	wantRefused(t, "rebuild", err, folded, lost)
	acceptLosses(t, folded, lost, flags...)
	for _, when := range []string{"accepted", "flushed again"} {
		l = open()
		wantLoss(t, when, l)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		flush()
	}
	wantAccepted(t, flags...)
}
