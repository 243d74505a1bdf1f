package redis

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
)

func TestSetting(t *testing.T) {
	server := testenv.Redis(t)
	client := server.Client(t)
	ctx := t.Context()
	if _, err := ReadSetting(ctx, server.URL); !errors.Is(err, engine.ErrNotExist) {
		t.Errorf("no setting: got %v, want %v", err, engine.ErrNotExist)
	}
	client.Set(ctx, settingKey, `{"Name":"cluster","Storage":"oss","Bucket":"b","Endpoint":"oss-cn-hangzhou","AccessKey":"ak","SecretKey":"top","AESPwd":"pw","Internal":true}`, 0)
	s, err := ReadSetting(ctx, server.URL)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Setting{Name: "cluster", Storage: "oss", Bucket: "b", Endpoint: "oss-cn-hangzhou", AccessKey: "ak", SecretKey: "top", AESPwd: "pw"}); *s != want {
		t.Errorf("got %#v, want %#v", s, want)
	}
	if !s.HasPlainSecrets() {
		t.Error("got no plain secrets, want them told")
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		for _, v := range []any{s, *s} {
			if text := fmt.Sprintf(format, v); strings.Contains(text, "top") || strings.Contains(text, "pw") {
				t.Errorf("%s shows secrets: %s", format, text)
			}
		}
	}

	file := filepath.Join(t.TempDir(), "aes")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LAKE_TEST_SECRET", "from the environment")
	client.Set(ctx, settingKey, `{"SecretKey":"env:LAKE_TEST_SECRET","AESPwd":"file:`+file+`","AccessKey":"ak"}`, 0)
	s, err = ReadSetting(ctx, server.URL)
	if err != nil {
		t.Fatal(err)
	}
	if s.HasPlainSecrets() {
		t.Error("got plain secrets, want none")
	}
	r, err := s.Resolve()
	if err != nil || r.SecretKey != "from the environment" || r.AESPwd != "from a file" || r.AccessKey != "ak" {
		t.Errorf("got %q %q %q, %v", r.SecretKey, r.AESPwd, r.AccessKey, err)
	}
	if _, err := (&Setting{SecretKey: "env:LAKE_TEST_NOT_SET"}).Resolve(); !errors.Is(err, engine.ErrInvalid) {
		t.Errorf("got %v, want %v", err, engine.ErrInvalid)
	}
	if _, err := (&Setting{AESPwd: "file:/does/not/exist"}).Resolve(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want %v", err, os.ErrNotExist)
	}
	for _, bad := range []string{"", "[]", "{", `{"Name":1}`} {
		client.Set(ctx, settingKey, bad, 0)
		if _, err := ReadSetting(ctx, server.URL); !errors.Is(err, engine.ErrInvalid) {
			t.Errorf("%q: got %v, want %v", bad, err, engine.ErrInvalid)
		}
	}
	if _, err := ReadSetting(ctx, "redis://127.0.0.1:1"); !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("got %v, want %v", err, engine.ErrUnavailable)
	}
}

// A cache on a cluster is erased on every node.
func TestCacheErasedInCluster(t *testing.T) {
	t.Parallel()
	cluster := testenv.RedisCluster(t, 3)
	c, err := OpenCache(Options{URL: "redis+cluster://" + strings.Join(cluster.Addrs, ","), Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var keys []string
	for i := range 30 {
		keys = append(keys, fmt.Sprintf("wal/%d.seg", i))
		if err := c.Set(t.Context(), []engine.CacheEntry{{Key: keys[i], Value: []byte("x")}}, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := c.Erase(t.Context(), keys[1:]); n != 29 || err != nil {
		t.Errorf("erased %d, %v, want 29", n, err)
	}
	if got, err := c.Get(t.Context(), keys[:1]); err != nil || got[0] == nil {
		t.Errorf("got %v, %v, want what was not asked for kept", got, err)
	}
}

func TestCache(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t, testenv.RedisCache())
	c, err := OpenCache(Options{URL: server.URL, Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if got, err := c.Get(ctx, []string{"a", "b"}); err != nil || len(got) != 2 || got[0] != nil || got[1] != nil {
		t.Errorf("got %v, %v, want nothing", got, err)
	}
	value := []byte{0, 1, 2, 255}
	large := bytes.Repeat(value, setBatch/4)
	if err := c.Set(ctx, []engine.CacheEntry{{Key: "a", Value: value}, {Key: "large", Value: large}, {Key: "last", Value: large[:9]}}, time.Minute); err != nil {
		t.Fatal(err)
	}
	server.Client(t).SAdd(ctx, "lake:x:c:set", "not a string")
	if got, err := c.Get(ctx, []string{"a", "none", "large", "set", "last"}); err != nil || !reflect.DeepEqual(got, [][]byte{value, nil, large, nil, large[:9]}) {
		t.Errorf("got %d values, %v, want what was set", len(got), err)
	}
	if ttl := server.Client(t).PTTL(ctx, "lake:x:c:a").Val(); ttl <= 0 || ttl > time.Minute {
		t.Errorf("got a time to live of %v, want at most a minute", ttl)
	}
	if err := c.Set(ctx, []engine.CacheEntry{{Key: "b", Value: value}}, time.Millisecond); err != nil {
		t.Fatal(err)
	}
	testenv.WaitFor(t, 5*time.Second, func() bool { got, err := c.Get(ctx, []string{"b"}); return err == nil && got[0] == nil })
	keys := []string{"a", "wal/1/x.seg", "wal/1/x.seg:0:7", "wal/1/x.segment", "y.snap"}
	for _, key := range keys[1:] {
		if err := c.Set(ctx, []engine.CacheEntry{{Key: key, Value: value}}, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	other, err := OpenCache(Options{URL: server.URL, Name: "y"})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.Set(ctx, []engine.CacheEntry{{Key: "wal/1/x.seg", Value: value}}, time.Minute); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{2, 0} {
		if n, err := c.Erase(ctx, []string{"wal/1/x.seg", "z"}); n != want || err != nil {
			t.Errorf("erased %d, %v, want %d", n, err, want)
		}
	}
	got, err := c.Get(ctx, keys)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, false, false, true, true} {
		if (got[i] != nil) != want {
			t.Errorf("%s after the erasure: got %q, want it there: %v", keys[i], got[i], want)
		}
	}
	if got, err := other.Get(ctx, []string{"wal/1/x.seg"}); err != nil || got[0] == nil {
		t.Errorf("another lake's entry was erased (%v)", err)
	}
	server.Stop()
	if _, err := c.Erase(ctx, []string{"a"}); !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("got %v, want %v", err, engine.ErrUnavailable)
	}
	if got, err := c.Get(ctx, []string{"a"}); got != nil || !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("got %v, %v, want %v", got, err, engine.ErrUnavailable)
	}
	if err := c.Set(ctx, []engine.CacheEntry{{Key: "a", Value: value}}, time.Minute); !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("got %v, want %v", err, engine.ErrUnavailable)
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}
