package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/codec"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

// The retention gives up a purge like any old snapshot, but its objects stay: a rebuild
// still leaves out what is below.
func TestPurgeRetention(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.index = memory.NewIndex(memory.Options{Exclusive: true})
		o := soon
		o.Retention = []engine.Retention{{OlderThan: 48 * time.Hour}}
		e := h.open(o)
		old := h.fill(e, "users")
		r := purge(t, e, "users")
		var kept engine.Version
		for i := range 8 {
			time.Sleep(24 * time.Hour)
			kept = write(t, e, "users", "/", engine.MergeTypeMergePatch, fmt.Sprintf(`{"day":%d}`, i)).Version
			fold(t, e, "users")
		}
		if got := collect(t, e); got.Dropped == 0 {
			t.Fatalf("got %+v, want snapshots given up", got)
		}
		collect(t, e) // the objects go a grace later
		check := func(e *engine.Engine) {
			t.Helper()
			if got := read(t, e, "users"); got != `{"day":7}` {
				t.Errorf("got %s", got)
			}
			log := wholeLog(t, e, "users", 1)
			if n := len(log); n < 2 || n > 4 || log[n-1].Version != kept {
				t.Errorf("got log %+v, want what the retention keeps", log)
			}
			for i := 1; i < len(log); i++ {
				if log[i].Prev != log[i-1].Version {
					t.Errorf("got %s before %s, want %s", log[i].Prev, log[i].Version, log[i-1].Version)
				}
			}
			if _, err := e.Read(t.Context(), engine.ReadRequest{Catalog: "users", At: engine.AtVersion(old)}); !errors.Is(err, engine.ErrHistoryGone) {
				t.Errorf("got error %v, want history gone", err)
			}
			if got := h.keys(engine.SnapshotKey("users", r.Version, r.Version)); len(got) != 1 {
				t.Errorf("got %v, want the purge's snapshot kept", got)
			}
		}
		check(e)
		check(h.rebuild(e, engine.Options{}))
	})
}

// An index that is lost with its outbox tells of a purge again, as of all that was
// before it.
func TestPurgeToldAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.index = memory.NewIndex(memory.Options{Exclusive: true})
		if err := h.index.SetEvents(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		e := h.open(engine.Options{})
		h.fill(e, "users")
		r := purge(t, e, "users") // its segments wait for their events
		if r.Complete || r.Waiting == 0 || r.Until != nil {
			t.Errorf("got %+v, want segments that wait for no time", r)
		}
		h.close(e)
		h.index = memory.NewIndex(memory.Options{Exclusive: true})
		if err := h.index.SetEvents(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		e = h.open(engine.Options{})
		batches, err := h.index.Next(t.Context(), e.Epoch(), []int{engine.Shard("users")}, 1000)
		if err != nil {
			t.Fatal(err)
		}
		told := false
		for _, ev := range batches[0].Events {
			if !ev.Prev.Less(ev.Version) {
				t.Errorf("got event %+v, whose range is empty", ev)
			}
			told = told || ev.Version == r.Version && ev.Prev.IsZero()
		}
		if !told {
			t.Errorf("got events %+v, want one up to the purge from 0_0", batches[0].Events)
		}
		if err := h.index.Trim(t.Context(), e.Epoch(), engine.Shard("users"), batches[0].UpTo); err != nil {
			t.Fatal(err)
		}
		if again := purge(t, e, "users"); !again.Complete || len(h.marked()) > 0 {
			t.Errorf("again: got %+v, and the marker in %v", again, h.marked())
		}
	})
}

// remembering is a shared cache.
type remembering struct {
	mu      sync.Mutex
	entries map[string][]byte
}

func (r *remembering) Get(_ context.Context, keys []string) ([][]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	values := make([][]byte, len(keys))
	for i, key := range keys {
		values[i] = bytes.Clone(r.entries[key])
	}
	return values, nil
}

func (r *remembering) Set(_ context.Context, entries []engine.CacheEntry, _ time.Duration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range entries {
		r.entries[e.Key] = bytes.Clone(e.Value)
	}
	return nil
}

func (r *remembering) Erase(_ context.Context, objects []string) (n int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key := range r.entries {
		if object, _, _ := strings.Cut(key, ":"); slices.Contains(objects, object) {
			delete(r.entries, key)
			n++
		}
	}
	return n, nil
}

// What the shared cache keeps of a purged catalog goes with it, of others it stays.
func TestPurgeSharedCache(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.index = memory.NewIndex(memory.Options{Exclusive: true})
		cache := &remembering{entries: map[string][]byte{}}
		e := h.open(engine.Options{Cache: cache, DocumentCache: -1})
		h.fill(e, "users")
		h.fill(e, "orders")
		read(t, e, "users")
		read(t, e, "orders")
		holding := func() (n int) {
			synctest.Wait() // the cache is written to after the answer
			for _, b := range cache.entries {
				for f, err := range codec.Frames(b, codec.Options{}) {
					if err != nil {
						t.Fatal(err)
					}
					if f.Catalog == "users" && bytes.Contains(f.Payload, []byte(marker)) {
						n++
						break
					}
				}
			}
			return n
		}
		before := holding()
		if r := purge(t, e, "users"); before == 0 || r.Cached != before || holding() != 0 {
			t.Errorf("got %d entries erased of %d, %d left", r.Cached, before, holding())
		}
		if len(cache.entries) < 5 {
			t.Errorf("got %d entries left, want those of the other catalog", len(cache.entries))
		}
	})
}

// A delta with a flag that nobody knows is refused: it may be a condition.
func TestUnknownDeltaFlag(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(engine.Options{FrameCache: -1})
		h.objects.script(func(ctx context.Context, key string, data []byte) (bool, error) {
			f, _, err := codec.Decode(data, codec.Options{})
			if err != nil || f.Kind != codec.KindRun {
				return false, nil
			}
			f.Payload = bytes.Clone(f.Payload)
			f.Payload[1] |= 0x80
			b, err := codec.Append(nil, &f, codec.Options{Compression: codec.S2})
			if err != nil || len(b) != len(data) {
				t.Errorf("got %d bytes, %v, want %d", len(b), err, len(data))
			}
			return true, h.objects.Objects.Put(ctx, key, b)
		})
		write(t, e, "users", "/", engine.MergeTypeMergePatch, `{"a":1}`)
		if _, err := e.Read(t.Context(), engine.ReadRequest{Catalog: "users"}); !errors.Is(err, engine.ErrDamaged) || !strings.Contains(err.Error(), "delta flags") {
			t.Errorf("got error %v, want the flags refused", err)
		}
	})
}
