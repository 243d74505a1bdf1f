package engine_test

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// asked notes every request that reaches a bucket.
type asked struct {
	engine.Objects
	mu   sync.Mutex
	keys []string // "get _lake/epoch/…"
}

func (a *asked) note(op, key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys = append(a.keys, op+" "+key)
}

func (a *asked) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	keys := a.keys
	a.keys = nil
	return keys
}

func (a *asked) Put(ctx context.Context, key string, data []byte) error {
	a.note("put", key)
	return a.Objects.Put(ctx, key, data)
}

func (a *asked) Get(ctx context.Context, key string) ([]byte, error) {
	a.note("get", key)
	return a.Objects.Get(ctx, key)
}

func (a *asked) GetRange(ctx context.Context, key string, off, length int64) ([]byte, error) {
	a.note("get range", key)
	return a.Objects.GetRange(ctx, key, off, length)
}

func (a *asked) Delete(ctx context.Context, key string) error {
	a.note("delete", key)
	return a.Objects.Delete(ctx, key)
}

func (a *asked) List(ctx context.Context, prefix, after string) iter.Seq2[engine.ObjectInfo, error] {
	a.note("list", prefix)
	return a.Objects.List(ctx, prefix, after)
}

// A lake that nobody uses asks nothing of its bucket but whether there is a newer
// epoch, once a second a process, and whether a purge has more to do, once an hour: what was written and folded before is neither
// listed nor fetched nor copied again, by sweeper and collector with all they do.
func TestIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		bucket := &asked{Objects: h.objects}
		var engines []*engine.Engine
		for _, o := range []engine.Options{{Sweep: true, FoldWorkers: 1}, {Collect: true}, {}} {
			o.Retention = []engine.Retention{{Prefix: "kept", OlderThan: 48 * time.Hour}}
			e, err := engine.New(t.Context(), h.index, bucket, o)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { h.close(e) })
			engines = append(engines, e)
		}
		for i := range 40 {
			for n := range 10 {
				write(t, engines[0], fmt.Sprintf("catalog-%d", i), "/", engine.MergeTypeMergePatch, fmt.Sprintf(`{"n%d":%d}`, n, i))
			}
			if i%2 == 0 {
				fold(t, engines[1], fmt.Sprintf("catalog-%d", i))
			}
			read(t, engines[2], fmt.Sprintf("catalog-%d", i))
		}
		// Past the grace and the age of compaction: what these have to do is done.
		time.Sleep(4 * time.Hour)
		synctest.Wait()
		worked := strings.Join(bucket.take(), "\n")
		for _, did := range []string{"delete wal/", "get range wal/", "put _lake/collected/"} {
			if !strings.Contains(worked, did) {
				t.Errorf("nobody asked the bucket to %s: the collector did not work before", did)
			}
		}
		const seconds = 3 * 3600
		time.Sleep(seconds * time.Second)
		synctest.Wait()
		checks, purges := 0, 0
		for _, k := range bucket.take() {
			if k == "list _lake/purge/" {
				purges++
				continue
			}
			if !strings.HasPrefix(k, "get _lake/epoch/") {
				t.Errorf("an idle lake asked the bucket to %s", k)
				continue
			}
			checks++
		}
		if most := seconds / 3600; purges > most {
			t.Errorf("got %d listings of purges in %d s, want at most %d: one an hour", purges, seconds, most)
		}
		if most := len(engines) * (seconds + 1); checks > most || checks < most/2 {
			t.Errorf("got %d lease checks of %d processes in %d s, want one a second each", checks, len(engines), seconds)
		}
	})
}
