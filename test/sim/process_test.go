package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

var (
	errKilled   = errors.New("the process was killed")
	errLost     = errors.New("injected: connection reset")
	errServer   = errors.New("injected: 503 slow down")
	errRefused  = errors.New("injected: connection refused")
	errTimedOut = errors.New("injected: the client's own timeout")
)

// process is one life of a process that runs an engine.
type process struct {
	w      *world
	slot   int
	who    int // slot and life, for order and trace
	server *server
	engine *engine.Engine // nil while it starts

	dead   atomic.Bool
	mu     sync.Mutex
	paused chan struct{} // closed when it goes on; nil: it runs
	writer string        // its name, once it has said it
	opens  bool          // it opens an epoch

	cut         map[string]time.Duration // "index", "bucket": unreachable until
	outstanding []*call
	heldCalls   []*call
	heldReplies []func()
	ops         []*op // of clients
	stop        context.CancelFunc
	rnd         *lockedRand

	stopAt    string // the request at which it is stopped
	lastFence int
	lostPut   string // key of an epoch object that exists already (ablations)
}

// call is a request to the index or the bucket on its way.
type call struct {
	p       *process
	side    string // index or bucket
	op, on  string
	data    []byte // of a put
	asks    bool   // changes nothing
	land    func(x *server) (any, error)
	server  *server
	dropped bool // never lands
	late    *event

	done     chan struct{}
	answered bool
	ans      any
	err      error
}

// call does a request and waits for its reply.
func (p *process) call(ctx context.Context, side, op, on string, land func(x *server) (any, error)) (any, error) {
	return p.await(ctx, &call{side: side, op: op, on: on, land: land})
}

// await sends a request and waits for its reply, or for the context: the request
// may land then all the same.
func (p *process) await(ctx context.Context, c *call) (any, error) {
	p.waitRunning()
	if p.dead.Load() {
		return nil, errKilled
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.p, c.done = p, make(chan struct{})
	a := arrival{who: p.who, op: c.op, on: c.on, stack: make([]uintptr, 16), do: func() { p.w.send(c) }}
	a.client, _ = ctx.Value(clientKey{}).(int)
	a.stack = a.stack[:runtime.Callers(2, a.stack)]
	p.w.arrive(a)
	select {
	case <-c.done:
		return c.ans, c.err
	case <-ctx.Done():
		p.waitRunning()
		return nil, ctx.Err()
	}
}

// clientKey is where a context has the number of the operation, from 1.
type clientKey struct{}

func ask[T any](p *process, ctx context.Context, side, op, on string, land func(x *server) (T, error)) (answer T, err error) {
	a, err := p.call(ctx, side, op, on, func(x *server) (any, error) { return land(x) })
	if err != nil {
		return answer, err
	}
	return a.(T), nil
}

// named learns the writer's name of the process.
func (p *process) named(writer string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writer = writer
}

func (p *process) opening(is bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opens = is
}

// waitRunning stands still while the process is stopped.
func (p *process) waitRunning() {
	for {
		p.mu.Lock()
		ch := p.paused
		p.mu.Unlock()
		if ch == nil {
			return
		}
		<-ch
	}
}

// lockedRand gives an engine its names and jitter.
type lockedRand struct {
	mu sync.Mutex
	r  *rand.Rand
}

func (l *lockedRand) Read(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range b {
		b[i] = byte(l.r.Uint32())
	}
	return len(b), nil
}

// boot starts a process in a slot. It may fail, as a supervised process may,
// and is started again then.
func (w *world) boot(slot int, mode bootMode) *process {
	if p := w.procs[slot]; p != nil && !p.dead.Load() {
		panic(fmt.Sprintf("process %d is to be started beside itself", slot)) // nobody would end the other
	}
	w.lives++
	p := &process{
		w: w, slot: slot, who: slot*1000 + w.lives, server: w.assigned[slot], cut: map[string]time.Duration{},
		rnd: &lockedRand{r: rand.New(rand.NewPCG(w.rnd.Uint64(), 1))},
	}
	w.procs[slot] = p
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	o := engine.Options{
		Sweep: true, DocumentCache: -1, FrameCache: -1, MaxInflight: w.mix.Inflight, Random: p.rnd, Hooks: w.hooks(p), NewEpoch: mode.newEpoch,
		FoldMaxDeltas: w.mix.FoldMax,
		RestoreShards: w.mix.RestoreShards,
		SplitCommit:   w.mix.SplitCommit,
		Collect:       w.mix.Collect, CollectEvery: time.Second, Grace: w.mix.Grace, CompactAfter: w.mix.CompactAfter, CollectRate: 1 << 20,
	}
	if mode.erases {
		o.Collect, o.CollectEvery = true, 5*time.Second
	}
	if w.mix.Retain {
		o.Retention = []engine.Retention{{OlderThan: retained}}
	}
	if w.mix.Cache {
		o.DocumentCache, o.FrameCache = 1<<20, 1<<20
	}
	w.note(p.who, "boot", "", nil)
	w.graves++ // until it is known what came of it
	go func() {
		e, err := engine.New(ctx, simIndex{p}, simObjects{p}, o)
		w.arrive(arrival{who: p.who, op: "booted", do: func() { w.booted(p, e, err) }})
	}()
	return p
}

// stops are the requests of a collection at which its process is stopped; those that
// it comes to more rarely, more often.
var stops = []string{"Delete", "Delete", "Forget", "Forget", "Forget", "Forget", "Relocate", "Relocate", "Relocate", "Unused"}

// again boots a slot after a while.
func (w *world) again(slot int, after time.Duration, mode bootMode) {
	w.at(after, "respawn", func() {
		if w.respawn {
			w.boot(slot, mode)
		}
	})
}

// bootMode is what is particular to a life.
type bootMode struct {
	newEpoch bool
	erases   bool // it collects, whatever the others do, to bring purges to their end
}

func (w *world) booted(p *process, e *engine.Engine, err error) {
	w.graves--
	p.engine = e
	if err != nil && p.dead.Load() {
		err = errKilled // which of its requests the engine heard of first the runtime decides
	}
	w.note(p.who, "booted", "", err)
	if err != nil {
		p.engine = nil
		if !p.dead.Load() {
			w.kill(p)
			w.again(p.slot, w.between(50*time.Millisecond, time.Second), bootMode{})
		}
		return
	}
	if p.dead.Load() {
		w.bury(p)
	}
}

// kill ends a process: what it has sent may still land.
func (w *world) kill(p *process) {
	if p.dead.Swap(true) {
		return
	}
	w.note(p.who, "kill", "", nil)
	p.goOn()
	for _, c := range p.outstanding {
		if !c.answered {
			c.dropped = w.chance(0.4)
			c.answered, c.err = true, errKilled
			close(c.done)
		}
	}
	for _, c := range p.heldCalls {
		if !c.answered {
			c.answered, c.err = true, errKilled
			close(c.done)
		}
	}
	p.outstanding, p.heldCalls, p.heldReplies = nil, nil, nil
	for _, o := range p.ops {
		w.finish(o, nil, errConnection)
	}
	p.stop()
	w.bury(p)
}

// bury ends the goroutines of a dead process's engine.
func (w *world) bury(p *process) {
	e := p.engine
	if e == nil {
		return
	}
	w.graves++
	go func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = e.Close(ctx)
		w.arrive(arrival{who: p.who, op: "buried", do: func() { w.graves-- }})
	}()
}

// pause stops a process as SIGSTOP does: nothing leaves it, nothing reaches it.
func (w *world) pause(p *process, d time.Duration) {
	p.mu.Lock()
	if p.dead.Load() || p.paused != nil {
		p.mu.Unlock()
		return
	}
	p.paused = make(chan struct{})
	p.mu.Unlock()
	w.note(p.who, "pause", d.String(), nil)
	// A body that was half sent goes on when the process does.
	for _, c := range p.outstanding {
		if !c.answered && c.op == "Put" && c.late != nil && w.chance(0.5) {
			c.late.at += d
			// the heap is put in order again
		}
	}
	w.fixEvents()
	w.at(d, "resume", func() { w.resume(p) })
}

func (p *process) isPaused() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.paused != nil
}

func (p *process) goOn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.paused != nil {
		close(p.paused)
		p.paused = nil
	}
}

func (w *world) resume(p *process) {
	if p.dead.Load() || !p.isPaused() {
		return
	}
	w.note(p.who, "resume", "", nil)
	p.goOn()
	calls, replies := p.heldCalls, p.heldReplies
	p.heldCalls, p.heldReplies = nil, nil
	for _, deliver := range replies {
		w.at(w.about(time.Millisecond), "late reply", deliver)
	}
	for _, c := range calls {
		w.plan(c)
	}
}

// send is the moment at which a request leaves its process.
func (w *world) send(c *call) {
	switch p := c.p; {
	case p.dead.Load():
		c.answered, c.err = true, errKilled
		close(c.done)
	case p.isPaused():
		p.heldCalls = append(p.heldCalls, c)
	default:
		w.plan(c)
	}
}

// plan draws what becomes of a request.
func (w *world) plan(c *call) {
	p := c.p
	c.server = p.server
	if len(p.outstanding) > 64 {
		live := p.outstanding[:0]
		for _, o := range p.outstanding {
			if !o.answered {
				live = append(live, o)
			}
		}
		p.outstanding = live
	}
	p.outstanding = append(p.outstanding, c)
	if p.stopAt != "" && p.stopAt == c.op && !w.healed {
		p.stopAt = ""
		w.faults++
		w.counters.add("stopped in a collection: " + c.op)
		if w.chance(0.5) { // with the request not sent, or sent and not answered
			w.pause(p, w.between(time.Second, 25*time.Second))
			p.heldCalls = append(p.heldCalls, c)
			return
		}
		defer w.pause(p, w.between(time.Second, 25*time.Second))
	}
	f := w.fate(c)
	if w.crash != nil && w.crash.sent(w, c, &f) {
		return
	}
	if f.refused != nil {
		w.at(f.request, "refuse", func() { w.deliver(c, nil, f.refused) })
		return
	}
	if f.lost {
		w.faults++
		w.at(f.hang, "lost request", func() { w.deliver(c, nil, errLost) })
		return
	}
	c.late = w.at(f.request, "land", func() {
		c.late = nil
		if c.dropped {
			return
		}
		ans, err := w.landing(c)
		if f.kill {
			w.kill(p)
			return
		}
		if w.healed {
			f.again, f.lostReply = 0, false
		}
		if f.again > 0 { // a duplicate on the way, or the client's own retry
			w.faults++
			w.at(f.again, "land again", func() {
				if c.dropped {
					return
				}
				ans, err := w.landing(c)
				if f.second {
					w.at(f.reply, "second reply", func() { w.deliver(c, ans, err) })
				}
			})
			if f.second {
				return
			}
		}
		if f.lostReply {
			w.faults++
			w.at(f.hang, "lost reply", func() { w.deliver(c, nil, errTimedOut) })
			return
		}
		w.at(f.reply, "reply", func() { w.deliver(c, ans, err) })
	})
}

func (w *world) landing(c *call) (any, error) {
	if c.side == "index" && !c.server.alive {
		w.note(c.p.who, c.op, c.on, errRefused)
		return nil, errRefused
	}
	ans, err := c.land(c.server)
	w.landed(c, ans, err)
	w.note(c.p.who, c.op, c.on, err)
	return ans, err
}

func (w *world) deliver(c *call, ans any, err error) {
	p := c.p
	if c.answered || p.dead.Load() {
		return
	}
	if p.isPaused() {
		p.heldReplies = append(p.heldReplies, func() { w.deliver(c, ans, err) })
		return
	}
	c.answered, c.ans, c.err = true, ans, err
	if err != nil {
		c.ans = nil
	}
	close(c.done)
}

// fate of a request.
type fate struct {
	request, reply time.Duration
	refused        error
	lost           bool          // it never lands
	lostReply      bool          // it lands, and nobody hears of it
	hang           time.Duration // how long the client waits for a lost one
	again          time.Duration // > 0: it lands twice
	second         bool          // and the second answer is the one that arrives
	kill           bool          // its process dies when it has landed
}

func (w *world) fate(c *call) fate {
	m := &w.mix
	index := c.side == "index"
	lat, odds := m.BucketLatency, m.Bucket
	if index {
		lat, odds = m.IndexLatency, m.Index
	}
	f := fate{request: w.about(lat), reply: w.about(lat / 2)}
	if w.healed {
		return f
	}
	if w.force != nil {
		w.force(c, &f)
		return f
	}
	if until := c.p.cut[c.side]; w.now() < until {
		w.faults++
		if w.chance(0.5) {
			f.refused = errRefused
			if !index {
				f.refused = errServer
			}
			return f
		}
		f.lost, f.hang = true, w.between(time.Second, 10*time.Second)
		return f
	}
	r := w.rnd.Float64()
	f.hang = w.about(20 * time.Millisecond)
	if w.chance(0.3) {
		f.hang = w.between(time.Second, 12*time.Second)
	}
	switch {
	case r < odds.Lost:
		f.lost = true
	case r < odds.Lost+odds.Reply:
		f.lostReply = true
	case r < odds.Lost+odds.Reply+odds.Twice:
		f.again, f.second = w.about(5*time.Millisecond), w.chance(0.5)
		if w.chance(0.3) {
			f.again, f.second = w.between(time.Second, 30*time.Second), false
		}
	case r < odds.Lost+odds.Reply+odds.Twice+odds.Late:
		if index && len(m.LateOnly) > 0 && !slices.Contains(m.LateOnly, c.op) {
			break
		}
		w.faults++
		f.request = w.between(time.Second, m.LateIndex)
		if c.op == "Put" {
			f.request = w.between(2*time.Second, 25*time.Second)
		}
	}
	return f
}

// hooks count what an engine says of itself.
func (w *world) hooks(p *process) engine.Hooks {
	count := func(what string) { w.counters.add(what) }
	return engine.Hooks{
		Decided: func(_ engine.SegmentID, how string) { count("decided: " + how) },
		Waited:  func(time.Duration) { count("commit waited") },
		Epoch: func(n uint64) {
			p.opening(false)
			w.arrive(arrival{who: p.who, op: "epoch", on: fmt.Sprint(n), do: func() {
				w.opened[n] = true
				w.note(p.who, "epoch", fmt.Sprint(n), nil)
			}})
		},
		Collected: func(c engine.Collected) {
			w.counters.addN("segments collected", c.Segments)
			w.counters.addN("segments compacted", c.Compacted)
			w.counters.addN("strays collected", c.Strays)
			w.counters.addN("snapshots collected", c.Snapshots)
		},
		Purged: func(r engine.PurgeReceipt) {
			switch {
			case w.rebuilt != nil:
			case r.Complete:
				count("purges at their end")
			case r.Rewritten > 0:
				count("purges that moved others' runs")
			}
		},
		Recovering: func(n uint64, step string) {
			if p.dead.Load() {
				return // one that was killed while it stood still: how far it still gets the runtime decides
			}
			p.opening(true)
			if step == "empty" {
				count("shards emptied")
			}
			w.arrive(arrival{who: p.who, op: "recovering", on: step, do: func() { w.note(p.who, "recovering", fmt.Sprintf("%d %s", n, step), nil) }})
		},
		Trouble: func(what string, err error) {
			if refusedByLease(err) {
				count("lease refused")
			}
			if errors.Is(err, engine.ErrDamaged) {
				w.arrive(arrival{who: p.who, op: "trouble", on: what, do: func() { w.violate("damage", "%s: %v", what, err) }})
			}
		},
	}
}
