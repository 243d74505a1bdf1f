package engine

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// Where several tasks fail at one moment the error is that of the first in order,
// however the runtime wakes them.
func TestTasksFailInOrder(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			g, gctx := newTasks(ctx, 0)
			for i := range 8 {
				g.add(func() error {
					<-gctx.Done()
					return fmt.Errorf("task %d: %w", i, gctx.Err())
				})
			}
			if err := g.wait(); err.Error() != "task 0: context deadline exceeded" {
				t.Fatalf("got %v", err)
			}
		})
	}
}

// A task that fails is the reason, not those that it cancels.
func TestTasksTellTheReason(t *testing.T) {
	broken := errors.New("broken")
	g, ctx := newTasks(t.Context(), 3)
	for i := range 9 {
		g.add(func() error {
			if i == 2 {
				return broken
			}
			<-ctx.Done()
			return ctx.Err()
		})
	}
	if err := g.wait(); !errors.Is(err, broken) {
		t.Fatalf("got %v, want %v", err, broken)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	g, gctx := newTasks(ctx, 0)
	g.add(func() error { return gctx.Err() })
	if err := g.wait(); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want that it was cancelled", err)
	}
	g, _ = newTasks(t.Context(), 2)
	g.add(func() error { return nil })
	if err := g.wait(); err != nil {
		t.Fatal(err)
	}
}
