package client

import (
	"context"
	"errors"
	"testing"
	"time"
)

// Waiting ends with the deadline of the context, or with the time that is left where
// there is none; also when nothing is left, after waiting for room on the wire.
func TestWaitEnds(t *testing.T) {
	t.Parallel()
	const long = time.Hour // longer than a test may take
	for _, tc := range []struct{ deadline, most time.Duration }{
		{0, 10 * time.Millisecond}, {0, 0}, {0, -time.Second}, {10 * time.Millisecond, long}, {10 * time.Millisecond, -time.Second},
	} {
		ctx, cancel := t.Context(), func() {}
		if tc.deadline > 0 {
			ctx, cancel = context.WithTimeout(ctx, tc.deadline)
		}
		w := waiters.Get().(*waiter)
		b := &inbox{waiting: map[uint64]*waiter{1: w}}
		if m, err := b.wait(ctx, 1, w, tc.most); m != nil || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%+v: got %v, %v", tc, m, err)
		}
		cancel()
	}
}
