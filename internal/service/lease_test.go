package service

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// scripted leases answer as a test says.
type scripted struct {
	acquire  func() (bool, error)
	released int
}

var _ engine.Leases = (*scripted)(nil)

func (s *scripted) Acquire(context.Context, int, string, string, time.Duration) (bool, error) {
	return s.acquire()
}

func (s *scripted) Release(context.Context, int, string, string) error {
	s.released++
	return nil
}

// A lease is kept as long as it is renewed, survives an index that is away
// for less than its term, and ends the work when it is lost.
func TestLeaseIsKept(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		acquire func(since time.Duration) (bool, error)
		lost    time.Duration // 0: never
	}{
		{"renewed", func(time.Duration) (bool, error) { return true, nil }, 0},
		{"taken by another", func(since time.Duration) (bool, error) { return since < 25*time.Second, nil }, 30 * time.Second},
		{"index away for ever", func(time.Duration) (bool, error) { return false, errors.New("away") }, 40 * time.Second},
		{"index away for a while", func(since time.Duration) (bool, error) {
			if since < 25*time.Second {
				return false, errors.New("away")
			}
			return true, nil
		}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				s := &scripted{acquire: func() (bool, error) { return tc.acquire(time.Since(start)) }}
				l := lease{leases: s, name: "fold:(users", token: "mine"}
				held, release := l.keep(t.Context())
				select {
				case <-held.Done():
					if got := time.Since(start); got != tc.lost {
						t.Errorf("lost after %v, want %v", got, tc.lost)
					}
				case <-time.After(10 * time.Minute):
					if tc.lost != 0 {
						t.Errorf("kept, want it lost after %v", tc.lost)
					}
				}
				release()
				if held.Err() == nil || s.released != 1 {
					t.Errorf("after the release: context %v, %d releases", held.Err(), s.released)
				}
			})
		})
	}
}
