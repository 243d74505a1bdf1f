package enginetest

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// race starts n calls at once and counts those that answer true.
func race(t *testing.T, n int, call func(i int) bool) int {
	t.Helper()
	var won atomic.Int64
	var wg sync.WaitGroup
	gate := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-gate
			if call(i) {
				won.Add(1)
			}
		})
	}
	close(gate)
	wg.Wait()
	return int(won.Load())
}

// eventually asks until the answer is true.
func eventually(t *testing.T, limit time.Duration, ask func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ask() {
		if time.Now().After(deadline) {
			t.Fatalf("still false after %v", limit)
		}
		<-tick.C
	}
}
