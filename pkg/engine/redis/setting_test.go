package redis

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

func TestCache(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t, testenv.RedisCache())
	c, err := OpenCache(Options{URL: server.URL, Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if _, found, err := c.Get(ctx, "a"); found || err != nil {
		t.Errorf("got %v, %v, want nothing", found, err)
	}
	value := []byte{0, 1, 2, 255}
	if err := c.Set(ctx, "a", value, time.Minute); err != nil {
		t.Fatal(err)
	}
	if got, found, err := c.Get(ctx, "a"); !found || err != nil || string(got) != string(value) {
		t.Errorf("got %v, %v, %v, want %v", got, found, err, value)
	}
	if ttl := server.Client(t).PTTL(ctx, "lake:x:c:a").Val(); ttl <= 0 || ttl > time.Minute {
		t.Errorf("got a time to live of %v, want at most a minute", ttl)
	}
	if err := c.Set(ctx, "b", value, time.Millisecond); err != nil {
		t.Fatal(err)
	}
	testenv.WaitFor(t, 5*time.Second, func() bool { _, found, err := c.Get(ctx, "b"); return err == nil && !found })
	server.Stop()
	if _, found, err := c.Get(ctx, "a"); found || !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("got %v, %v, want %v", found, err, engine.ErrUnavailable)
	}
	if err := c.Set(ctx, "a", value, time.Minute); !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("got %v, want %v", err, engine.ErrUnavailable)
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}
