package engine

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestWorkers: a worker stays for the next function, not for ever, and not longer than
// the pool; functions run side by side however many there are.
func TestWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorkerPool()
		stays := func(f func()) bool {
			synctest.Wait()
			select {
			case w.next <- f:
				return true
			default:
				return false
			}
		}
		ran := 0
		w.start(func() { ran++ })
		for range 2 {
			if !stays(func() { ran++ }) {
				t.Fatal("no worker waits behind what it has done")
			}
		}
		time.Sleep(workerStays / 2)
		if !stays(func() { ran++ }) {
			t.Fatal("the worker has gone too early")
		}
		time.Sleep(workerStays - time.Millisecond) // from when it had nothing to do
		if !stays(func() { ran++ }) {
			t.Fatal("the worker has counted its time from the beginning")
		}
		time.Sleep(workerStays + time.Millisecond)
		if stays(func() { t.Error("run by a worker whose time is over") }) {
			t.Fatal("the worker stays for ever")
		}
		if ran != 5 {
			t.Fatalf("%d functions ran, of 5", ran)
		}

		const many = 100
		var all atomic.Int32
		last, done := make(chan bool), make(chan bool, many)
		for range many {
			w.start(func() {
				if all.Add(1) == many {
					close(last)
				}
				<-last
				w.start(func() { time.Sleep(time.Second); done <- true })
			})
		}
		w.wait()
		if len(done) != many {
			t.Errorf("the pool ended before %d of %d functions that others had started", many-len(done), many)
		}
	})
}
