package fault

import (
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"
)

var wipeLoad = flag.Duration("fault.wipeload", 5*time.Second, "how long the load runs before and after the index is wiped")

// Redis is wiped under load: writes resume without anybody's help, everything
// that was acknowledged is there, and events flow on in order, without
// `lake streams apply`.
func TestWiped(t *testing.T) {
	c := newCluster(t, "--fold-deltas", "64")
	l := c.connect()
	seen := watch(t, l)
	pids := map[string]int{}
	for _, s := range c.services {
		pids[s.name] = s.Pid()
	}
	var hs []*history
	var load sync.WaitGroup
	for i := range 3 {
		h := &history{catalog: fmt.Sprintf("wiped-%d", i), begin: time.Now(), think: 10 * time.Millisecond}
		if err := h.init(l); err != nil {
			t.Fatal(err)
		}
		h.start(c.connect(), 4, uint64(i), &load)
		hs = append(hs, h)
	}
	time.Sleep(*wipeLoad) // a history to lose
	before := hs[0].count.Load() + hs[1].count.Load() + hs[2].count.Load()
	newNemesis(c, 1).redisFlushed()
	wiped := time.Now()

	// The first write that was sent after the wipe and acknowledged, by catalog.
	first := func(h *history) time.Duration {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, o := range h.ops {
			if sent := h.begin.Add(o.call); o.kind < opRead && o.state == acked && sent.After(wiped) {
				return h.begin.Add(o.ret).Sub(wiped)
			}
		}
		return 0
	}
	const limit = 15 * time.Second
	var slowest time.Duration
	for _, h := range hs {
		if !wait(time.Minute, func() bool { return first(h) > 0 }) {
			t.Fatalf("%s: no write was acknowledged in the minute after the wipe", h.catalog)
		}
		slowest = max(slowest, first(h))
	}
	if slowest > limit {
		t.Errorf("writes resumed after %v, want at most %v", slowest, limit)
	}
	time.Sleep(*wipeLoad)
	for _, h := range hs {
		h.stop.Store(true)
	}
	load.Wait()
	c.ready(time.Minute)
	for _, s := range c.services {
		if s.Pid() != pids[s.name] {
			t.Errorf("%s was restarted", s.name)
		}
	}
	var acked, lost int
	for _, h := range hs {
		f := readFinal(t, l, h, decided)
		v := check(h.ops, f)
		v.wrong = append(v.wrong, h.wrong...)
		if len(v.wrong) > 0 {
			t.Errorf("%s: %v", h.catalog, v)
		}
		acked, lost = acked+v.acked, lost+v.lost
		seen.upTo(t, h.catalog, f.version)
	}
	t.Logf("%d operations, then FLUSHALL; the first write that was sent after it was acknowledged after %.1f s in every catalog; %d acknowledged in all, lost %d; events flow again in order, %d gaps told",
		before, slowest.Seconds(), acked, lost, seen.gapCount())
}
