package app

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/events"
)

// diagnose is what a part of Doctor finds: of each check the last diagnosis.
func diagnose(c *Config, look func(d *doctor)) map[string]Diagnosis {
	d := &doctor{c: c}
	look(d)
	got := map[string]Diagnosis{}
	for _, f := range d.found {
		got[f.Check] = f
	}
	return got
}

func wantLevels(t *testing.T, name string, got map[string]Diagnosis, want map[string]Level) {
	t.Helper()
	for check, level := range want {
		if got[check].Level != level {
			t.Errorf("%s: %s: got %q, want %q: %+v", name, check, got[check].Level, level, got)
		}
	}
}

// What real servers of several configurations are told.
func TestDoctorRedis(t *testing.T) {
	t.Parallel()
	index, cache := testenv.Redis(t), testenv.Redis(t, testenv.RedisCache())
	saves := testenv.Redis(t, testenv.RedisConfig("appendonly", "no"), testenv.RedisConfig("save", "900 1"), testenv.RedisConfig("maxmemory-policy", "allkeys-lru"))
	unsynced := testenv.Redis(t, testenv.RedisConfig("appendfsync", "no"))
	silent := testenv.Redis(t, testenv.RedisConfig("rename-command", `CONFIG ""`))
	for _, tc := range []struct {
		name         string
		redis, cache string
		want         map[string]Level
	}{
		{"index", index.URL, cache.URL, map[string]Level{"redis-version": LevelOK, "redis-eviction": LevelOK, "redis-persistence": LevelOK, "cache-redis": LevelOK, "events": LevelWarn, "clock": LevelOK}},
		{"evicts, keeps nothing", cache.URL, "", map[string]Level{"redis-eviction": LevelFail, "redis-persistence": LevelFail}},
		{"would evict, saves only", saves.URL, "", map[string]Level{"redis-eviction": LevelWarn, "redis-persistence": LevelWarn}},
		{"never synced", unsynced.URL, "", map[string]Level{"redis-persistence": LevelWarn}},
		{"does not tell its configuration", silent.URL, "", map[string]Level{"redis-config": LevelWarn, "redis-eviction": "", "redis-persistence": ""}},
		{"same server", index.URL, index.URL + "/1", map[string]Level{"cache-redis": LevelFail}},
		{"no cache", index.URL, "redis://127.0.0.1:1", map[string]Level{"cache-redis": LevelWarn}},
		{"away", "redis://127.0.0.1:1", "", map[string]Level{"redis": LevelFail}},
	} {
		got := diagnose(&Config{Redis: tc.redis, CacheRedis: tc.cache}, func(d *doctor) { d.redis(t.Context()) })
		wantLevels(t, tc.name, got, tc.want)
	}
}

// Whether FLUSHALL is allowed is found out without sending it.
func TestDoctorFlush(t *testing.T) {
	t.Parallel()
	plain, renamed := testenv.Redis(t), testenv.Redis(t, testenv.RedisConfig("rename-command", `FLUSHALL ""`))
	c := plain.Client(t)
	for _, user := range [][]any{
		{"ACL", "SETUSER", "all", "on", "nopass", "~*", "+@all"},
		{"ACL", "SETUSER", "services", "on", "nopass", "~*", "+@all", "-@dangerous", "+info", "+config|get"},
		{"ACL", "SETUSER", "scriptless", "on", "nopass", "~*", "+@all", "-@scripting"},
		{"SET", "k", "v"},
	} {
		if err := c.Do(t.Context(), user...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	as := func(user string) string { return strings.Replace(plain.URL, "redis://", "redis://"+user+":x@", 1) }
	for url, want := range map[string]Diagnosis{
		as("all"): {LevelWarn, "", "is allowed"}, as("services"): {LevelOK, "", "is not allowed"},
		as("scriptless"): {LevelWarn, "", "does not tell"}, renamed.URL: {LevelOK, "", "is not allowed"},
	} {
		got := diagnose(&Config{Redis: url}, func(d *doctor) { d.redis(t.Context()) })["redis-flush"]
		if got.Level != want.Level || !strings.Contains(got.Detail, want.Detail) {
			t.Errorf("%s: got %+v, want %s: %s", url, got, want.Level, want.Detail)
		}
	}
	stats, err := c.Info(t.Context(), "commandstats").Result()
	if err != nil || strings.Contains(stats, "cmdstat_flushall") {
		t.Errorf("FLUSHALL was sent: %v\n%s", err, stats)
	}
	if v, err := c.Get(t.Context(), "k").Result(); err != nil || v != "v" {
		t.Errorf("got %q, %v, want what was there", v, err)
	}
}

func TestDoctorSetting(t *testing.T) {
	t.Parallel()
	s := testenv.Redis(t)
	for setting, want := range map[string]Level{
		"":                                     "", // there is none, and none is needed
		`{"Name":"lake","SecretKey":"secret"}`: LevelWarn,
		`{"Name":"lake","SecretKey":"env:S","AESPwd":"file:/p"}`: LevelOK,
		`{"Name":"lake","AESPwd":"password"}`:                    LevelWarn,
		`{"Name":`:                                               LevelFail,
	} {
		c := s.Client(t)
		err := c.Del(t.Context(), "lake.setting").Err()
		if setting != "" {
			err = c.Set(t.Context(), "lake.setting", setting, 0).Err()
		}
		if err != nil {
			t.Fatal(err)
		}
		got := diagnose(&Config{Redis: s.URL}, func(d *doctor) { d.setting(t.Context()) })
		wantLevels(t, setting, got, map[string]Level{"setting": want})
	}
}

// A store in which a second put of a key wins is not one for a lake.
func TestDoctorBucket(t *testing.T) {
	good := testenv.S3Fake(t)
	overwrites := testenv.S3Fake(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("If-None-Match")
			next.ServeHTTP(w, r)
		})
	})
	t.Setenv("AWS_ACCESS_KEY_ID", good.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", good.SecretKey)
	url := func(s *testenv.S3Server) string {
		return "s3://" + s.Bucket + "?region=" + s.Region + "&endpoint=" + s.Endpoint
	}
	for _, tc := range []struct {
		name, url string
		want      map[string]Level
	}{
		{"good", url(good), map[string]Level{"bucket": LevelOK, "bucket-tls": ""}},
		{"overwrites", url(overwrites), map[string]Level{"bucket": LevelFail}},
		{"no such bucket", strings.Replace(url(good), "s3://", "s3://not-", 1), map[string]Level{"bucket": LevelFail}},
		{"files", "file://" + t.TempDir(), map[string]Level{"file-system": LevelOK, "bucket": ""}},
	} {
		wantLevels(t, tc.name, diagnose(&Config{S3: tc.url}, func(d *doctor) { d.bucket(t.Context()) }), tc.want)
	}
}

func TestDoctorNATS(t *testing.T) {
	t.Parallel()
	s := testenv.NATS(t)
	look := func(name string, want map[string]Level) {
		t.Helper()
		wantLevels(t, name, diagnose(&Config{NATS: s.URL, Replicas: 1}, func(d *doctor) { d.nats(t.Context()) }), want)
	}
	look("nothing applied", map[string]Level{"nats-version": LevelOK, "nats-tls": "", "streams": LevelFail})
	js, err := jetstream.New(s.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := events.Apply(t.Context(), js, events.Config{MaxBytes: 1 << 28}); err != nil {
		t.Fatal(err)
	}
	look("applied", map[string]Level{"streams": LevelOK})
	stream, err := js.Stream(t.Context(), events.Subjects{}.EventsStream())
	if err != nil {
		t.Fatal(err)
	}
	changed := stream.CachedInfo().Config
	changed.AllowDirect = false
	if _, err := js.UpdateStream(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	look("changed", map[string]Level{"streams": LevelWarn})
	away := &Config{NATS: "nats://127.0.0.1:1"}
	short := func(d *doctor) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		d.nats(ctx)
	}
	wantLevels(t, "away", diagnose(away, short), map[string]Level{"nats": LevelFail, "streams": ""})
}

// What no server of a test can be: old, on another machine, with another clock, on
// a network file system or a full disk.
func TestDoctorJudges(t *testing.T) {
	t.Parallel()
	tls := func(check, url, safe string) func(*doctor) { return func(d *doctor) { d.tls(check, url, safe) } }
	for _, tc := range []struct {
		name, check string
		look        func(d *doctor)
		want        Level
	}{
		{"redis 6", "redis-version", func(d *doctor) { d.redisVersion("6.2.14") }, LevelFail},
		{"redis 7", "redis-version", func(d *doctor) { d.redisVersion("7.0.0") }, LevelOK},
		{"redis of no version", "redis-version", func(d *doctor) { d.redisVersion("") }, LevelFail},
		{"nats 1", "nats-version", func(d *doctor) { d.natsVersion("1.4.1") }, LevelFail},
		{"nats 2.10", "nats-version", func(d *doctor) { d.natsVersion("2.10.29") }, LevelFail},
		{"nats 2.11", "nats-version", func(d *doctor) { d.natsVersion("2.11.0") }, LevelOK},
		{"nats 3", "nats-version", func(d *doctor) { d.natsVersion("3.0.0") }, LevelOK},
		{"clock ahead", "clock", func(d *doctor) { d.clock(3 * time.Second) }, LevelWarn},
		{"clock behind", "clock", func(d *doctor) { d.clock(-3 * time.Second) }, LevelWarn},
		{"clock near", "clock", func(d *doctor) { d.clock(-time.Second) }, LevelOK},
		{"NFS", "file-system", func(d *doctor) { d.standsOn("/d", "NFS", true) }, LevelFail},
		{"local disk", "file-system", func(d *doctor) { d.standsOn("/d", "", true) }, LevelOK},
		{"unknown file system", "file-system", func(d *doctor) { d.standsOn("/d", "", false) }, LevelWarn},
		{"full", "disk-space", func(d *doctor) { d.space("/d", 63<<20, nil) }, LevelFail},
		{"nearly full", "disk-space", func(d *doctor) { d.space("/d", 1023<<20, nil) }, LevelWarn},
		{"room", "disk-space", func(d *doctor) { d.space("/d", 1<<30, nil) }, LevelOK},
		{"room not known", "disk-space", func(d *doctor) { d.space("/d", 0, errors.New("no such call")) }, LevelWarn},
		{"redis in the clear", "redis-tls", tls("redis", "redis://u:secret@10.0.0.1:6379", "rediss"), LevelWarn},
		{"redis by TLS", "redis-tls", tls("redis", "rediss://10.0.0.1:6379", "rediss"), ""},
		{"cluster by TLS", "redis-tls", tls("redis", "rediss+cluster://10.0.0.1:6379", "rediss"), ""},
		{"redis on this machine", "redis-tls", tls("redis", "redis://localhost:6379", "rediss"), ""},
		{"socket", "redis-tls", tls("redis", "unix:///run/redis.sock", "rediss"), ""},
		{"nats in the clear", "nats-tls", tls("nats", " nats://10.0.0.1:4222", "tls"), LevelWarn},
		{"nats by host and port", "nats-tls", tls("nats", "10.0.0.1:4222", "tls"), LevelWarn},
		{"nats by name and port", "nats-tls", tls("nats", "nats.example.com:4222", "tls"), LevelWarn},
		{"nats by TLS", "nats-tls", tls("nats", "tls://10.0.0.1:4222", "tls"), ""},
		{"bucket in the clear", "bucket-tls", tls("bucket", "http://10.0.0.1:9000", "https"), LevelWarn},
	} {
		got := diagnose(&Config{}, tc.look)
		wantLevels(t, tc.name, got, map[string]Level{tc.check: tc.want})
		if strings.Contains(got[tc.check].Detail, "secret") {
			t.Errorf("%s: the password is told: %s", tc.name, got[tc.check].Detail)
		}
	}
}

func TestDoctorEmbedded(t *testing.T) {
	t.Parallel()
	for listen, want := range map[string]Level{"127.0.0.1:4222": LevelOK, "0.0.0.0:4222": LevelFail} {
		got := diagnose(&Config{Data: t.TempDir(), NATSListen: listen}, func(d *doctor) { d.embedded() })
		wantLevels(t, listen, got, map[string]Level{"nats-listen": want, "file-system": LevelOK, "data": ""})
	}
	got := diagnose(&Config{Data: t.TempDir() + "/not/there", NATSListen: "0.0.0.0:4222", Insecure: true}, func(d *doctor) { d.embedded() })
	wantLevels(t, "insecure, no directory", got, map[string]Level{"nats-listen": LevelWarn, "data": LevelWarn})
}
