package sim

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

// world is one history: a bucket, the index servers that there were, the
// processes, the clients, and what was seen.
type world struct {
	*scheduler
	seed uint64
	mix  mix
	off  string // the defence that is switched off, "" for none

	bucket   *memory.Objects
	archive  *memory.Objects // what was collected
	strays   *memory.Objects // what was deleted because no seal knows it
	written  map[string]bool
	primary  *server
	assigned []*server // by slot
	procs    []*process
	lives    int
	graves   int // engines being opened or closed
	respawn  bool
	healed   bool
	opened   map[uint64]bool // epochs that somebody worked in
	offset   time.Duration   // of the index's clock
	furthest time.Duration   // that it ever was
	faults   int
	healing  time.Duration // how long it took until nothing was stuck

	clients   int // still at work
	ops       []*op
	latest    map[int]*op       // the latest write of each client
	last      map[string]*final // what a lake without faults showed in the end
	rebuilt   map[string]*final // and one that was rebuilt
	cleared   map[string]*final // and once more, when its purges had come to their end
	gaveUp    map[string][]loss // of history, by the retention
	published map[string]*stream

	crash *crash                 // of the crash points: where a process dies
	force func(c *call, f *fate) // of the crash points: what becomes of a request, instead of what is drawn

	counters   counters
	violations []violation
}

type violation struct{ what, text string }

func (w *world) violate(what, format string, args ...any) {
	v := violation{what, fmt.Sprintf(format, args...)}
	w.note(0, "VIOLATION", v.what+": "+v.text, nil)
	w.violations = append(w.violations, v)
}

// counters of what happened, over histories too.
type counters struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *counters) add(what string) { c.addN(what, 1) }

func (c *counters) addN(what string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[what] += n
}

func (c *counters) merge(o *counters) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	for k, n := range o.n {
		c.n[k] += n
	}
}

func newWorld(seed uint64, m mix, off string, trace func(string)) *world {
	w := &world{
		scheduler: newScheduler(seed), seed: seed, mix: m, off: off, bucket: memory.NewObjects(), archive: memory.NewObjects(), strays: memory.NewObjects(), written: map[string]bool{},
		opened: map[uint64]bool{}, respawn: true, published: map[string]*stream{}, latest: map[int]*op{},
		gaveUp: map[string][]loss{},
	}
	w.trace = trace
	w.primary = w.newServer(memory.NewIndex(memory.Options{Clock: func() time.Time { return time.Now().Add(w.offset) }}))
	slots := m.Processes
	if m.Stops > 0 {
		slots++ // the last one has no clients
	}
	w.assigned = slices.Repeat([]*server{w.primary}, slots)
	w.procs = make([]*process, slots)
	return w
}

func (w *world) newServer(x *memory.Index) *server {
	_ = x.SetEvents(context.Background(), true) // as the program does when a new epoch is restored
	return &server{alive: true, mem: x, backend: ablate(w, x)}
}

// landed looks at calls of the index as they are done.
func (w *world) landed(c *call, ans any, err error) {
	switch c.op {
	case "Commit":
		for _, r := range asCommitted(ans) {
			switch r.State {
			case engine.RunWaiting:
				w.counters.add("run waited its turn")
			case engine.RunGone:
				w.counters.add("run gone")
			}
		}
	}
	if errors.Is(err, engine.ErrEpoch) {
		w.counters.add("refused by epoch: " + c.op)
	}
}

func asCommitted(ans any) []engine.Committed {
	list, _ := ans.([]engine.Committed)
	return list
}

// --- what goes wrong

func (w *world) schedule() {
	m := &w.mix
	when := func() time.Duration { return w.between(time.Second, m.Horizon) }
	slot := func() int { return w.rnd.IntN(m.Processes) }
	for range m.Kills {
		w.at(when(), "kill", func() {
			s := slot()
			w.restart(s, w.between(50*time.Millisecond, 8*time.Second), bootMode{})
		})
	}
	for range m.Forced {
		w.at(when(), "forced", func() { w.restart(slot(), time.Second, bootMode{newEpoch: true}) })
	}
	for range m.Pauses {
		w.at(when(), "pause", func() {
			d := w.between(time.Second, 5*time.Second)
			if w.chance(0.5) {
				d = w.between(4*time.Second, 30*time.Second)
			}
			if p := w.procs[slot()]; p != nil && !w.healed {
				w.faults++
				w.pause(p, d)
			}
		})
	}
	for range m.Stops {
		w.at(when()/2, "stop in a collection", func() { // when it comes to it
			if p := w.procs[m.Processes]; p != nil && !w.healed {
				p.stopAt = stops[w.rnd.IntN(len(stops))]
			}
		})
	}
	for range m.jumps() {
		w.at(when(), "clock", func() { w.turnClock(retained + w.between(0, time.Hour)) })
	}
	for range m.Steps {
		w.at(when(), "clock", func() {
			d := w.between(time.Second, 20*time.Second)
			if w.chance(0.6) {
				d = w.between(time.Minute, time.Hour)
			}
			if w.chance(0.5) {
				d = -d
			}
			w.faults++
			w.turnClock(d)
		})
	}
	for range m.Outages {
		w.at(when(), "outage", func() {
			side, d := "index", w.between(time.Second, 9*time.Second)
			if w.chance(0.5) {
				side = "bucket"
			}
			everybody, s := w.chance(0.4), slot()
			w.note(0, "outage", fmt.Sprint(side, " ", d, " ", s, " ", everybody), nil)
			for i, p := range w.procs {
				if p != nil && (everybody || i == s) {
					p.cut[side] = w.now() + d
				}
			}
		})
	}
	for range m.Wipes {
		w.at(when(), "wipe", func() {
			w.faults++
			w.note(0, "wipe", "", nil)
			x := memory.NewIndex(memory.Options{Clock: func() time.Time { return time.Now().Add(w.offset) }})
			w.replace(x, 0)
		})
	}
	for range m.Tails {
		w.at(when(), "backup", func() {
			lag := w.between(50*time.Millisecond, 2*time.Second)
			if w.chance(0.3) || m.LongTails {
				lag = w.between(2*time.Second, 25*time.Second)
			}
			old := w.primary.mem.Clone()
			w.at(lag, "restart without the tail", func() {
				w.faults++
				w.note(0, "tail lost", lag.String(), nil)
				w.replace(old, 0)
			})
		})
	}
	for range m.Splits {
		w.at(when(), "replica lags", func() {
			lag := w.between(0, time.Second)
			if w.chance(0.3) {
				lag = w.between(time.Second, 8*time.Second)
			}
			old := w.primary.mem.Clone()
			w.at(lag, "promote", func() {
				w.faults++
				w.note(0, "replica promoted", lag.String(), nil)
				w.replace(old, w.between(time.Second, w.mix.SplitFor))
			})
		})
	}
}

// turnClock steps the index's clock.
func (w *world) turnClock(d time.Duration) {
	w.offset += d
	w.furthest = max(w.furthest, w.offset)
	w.note(0, "clock", d.String(), nil)
}

// replace makes x the index. Within moving, each process finds it at a time of
// its own, and the old one answers until then; 0: at once, the old one is dead.
func (w *world) replace(x *memory.Index, moving time.Duration) {
	old, fresh := w.primary, w.newServer(x)
	w.primary = fresh
	if w.healed || moving == 0 {
		old.alive = false
		for i := range w.assigned {
			w.assigned[i].alive = false
			w.assign(i, fresh)
		}
		return
	}
	if w.off == "replid" {
		sameServer(fresh)
	}
	for i := range w.assigned {
		d := time.Duration(0)
		if w.chance(0.7) {
			d = w.between(0, moving)
		}
		w.at(d, "move", func() {
			if w.primary == fresh {
				w.assign(i, fresh)
			}
		})
	}
	w.at(moving, "old primary dies", func() { old.alive = false })
}

func (w *world) assign(slot int, s *server) {
	w.assigned[slot] = s
	if p := w.procs[slot]; p != nil {
		p.server = s
	}
}

func (w *world) restart(slot int, after time.Duration, mode bootMode) {
	p := w.procs[slot]
	if p == nil || p.dead.Load() || w.healed {
		return
	}
	w.faults++
	w.kill(p)
	w.again(slot, after, mode)
}

func (w *world) fixEvents() { heap.Init(&w.events) }

// heal ends all faults: whatever is on its way arrives, whoever is dead comes
// back.
func (w *world) heal() {
	w.healed = true
	w.note(0, "heal", "", nil)
	now := w.now()
	for _, e := range w.events {
		switch e.why {
		case "land", "land again", "second reply", "lost request", "lost reply", "reply", "refuse", "respawn", "move", "old primary dies", "late reply":
			e.at = min(e.at, now+w.between(0, 100*time.Millisecond))
		}
	}
	w.calm()
	for i := range w.assigned {
		w.assign(i, w.primary)
	}
	for _, p := range w.procs {
		w.resume(p)
	}
}

// calm strikes the faults that were still to come.
func (w *world) calm() {
	w.events = slices.DeleteFunc(w.events, func(e *event) bool {
		switch e.why {
		case "kill", "forced", "pause", "stop in a collection", "clock", "outage", "wipe", "backup", "restart without the tail", "replica lags", "promote":
			return true
		}
		return false
	})
	w.fixEvents()
}

// --- a history

// play runs a history from an empty lake to its end and checks it.
func (w *world) play() {
	w.schedule()
	for i := range w.procs {
		w.boot(i, bootMode{})
	}
	w.load()
	w.relay()
	w.run(w.mix.Horizon+20*time.Second, func() bool { return w.clients == 0 && w.now() > w.mix.Horizon })
	w.clients = -1 << 20 // nobody begins anything any more
	if w.mix.Live {
		w.heal()
		w.live()
	}
	w.end()
}

// end kills what still runs, makes the lake anew from its bucket and checks.
func (w *world) end() {
	w.respawn = false
	for _, p := range w.procs {
		w.kill(p)
	}
	w.run(time.Minute, func() bool { return w.graves == 0 })
	w.finale()
	for _, p := range w.procs {
		if p != nil {
			w.kill(p)
		}
	}
	w.events = nil
	w.run(time.Hour, func() bool { return w.graves == 0 })
	if len(w.violations) == 0 || w.off == "" {
		w.check()
	}
}

// i6 is how soon after the last fault nothing may be undecided.
const i6 = 15 * time.Second

// live demands progress of a lake without faults.
func (w *world) live() {
	from := w.now()
	w.run(300*time.Millisecond, func() bool { return false }) // what is on its way arrives
	var why string
	quiet := func() bool {
		why = w.unsettled()
		return why == ""
	}
	if !w.run(90*time.Second, every(w, 250*time.Millisecond, quiet)) {
		w.violate("stuck", "90 s after the last fault: %s", why)
		return
	}
	w.healing = w.now() - from
	if w.healing > i6 {
		w.violate("I6", "it took %v after the last fault until nothing was undecided", w.healing)
	}
	// Everybody can write and read.
	var ops []*op
	for slot := range w.procs {
		for c := range w.mix.Catalogs {
			w.at(w.about(time.Millisecond), "progress", func() {
				if o := w.write(900+slot, slot, w.catalog(c), 10*time.Second); o != nil {
					ops = append(ops, o)
				}
			})
		}
	}
	want := len(w.procs) * w.mix.Catalogs
	w.run(20*time.Second, func() bool { return len(ops) == want && !slices.ContainsFunc(ops, func(o *op) bool { return !o.over }) })
	if len(ops) < want {
		w.violate("progress", "%d of %d writes could begin", len(ops), want)
	}
	for _, o := range ops {
		if o.state != acked {
			w.violate("progress", "a write without faults: %s: %v", o.state, o.err)
		}
	}
	if w.mix.Purges > 0 { // whoever collects goes on with a purge whose process died: until then logs may break off at it
		o := w.collection(500, 0)
		w.run(time.Minute, func() bool { return o == nil || o.over })
	}
	w.last = w.collect(w.procs[0])
}

// unsettled says why the lake is not at rest, "" if it is.
func (w *world) unsettled() string {
	for i, p := range w.procs {
		switch {
		case p == nil || p.dead.Load() || p.engine == nil:
			return fmt.Sprintf("process %d does not run", i)
		case p.engine.Ready() != nil:
			return fmt.Sprintf("process %d: %v", i, p.engine.Ready())
		}
	}
	for _, o := range w.ops {
		if !o.over && o.kind != "purge" { // that may wait for the lease of one that died erasing
			return fmt.Sprintf("%s of %s is not answered", o.kind, o.catalog)
		}
	}
	epoch := w.procs[0].engine.Epoch()
	stuck, err := w.primary.Stuck(context.Background(), epoch)
	if err != nil {
		return err.Error()
	}
	if len(stuck) > 0 {
		return fmt.Sprintf("%d segments undecided, the oldest %s since %v, now %v", len(stuck), stuck[0].Segment.Key(), stuck[0].Since, stuck[0].Now)
	}
	return ""
}

// every makes a condition of the scheduler that is asked now and then.
func every(w *world, d time.Duration, cond func() bool) func() bool {
	next, tick := w.now(), func() {}
	tick = func() {
		if next <= w.now() {
			w.at(d, "look", func() { tick() })
		}
	}
	w.at(d, "look", func() { tick() })
	return func() bool {
		if w.now() < next {
			return false
		}
		next = w.now() + d
		return cond()
	}
}

// finale wipes the index and looks at what a fresh lake makes of the bucket.
func (w *world) finale() {
	w.healed = true
	w.calm()
	clear(w.procs)
	p := w.anew()
	if p == nil {
		return
	}
	w.rebuilt = w.collect(p)
	w.drainEvents(p)
	if w.mix.Purges == 0 {
		return
	}
	w.erased(p)
	w.kill(p)
	w.run(time.Minute, func() bool { return w.graves == 0 })
	if p = w.anew(); p != nil {
		w.cleared = w.collect(p)
	}
}

// anew opens a lake of which only the bucket is left.
func (w *world) anew() *process {
	w.replace(memory.NewIndex(memory.Options{Clock: func() time.Time { return time.Now().Add(w.offset) }}), 0)
	p := w.boot(0, bootMode{erases: w.mix.Purges > 0})
	if !w.run(2*time.Minute, func() bool { return p.engine != nil || p.dead.Load() }) || p.engine == nil {
		w.violate("rebuild", "a fresh engine does not open the lake")
		return nil
	}
	return p
}

// final is what a lake shows of a catalog.
type final struct {
	version engine.Version
	body    string
	absent  bool
	log     []engine.LogEntry
}

// collect reads every catalog and its log.
func (w *world) collect(p *process) map[string]*final {
	all := map[string]*final{}
	done := false
	var failed error
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		for c := range w.mix.Catalogs {
			name := w.catalog(c)
			f := &final{}
			var l *engine.List
			var body []byte
			var err error
			for range 20 { // a lease that was granted late is renewed within a second
				l = p.engine.List(ctx, name)
				if body, err = engine.ReadBytes(ctx, l); !errors.Is(err, engine.ErrUnavailable) {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			f.version, f.body, f.absent = l.Version, string(body), errors.Is(err, engine.ErrNotFound)
			if err != nil && !f.absent {
				failed = errors.Join(failed, err)
			}
			for range 20 {
				if f.log, err = wholeLog(ctx, p.engine, name, 7); !errors.Is(err, engine.ErrUnavailable) {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			if err != nil {
				failed = errors.Join(failed, err)
			}
			all[name] = f
		}
		w.arrive(arrival{who: p.who, op: "collected", do: func() { done = true }})
	}()
	w.run(2*time.Minute, func() bool { return done })
	if failed != nil || !done {
		w.violate("read", "a lake without faults cannot be read: %v", failed)
	}
	return all
}

func wholeLog(ctx context.Context, e *engine.Engine, catalog string, page int) ([]engine.LogEntry, error) {
	var all []engine.LogEntry
	var after engine.Version
	for {
		p, err := e.Log(ctx, engine.LogRequest{Catalog: catalog, After: after, Limit: page})
		if errors.Is(err, engine.ErrHistoryGone) { // given up between two pages
			all, after = nil, engine.Version{}
			continue
		}
		if errors.Is(err, engine.ErrNotFound) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, p.Items...)
		if p.Next == nil {
			return all, nil
		}
		after = *p.Next
	}
}

func (w *world) catalog(i int) string { return fmt.Sprintf("c%d", i) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func clip(s string) string {
	if len(s) > 300 {
		return s[:300] + "…"
	}
	return strings.TrimSpace(s)
}
