package deploy

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/jsonlake/lake/internal/testenv"
)

// startRedis runs a shipped configuration as it stands in the file; only what
// its comments leave to the command line is given there.
func startRedis(t *testing.T, conf string, args ...string) (*redis.Client, int) {
	t.Helper()
	path := testenv.Tool(t, "redis-server", "apt-get install -y redis-server")
	port := testenv.FreePort(t)
	c := redis.NewClient(&redis.Options{Addr: fmt.Sprintf("127.0.0.1:%d", port), ContextTimeoutEnabled: true, MaxRetries: -1})
	t.Cleanup(func() { c.Close() })
	args = append([]string{shipped("redis", conf), "--bind", "127.0.0.1", "--port", fmt.Sprint(port), "--dir", t.TempDir()}, args...)
	startServer(t, func(ctx context.Context) error { return c.Ping(ctx).Err() }, nil, path, args...)
	return c, port
}

func TestRedisConfigurations(t *testing.T) {
	t.Parallel()
	for conf, want := range map[string]map[string]string{
		"index.conf": {
			"appendonly":                "yes",
			"appendfsync":               "everysec",
			"aof-use-rdb-preamble":      "yes",
			"save":                      "900 1 300 10 60 100",
			"maxmemory-policy":          "noeviction",
			"zset-max-listpack-entries": "512",
			"zset-max-listpack-value":   "256",
			"hash-max-listpack-entries": "16",
			"hash-max-listpack-value":   "256",
			"auto-aof-rewrite-min-size": fmt.Sprint(256 << 20),
			"rdbcompression":            "no",
			"latency-tracking":          "no",
			"protected-mode":            "yes",
			"maxmemory":                 fmt.Sprint(768 << 20),
		},
		"cache.conf": {
			"appendonly":             "no",
			"save":                   "",
			"maxmemory-policy":       "allkeys-lru",
			"maxmemory":              fmt.Sprint(768 << 20),
			"lazyfree-lazy-eviction": "yes",
			"protected-mode":         "yes",
		},
	} {
		t.Run(conf, func(t *testing.T) {
			t.Parallel()
			c, _ := startRedis(t, conf, "--maxmemory", "768mb")
			for name, value := range want {
				got, err := c.ConfigGet(t.Context(), name).Result()
				if err != nil {
					t.Fatal(err)
				}
				if v, ok := got[name]; !ok || v != value {
					t.Errorf("%s: got %q, want %q", name, v, value)
				}
			}
			info, err := c.Info(t.Context(), "persistence").Result()
			if err != nil {
				t.Fatal(err)
			}
			aof := "aof_enabled:0"
			if want["appendonly"] == "yes" {
				aof = "aof_enabled:1"
			}
			if !strings.Contains(info, aof) {
				t.Errorf("INFO persistence does not say %s", aof)
			}
		})
	}
}

// A cache without a limit never evicts.
func TestCacheHasALimit(t *testing.T) {
	t.Parallel()
	c, _ := startRedis(t, "cache.conf")
	got, err := c.ConfigGet(t.Context(), "maxmemory").Result()
	if err != nil || got["maxmemory"] == "0" || got["maxmemory"] == "" {
		t.Errorf("maxmemory: got %q, %v, want a limit", got["maxmemory"], err)
	}
}

// Sorted sets of up to 512 snapshots stay compact; a hash of heads is looked up, not read through.
func TestIndexStaysCompact(t *testing.T) {
	t.Parallel()
	c, _ := startRedis(t, "index.conf")
	ctx := t.Context()
	member := strings.Repeat("m", 250)
	for i := range 512 {
		if err := c.ZAdd(ctx, "z", redis.Z{Score: float64(i), Member: fmt.Sprintf("%03d%s", i, member)}).Err(); err != nil {
			t.Fatal(err)
		}
		if err := c.HSet(ctx, "h", fmt.Sprintf("%03d", i), member).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for key, want := range map[string]string{"z": "listpack", "h": "hashtable"} {
		if got, err := c.ObjectEncoding(ctx, key).Result(); err != nil || got != want {
			t.Errorf("encoding of %s: got %s, %v, want %s", key, got, err, want)
		}
	}
}

func TestIndexCannotBeEmptied(t *testing.T) {
	t.Parallel()
	c, _ := startRedis(t, "index.conf")
	ctx := t.Context()
	if err := c.Set(ctx, "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]any{{"FLUSHALL"}, {"FLUSHDB"}, {"SWAPDB", 0, 1}, {"EVAL", "return redis.call('FLUSHALL')", 0}} {
		if err := c.Do(ctx, args...).Err(); !denied(err) {
			t.Errorf("%v: got %v, want it forbidden", args, err)
		}
	}
	if got, err := c.Get(ctx, "k").Result(); err != nil || got != "v" {
		t.Errorf("get = %q, %v", got, err)
	}
}

// denied tells a refusal by access control, in the words of Redis for commands
// and for what a script tries.
func denied(err error) bool {
	return err != nil && regexp.MustCompile(`(?i)no permissions|noperm|can't run this command|can't access at least one`).MatchString(err.Error())
}

// The user that the comments of index.conf propose can do what the scripts do,
// and nothing else.
func TestProposedUser(t *testing.T) {
	t.Parallel()
	conf, err := os.ReadFile(shipped("redis", "index.conf"))
	if err != nil {
		t.Fatal(err)
	}
	var rules []any
	for line := range strings.Lines(string(conf)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "#   user lake "); ok {
			for _, rule := range strings.Fields(rest) {
				rules = append(rules, rule)
			}
		}
	}
	if rules == nil {
		t.Fatal("index.conf proposes no user lake")
	}
	admin, port := startRedis(t, "index.conf")
	ctx := t.Context()
	if err := admin.Do(ctx, append([]any{"ACL", "SETUSER", "lake"}, rules...)...).Err(); err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(&redis.Options{Addr: fmt.Sprintf("127.0.0.1:%d", port), Username: "lake", Password: "secret"})
	t.Cleanup(func() { c.Close() })
	script := `
		redis.call('TIME')
		redis.call('INFO', 'replication')
		redis.call('ZADD', KEYS[1] .. 'z', '1700000000.000001', 'm')
		redis.call('HSET', KEYS[1] .. 'h', 'f', 'v')
		redis.call('XADD', KEYS[1] .. 's', '*', 'f', 'v')
		redis.call('SET', KEYS[1] .. 'l', 't', 'NX', 'PX', 1000)
		return redis.call('HMGET', KEYS[1] .. 'h', 'f')`
	if err := c.Eval(ctx, script, []string{"lake:{9}:"}).Err(); err != nil {
		t.Errorf("a script on lake's keys: %v", err)
	}
	for _, args := range [][]any{{"GET", "lake.setting"}, {"SCRIPT", "LOAD", "return 1"}, {"INFO"}, {"ROLE"}, {"PING"}, {"CLIENT", "SETNAME", "lake"}} {
		if err := c.Do(ctx, args...).Err(); err != nil && err != redis.Nil {
			t.Errorf("%v: %v", args, err)
		}
	}
	for _, args := range [][]any{
		{"SET", "other", "v"}, {"GET", "other"}, {"SET", "lake.setting", "v"}, {"EVAL", "return redis.call('GET', 'other')", 0},
		{"FLUSHALL"}, {"CONFIG", "GET", "*"}, {"KEYS", "*"}, {"ACL", "LIST"}, {"SHUTDOWN"}, {"REPLICAOF", "h", 1}, {"SUBSCRIBE", "c"},
	} {
		if err := c.Do(ctx, args...).Err(); !denied(err) {
			t.Errorf("%v: got %v, want it forbidden", args, err)
		}
	}
}
