package testenv

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// RedisServer is a redis-server process. Its data outlives Stop, Kill and Restart.
type RedisServer struct {
	*Process
	Addr string // host:port
	URL  string // redis://host:port
	Dir  string // its working directory: redis.conf, appendonlydir, dump.rdb
}

// RedisOption changes the server's configuration.
type RedisOption func(redisConfig)

// redisConfig holds the directives of a redis.conf.
type redisConfig map[string]string

// RedisConfig sets one directive, written as in redis.conf: RedisConfig("save",
// "900 1"). It replaces the value that Redis or an option before it gave.
func RedisConfig(directive, value string) RedisOption {
	return func(c redisConfig) { c[directive] = value }
}

// RedisCache turns the server from an index into a cache: it evicts and persists nothing.
func RedisCache() RedisOption {
	return func(c redisConfig) {
		c["appendonly"] = "no"
		c["maxmemory"] = "64mb"
		c["maxmemory-policy"] = "allkeys-lru"
	}
}

// Redis starts a redis-server with the settings of an index: it appends every
// write to a file synced each second, never evicts, and keeps sorted sets of up
// to 512 entries of 256 bytes compact.
func Redis(tb testing.TB, opts ...RedisOption) *RedisServer {
	tb.Helper()
	path := redisPath(tb)
	s := &RedisServer{Dir: tb.TempDir()}
	retryPorts(tb, path, func() (*Process, error) {
		s.setPort(FreePort(tb))
		return s.launch(tb, path, opts)
	})
	return s
}

func redisPath(tb testing.TB) string {
	tb.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		missing(tb, "redis-server", "apt-get install -y redis-server")
	}
	return path
}

// launch starts the server on the port that was set.
func (s *RedisServer) launch(tb testing.TB, path string, opts []RedisOption) (*Process, error) {
	tb.Helper()
	_, port, _ := strings.Cut(s.Addr, ":")
	c := redisConfig{
		"bind":                      "127.0.0.1",
		"port":                      port,
		"dir":                       strconv.Quote(s.Dir),
		"daemonize":                 "no",
		"save":                      `""`,
		"appendonly":                "yes",
		"appendfsync":               "everysec",
		"maxmemory-policy":          "noeviction",
		"zset-max-listpack-entries": "512",
		"zset-max-listpack-value":   "256",
		"hash-max-listpack-entries": "16",
		"auto-aof-rewrite-min-size": "256mb",
		"rdbcompression":            "no",
		"latency-tracking":          "no",
	}
	for _, o := range opts {
		o(c)
	}
	var text strings.Builder
	for _, directive := range slices.Sorted(maps.Keys(c)) {
		fmt.Fprintln(&text, directive, c[directive])
	}
	conf := filepath.Join(s.Dir, "redis.conf")
	if err := os.WriteFile(conf, []byte(text.String()), 0o600); err != nil {
		tb.Fatal(err)
	}
	s.Process = newProcess(tb, path, []string{conf}, s.answers)
	return s.Process, s.start()
}

func (s *RedisServer) setPort(port int) {
	s.Addr = fmt.Sprintf("127.0.0.1:%d", port)
	s.URL = "redis://" + s.Addr
}

// Client returns a client of the server, closed with the test.
func (s *RedisServer) Client(tb testing.TB) *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: s.Addr, ContextTimeoutEnabled: true})
	tb.Cleanup(func() { c.Close() })
	return c
}

// answers checks that the server has loaded its data, and that it is this process
// and not another that took the port.
func (s *RedisServer) answers() error {
	conn, err := net.Dial("tcp", s.Addr) // go-redis would try on, and log that it does
	if err != nil {
		return err
	}
	conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c := redis.NewClient(&redis.Options{Addr: s.Addr, ContextTimeoutEnabled: true, MaxRetries: -1})
	defer c.Close()
	if err := c.Ping(ctx).Err(); err != nil { // LOADING is an error here
		return err
	}
	info, err := c.Info(ctx, "server").Result()
	if err != nil {
		return err
	}
	if !strings.Contains(info, fmt.Sprintf("process_id:%d\r\n", s.Pid())) {
		return errors.New("another redis-server answers on its port")
	}
	return nil
}
