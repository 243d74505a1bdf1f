package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestRedisIndexSettings(t *testing.T) {
	t.Parallel()
	c := Redis(t).Client(t)
	for key, want := range map[string]string{
		"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "save": "",
		"zset-max-listpack-entries": "512", "zset-max-listpack-value": "256",
	} {
		if got := c.ConfigGet(t.Context(), key).Val()[key]; got != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
}

func TestRedisOptions(t *testing.T) {
	t.Parallel()
	c := Redis(t, RedisCache(), RedisConfig("save", "900 1 300 10"), RedisConfig("maxmemory", "10mb")).Client(t)
	for key, want := range map[string]string{
		"appendonly": "no", "maxmemory-policy": "allkeys-lru", "save": "900 1 300 10", "maxmemory": "10485760",
	} {
		if got := c.ConfigGet(t.Context(), key).Val()[key]; got != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
}

func TestRedisLifecycle(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := Redis(t)
	c := s.Client(t)
	if err := c.Set(ctx, "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	first := s.Pid()
	s.Restart()
	if s.Pid() == first || s.Pid() == 0 {
		t.Errorf("pid %d after a restart, %d before", s.Pid(), first)
	}
	if got := c.Get(ctx, "k").Val(); got != "v" {
		t.Errorf("after a restart: got %q, want %q", got, "v")
	}

	s.Kill()
	if s.Running() {
		t.Error("runs after Kill")
	}
	if err := c.Ping(ctx).Err(); err == nil {
		t.Error("answers after Kill")
	}
	if err := os.RemoveAll(s.Dir + "/appendonlydir"); err != nil {
		t.Fatal(err)
	}
	s.Start()
	if err := c.Get(ctx, "k").Err(); !errors.Is(err, redis.Nil) {
		t.Errorf("after its files were removed: got %v, want %v", err, redis.Nil)
	}

	s.Pause()
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if err := c.Ping(short).Err(); err == nil {
		t.Error("answers while paused")
	}
	s.Resume()
	WaitFor(t, 10*time.Second, func() bool { return c.Ping(ctx).Err() == nil })

	s.Pause()
	s.Stop() // also what is paused
	s.Stop() // and twice
}

func TestRedisCluster(t *testing.T) {
	t.Parallel()
	cl := RedisCluster(t, 3)
	o, err := redis.ParseClusterURL(cl.URL)
	if err != nil || len(o.Addrs) != 3 {
		t.Fatalf("URL %s: %v, %v", cl.URL, o, err)
	}
	c := cl.Client(t)
	masters := map[string]int{}
	for i := range 100 {
		key := fmt.Sprintf("lake:{%x}:%d", i%16, i)
		if err := c.Set(t.Context(), key, i, 0).Err(); err != nil {
			t.Fatal(err)
		}
		m, err := c.MasterForKey(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		masters[m.Options().Addr]++
	}
	if len(masters) != 3 {
		t.Errorf("keys lie on %v, want all three nodes", masters)
	}
	err = c.MSet(t.Context(), "{0}a", 1, "{1}b", 2, "{2}c", 3).Err()
	if err == nil {
		t.Error("keys of several slots in one command: want an error")
	}

	cl.Nodes[1].Restart() // it remembers the cluster
	WaitFor(t, 20*time.Second, func() bool {
		return c.Get(t.Context(), "lake:{1}:1").Err() == nil && clusterWhole(t.Context(), cl.Nodes[1].Client(t), 3)
	})
}
