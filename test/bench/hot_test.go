// Package bench measures paths of a lake beside the physical limits of the same
// machine in the same run: what counts are the ratios.
package bench

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jsonlake/lake/internal/service"
	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/memory"
	"github.com/jsonlake/lake/pkg/engine/redis"
	"github.com/jsonlake/lake/pkg/events"
)

// rate is what a kind of request reached.
type rate struct {
	perSecond float64
	p50       time.Duration
	cpu       time.Duration // a request, of this process and its servers: other work disturbs it less
}

// kind is a request to be measured.
type kind struct {
	name     string
	inFlight int
	do       func(i int64) error // i counts from 0
}

// measure runs every kind for d, in turn, rounds times over, so that what
// disturbs the machine disturbs all; and gives the median of each.
func measure(b *testing.B, rounds int, d time.Duration, kinds []kind) map[string]rate {
	b.Helper()
	all := map[string][]rate{}
	for range rounds {
		for _, k := range kinds {
			all[k.name] = append(all[k.name], k.run(b, d))
		}
	}
	medians := map[string]rate{}
	for name, rs := range all {
		slices.SortFunc(rs, func(x, y rate) int { return cmp.Compare(x.perSecond, y.perSecond) })
		m := rs[len(rs)/2]
		slices.SortFunc(rs, func(x, y rate) int { return cmp.Compare(x.cpu, y.cpu) })
		m.cpu = rs[len(rs)/2].cpu
		medians[name] = m
	}
	return medians
}

// run has inFlight callers ask one after the other for d.
func (k kind) run(b *testing.B, d time.Duration) rate {
	b.Helper()
	var next atomic.Int64
	took := make([][]time.Duration, k.inFlight)
	var wg sync.WaitGroup
	worked := cpuTime(b)
	begin := time.Now()
	for w := range k.inFlight {
		wg.Go(func() {
			for now := time.Now(); now.Sub(begin) < d; {
				if err := k.do(next.Add(1) - 1); err != nil {
					b.Errorf("%s: %v", k.name, err)
					return
				}
				end := time.Now()
				took[w] = append(took[w], end.Sub(now))
				now = end
			}
		})
	}
	wg.Wait()
	total := time.Since(begin)
	times := slices.Concat(took...)
	if b.Failed() || len(times) == 0 {
		b.FailNow()
	}
	slices.Sort(times)
	return rate{perSecond: float64(len(times)) / total.Seconds(), p50: times[len(times)/2], cpu: (cpuTime(b) - worked) / time.Duration(len(times))}
}

// cpuTime is what this process and those that it started have worked, in steps of
// 10 ms; 0 where there is no /proc.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		b.Fatal(err)
	}
	self := strconv.Itoa(os.Getpid())
	var ticks int
	for _, name := range files {
		stat, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		// proc(5): pid (name) state ppid … utime stime; the name may hold spaces.
		f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if pid := filepath.Base(filepath.Dir(name)); len(f) < 13 || pid != self && f[1] != self {
			continue
		}
		for _, n := range f[11:13] {
			v, err := strconv.Atoi(n)
			if err != nil {
				b.Fatal(err)
			}
			ticks += v
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// serve runs a service until the benchmark ends.
func serve(b *testing.B, s interface {
	Run(ctx context.Context) error
	Listening() <-chan struct{}
}, err error,
) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Errorf("run: %v", err)
		}
	})
	select {
	case <-s.Listening():
	case <-time.After(20 * time.Second):
		b.Fatal("the service does not listen")
	}
}

// newEngine puts an engine on an index and a bucket until the benchmark ends.
func newEngine(b *testing.B, index engine.IndexAdapter, objects engine.Objects, o engine.Options) *engine.Engine {
	b.Helper()
	e, err := engine.New(b.Context(), index, objects, o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := e.Close(ctx); err != nil {
			b.Errorf("close the engine: %v", err)
		}
	})
	return e
}

// redisIndex is an index on a redis-server of its own.
func redisIndex(b *testing.B) *redis.Index {
	b.Helper()
	x, err := redis.OpenIndex(b.Context(), redis.Options{URL: testenv.Redis(b).URL})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = x.Close() })
	return x
}

// BenchmarkHotRead is P6: reads of unchanged documents of 1 KB through
// client, nats-server, reader and redis-server, beside bare NATS
// request-reply with the same bytes and the smallest script of the index. Client
// and reader share a process, as asker and answerer of the bare one do; their
// connections are those of client.Connect and of the services (WriteTogether), those of
// the bare one are as nats.go makes them, and once more with WriteTogether.
//
//	go test -run '^$' -bench HotRead -benchtime 3s ./test/bench
//
// "alone" is one request at a time, "of a limit" its share of the limit's
// requests a second at 64 at once.
func BenchmarkHotRead(b *testing.B) {
	const documents = 1000
	const many = 64
	n := testenv.NATSProcess(b)
	server := testenv.Redis(b)
	x, err := redis.OpenIndex(b.Context(), redis.Options{URL: server.URL})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = x.Close() })
	e := newEngine(b, x, memory.NewObjects(), engine.Options{})
	names := make([]string, documents)
	small := []byte(`{"text":"` + strings.Repeat("a", 1000) + `"}`)
	var wg sync.WaitGroup
	for i := range names {
		names[i] = fmt.Sprintf("c%d", i)
		wg.Go(func() {
			if _, err := e.Write(b.Context(), engine.WriteRequest{Catalog: names[i], Body: small}); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	connect := func(o ...nats.Option) *nats.Conn { return n.Connect(b, append(o, nats.ReconnectBufSize(-1))...) }
	re, err := service.NewReader(service.Config{NATS: connect(events.WriteTogether)}, e)
	serve(b, re, err)
	asker := func(subject string, o ...nats.Option) func(int64) error {
		server, c := connect(o...), connect(o...)
		_, err := server.QueueSubscribe(subject, "q", func(m *nats.Msg) { _ = m.Respond(small) })
		if err == nil {
			err = server.Flush()
		}
		if err != nil {
			b.Fatal(err)
		}
		return func(int64) error {
			ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
			defer cancel()
			_, err := c.RequestWithContext(ctx, subject, nil)
			return err
		}
	}
	ask, askTogether := asker("bare"), asker("together", events.WriteTogether)
	l, err := client.New(connect(events.WriteTogether))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(l.Close)
	rdb := server.Client(b)
	sha, err := rdb.ScriptLoad(b.Context(), "return redis.call('HGET', KEYS[1], ARGV[1])").Result()
	if err != nil {
		b.Fatal(err)
	}

	read := func(spread int64, relaxed bool) func(i int64) error {
		return func(i int64) error {
			r, err := l.Read(b.Context(), engine.ReadRequest{Catalog: names[i%spread], Relaxed: relaxed})
			if err == nil && len(r.Body) != len(small) {
				err = fmt.Errorf("a document of %d bytes, want %d", len(r.Body), len(small))
			}
			return err
		}
	}
	kinds := []kind{
		{"bare alone", 1, ask},
		{"evalsha alone", 1, func(int64) error {
			return rdb.EvalSha(b.Context(), sha, []string{"lake:{0}:heads"}, "~epoch").Err()
		}},
		{"read alone", 1, read(1, false)},
		{"bare", many, ask},
		{"bare together", many, askTogether},
		{"one", many, read(1, false)},
		{"spread", many, read(documents, false)},
		{"relaxed", many, read(1, true)},
		{"engine", many, func(int64) error {
			_, err := e.Read(b.Context(), engine.ReadRequest{Catalog: names[0]})
			return err
		}},
	}
	for _, k := range kinds {
		k.run(b, 100*time.Millisecond) // warm
	}
	for b.Loop() {
		m := measure(b, 3, 400*time.Millisecond, kinds)
		b.ReportMetric(float64(m["bare"].perSecond), "bare/s")
		b.ReportMetric(m["one"].perSecond/m["bare"].perSecond, "one-of-bare")
		b.ReportMetric(m["one"].perSecond/m["bare together"].perSecond, "one-of-bare-together")
		b.ReportMetric(m["spread"].perSecond/m["bare"].perSecond, "1000-of-bare")
		b.ReportMetric(m["relaxed"].perSecond/m["bare"].perSecond, "relaxed-of-bare")
		b.ReportMetric(m["engine"].perSecond, "engine/s")
		for unit, k := range map[string]string{"bare-CPU-µs": "bare", "one-CPU-µs": "one", "1000-CPU-µs": "spread", "relaxed-CPU-µs": "relaxed"} {
			b.ReportMetric(float64(m[k].cpu.Nanoseconds())/1e3, unit)
		}
		b.ReportMetric(float64(m["read alone"].p50.Microseconds()), "µs-p50")
		b.ReportMetric(float64((m["bare alone"].p50 + m["evalsha alone"].p50).Microseconds()), "µs-nats+evalsha-p50")
		b.ReportMetric(float64(m["read alone"].p50)/float64(m["bare alone"].p50+m["evalsha alone"].p50), "p50-of-limit")
	}
}
