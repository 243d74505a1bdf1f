package redis

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

const waitLong = 20 * time.Second

// TestScriptsFlushed: a server that forgot its scripts but is the same goes on.
func TestScriptsFlushed(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	x := open(t, server.URL)
	begin(t, x, 1)
	head := write(t, x, "users", 1)
	if err := server.Client(t).ScriptFlush(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Heartbeat(t.Context(), 1, "abcdefgh"); err != nil { // sixteen calls in one pipeline
		t.Fatal(err)
	}
	if err := server.Client(t).ScriptFlush(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if next := write(t, x, "users", 2); !head.Less(next) {
		t.Errorf("got %s after %s, want a greater one", next, head)
	}
}

// TestRestart: a restarted server has all the data and is another one all the
// same, for open connections and new ones, until it is fenced again.
func TestRestart(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	x := open(t, server.URL)
	begin(t, x, 1)
	head := write(t, x, "users", 1)
	server.Restart()
	wantRefused(t, x, 1)
	shards, err := x.Epochs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for s, e := range shards {
		if e.N != 1 || !e.Open || e.Same {
			t.Errorf("shard %x: got %+v, want epoch 1, open, on another server", s, e)
		}
	}
	// Scripts are in the server again, by another process: this changes nothing.
	y, err := OpenIndex(t.Context(), Options{URL: server.URL, Name: strings.TrimPrefix(x.prefix, "lake:")})
	if err != nil {
		t.Fatal(err)
	}
	defer y.Close()
	wantRefused(t, x, 1)
	wantRefused(t, y, 1)
	begin(t, y, 2)
	wantRefused(t, x, 1)
	if v, err := x.View(t.Context(), 2, "users", engine.Version{}); err != nil || v.Head != head || len(v.Runs) != 1 {
		t.Errorf("got %+v, %v, want head %s", v, err, head)
	}
}

// TestFlushAll: the replication id stays, the epoch does not.
func TestFlushAll(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	x := open(t, server.URL)
	begin(t, x, 1)
	write(t, x, "users", 1)
	if err := server.Client(t).FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, x, 1)
	shards, err := x.Epochs(t.Context())
	if err != nil || shards[3] != (engine.ShardEpoch{}) {
		t.Errorf("got %+v, %v, want nothing known", shards, err)
	}
}

// wantRefused holds that reads and writes answer ErrEpoch.
func wantRefused(t *testing.T, x *Index, epoch uint64) {
	t.Helper()
	ctx := t.Context()
	seg := engine.SegmentID{Epoch: epoch, Unix: 1, Writer: "refusedx", N: 1}
	res, err := x.PreCommit(ctx, engine.PreCommit{Epoch: epoch, Segment: seg, Runs: []engine.Reserve{{Catalog: "users", N: 2}}})
	if err != nil || !errors.Is(res.Runs[0].Err, engine.ErrEpoch) {
		t.Errorf("precommit: got %+v, %v, want %v", res, err, engine.ErrEpoch)
	}
	done, err := x.Commit(ctx, engine.Commit{Epoch: epoch, Segment: seg, Runs: []engine.CommitRun{{Catalog: "users", First: engine.Version{Sec: 1, Seq: 1}, N: 2}}})
	if err != nil || !errors.Is(done[0].Err, engine.ErrEpoch) {
		t.Errorf("commit: got %+v, %v, want %v", done, err, engine.ErrEpoch)
	}
	for _, after := range []engine.Version{{}, {Sec: 1, Seq: 1}} {
		if v, err := x.View(ctx, epoch, "users", after); !errors.Is(err, engine.ErrEpoch) {
			t.Errorf("view after %s: got %+v, %v, want %v", after, v, err, engine.ErrEpoch)
		}
	}
	if _, err := x.Heartbeat(ctx, epoch, "abcdefgh"); !errors.Is(err, engine.ErrEpoch) {
		t.Errorf("heartbeat: got %v, want %v", err, engine.ErrEpoch)
	}
	if _, err := x.Catalogs(ctx, epoch, "", "", 10); !errors.Is(err, engine.ErrEpoch) {
		t.Errorf("catalogs: got %v, want %v", err, engine.ErrEpoch)
	}
	if err := x.Fold(ctx, engine.Fold{Epoch: epoch, Catalog: "users", Snapshot: engine.Snapshot{Stop: engine.Version{Sec: 1, Seq: 1}}}); !errors.Is(err, engine.ErrEpoch) {
		t.Errorf("fold: got %v, want %v", err, engine.ErrEpoch)
	}
}

// TestPromotedReplica: a replica holds the same epoch, open; it must refuse when
// it is promoted, and the old primary must when it comes back as a replica.
func TestPromotedReplica(t *testing.T) {
	t.Parallel()
	primary := testenv.Redis(t)
	host, port, _ := strings.Cut(primary.Addr, ":")
	replica := testenv.Redis(t, testenv.RedisConfig("replicaof", host+" "+port))
	rc := replica.Client(t)
	testenv.WaitFor(t, waitLong, func() bool {
		return infoField(rc.Info(t.Context(), "replication").Val(), "master_link_status") == "up"
	})
	x := open(t, primary.URL)
	begin(t, x, 1)
	write(t, x, "users", 1)
	if n, err := primary.Client(t).Wait(t.Context(), 1, waitLong).Result(); err != nil || n != 1 {
		t.Fatalf("got %d replicas, %v", n, err)
	}
	on := func(addr string) *Index { // an index of the same name
		server, err := ParseURL("redis://" + addr)
		if err != nil {
			t.Fatal(err)
		}
		y := &Index{prefix: x.prefix, keys: x.keys}
		y.scripts.Store(x.scripts.Load())
		y.connect(server, Options{})
		t.Cleanup(func() { y.Close() })
		return y
	}
	asReplica := on(replica.Addr)
	if _, err := asReplica.View(t.Context(), 1, "users", engine.Version{}); !errors.Is(err, engine.ErrEpoch) {
		t.Errorf("view on a replica: got %v, want %v", err, engine.ErrEpoch)
	}
	if err := asReplica.Fence(t.Context(), 0, 2); err == nil {
		t.Error("fence on a replica: got no error")
	}
	if err := rc.Do(t.Context(), "REPLICAOF", "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	promoted := on(replica.Addr)
	if err := promoted.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, promoted, 1)
	write(t, x, "users", 2) // the old primary does not know; the bucket's lease guards that
	begin(t, promoted, 2)
	if v, err := promoted.View(t.Context(), 2, "users", engine.Version{}); err != nil || len(v.Runs) != 1 {
		t.Errorf("got %+v, %v, want one run", v, err)
	}
	// The old primary becomes a replica of the new one under our connections.
	host, port, _ = strings.Cut(replica.Addr, ":")
	pc := primary.Client(t)
	if err := pc.Do(t.Context(), "REPLICAOF", host, port).Err(); err != nil {
		t.Fatal(err)
	}
	testenv.WaitFor(t, waitLong, func() bool {
		return infoField(pc.Info(t.Context(), "replication").Val(), "master_link_status") == "up"
	})
	if _, err := x.Heartbeat(t.Context(), 1, "abcdefgh"); err == nil {
		t.Error("heartbeat on a demoted primary: got no error")
	}
	if _, err := x.Heartbeat(t.Context(), 2, "abcdefgh"); err == nil {
		t.Error("heartbeat on a demoted primary in the new epoch: got no error")
	}
}

// TestUnavailable: a server that is gone, or does not answer in time.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	x := open(t, server.URL)
	begin(t, x, 1)
	head := write(t, x, "users", 1)
	check := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		began := time.Now()
		res, err := x.PreCommit(ctx, engine.PreCommit{Epoch: 1, Segment: engine.SegmentID{Epoch: 1, Unix: 1, Writer: "abcdefgh", N: 9}, Runs: []engine.Reserve{{Catalog: "users", N: 2}, {Catalog: "orders", N: 2}}})
		if err != nil || !errors.Is(res.Runs[0].Err, engine.ErrUnavailable) || !errors.Is(res.Runs[1].Err, engine.ErrUnavailable) || !res.Now.IsZero() {
			t.Errorf("precommit: got %+v, %v, want %v a run", res, err, engine.ErrUnavailable)
		}
		for _, after := range []engine.Version{{}, head} {
			if _, err := x.View(ctx, 1, "users", after); !errors.Is(err, engine.ErrUnavailable) {
				t.Errorf("view: got %v, want %v", err, engine.ErrUnavailable)
			}
		}
		if _, err := x.Epochs(ctx); !errors.Is(err, engine.ErrUnavailable) {
			t.Errorf("epochs: got %v, want %v", err, engine.ErrUnavailable)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("took %v, want the context's deadline kept", took)
		}
	}
	server.Pause()
	check()
	server.Resume()
	testenv.WaitFor(t, waitLong, func() bool {
		v, err := x.View(t.Context(), 1, "users", head)
		return err == nil && v.Head == head
	})
	server.Stop()
	check()
	if _, err := OpenIndex(t.Context(), Options{URL: server.URL}); !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("open: got %v, want %v", err, engine.ErrUnavailable)
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
	if _, err := x.View(t.Context(), 1, "users", head); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("view of a closed index: got %v, want %v", err, engine.ErrClosed)
	}
	if _, err := x.View(t.Context(), 1, "users", engine.Version{}); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("view of a closed index: got %v, want %v", err, engine.ErrClosed)
	}
}

// TestClusterNodeAway: a shard that does not answer leaves the others alone.
func TestClusterNodeAway(t *testing.T) {
	t.Parallel()
	cluster := testenv.RedisCluster(t, 3, testenv.RedisConfig("cluster-node-timeout", "60000"), testenv.RedisConfig("cluster-require-full-coverage", "no"))
	x := open(t, "redis+cluster://"+strings.Join(cluster.Addrs, ","))
	begin(t, x, 1)
	if _, err := x.Heartbeat(t.Context(), 1, "abcdefgh"); err != nil { // connects to all nodes
		t.Fatal(err)
	}
	var runs []engine.Reserve
	for i := range 200 {
		runs = append(runs, engine.Reserve{Catalog: fmt.Sprintf("catalog-%d", i), N: 2})
	}
	seg := engine.SegmentID{Epoch: 1, Unix: 1, Writer: "abcdefgh", N: 1}
	cluster.Nodes[2].Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	res, err := x.PreCommit(ctx, engine.PreCommit{Epoch: 1, Segment: seg, Runs: runs})
	if err != nil {
		t.Fatal(err)
	}
	good, away := 0, 0
	for i, r := range res.Runs {
		switch {
		case r.Err == nil && r.First.Valid() && !r.First.IsZero():
			good++
		case errors.Is(r.Err, engine.ErrUnavailable):
			away++
		default:
			t.Errorf("run %d: got %+v", i, r)
		}
	}
	if good == 0 || away == 0 {
		t.Errorf("got %d runs reserved, %d not answered, want some of both", good, away)
	}
	cluster.Nodes[2].Resume()
	// The reservations exist or not; the plan tells, and both can be rolled back.
	all := make([]int, engine.Shards)
	for s := range all {
		all[s] = s
	}
	testenv.WaitFor(t, waitLong, func() bool {
		return x.Rollback(t.Context(), engine.Rollback{Epoch: 1, Segment: seg, Shards: all}) == nil
	})
	if list, err := x.Stuck(t.Context(), 1); err != nil || len(list) != 0 {
		t.Errorf("got %+v, %v, want nothing undecided", list, err)
	}
}

// TestSentinel: the index finds the master, and refuses the one after it.
func TestSentinel(t *testing.T) {
	t.Parallel()
	primary := testenv.Redis(t)
	host, port, _ := strings.Cut(primary.Addr, ":")
	replica := testenv.Redis(t, testenv.RedisConfig("replicaof", host+" "+port))
	rc := replica.Client(t)
	testenv.WaitFor(t, waitLong, func() bool {
		return infoField(rc.Info(t.Context(), "replication").Val(), "master_link_status") == "up"
	})
	sentinel := startSentinel(t, host, port)
	x := open(t, "redis+sentinel://"+sentinel+"/mymaster")
	begin(t, x, 1)
	write(t, x, "users", 1)
	if n, err := primary.Client(t).Wait(t.Context(), 1, waitLong).Result(); err != nil || n != 1 {
		t.Fatalf("got %d replicas, %v", n, err)
	}
	primary.Kill()
	testenv.WaitFor(t, 60*time.Second, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		shards, err := x.Epochs(ctx)
		return err == nil && !shards[0].Same && shards[0].N == 1
	})
	wantRefused(t, x, 1)
	begin(t, x, 2)
	if v, err := x.View(t.Context(), 2, "users", engine.Version{}); err != nil || len(v.Runs) != 1 {
		t.Errorf("got %+v, %v, want one run", v, err)
	}
}

// startSentinel watches over one master and fails over after a second.
func startSentinel(t *testing.T, host, port string) (addr string) {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal(err) // testenv.Redis found it
	}
	addr = fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))
	_, own, _ := strings.Cut(addr, ":")
	conf := filepath.Join(t.TempDir(), "sentinel.conf")
	writeFile(t, conf, fmt.Sprintf("bind 127.0.0.1\nport %s\nsentinel monitor mymaster %s %s 1\nsentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 5000\n", own, host, port))
	cmd := exec.Command(path, conf, "--sentinel")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	c := redis.NewSentinelClient(&redis.Options{Addr: addr})
	defer c.Close()
	testenv.WaitFor(t, waitLong, func() bool {
		replicas, err := c.Replicas(t.Context(), "mymaster").Result()
		return err == nil && len(replicas) == 1
	})
	return addr
}

// TestDamage: what the index has lost is told, not guessed.
func TestDamage(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	client := server.Client(t)
	x := open(t, server.URL)
	begin(t, x, 1)
	ctx := t.Context()
	damaged := func(what string, err error, catalog string) {
		t.Helper()
		if !errors.Is(err, engine.ErrDamaged) || !strings.Contains(err.Error(), catalog) {
			t.Errorf("%s: got %v, want %v naming %q", what, err, engine.ErrDamaged, catalog)
		}
	}
	head := write(t, x, "lost head", 1)
	k := &x.keys[engine.Shard("lost head")]
	seg := engine.SegmentID{Epoch: 1, Unix: 1, Writer: "abcdefgh", N: 2}
	res, err := x.PreCommit(ctx, engine.PreCommit{Epoch: 1, Segment: seg, Runs: []engine.Reserve{{Catalog: "lost head", N: 2}}})
	if err != nil || res.Runs[0].Err != nil {
		t.Fatalf("got %+v, %v", res, err)
	}
	client.HDel(ctx, k.heads, encodeName("lost head"))
	for _, after := range []engine.Version{{}, head} {
		_, err = x.View(ctx, 1, "lost head", after)
		damaged("view", err, "lost head")
	}
	done, err := x.Commit(ctx, engine.Commit{Epoch: 1, Segment: seg, Runs: []engine.CommitRun{{Catalog: "lost head", First: res.Runs[0].First, N: 2}}})
	if err != nil {
		t.Fatal(err)
	}
	damaged("commit", done[0].Err, "lost head")
	seg.N = 3
	res, err = x.PreCommit(ctx, engine.PreCommit{Epoch: 1, Segment: seg, Runs: []engine.Reserve{{Catalog: "lost head", N: 2}, {Catalog: "fine", N: 2}}})
	if err != nil || res.Runs[1].Err != nil || res.Runs[1].First.IsZero() {
		t.Errorf("got %+v, %v, want the other catalog reserved", res, err)
	}
	damaged("precommit", res.Runs[0].Err, "lost head")
	damaged("fold", x.Fold(ctx, engine.Fold{Epoch: 1, Catalog: "lost head", Snapshot: engine.Snapshot{Stop: head}}), "lost head")
	_, err = x.Catalogs(ctx, 1, "", "", 10)
	damaged("catalogs", err, "lost head")

	write(t, x, "lost log", 4)
	client.Del(ctx, x.keys[engine.Shard("lost log")].logOf(encodeName("lost log")))
	_, err = x.View(ctx, 1, "lost log", engine.Version{})
	damaged("view", err, "lost log")
	write(t, x, "lost run", 5)
	write(t, x, "lost run", 6)
	client.LPop(ctx, x.keys[engine.Shard("lost run")].logOf(encodeName("lost run")))
	_, err = x.View(ctx, 1, "lost run", engine.Version{})
	damaged("view", err, "lost run")
}

// TestLostPlan: without its plan nothing of a segment can be committed; its
// reservations must not hold up their catalogs for ever.
func TestLostPlan(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	client := server.Client(t)
	ctx := t.Context()
	for _, how := range []string{"rollback", "resolve"} {
		t.Run(how, func(t *testing.T) {
			x := open(t, server.URL)
			begin(t, x, 1)
			shard := engine.Shard("users")
			seg := engine.SegmentID{Epoch: 1, Unix: 1, Writer: "lostplan", N: 1}
			res, err := x.PreCommit(ctx, engine.PreCommit{Epoch: 1, Segment: seg, Runs: []engine.Reserve{{Catalog: "users", N: 2}}})
			if err != nil {
				t.Fatal(err)
			}
			client.Del(ctx, x.keys[shard].planOf(seg.String()))
			done, err := x.Commit(ctx, engine.Commit{Epoch: 1, Segment: seg, Runs: []engine.CommitRun{{Catalog: "users", First: res.Runs[0].First, N: 2}}})
			if err != nil || done[0].State != engine.RunGone {
				t.Errorf("got %+v, %v, want it gone", done, err)
			}
			epoch := uint64(1)
			if how == "rollback" {
				err = x.Rollback(ctx, engine.Rollback{Epoch: 1, Segment: seg, Shards: []int{shard}})
			} else {
				epoch = 2
				if err = x.Fence(ctx, shard, 2); err == nil {
					err = errors.Join(x.Resolve(ctx, shard, 2, seg, nil), x.Open(ctx, shard, 2, 0))
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			v, err := x.View(ctx, epoch, "users", engine.Version{})
			if err != nil || v.Pending {
				t.Errorf("got %+v, %v, want nothing pending", v, err)
			}
		})
	}
}

// TestFenceEmptiesRemains: a shard that lost its heads, and with them its epoch,
// holds remains that a restore must not meet.
func TestFenceEmptiesRemains(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	client := server.Client(t)
	ctx := t.Context()
	x := open(t, server.URL)
	begin(t, x, 1)
	if err := x.SetEvents(ctx, true); err != nil {
		t.Fatal(err)
	}
	shard, n := engine.Shard("users"), uint64(0)
	for i := 0; n < 1100; i++ { // three pages of catalogs
		if name := fmt.Sprintf("catalog-%d", i); engine.Shard(name) == shard {
			n++
			write(t, x, name, n)
		}
	}
	first := write(t, x, "users", n+1)
	seg := engine.SegmentID{Epoch: 1, Unix: 1, Writer: "leftover", N: 1}
	if _, err := x.PreCommit(ctx, engine.PreCommit{Epoch: 1, Segment: seg, Runs: []engine.Reserve{{Catalog: "users", N: 2}}}); err != nil {
		t.Fatal(err)
	}
	k := &x.keys[shard]
	client.Del(ctx, k.heads)
	client.HSet(ctx, k.heads, eventsField, "1")
	if _, err := x.View(ctx, 1, "users", engine.Version{}); !errors.Is(err, engine.ErrEpoch) {
		t.Errorf("got %v, want %v", err, engine.ErrEpoch)
	}
	if err := x.Fence(ctx, shard, 2); err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, key := range client.Keys(ctx, k.prefix+"*").Val() {
		key = strings.NewReplacer("{", "", "}", "").Replace(strings.TrimPrefix(key, k.prefix))
		// Receipts expire, published entries are true, and the new epoch stands in heads.
		if key != "heads" && key != "outbox" && !strings.HasPrefix(key, "plan:") {
			left = append(left, key)
		}
	}
	if len(left) > 0 {
		t.Errorf("got %d keys left, want none: %v", len(left), left[:min(10, len(left))])
	}
	if client.Exists(ctx, k.planOf(seg.String())).Val() != 0 {
		t.Error("got the plan of an undecided segment left")
	}
	if client.HGet(ctx, k.heads, eventsField).Val() != "1" {
		t.Error("got events off, want them as they were")
	}
	run := engine.RestoreRun{Catalog: "users", Run: engine.Run{First: first, Last: first, N: 1, Type: merge.Replace, Path: "/profile", Segment: engine.SegmentID{Epoch: 1, Unix: 1_700_000_000, Writer: "abcdefgh", N: n + 1}, Len: 180}}
	for range 2 {
		if err := x.Restore(ctx, shard, 2, engine.Restore{Runs: []engine.RestoreRun{run}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.Open(ctx, shard, 2, 0); err != nil {
		t.Fatal(err)
	}
	v, err := x.View(ctx, 2, "users", engine.Version{})
	if err != nil || v.Head != first || len(v.Runs) != 1 || v.Runs[0] != run.Run || v.Deltas != 1 || v.Bytes != 180 || v.Pending {
		t.Errorf("got %+v, %v, want the restored run alone", v, err)
	}
	if refs := client.HGetAll(ctx, k.refs).Val(); len(refs) != 1 || refs[run.Run.Segment.String()] != "1" {
		t.Errorf("got refs %v, want one", refs)
	}
}
