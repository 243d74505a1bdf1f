package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/memory"
	"github.com/jsonlake/lake/pkg/engine/redis"
)

// document is a JSON object of about size bytes, of records of 220.
func document(size int) []byte {
	var b strings.Builder
	b.WriteByte('{')
	for i := 0; b.Len() < size; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"record%d":{"name":"somebody","n":%d,"text":"%s"}`, i, i, strings.Repeat("x", 160))
	}
	b.WriteByte('}')
	return []byte(b.String())
}

// BenchmarkFirstRead is P7: the first read of a document after 1,000 patches of
// some 30 bytes on 100 KB and 1 MB, each its own run in its own segment. The
// index is a redis-server.
//
//	go test -run '^$' -bench FirstRead -benchtime 20x ./test/bench
//
// "process": the frames are in the cache of the process, which wrote them;
// "shared": only in the cache that processes share, another redis-server; "bucket": in
// none, of a bucket in memory.
func BenchmarkFirstRead(b *testing.B) {
	for _, size := range []int{100_000, 1_000_000} {
		for _, from := range []string{"process", "shared", "bucket"} {
			b.Run(fmt.Sprintf("%dKB/%s", size/1000, from), func(b *testing.B) { firstRead(b, size, from) })
		}
	}
}

func firstRead(b *testing.B, size int, from string) {
	cacheServer := testenv.Redis(b, testenv.RedisCache())
	cache, err := redis.OpenCache(redis.Options{URL: cacheServer.URL})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cache.Close() })
	x, objects := redisIndex(b), memory.NewObjects()
	o := engine.Options{Name: "bench", Cache: cache, DocumentCache: -1}
	writer := newEngine(b, x, objects, o)
	ctx := b.Context()
	base := document(size)
	if _, err := writer.Write(ctx, engine.WriteRequest{Catalog: "doc", MergeType: engine.MergeTypeReplace, Body: base}); err != nil {
		b.Fatal(err)
	}
	if _, err := writer.Fold(ctx, "doc"); err != nil {
		b.Fatal(err)
	}
	const patches = 1000
	for i := range patches {
		if _, err := writer.Write(ctx, engine.WriteRequest{Catalog: "doc", Path: fmt.Sprintf("/record%d", i%400), Body: fmt.Appendf(nil, `{"n":%d,"new":"value %d"}`, i, i)}); err != nil {
			b.Fatal(err)
		}
	}
	testenv.WaitFor(b, 20*time.Second, func() bool { // the last frame is written off the acknowledgement path
		return cacheServer.Client(b).DBSize(ctx).Val() >= patches+2
	})
	reader := writer
	if from != "process" {
		o.FrameCache = -1
		if from == "bucket" {
			o.Cache = nil
		}
		reader = newEngine(b, x, objects, o)
	}
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		r, err := reader.Read(ctx, engine.ReadRequest{Catalog: "doc"})
		took = append(took, time.Since(begin))
		if err != nil || len(r.Body) < len(base) {
			b.Fatal(len(r.Body), err)
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-p50")
}

// slowPuts is a bucket whose puts take longer.
type slowPuts struct {
	engine.Objects
	by time.Duration
}

func (s slowPuts) Put(ctx context.Context, key string, data []byte) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(s.by):
	}
	return s.Objects.Put(ctx, key, data)
}

// BenchmarkReadBesideWriters is P8: reads of one catalog, one every 2 ms
// whatever the one before does, while 16 writers write it over a bucket whose
// puts take 50 ms; and the same without writers. Latency counts from when the read
// was due. The index is a redis-server.
//
//	go test -run '^$' -bench ReadBesideWriters -benchtime 1x ./test/bench
func BenchmarkReadBesideWriters(b *testing.B) {
	const span = 3 * time.Second
	e := newEngine(b, redisIndex(b), slowPuts{memory.NewObjects(), 50 * time.Millisecond}, engine.Options{FoldWorkers: 1})
	ctx := b.Context()
	if _, err := e.Write(ctx, engine.WriteRequest{Catalog: "doc", MergeType: engine.MergeTypeReplace, Body: document(1000)}); err != nil {
		b.Fatal(err)
	}
	reads := func() (p50, p99 time.Duration, failed int) {
		var mu sync.Mutex
		var took []time.Duration
		var wg sync.WaitGroup
		begin := time.Now()
		for due := begin; due.Before(begin.Add(span)); due = due.Add(2 * time.Millisecond) {
			time.Sleep(time.Until(due))
			wg.Go(func() {
				_, err := e.Read(ctx, engine.ReadRequest{Catalog: "doc"})
				d := time.Since(due)
				mu.Lock()
				defer mu.Unlock()
				if took = append(took, d); err != nil {
					failed++
				}
			})
		}
		wg.Wait()
		slices.Sort(took)
		return took[len(took)/2], took[len(took)*99/100], failed
	}
	for b.Loop() {
		idle50, idle99, failed := reads()
		wctx, stop := context.WithCancel(ctx)
		var wg sync.WaitGroup
		for w := range 16 {
			wg.Go(func() {
				for i := 0; wctx.Err() == nil; i++ {
					_, err := e.Write(wctx, engine.WriteRequest{Catalog: "doc", Path: "/w", Body: fmt.Appendf(nil, `{"w%d":%d}`, w, i)})
					if err != nil && wctx.Err() == nil && !errors.Is(err, context.Canceled) {
						b.Errorf("write: %v", err)
						return
					}
				}
			})
		}
		busy50, busy99, failed2 := reads()
		stop()
		wg.Wait()
		b.ReportMetric(float64(failed+failed2), "errors")
		b.ReportMetric(float64(idle50.Microseconds()), "µs-idle-p50")
		b.ReportMetric(float64(idle99.Microseconds()), "µs-idle-p99")
		b.ReportMetric(float64(busy50.Microseconds()), "µs-busy-p50")
		b.ReportMetric(float64(busy99.Microseconds()), "µs-busy-p99")
		b.ReportMetric(float64(busy99)/float64(idle99), "p99-of-idle")
	}
}
