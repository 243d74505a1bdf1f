package enginetest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/enginetest"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

func TestScript(t *testing.T) {
	t.Parallel()
	lost := errors.New("lost")
	o := enginetest.NewFaultyObjects(memory.NewObjects(), enginetest.Script(map[string][]enginetest.Fault{
		"Put": {{Before: lost}, {After: lost}}, "List": {{Before: lost}, {After: lost}},
	}))
	for i, want := range []error{lost, lost, engine.ErrExists} {
		if _, err := o.Get(t.Context(), "k"); (i == 2) != (err == nil) {
			t.Fatalf("before put %d: got error %v", i+1, err)
		}
		if err := o.Put(t.Context(), "k", []byte("x")); !errors.Is(err, want) {
			t.Fatalf("put %d: got error %v, want %v", i+1, err, want)
		}
	}
	for i, want := range []struct {
		keys int
		err  error
	}{{0, lost}, {1, lost}, {1, nil}} {
		keys, last := 0, error(nil)
		for _, err := range o.List(t.Context(), "", "") {
			if last = err; err == nil {
				keys++
			}
		}
		if keys != want.keys || !errors.Is(last, want.err) {
			t.Fatalf("list %d: got %d keys and error %v, want %d and %v", i+1, keys, last, want.keys, want.err)
		}
	}
	if got := o.All(); got["Put"] != 3 || got["Get"] != 3 || o.Count("List") != 3 || o.Count("Delete") != 0 {
		t.Fatalf("got counts %v", got)
	}
}

func TestSeeded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		draw := func() (before, after int, took time.Duration) {
			begin := time.Now()
			o := enginetest.NewFaultyObjects(memory.NewObjects(), enginetest.Seeded(7, 0.1, 0.2, time.Second))
			for i := range 1000 {
				key := string(rune(i + 1))
				if err := o.Put(t.Context(), key, nil); err == nil {
					continue
				} else if !errors.Is(err, enginetest.ErrInjected) {
					t.Fatal(err)
				}
				before++
				for info, err := range o.List(context.Background(), key, "") {
					if err == nil && info.Key == key {
						before, after = before-1, after+1
					}
				}
			}
			return before, after, time.Since(begin)
		}
		before, after, took := draw()
		if before < 50 || before > 200 || after < 100 || after > 320 || took < 100*time.Second {
			t.Fatalf("got %d lost requests, %d lost replies in %v", before, after, took)
		}
		if b, a, k := draw(); b != before || a != after || k != took {
			t.Fatalf("got %d, %d, %v from the same seed, want %d, %d, %v", b, a, k, before, after, took)
		}
	})
}

func TestDelayEndsWithTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := enginetest.NewFaultyIndex(memory.NewIndex(memory.Options{}), func(enginetest.Call) enginetest.Fault {
			return enginetest.Fault{Delay: time.Hour}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := x.Epochs(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got error %v, want %v", err, context.DeadlineExceeded)
		}
	})
}

// Without faults the wrappers keep the contracts.
func TestWrappers(t *testing.T) {
	t.Parallel()
	t.Run("index", func(t *testing.T) {
		t.Parallel()
		enginetest.TestIndex(t, func(*testing.T) enginetest.IndexUnderTest {
			return enginetest.NewFaultyIndex(memory.NewIndex(memory.Options{}), nil)
		})
	})
	t.Run("objects", func(t *testing.T) {
		t.Parallel()
		enginetest.TestObjects(t, func(*testing.T) engine.Objects { return enginetest.CountingObjects(memory.NewObjects()) })
	})
}
