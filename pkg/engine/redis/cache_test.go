package redis

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

// Writers, readers, folds and evictions go on while the shared cache is flushed,
// filled with garbage and with frames of other places, stopped, killed and
// started again: every read is answered, and with every write that was
// acknowledged before it began.
func TestCacheInTrouble(t *testing.T) {
	t.Parallel()
	const catalogs, writers = 6, 4
	server := testenv.Redis(t, testenv.RedisCache())
	client := server.Client(t)
	index, objects := memory.NewIndex(memory.Options{}), memory.NewObjects()
	var hits, troubles, reads atomic.Int64
	open := func(o engine.Options) *engine.Engine {
		cache, err := OpenCache(Options{URL: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		o.Name, o.Cache = "trouble", cache
		o.Hooks.CacheLookup = func(tier string, hit bool) {
			if tier == "shared" && hit {
				hits.Add(1)
			}
		}
		o.Hooks.Trouble = func(string, error) { troubles.Add(1) }
		e, err := engine.New(t.Context(), index, objects, o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			if err := e.Close(ctx); err != nil {
				t.Errorf("close the engine: %v", err)
			}
			_ = cache.Close()
		})
		return e
	}
	const tiny = 16 << 10 // less than the catalogs need: everything is evicted all the time
	writer := open(engine.Options{DocumentCache: tiny, FrameCache: tiny, FoldMaxDeltas: 100})
	engines := []*engine.Engine{
		writer,
		open(engine.Options{DocumentCache: tiny, FrameCache: tiny}),
		open(engine.Options{DocumentCache: -1, FrameCache: -1}), // the shared cache alone
	}

	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	var sent, acked [catalogs][writers]atomic.Int64
	name := func(c int) string { return fmt.Sprintf("c%d", c) }
	pad := make([]byte, 2000)
	for i := range pad {
		pad[i] = byte('a' + i*7%26)
	}
	for w := range writers {
		wg.Go(func() {
			for i := int64(1); ctx.Err() == nil; i++ {
				c := int(i) % catalogs
				sent[c][w].Store(i)
				body := fmt.Appendf(nil, `{"w%d":%d,"pad%d":%q}`, w, i, w, pad[:i%int64(len(pad))])
				if _, err := writer.Write(context.WithoutCancel(ctx), engine.WriteRequest{Catalog: name(c), Body: body}); err != nil {
					t.Errorf("write: %v", err)
					return
				}
				acked[c][w].Store(i)
				time.Sleep(2 * time.Millisecond) // else logs grow faster than they are folded
			}
		})
	}
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := writer.Fold(context.WithoutCancel(ctx), name(i%catalogs)); err != nil {
				t.Errorf("fold: %v", err)
				return
			}
			time.Sleep(5 * time.Millisecond) // else there is never a log to read
		}
	})
	check := func(e *engine.Engine, c int) error {
		var before [writers]int64
		for w := range writers {
			before[w] = acked[c][w].Load()
		}
		r, err := e.Read(context.WithoutCancel(ctx), engine.ReadRequest{Catalog: name(c)})
		if err != nil && before == [writers]int64{} {
			return nil // not written yet
		}
		var doc map[string]any
		if err == nil {
			err = json.Unmarshal(r.Body, &doc)
		}
		if err != nil {
			return err
		}
		for w := range writers {
			got, _ := doc[fmt.Sprintf("w%d", w)].(float64)
			if int64(got) < before[w] || int64(got) > sent[c][w].Load() {
				return fmt.Errorf("%s of writer %d is %v, want %d to %d", name(c), w, got, before[w], sent[c][w].Load())
			}
		}
		reads.Add(1)
		return nil
	}
	for _, e := range engines {
		for range 2 {
			wg.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					if err := check(e, i%catalogs); err != nil {
						t.Errorf("read: %v", err)
						return
					}
				}
			})
		}
	}
	// goOn waits until so many reads more were right.
	goOn := func(n int64) {
		t.Helper()
		from := reads.Load()
		testenv.WaitFor(t, time.Minute, func() bool { return t.Failed() || reads.Load() >= from+n })
	}

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	const enough = 300
	for range 3 {
		goOn(enough)
		if err := client.FlushAll(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		goOn(enough)
		spoil(t, server, rnd)
		goOn(enough)
		server.Kill()
		goOn(enough)
		server.Start()
		goOn(enough)
		server.Pause()
		goOn(enough)
		server.Resume()
		hit := hits.Load() // it is used again
		testenv.WaitFor(t, time.Minute, func() bool { return t.Failed() || hits.Load() > hit })
	}
	stop()
	wg.Wait()
	if troubles.Load() == 0 || hits.Load() == 0 {
		t.Errorf("%d troubles and %d hits of the shared cache, want both", troubles.Load(), hits.Load())
	}
	for c := range catalogs {
		for i, e := range engines {
			if err := check(e, c); err != nil {
				t.Errorf("at the end, engine %d: %v", i, err)
			}
		}
	}
	t.Logf("%d reads, %d hits of the shared cache, %d troubles", reads.Load(), hits.Load(), troubles.Load())
}

// spoil changes what a cache holds: bytes flipped and cut off, values of another
// key, other types, nothing at all.
func spoil(t *testing.T, server *testenv.RedisServer, rnd *rand.Rand) {
	t.Helper()
	ctx, client := t.Context(), server.Client(t)
	var keys []string
	// What was read is written to it later, by another goroutine.
	testenv.WaitFor(t, time.Minute, func() bool {
		var err error
		if keys, err = client.Keys(ctx, "*").Result(); err != nil {
			t.Fatal(err)
		}
		return len(keys) > 0
	})
	other := ""
	for _, key := range keys {
		value, err := client.Get(ctx, key).Result()
		if err != nil || value == "" {
			continue
		}
		bad := []byte(value)
		switch rnd.IntN(5) {
		case 0:
			bad[rnd.IntN(len(bad))] ^= 1 << rnd.IntN(8)
		case 1:
			bad = bad[:rnd.IntN(len(bad))]
		case 2:
			bad = []byte(other)
		case 3:
			bad = append(bad, "and more"...)
		case 4:
			client.Del(ctx, key)
			client.SAdd(ctx, key, "not a string")
			continue
		}
		other = value
		if err := client.Set(ctx, key, bad, time.Minute).Err(); err != nil {
			t.Fatal(err)
		}
	}
}
