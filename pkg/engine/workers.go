package engine

import (
	"sync"
	"time"
)

// workerPool runs functions, each on a goroutine of its own, that stays for the next one
// for a while: the stack of a new goroutine grows by copying, several times on its way
// down to a socket, which was a fifteenth of what small segments cost the process.
type workerPool struct {
	wg   sync.WaitGroup
	next chan func() // whoever has nothing to do takes from it
	quit chan struct{}
}

// workerStays is how long a worker waits for something to do.
const workerStays = time.Second

func newWorkerPool() *workerPool {
	return &workerPool{next: make(chan func()), quit: make(chan struct{})}
}

// start has f run; it does not wait.
func (w *workerPool) start(f func()) {
	select {
	case w.next <- f:
	default:
		w.wg.Go(func() { w.run(f) })
	}
}

func (w *workerPool) run(f func()) {
	f()
	over := time.NewTimer(workerStays)
	defer over.Stop()
	for {
		select {
		case f = <-w.next:
		case <-over.C:
			return
		case <-w.quit:
			return
		}
		f()
		over.Reset(workerStays)
	}
}

// wait waits for all that was started, and by it, and lets no worker stay. It is called
// once.
func (w *workerPool) wait() {
	close(w.quit)
	w.wg.Wait()
}
