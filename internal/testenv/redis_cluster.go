package testenv

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// RedisClusterServers is a Redis Cluster of masters without replicas.
type RedisClusterServers struct {
	Nodes []*RedisServer
	Addrs []string
	URL   string // as redis.ParseClusterURL reads it
}

// RedisCluster starts n masters with the settings of an index and joins them into
// one cluster, the slots shared evenly. Every node says cluster_state:ok.
func RedisCluster(tb testing.TB, n int, opts ...RedisOption) *RedisClusterServers {
	tb.Helper()
	if n < 1 {
		tb.Fatalf("a cluster of %d nodes", n)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	const slots = 16384
	cl := &RedisClusterServers{}
	var bus []int
	for i := range n {
		node, port := clusterNode(tb, opts)
		cl.Nodes, cl.Addrs, bus = append(cl.Nodes, node), append(cl.Addrs, node.Addr), append(bus, port)
		c := node.Client(tb)
		// Distinct epochs from the start: nodes that meet with equal ones quarrel first.
		if err := c.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err(); err != nil {
			tb.Fatalf("set epoch of cluster node %d: %v", i, err)
		}
		var add []any
		for slot := i * slots / n; slot < (i+1)*slots/n; slot++ {
			add = append(add, slot)
		}
		if err := c.Do(ctx, append([]any{"CLUSTER", "ADDSLOTS"}, add...)...).Err(); err != nil {
			tb.Fatalf("give slots to cluster node %d: %v", i, err)
		}
		if i > 0 {
			host, first, _ := strings.Cut(cl.Addrs[0], ":")
			if err := c.Do(ctx, "CLUSTER", "MEET", host, first, bus[0]).Err(); err != nil {
				tb.Fatalf("join cluster node %d: %v", i, err)
			}
		}
	}
	if cl.URL = "redis://" + cl.Addrs[0]; n > 1 {
		cl.URL += "?addr=" + strings.Join(cl.Addrs[1:], "&addr=")
	}
	for _, node := range cl.Nodes {
		c := node.Client(tb)
		WaitFor(tb, startTimeout, func() bool { return clusterWhole(ctx, c, n) })
	}
	return cl
}

// Client returns a client of the cluster, closed with the test.
func (cl *RedisClusterServers) Client(tb testing.TB) *redis.ClusterClient {
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cl.Addrs, ContextTimeoutEnabled: true})
	tb.Cleanup(func() { c.Close() })
	return c
}

func clusterNode(tb testing.TB, opts []RedisOption) (s *RedisServer, bus int) {
	tb.Helper()
	path := redisPath(tb)
	s = &RedisServer{Dir: tb.TempDir()}
	retryPorts(tb, path, func() (*Process, error) {
		s.setPort(FreePort(tb))
		bus = FreePort(tb)
		return s.launch(tb, path, append([]RedisOption{
			RedisConfig("cluster-enabled", "yes"),
			RedisConfig("cluster-port", strconv.Itoa(bus)), // by default 10000 above the port: too high
			RedisConfig("cluster-node-timeout", "2000"),
		}, opts...))
	})
	return s, bus
}

// clusterWhole says whether the node sees all n nodes, connected, and all slots served.
func clusterWhole(ctx context.Context, c *redis.Client, n int) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	info, err := c.ClusterInfo(ctx).Result()
	if err != nil {
		return false
	}
	for _, want := range []string{"cluster_state:ok", "cluster_slots_ok:16384", fmt.Sprintf("cluster_size:%d", n)} {
		if !strings.Contains(info, want+"\r\n") {
			return false
		}
	}
	return true
}
