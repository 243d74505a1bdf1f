package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/jsonlake/lake/pkg/engine"
)

// onConnect admits a connection to the pool that carries work only if the
// server is a master and is the one on which the shards it holds were fenced:
// a promoted replica, a restored backup or a restarted server has another
// replication id than the one recorded. This covers reads, whose scripts do not
// ask; what writes asks again in every script, because a server can become
// another one under an open connection.
func (x *Index) onConnect(ctx context.Context, c *redis.Conn) error {
	pipe := c.Pipeline()
	info := pipe.Info(ctx, "replication")
	var epochs [engine.Shards]*redis.StringCmd
	for s := range epochs {
		epochs[s] = pipe.HGet(ctx, x.keys[s].heads, epochField)
	}
	_, _ = pipe.Exec(ctx) // every command keeps its own error
	text, err := info.Result()
	if err != nil {
		return fmt.Errorf("ask the server for its role: %w", err)
	}
	role, replid := infoField(text, "role"), infoField(text, "master_replid")
	if role == "" {
		return nil // a Sentinel, asked for the master: it holds no data
	}
	for s, cmd := range epochs {
		recorded, err := cmd.Result()
		switch {
		case errors.Is(err, redis.Nil):
			continue // never fenced: scripts answer EPOCH
		case err != nil && (redis.HasErrorPrefix(err, "MOVED") || redis.HasErrorPrefix(err, "ASK") || redis.HasErrorPrefix(err, "CLUSTERDOWN")):
			continue // another node of the cluster has this shard
		case err != nil:
			return fmt.Errorf("ask for the epoch of shard %x: %w", s, err)
		}
		if _, fenced, err := parseEpoch(recorded); err != nil || fenced != replid || role != "master" {
			return fmt.Errorf("shard %x was fenced on another server (this one: %s %s): %w", s, role, replid, engine.ErrEpoch)
		}
	}
	return nil
}

// infoField is a field of INFO.
func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
