package bench

import (
	"context"
	"errors"
	"testing"
	"time"
)

// A pause is not shorter than it should be, and ends with its context.
func TestPause(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	if err := pause(t.Context(), 5*time.Millisecond); err != nil || time.Since(begin) < 5*time.Millisecond {
		t.Errorf("got %v after %v", err, time.Since(begin))
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- pause(ctx, time.Hour) }()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}
