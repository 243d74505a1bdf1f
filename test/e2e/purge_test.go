package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	lakelib "github.com/jsonlake/lake"
	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/codec"
	"github.com/jsonlake/lake/pkg/events"
)

// marker stands in every body that these tests purge.
const marker = "MARKER-0c7d1e"

// marked lists the files below a directory that hold the marker, as they are stored or, of
// the bucket's objects, in what they decode to.
func marked(t *testing.T, dir string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a running server removes files of its own
		}
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		holds := bytes.Contains(b, []byte(marker))
		for f, err := range codec.Frames(b, codec.Options{}) {
			if err != nil {
				break // not an object of frames
			}
			holds = holds || bytes.Contains(f.Payload, []byte(marker))
		}
		if holds {
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// fillMarked writes a catalog whose bodies are marked, beside others in the same
// segments, and folds some of it.
func fillMarked(t *testing.T, c *client.Client, catalog string, others ...string) {
	t.Helper()
	for i := range 5 {
		var g sync.WaitGroup
		for k := range 30 { // more than may be on their way to the bucket alone
			for _, name := range append([]string{catalog}, others...) {
				body := fmt.Sprintf(`{"n%d":{"text":"nothing special"}}`, k)
				if name == catalog {
					body = fmt.Sprintf(`{"n%d":{"text":"%s %s"}}`, k, marker, strings.Repeat("x", 500))
				}
				g.Go(func() {
					if _, err := c.Write(t.Context(), engine.WriteRequest{Catalog: name, Body: []byte(body), Author: "ann"}); err != nil {
						t.Errorf("write %s: %v", name, err)
					}
				})
			}
		}
		g.Wait()
		if i == 1 || i == 3 {
			if _, err := c.Fold(t.Context(), catalog); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// state is what a neighbour of a purged catalog must keep.
func state(t *testing.T, url, catalog string) string {
	t.Helper()
	return lake(t, "get", catalog, "--lake", url) + lake(t, "log", catalog, "--json", "--lake", url)
}

// An embedded lake: nothing of a purged catalog is left in any file of its directory, at once;
// not after a rebuild, and not after the index was thrown away.
func TestPurgeServe(t *testing.T) {
	data := t.TempDir()
	s := serve(t, data)
	c, err := client.New(connect(t, s.url), client.WithoutCoalescing()) // so that catalogs share segments
	if err != nil {
		t.Fatal(err)
	}
	fillMarked(t, c, "users", "orders", "items")
	want := map[string]string{"orders": state(t, s.url, "orders"), "items": state(t, s.url, "items")}
	if found := marked(t, data); len(found) < 4 {
		t.Fatalf("before the purge: got the marker in %v, want it in segments, packs and snapshots", found)
	}
	for says, args := range map[string][]string{
		"give --yes":    {"purge", "users", "--lake", s.url},
		"never written": {"purge", "never", "--yes", "--lake", s.url},
	} {
		var exit *exec.ExitError
		if _, err := tryLake(args...); !errors.As(err, &exit) || exit.ExitCode() != map[bool]int{true: 2, false: 3}[says == "give --yes"] || !strings.Contains(err.Error(), says) {
			t.Errorf("lake %v: got %v, want %q", args, err, says)
		}
	}
	var r engine.PurgeReceipt
	out := lake(t, "purge", "users", "--yes", "--wait", "--json", "--author", "the officer", "--lake", s.url)
	if err := json.Unmarshal([]byte(out), &r); err != nil || !r.Complete || r.Snapshots < 2 || r.Packs < 2 || r.Segments == 0 || r.Verified != (engine.PurgeCheck{Read: "not_found", Past: "history_gone", Log: 1}) {
		t.Fatalf("got receipt %s (%v), want a complete one", out, err)
	}
	check := func(what string) {
		t.Helper()
		if found := marked(t, data); len(found) > 0 {
			t.Errorf("%s: the marker is still in %v", what, found)
		}
		var exit *exec.ExitError
		if _, err := tryLake("get", "users", "--lake", s.url); !errors.As(err, &exit) || exit.ExitCode() != 3 {
			t.Errorf("%s: get: got %v, want exit 3", what, err)
		}
		if _, err := tryLake("get", "users", "--at", "1700000000_1", "--lake", s.url); err == nil || !strings.Contains(err.Error(), "purged at version "+r.Version.String()) {
			t.Errorf("%s: the past: got %v, want that it was purged", what, err)
		}
		if got := lake(t, "log", "users", "--json", "--lake", s.url); strings.Count(got, "\n") != 1 || !strings.Contains(got, `"merge":"purge"`) || !strings.Contains(got, "the officer") {
			t.Errorf("%s: got log %s, want the purge alone", what, got)
		}
		for name, state1 := range want {
			if got := state(t, s.url, name); got != state1 {
				t.Errorf("%s: %s: got %s, want %s", what, name, got, state1)
			}
		}
	}
	check("after the purge")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for ev, err := range c.Watch(ctx, events.WatchOptions{FromStart: true, Kind: engine.EventPurged}) {
		if err != nil || ev.Version != r.Version || ev.Catalog != "users" {
			t.Errorf("watch: got %+v, %v, want the purge", ev, err)
		}
		break
	}
	s.Kill()
	s.Start()
	check("after kill -9")
	s.Stop()
	lake(t, "rebuild", "--data", data)
	s.Start()
	check("after a rebuild")
	s.Stop()
	if err := os.RemoveAll(lakelib.IndexDir(data)); err != nil {
		t.Fatal(err)
	}
	s.Start()
	check("after the index was lost")
	if got := lake(t, "purge", "users", "--yes", "--lake", s.url); !strings.Contains(got, r.Version.String()) || !strings.Contains(got, "complete") {
		t.Errorf("again: got %s, want the same purge", got)
	}
	lake(t, "put", "users", "/", `{"new":1}`, "--lake", s.url)
	if got := lake(t, "get", "users", "--lake", s.url); got != "{\"new\":1}\n" {
		t.Errorf("written anew: got %s", got)
	}
}

// inRedis lists the keys whose name or content holds the marker.
func inRedis(t *testing.T, c *goredis.Client) (found []string) {
	t.Helper()
	ctx := t.Context()
	it := c.Scan(ctx, 0, "*", 1000).Iterator()
	for it.Next(ctx) {
		key := it.Val()
		var content any
		switch typ := c.Type(ctx, key).Val(); typ {
		case "string":
			content = c.Get(ctx, key).Val()
		case "hash":
			content = c.HGetAll(ctx, key).Val()
		case "list":
			content = c.LRange(ctx, key, 0, -1).Val()
		case "zset":
			content = c.ZRange(ctx, key, 0, -1).Val()
		case "stream":
			content = c.XRange(ctx, key, "-", "+").Val()
		case "none": // expired meanwhile
		default:
			t.Fatalf("key %s is a %s, which this test cannot read", key, typ)
		}
		text := key + fmt.Sprint(content)
		for f, err := range codec.Frames([]byte(fmt.Sprint(content)), codec.Options{}) {
			if err != nil {
				break
			}
			text += string(f.Payload)
		}
		if strings.Contains(text, marker) {
			found = append(found, key)
		}
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return found
}

// A distributed lake: the receipt tells what still waits, and once it has gone nothing is
// left in the bucket, the index or the cache. A flushed index does not bring it back.
func TestPurgeDistributed(t *testing.T) {
	d := distributed(t, 20*time.Millisecond)
	c, err := client.New(connect(t, d.nats.URL), client.WithoutCoalescing()) // so that catalogs share segments
	if err != nil {
		t.Fatal(err)
	}
	fillMarked(t, c, "users", "orders")
	for _, at := range []string{"0", "1"} { // fill the cache
		if _, err := c.Read(t.Context(), engine.ReadRequest{Catalog: "users"}); err != nil {
			t.Fatal(err, at)
		}
	}
	want := state(t, d.nats.URL, "orders")
	index, cache := d.redis.Client(t), d.cache.Client(t)
	if len(marked(t, d.store.Dir)) < 4 || len(inRedis(t, cache)) == 0 {
		t.Fatalf("before the purge: got the marker in %v and, of the cache, in %v", marked(t, d.store.Dir), inRedis(t, cache))
	}
	var r engine.PurgeReceipt
	out := lake(t, "purge", "users", "--yes", "--json", "--author", "the officer", "--lake", d.nats.URL)
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.Complete || r.Snapshots < 2 || r.Packs < 2 || r.Rewritten == 0 || r.Waiting == 0 || r.Until == nil || r.Cached == 0 || r.Verified.Objects != 0 {
		t.Fatalf("got receipt %s (%v), want segments that wait", out, err)
	}
	if wait := time.Until(*r.Until); wait < 4*time.Minute || wait > 7*time.Minute {
		t.Errorf("got until in %v, want about 6 min", wait)
	}
	for _, path := range marked(t, d.store.Dir) {
		if !strings.Contains(path, "/wal/") {
			t.Errorf("the marker is still in %s", path)
		}
	}
	answers := func(what string) {
		t.Helper()
		if _, err := c.Read(t.Context(), engine.ReadRequest{Catalog: "users"}); !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("%s: read: got %v, want not found", what, err)
		}
		if _, err := c.Read(t.Context(), engine.ReadRequest{Catalog: "users", At: engine.AtVersion(engine.Version{Sec: 1, Seq: 1})}); !errors.Is(err, engine.ErrHistoryGone) {
			t.Errorf("%s: the past: got %v, want history gone", what, err)
		}
		page, err := c.Log(t.Context(), engine.LogRequest{Catalog: "users", Limit: 10})
		if err != nil || len(page.Items) != 1 || page.Items[0].Version != r.Version {
			t.Errorf("%s: got log %+v, %v, want the purge alone", what, page, err)
		}
		if got := state(t, d.nats.URL, "orders"); got != want {
			t.Errorf("%s: orders: got %s, want %s", what, got, want)
		}
	}
	answers("after the purge")
	if found := append(inRedis(t, index), inRedis(t, cache)...); len(found) > 0 {
		t.Errorf("the marker is still in the keys %v", found)
	}

	// A collector with a shorter grace ends it sooner than the snapshotters would: nobody
	// writes, so no put is late.
	trouble := func(what string, err error) { t.Logf("collector: %s: %v", what, err) }
	store := &d.store.S3Server
	l, err := lakelib.Open(t.Context(), d.redis.URL, lakelib.WithBucket(fmt.Sprintf("s3://%s?endpoint=%s&region=%s&profile=versitygw", store.Bucket, url.QueryEscape(store.Endpoint), store.Region)),
		lakelib.WithSnapCacheMetaURL(d.cache.URL, time.Minute), lakelib.WithoutBackground(),
		lakelib.WithOptions(engine.Options{Collect: true, CollectEvery: time.Second, Grace: 3 * time.Second, CompactAfter: 1000 * time.Hour, Hooks: engine.Hooks{Trouble: trouble}}))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	testenv.WaitFor(t, time.Minute, func() bool {
		again, err := l.Purge(t.Context(), engine.PurgeRequest{Catalog: "users"})
		return err == nil && again.Complete && again.Version == r.Version
	})
	if found := marked(t, d.store.Dir); len(found) > 0 {
		t.Errorf("the marker is still in %v", found)
	}
	answers("when all has gone")
	if err := index.FlushAll(context.WithoutCancel(t.Context())).Err(); err != nil {
		t.Fatal(err)
	}
	testenv.WaitFor(t, time.Minute, func() bool {
		_, err := c.Read(t.Context(), engine.ReadRequest{Catalog: "orders"})
		return err == nil
	})
	answers("after the index was flushed")
	if found := append(inRedis(t, index), inRedis(t, cache)...); len(found) > 0 {
		t.Errorf("the marker is in the keys %v again", found)
	}
}
