package engine

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// A large body waits for its turn to be checked, at most until its time is over; a
// small one does not wait.
func TestTurns(t *testing.T) {
	t.Parallel()
	e := &Engine{turns: newTurns()}
	if err := e.opts.Validate(); err != nil {
		t.Fatal(err)
	}
	of := func(size int) *BatchRequest {
		return &BatchRequest{Catalog: "c", Deltas: []WriteRequest{{Body: []byte(`"` + strings.Repeat("x", size-2) + `"`)}}, WriteOptions: WriteOptions{ID: "a"}}
	}
	for range cap(e.turns) {
		e.turns <- struct{}{}
	}
	if _, err := e.checked(t.Context(), of(largeBody-1)); err != nil {
		t.Errorf("a small body: %v", err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.checked(over, of(largeBody)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a large body without a turn: got %v, want unavailable", err)
	}
	<-e.turns
	if r, err := e.checked(t.Context(), of(largeBody)); err != nil || len(r.payload) < largeBody {
		t.Errorf("a large body in its turn: %v", err)
	}
	if got, want := len(e.turns), cap(e.turns)-1; got != want {
		t.Errorf("%d turns are taken, want %d: the last one was not given back", got, want)
	}
}
