package fault

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// nemesis breaks a cluster. What it does is drawn from a seed; when each thing
// happens to the load is not. Two lanes run side by side: processes and servers,
// and the connections between them.
type nemesis struct {
	c    *cluster
	rng  *rand.Rand // of the first lane
	done atomic.Int64

	mu    sync.Mutex
	count map[string]int
	trace []string
	begin time.Time
}

func newNemesis(c *cluster, seed uint64) *nemesis {
	return &nemesis{c: c, rng: rand.New(rand.NewPCG(seed, 1)), count: map[string]int{}, begin: time.Now()}
}

// did counts a fault and notes it in the trace.
func (n *nemesis) did(kind, format string, args ...any) {
	n.done.Add(1)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.count[kind]++
	n.trace = append(n.trace, fmt.Sprintf("%8s %s %s", time.Since(n.begin).Round(time.Millisecond), kind, fmt.Sprintf(format, args...)))
}

// deck deals kinds of faults so that each comes as often as it is in the deck.
type deck struct {
	kinds []func()
	next  int
	rng   *rand.Rand
}

func (d *deck) deal() func() {
	if d.next == 0 {
		d.rng.Shuffle(len(d.kinds), func(i, k int) { d.kinds[i], d.kinds[k] = d.kinds[k], d.kinds[i] })
	}
	f := d.kinds[d.next]
	d.next = (d.next + 1) % len(d.kinds)
	return f
}

// run makes faults until enough says so, in storms: after some faults it lets
// the load work until behind says no longer that it lags, but for at most 30 s.
// It must be called from the test's own goroutine.
func (n *nemesis) run(enough, behind func() bool) {
	var stop atomic.Bool
	var storm sync.Mutex // held in a calm
	var wires sync.WaitGroup
	rng := rand.New(rand.NewPCG(n.rng.Uint64(), 2)) // the second lane's own
	wires.Go(func() {
		d := n.wires(rng)
		for !stop.Load() {
			storm.Lock()
			d.deal()()
			storm.Unlock()
			pause(rng, 100*time.Millisecond, 800*time.Millisecond)
		}
	})
	defer func() {
		stop.Store(true)
		wires.Wait()
	}()
	d := n.processes()
	for !enough() {
		for range 4 + n.rng.IntN(6) {
			d.deal()()
			pause(n.rng, 100*time.Millisecond, 1200*time.Millisecond)
		}
		storm.Lock()
		wait(30*time.Second, func() bool { return enough() || !behind() })
		storm.Unlock()
	}
}

func pause(rng *rand.Rand, least, most time.Duration) {
	time.Sleep(least + time.Duration(rng.Int64N(int64(most-least))))
}

// processes is the deck of what happens to processes and servers.
func (n *nemesis) processes() *deck {
	kill := func(kind string) func() { return func() { n.kill(kind) } }
	stop := func(kind string) func() { return func() { n.stop(kind) } }
	return &deck{rng: n.rng, kinds: []func(){
		kill("ingest"), kill("ingest"), kill("ingest"), kill("snapshotter"), kill("snapshotter"), kill("reader"), kill("reader"),
		stop("ingest"), stop("ingest"), stop("ingest"), stop("snapshotter"), stop("reader"), stop("reader"),
		n.redisKilled, n.redisCut, n.redisCut, n.redisFlushed, n.promote, n.promote,
		n.natsKilled, n.natsEmptied, n.bucketKilled,
	}}
}

// kill ends a service without a word (SIGKILL) and starts it again.
func (n *nemesis) kill(kind string) {
	s := pick1(n.rng, n.c.of(kind))
	n.did("kill -9 "+kind, "%s", s.name)
	s.Kill()
	pause(n.rng, 0, time.Second)
	s.Spawn()
}

// stop freezes a service (SIGSTOP) and lets it go on; every other time for longer
// than an epoch lease lasts.
func (n *nemesis) stop(kind string) {
	s := pick1(n.rng, n.c.of(kind))
	most := 2 * time.Second
	if n.rng.IntN(2) == 0 {
		most = 7 * time.Second
	}
	n.did("SIGSTOP "+kind, "%s", s.name)
	s.Pause()
	pause(n.rng, most/4, most)
	s.Resume()
}

func (n *nemesis) redisKilled() {
	n.did("redis killed", "")
	r := n.c.redis[n.c.index]
	r.Kill()
	pause(n.rng, 0, time.Second)
	r.Start()
}

// redisCut kills Redis and cuts the tail of its append-only file.
func (n *nemesis) redisCut() {
	r := n.c.redis[n.c.index]
	r.Kill()
	lost := cutAOF(n.c.t, r, 0.02+0.3*n.rng.Float64())
	n.did("redis killed, AOF cut", "%d bytes", lost)
	pause(n.rng, 0, time.Second)
	r.Start()
}

func (n *nemesis) redisFlushed() {
	n.did("redis FLUSHALL", "")
	n.redis(n.c.index, "flushall")
}

// redis sends a command to one of the two servers.
func (n *nemesis) redis(which int, args ...any) string {
	r := redis.NewClient(&redis.Options{Addr: n.c.redis[which].Addr, MaxRetries: -1})
	defer r.Close()
	out, err := r.Do(n.c.t.Context(), args...).Text()
	if err != nil {
		n.c.t.Errorf("redis %v: %v", args, err)
	}
	return out
}

// promote makes the other Redis a replica, stops the replication, lets it lag,
// and promotes it. Half of the services are led there at once; the old primary
// goes on answering the others for a while.
func (n *nemesis) promote() {
	old, next := n.c.index, 1-n.c.index
	host, port, _ := strings.Cut(n.c.redis[old].Addr, ":")
	n.redis(next, "replicaof", host, port)
	if !wait(20*time.Second, func() bool {
		return strings.Contains(n.redis(next, "info", "replication"), "master_link_status:up")
	}) {
		n.c.t.Fatalf("the second Redis is no replica of the first:\n%s", n.redis(next, "info", "replication"))
	}
	pause(n.rng, 100*time.Millisecond, 500*time.Millisecond) // it follows
	n.redis(next, "replicaof", "no", "one")                  // and no longer
	pause(n.rng, 200*time.Millisecond, 1500*time.Millisecond)

	moved := slices.Clone(n.c.services)
	n.rng.Shuffle(len(moved), func(i, k int) { moved[i], moved[k] = moved[k], moved[i] })
	first := 1 + n.rng.IntN(len(moved)-1)
	n.did("lagging replica promoted", "to %d of %d services first", first, len(moved))
	n.c.index = next
	for i, s := range moved {
		if i == first {
			pause(n.rng, 500*time.Millisecond, 7*time.Second)
		}
		s.redis.lead(n.c.redis[next].Addr)
	}
}

func (n *nemesis) natsKilled() {
	n.did("nats killed", "")
	n.c.nats.Kill()
	pause(n.rng, 0, time.Second)
	n.c.nats.Start()
}

// natsEmptied deletes JetStream's store; the operator makes the streams anew.
func (n *nemesis) natsEmptied() {
	n.did("nats store deleted", "")
	n.c.nats.Kill()
	entries, err := os.ReadDir(n.c.nats.Dir)
	if err != nil {
		n.c.t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(n.c.nats.Dir, e.Name())); err != nil {
			n.c.t.Fatal(err)
		}
	}
	n.c.nats.Start()
	n.c.applyStreams("lake")
}

func (n *nemesis) bucketKilled() {
	n.did("bucket killed", "")
	n.c.store.Kill()
	pause(n.rng, 0, 1500*time.Millisecond)
	n.c.store.Start()
}

// wires is the deck of what happens to connections, and of a bucket that refuses.
func (n *nemesis) wires(rng *rand.Rand) *deck {
	return &deck{rng: rng, kinds: []func(){
		func() {
			lag := 20 + rng.IntN(400)
			n.poison(rng, "latency", map[string]any{"latency": lag, "jitter": lag / 2}, 2*time.Second)
		},
		func() { n.poison(rng, "reset_peer", map[string]any{"timeout": 0}, time.Second) },
		func() { n.poison(rng, "reset_peer", map[string]any{"timeout": rng.IntN(200)}, time.Second) },
		func() { n.poison(rng, "timeout", map[string]any{"timeout": 0}, 5*time.Second) },
		func() { n.poison(rng, "timeout", map[string]any{"timeout": 0}, 2*time.Second) },
		func() { n.poison(rng, "limit_data", map[string]any{"bytes": 50 + rng.IntN(1000)}, time.Second) },
		func() { n.poison(rng, "limit_data", map[string]any{"bytes": 500 + rng.IntN(20_000)}, 2*time.Second) },
		func() { n.shed503(rng, &n.c.shed.before, "S3 503") },
		func() { n.shed503(rng, &n.c.shed.after, "S3 503 although done") },
	}}
}

// names of toxics as they are counted
var toxicNames = map[string]string{"latency": "latency", "reset_peer": "connections reset", "timeout": "half-open", "limit_data": "cut in mid body"}

// poison breaks the doors of one service, or one kind of door of all, in one
// direction, for a while.
func (n *nemesis) poison(rng *rand.Rand, typ string, attributes map[string]any, most time.Duration) {
	s := pick1(rng, n.c.services)
	var doors []*door
	switch rng.IntN(10) {
	case 0:
		doors = s.doors() // the service is cut off from everything
	case 1:
		doors = []*door{n.c.clients}
	case 2:
		for _, s := range n.c.services {
			doors = append(doors, s.s3) // the bucket is cut off from everybody
		}
	default:
		doors = []*door{pick1(rng, s.doors())}
	}
	direction := []string{"upstream", "downstream"}[rng.IntN(2)]
	names := make([]string, len(doors))
	for i, d := range doors {
		d.poison(toxic{Type: typ, Stream: direction, Attributes: attributes})
		names[i] = d.name
	}
	n.did(toxicNames[typ], "%s %v %v", direction, names, attributes)
	pause(rng, most/5, most)
	for _, d := range doors {
		d.heal()
	}
}

func (n *nemesis) shed503(rng *rand.Rand, which *atomic.Int64, kind string) {
	every := int64(1 + rng.IntN(3))
	n.did(kind, "one in %d", every)
	which.Store(every)
	pause(rng, 300*time.Millisecond, 2*time.Second)
	which.Store(0)
}

func pick1[T any](rng *rand.Rand, from []T) T { return from[rng.IntN(len(from))] }

// addCounts adds up the faults of several nemeses.
func addCounts(to, more map[string]int) {
	for k, v := range more {
		to[k] += v
	}
}

// counts lists faults by kind.
func counts(m map[string]int) (list string, sum int) {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "  %4d %s\n", m[k], k)
		sum += m[k]
	}
	return b.String(), sum
}
