package bench

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/jsonlake/lake/pkg/engine"
)

// op is one operation. n counts what it did, at least 1: deltas of a batch.
type op func(ctx context.Context, worker, i int) (n int, err error)

// loaded is what a load saw.
type loaded struct {
	n, calls int64         // done within the time that counts
	failed   int64         // calls that failed, warm-up included
	refused  int64         // calls that were told to try again later: no failure
	err      error         // the first of them
	took     time.Duration // the time that counts
	hist     *histogram
}

func (l *loaded) perSecond() float64 {
	if l.took <= 0 {
		return 0
	}
	return float64(l.n) / l.took.Seconds()
}

// failures keeps the first error.
type failures struct {
	n, refused atomic.Int64
	first      atomic.Pointer[error]
}

func (f *failures) add(err error) {
	if errors.Is(err, engine.ErrBusy) {
		f.refused.Add(1)
		return
	}
	f.n.Add(1)
	f.first.CompareAndSwap(nil, &err)
}

func (f *failures) into(l *loaded) {
	l.failed, l.refused = f.n.Load(), f.refused.Load()
	if e := f.first.Load(); e != nil {
		l.err = *e
	}
}

// closed keeps a number of operations in flight: each worker does one after the
// other. What ends between the warm-up and the end counts. i counts a worker's
// operations from 0.
func closed(ctx context.Context, workers int, warmup, duration time.Duration, do op) *loaded {
	l := &loaded{hist: newHistogram()}
	var n, calls atomic.Int64
	var failed failures
	begin := time.Now().Add(warmup)
	end := begin.Add(duration)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				start := time.Now()
				if !start.Before(end) {
					return
				}
				did, err := do(ctx, w, i)
				now := time.Now()
				if err != nil {
					failed.add(err)
					if failed.n.Load() > 10_000 {
						return // it fails as fast as it is asked
					}
					continue
				}
				if now.After(begin) && now.Before(end) {
					n.Add(int64(did))
					calls.Add(1)
					if start.After(begin) {
						l.hist.record(w, now.Sub(start))
					}
				}
			}
		})
	}
	wg.Wait()
	l.n, l.calls, l.took = n.Load(), calls.Load(), duration
	failed.into(l)
	return l
}

// maxOpen bounds what an open load has in flight; when it is reached the
// schedule goes on without it, and the wait counts.
const maxOpen = 16_384

// open starts operations by a schedule, whatever has become of those before,
// and measures each from the moment it was due. The workers are numbered anew
// for each operation, 0 to workers-1.
func open(ctx context.Context, perSecond float64, workers int, warmup, duration time.Duration, do op) *loaded {
	l := &loaded{hist: newHistogram(), took: duration}
	var n, calls atomic.Int64
	var failed failures
	slots := make(chan struct{}, maxOpen)
	start := time.Now()
	begin, end := start.Add(warmup), start.Add(warmup+duration)
	var wg sync.WaitGroup
	for i := 0; ctx.Err() == nil; i++ {
		due := start.Add(time.Duration(float64(i) / perSecond * float64(time.Second)))
		if !due.Before(end) {
			break
		}
		if wait := time.Until(due); wait > 0 {
			time.Sleep(wait)
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			did, err := do(ctx, i%workers, i/workers)
			if err != nil {
				failed.add(err)
				return
			}
			if !due.Before(begin) {
				l.hist.record(i, time.Since(due))
				n.Add(int64(did))
				calls.Add(1)
			}
		})
	}
	wg.Wait()
	l.n, l.calls = n.Load(), calls.Load()
	failed.into(l)
	return l
}

// histogram takes latencies from many goroutines.
type histogram struct {
	shards [8]struct {
		mu sync.Mutex
		h  *hdrhistogram.Histogram
	}
}

// A nanosecond to two minutes, three digits.
const maxLatency = 2 * time.Minute

func newHistogram() *histogram {
	h := &histogram{}
	for i := range h.shards {
		h.shards[i].h = newHDR()
	}
	return h
}

func newHDR() *hdrhistogram.Histogram { return hdrhistogram.New(1, maxLatency.Nanoseconds(), 3) }

func (h *histogram) record(worker int, d time.Duration) {
	s := &h.shards[worker%len(h.shards)]
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.h.RecordValue(min(max(d, 1), maxLatency).Nanoseconds()) // within the range
}

// add takes over what another has, whose load must have ended.
func (h *histogram) add(other *histogram) {
	for i := range h.shards {
		h.shards[i].h.Merge(other.shards[i].h)
	}
}

// merged is everything in one; the load must have ended.
func (h *histogram) merged() *hdrhistogram.Histogram {
	all := newHDR()
	for i := range h.shards {
		all.Merge(h.shards[i].h)
	}
	return all
}

// Latency is a distribution, milliseconds.
type Latency struct {
	Count int64   `json:"count"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p99_9_ms"`
	Max   float64 `json:"max_ms"`
	// PerSecond is the schedule of an open load, 0 of one after the other; Refused
	// counts what was answered with "busy" and is not in the distribution.
	PerSecond float64 `json:"per_s,omitempty"`
	Refused   int64   `json:"refused,omitempty"`
}

func latencyOf(h *hdrhistogram.Histogram) *Latency {
	at := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1e6 }
	return &Latency{Count: h.TotalCount(), P50: round(at(50)), P90: round(at(90)), P99: round(at(99)), P999: round(at(99.9)), Max: round(float64(h.Max()) / 1e6)}
}

func (l *loaded) latency() *Latency { return latencyOf(l.hist.merged()) }

// p50 of a load, milliseconds.
func (l *loaded) p50() float64 { return l.quantile(50) }

func (l *loaded) quantile(q float64) float64 {
	return float64(l.hist.merged().ValueAtQuantile(q)) / 1e6
}
