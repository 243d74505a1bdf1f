package sim

import (
	"cmp"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"
)

// The scheduler is the one goroutine that lets anything happen. A goroutine of
// an engine or a client that wants something of the outside arrives and waits:
//
//	synctest.Wait: everybody is blocked ─▶ sort who arrived, draw what becomes of each (request and reply delays, faults)
//	      ▲                                        │
//	      └── do the earliest event, one ◀── queue of events by time
//
// So what is drawn depends on the seed and on what the engines did, not on the
// order in which the runtime woke goroutines: a batch that arrived between two
// events is put in order before anything is drawn for it (arrival.compare). What the
// engine itself leaves to the runtime must not matter either: two cases of a select
// that are ready at once, goroutines that one event wakes, the order of a map.
// TestReproducible looks for what does; the race detector shuffles goroutines and is
// the best place to run it.
type scheduler struct {
	rnd   *rand.Rand
	start time.Time

	mu      sync.Mutex
	arrived []arrival
	wake    chan struct{}

	events eventHeap
	count  uint64
	step   int // events done; orders what clients saw
	hash   uint64
	trace  func(string)
}

// arrival is somebody who waits for the scheduler. do is called by it.
type arrival struct {
	who    int
	op, on string
	client int       // the operation on whose behalf, from 1; 0: none
	stack  []uintptr // tells apart what one process asks twice at once
	do     func()
}

// compare puts those who arrived between two events in an order that does not
// depend on which of them the runtime let run first.
func (a arrival) compare(b arrival) int {
	if c := cmp.Or(cmp.Compare(a.who, b.who), strings.Compare(a.op, b.op), strings.Compare(a.on, b.on), cmp.Compare(a.client, b.client)); c != 0 {
		return c
	}
	return strings.Compare(places(a.stack), places(b.stack))
}

// places names the functions and lines of a stack: its addresses are another
// program's when the tests are built anew.
func places(stack []uintptr) string {
	if len(stack) == 0 {
		return ""
	}
	var b strings.Builder
	frames := runtime.CallersFrames(stack)
	for {
		f, more := frames.Next()
		fmt.Fprintf(&b, "%s:%d ", f.Function, f.Line)
		if !more {
			return b.String()
		}
	}
}

type event struct {
	at  time.Duration
	n   uint64
	why string
	do  func()
}

type eventHeap []*event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].n < h[j].n
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(*event)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	return e
}

func newScheduler(seed uint64) *scheduler {
	return &scheduler{rnd: rand.New(rand.NewPCG(seed, 0x5eed)), start: time.Now(), wake: make(chan struct{}, 1), hash: 14695981039346656037}
}

func (s *scheduler) now() time.Duration { return time.Since(s.start) }

// arrive hands something over to the scheduler. Any goroutine may call it.
func (s *scheduler) arrive(a arrival) {
	s.mu.Lock()
	s.arrived = append(s.arrived, a)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// at does something after a while. Only events may call it.
func (s *scheduler) at(after time.Duration, why string, do func()) *event {
	s.count++
	e := &event{at: s.now() + max(after, 0), n: s.count, why: why, do: do}
	heap.Push(&s.events, e)
	return e
}

// run lets things happen until done says so (asked after each event) or the
// time is over.
func (s *scheduler) run(limit time.Duration, done func() bool) bool {
	end := s.now() + limit
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		synctest.Wait()
		s.mu.Lock()
		batch := s.arrived
		s.arrived = nil
		s.mu.Unlock()
		if len(batch) > 1 {
			slices.SortStableFunc(batch, arrival.compare)
		}
		for _, a := range batch {
			s.note(a.who, "arrives", a.op+" "+a.on, nil)
			a.do()
		}
		if len(batch) > 0 {
			continue // what they did may have woken others
		}
		if done() {
			return true
		}
		if s.now() >= end {
			return false
		}
		wait := end - s.now()
		if len(s.events) > 0 {
			wait = min(wait, s.events[0].at-s.now())
		}
		if wait <= 0 {
			e := heap.Pop(&s.events).(*event)
			s.step++
			e.do()
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-s.wake:
		}
	}
}

// note puts something that happened into the trace and its hash.
func (s *scheduler) note(who int, op, on string, err error) {
	h := s.hash
	for _, b := range [2]uint64{uint64(s.now()), uint64(who)} {
		h = (h ^ b) * 1099511628211
	}
	for _, t := range [2]string{op, on} {
		for i := range len(t) {
			h = (h ^ uint64(t[i])) * 1099511628211
		}
	}
	if err != nil {
		h = (h ^ 1) * 1099511628211
	}
	s.hash = h
	if s.trace != nil {
		line := fmt.Sprintf("%12.6f  %3d  %-12s %s", s.now().Seconds(), who, op, on)
		if err != nil {
			line += "  → " + err.Error()
		}
		s.trace(line)
	}
}

// chance is true with probability p.
func (s *scheduler) chance(p float64) bool { return p > 0 && s.rnd.Float64() < p }

// between draws a duration.
func (s *scheduler) between(a, b time.Duration) time.Duration {
	return a + time.Duration(s.rnd.Int64N(int64(max(b-a, 1))))
}

// about draws a duration with the given mean, never more than ten times as long.
func (s *scheduler) about(mean time.Duration) time.Duration {
	return 1 + min(time.Duration(s.rnd.ExpFloat64()*float64(mean)), 10*mean)
}
