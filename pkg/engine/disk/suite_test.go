package disk_test

import (
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/disk"
	"github.com/jsonlake/lake/pkg/engine/enginetest"
)

func TestMain(m *testing.M) {
	childMain()
	goleak.VerifyTestMain(m)
}

// steppedIndex is an index whose clock can be set.
type steppedIndex struct {
	*disk.Index
	clock *clock
}

func (x steppedIndex) SetTime(t time.Time) { x.clock.set(t) }

// clock is the real one until it is set.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() {
		return time.Now()
	}
	return c.at
}

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = t
}

// smallCache keeps dozens of indexes that are open together small.
const smallCache = 1 << 20

func TestIndex(t *testing.T) {
	t.Parallel()
	enginetest.TestIndex(t, func(t *testing.T) enginetest.IndexUnderTest {
		c := new(clock)
		return steppedIndex{Index: openIndex(t, t.TempDir(), disk.Options{Clock: c.now}), clock: c}
	})
}

func openIndex(t testing.TB, dir string, o disk.Options) *disk.Index {
	t.Helper()
	if o.CacheBytes == 0 {
		o.CacheBytes = smallCache
	}
	x, err := disk.OpenIndex(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Errorf("close: got %v, want no error", err)
		}
	})
	return x
}

func TestObjects(t *testing.T) {
	t.Parallel()
	enginetest.TestObjects(t, func(t *testing.T) engine.Objects { return openObjects(t, t.TempDir()) })
}

func openObjects(t testing.TB, dir string) *disk.Objects {
	t.Helper()
	o, err := disk.OpenObjects(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Errorf("close: got %v, want no error", err)
		}
	})
	return o
}
