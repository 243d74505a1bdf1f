package enginetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"
)

// ErrInjected is what injected faults answer unless they say otherwise.
var ErrInjected = errors.New("injected fault")

// Call is an operation about to be done.
type Call struct {
	Op string // name of the method: "Put", "Commit" …
	On string // what it is about: an object key, a segment, a catalog; "" when nothing names it
	N  int    // which call of the operation it is, from 1
}

// Fault is what happens to a Call. The zero Fault is none.
type Fault struct {
	Delay  time.Duration // first of all
	Before error         // answered without doing it: a lost request
	After  error         // answered although it was done: a lost reply
}

// Faults decides what happens to calls. It is called by many goroutines at
// once; nil means no faults.
type Faults func(Call) Fault

// Script gives each operation its faults in order, one a call; calls beyond
// the script have none.
func Script(script map[string][]Fault) Faults {
	return func(c Call) Fault {
		if list := script[c.Op]; c.N <= len(list) {
			return list[c.N-1]
		}
		return Fault{}
	}
}

// Seeded draws faults: a lost request and a lost reply with the given
// probabilities, a delay below maxDelay always. Which call draws what depends on
// the order of calls alone.
func Seeded(seed uint64, before, after float64, maxDelay time.Duration) Faults {
	var mu sync.Mutex
	rnd := rand.New(rand.NewPCG(seed, 0))
	return func(c Call) Fault {
		mu.Lock()
		defer mu.Unlock()
		var f Fault
		if maxDelay > 0 {
			f.Delay = time.Duration(rnd.Int64N(int64(maxDelay)))
		}
		switch p := rnd.Float64(); {
		case p < before:
			f.Before = fmt.Errorf("%s %s, call %d: %w, nothing done", c.Op, c.On, c.N, ErrInjected)
		case p < before+after:
			f.After = fmt.Errorf("%s %s, call %d: %w, reply lost", c.Op, c.On, c.N, ErrInjected)
		}
		return f
	}
}

// Counts counts calls by operation. The zero value is ready.
type Counts struct {
	mu sync.Mutex
	n  map[string]int
}

// Count is how many calls of an operation there were.
func (c *Counts) Count(op string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[op]
}

// All is a copy of the counts.
func (c *Counts) All() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.n)
}

func (c *Counts) add(op string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[string]int)
	}
	c.n[op]++
	return c.n[op]
}

// injector counts calls and lets faults happen to them.
type injector struct {
	Counts
	faults Faults
}

// do does call unless a fault comes before it.
func (i *injector) do(ctx context.Context, op, on string, call func() error) error {
	n := i.add(op)
	if i.faults == nil {
		return call()
	}
	f := i.faults(Call{Op: op, On: on, N: n})
	if f.Delay > 0 {
		t := time.NewTimer(f.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if f.Before != nil {
		return f.Before
	}
	err := call()
	if f.After != nil {
		return f.After
	}
	return err
}

// ask is do for calls with an answer; a fault leaves no answer.
func ask[T any](i *injector, ctx context.Context, op, on string, call func() (T, error)) (answer T, err error) {
	err = i.do(ctx, op, on, func() (err error) {
		answer, err = call()
		return err
	})
	if err != nil {
		var none T
		return none, err
	}
	return answer, nil
}
