package redis

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/jsonlake/lake/pkg/engine"
)

// Facts are what a server says of itself, as far as it matters to a lake.
type Facts struct {
	Version string // of Redis
	RunID   string // of this server process: two URLs with one RunID are one server
	Time    time.Time
	Config  map[string]string // the directives of inspected; empty when CONFIG is not allowed
	Flush   *bool             // these credentials may run FLUSHALL; nil when the server does not tell
	Events  int               // shards in which events are on, of engine.Shards
}

// inspected are the directives that Inspect asks for.
var inspected = []string{"maxmemory", "maxmemory-policy", "appendonly", "appendfsync", "save"}

// Inspect asks the server of a URL about itself and about the lake of a name. It
// changes nothing. Of a cluster one node answers. engine.ErrUnavailable when the
// server does not.
func Inspect(ctx context.Context, url, name string) (Facts, error) {
	f := Facts{Config: map[string]string{}}
	if err := validateName(name); err != nil {
		return f, err
	}
	server, err := ParseURL(url)
	if err != nil {
		return f, err
	}
	client := server.connect(Options{PoolSize: 1}, nil)
	defer client.Close()
	info, err := client.Info(ctx, "server").Result()
	if err != nil {
		return f, unavailable(fmt.Sprintf("ask %s for INFO", server), err)
	}
	for line := range strings.Lines(info) {
		switch key, value, _ := strings.Cut(strings.TrimSpace(line), ":"); key {
		case "redis_version":
			f.Version = value
		case "run_id":
			f.RunID = value
		}
	}
	if f.Time, err = client.Time(ctx).Result(); err != nil {
		return f, unavailable(fmt.Sprintf("ask %s for TIME", server), err)
	}
	for _, directive := range inspected {
		values, err := client.ConfigGet(ctx, directive).Result()
		if err != nil { // not allowed, or renamed: it stays unknown
			break
		}
		if v, ok := values[directive]; ok {
			f.Config[directive] = v
		}
	}
	f.Flush = mayFlush(ctx, client)
	keys := makeShardKeys(prefix(name))
	for s := range engine.Shards {
		on, err := client.HExists(ctx, keys[s].heads, eventsField).Result()
		if err != nil {
			return f, unavailable(fmt.Sprintf("read shard %x on %s", s, server), err)
		}
		if on {
			f.Events++
		}
	}
	return f, nil
}

// mayFlush asks the server whether this connection's user may run FLUSHALL. A
// script can ask that since Redis 7, without a right of an administrator, as ACL
// DRYRUN needs one; nothing is run. nil when there is no answer: the server is
// older, or these credentials may not run scripts.
func mayFlush(ctx context.Context, client redis.UniversalClient) *bool {
	n, err := client.Eval(ctx, "return redis.acl_check_cmd('FLUSHALL') and 1 or 0", nil).Int()
	if err != nil && !strings.Contains(err.Error(), "Invalid command") { // it was renamed
		return nil
	}
	may := n == 1
	return &may
}
