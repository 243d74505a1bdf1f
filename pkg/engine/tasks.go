package engine

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/errgroup"
)

// tasks do things side by side; the first failure ends the others. It is an
// errgroup.Group whose error does not depend on which goroutine was faster: where
// several fail at one moment, as all do when the caller's time is over, it is the
// error of the task that was given first.
type tasks struct {
	group *errgroup.Group
	n     int // given

	mu        sync.Mutex
	cancelled failure // the first in order that failed because it was cancelled,
	failed    failure // and that failed otherwise
}

type failure struct {
	task int
	err  error
}

// newTasks gives tasks, and the context that they work with. At most limit run at
// once; 0: all.
func newTasks(ctx context.Context, limit int) (*tasks, context.Context) {
	g, ctx := errgroup.WithContext(ctx)
	if limit > 0 {
		g.SetLimit(limit)
	}
	return &tasks{group: g}, ctx
}

// add begins a task as soon as the limit allows it.
func (t *tasks) add(do func() error) {
	t.n++
	task := t.n
	t.group.Go(func() error {
		err := do()
		if err != nil {
			t.note(failure{task, err})
		}
		return err
	})
}

func (t *tasks) note(f failure) {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := &t.failed
	if errors.Is(f.err, context.Canceled) {
		first = &t.cancelled
	}
	if first.err == nil || f.task < first.task {
		*first = f
	}
}

// wait waits for all tasks.
func (t *tasks) wait() error {
	err := t.group.Wait()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return t.cancelled.err
	default: // which cancelled the others
		return t.failed.err
	}
}
