package app

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// Parts stop one after the other, the latest first, each only when the one
// before it is done.
func TestStopOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := newSupervisor(zerolog.Nop())
		var got []string
		for _, name := range []string{"connection", "relay", "door"} {
			s.run(ctx, name, func(ctx context.Context) error {
				<-ctx.Done()
				time.Sleep(time.Second)
				got = append(got, name)
				return nil
			})
		}
		s.cleanup("last", func() error { got = append(got, "last"); return errors.New("only logged") })
		cancel()
		if err := s.wait(ctx); err != nil {
			t.Errorf("got %v, want a clean end", err)
		}
		s.stop()
		if want := []string{"last", "door", "relay", "connection"}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestAPartThatEndsStopsTheProcess(t *testing.T) {
	t.Parallel()
	s := newSupervisor(zerolog.Nop())
	defer s.stop()
	s.run(t.Context(), "good", func(ctx context.Context) error { <-ctx.Done(); return nil })
	s.run(t.Context(), "bad", func(context.Context) error { return errors.New("no more") })
	if err := s.wait(t.Context()); err == nil || !strings.Contains(err.Error(), "bad: no more") {
		t.Errorf("got %v, want the part and its error", err)
	}
}
