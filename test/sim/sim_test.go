// Package sim runs the real engine against everything that the world can do to
// it, reproducibly, and checks what clients saw.
//
// A history is drawn from a seed: several processes over one index and one
// bucket, writers, readers, folds, and what goes wrong. All of it happens in
// virtual time (testing/synctest), one event at a time (see scheduler). At its
// end all is healed and progress is demanded (in every other history), then
// the index is wiped and rebuilt from the bucket, and everything that was ever
// answered is compared with the bucket's own history.
//
//	go test ./test/sim -sim.seeds 2000            many histories
//	go test ./test/sim -run Sim -sim.seed 77 -v   one, with its trace
//	go test ./test/sim -run CrashPoints -v        a process dies at every request of every walk
//	go test ./test/sim -run Ablations             the checker notices a defence that is off
package sim

import (
	"bufio"
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	seeds       = flag.Int("sim.seeds", 60, "histories to run")
	oneSeed     = flag.Int64("sim.seed", -1, "run this history only, with its trace")
	kindFlag    = flag.String("sim.kind", "", "mix of faults: split, fence, ids, packs, collect, purge, calm; default: all, and of every fifth seed split")
	offFlag     = flag.String("sim.off", "", "defence to switch off in the one history")
	first       = flag.Uint64("sim.first", 0, "the first seed; 0 draws one")
	workers     = flag.Int("sim.workers", runtime.GOMAXPROCS(0), "histories side by side")
	rare        = flag.Int("sim.rare", 0, "how often each rare branch must have been taken")
	traceFile   = flag.String("sim.trace", "", "write the trace of the one history to this file")
	ablateSeeds = flag.Int("sim.within", 500, "histories in which an ablation must be noticed")
	ablateAll   = flag.Bool("sim.all", false, "ablations: run all histories and count what is noticed")
	ablateOnly  = flag.String("sim.ablate", "", "run this ablation only")
)

// rareBranches must be taken in a long run: a simulator that never comes there
// proves nothing about them.
var rareBranches = []string{
	"tombstone won", "tombstone lost", "decided: tombstone", "decided: rolled_back", "decided: rolled_forward", "commit waited", "run waited its turn",
	"lease refused", "taken over", "adopted a snapshot", "lost race for an epoch", "zombie put after seal", "exists, and is one's own",
	"another's seal counts", "segments collected", "segments compacted", "strays collected", "shards emptied",
	"stopped in a collection: Delete", "stopped in a collection: Forget", "stopped in a collection: Relocate",
	"snapshots given up by retention", "snapshots collected", "logs without what retention gave up",
	"purges acknowledged", "purges at their end", "purges that moved others' runs", "killed in a purge", "adopted a purge", "logs that begin with a purge",
	"pasts that are gone",
}

// history runs one seed in a bubble of its own.
func history(t *testing.T, seed uint64, kind, off string, trace func(string)) (w *world) {
	defer func() {
		if r := recover(); r != nil {
			t.Logf("seed %d, kind %q, off %q", seed, kind, off)
			panic(r)
		}
	}()
	synctest.Test(t, func(*testing.T) {
		w = newWorld(seed, drawMix(seed, kind), off, trace)
		w.play()
	})
	return w
}

func kindOf(seed uint64) string {
	if *kindFlag != "" {
		return *kindFlag
	}
	if seed%5 == 4 {
		return "split"
	}
	return ""
}

// settled is how long a history took until nothing was undecided.
type settled struct {
	in   time.Duration
	seed uint64
}

func (s settled) String() string {
	return fmt.Sprintf("%v (seed %d)", s.in.Round(time.Millisecond), s.seed)
}

func TestSim(t *testing.T) {
	if *oneSeed >= 0 {
		replay(t, uint64(*oneSeed))
		return
	}
	from := *first
	if from == 0 {
		from = rand.Uint64N(1 << 40)
	}
	t.Logf("seeds %d to %d; replay one with -sim.seed", from, from+uint64(*seeds)-1)
	var total counters
	var mu sync.Mutex
	var failed []string
	faults, slowest := 0, []settled{}
	var done atomic.Int64
	start := time.Now()
	t.Run("histories", func(t *testing.T) {
		for k := range *workers {
			t.Run(strconv.Itoa(k), func(t *testing.T) {
				t.Parallel()
				for {
					i := done.Add(1) - 1
					if i >= int64(*seeds) {
						return
					}
					seed := from + uint64(i)
					w := history(t, seed, kindOf(seed), "", nil)
					total.merge(&w.counters)
					mu.Lock()
					faults += w.faults
					slowest = append(slowest, settled{w.healing, seed})
					slices.SortFunc(slowest, func(a, b settled) int { return cmp.Compare(b.in, a.in) })
					slowest = slowest[:min(len(slowest), 5)]
					if len(w.violations) > 0 {
						failed = append(failed, report(w))
						t.Error(report(w))
					}
					mu.Unlock()
				}
			})
		}
	})
	took := time.Since(start)
	var b strings.Builder
	for _, k := range sortedKeys(total.n) {
		fmt.Fprintf(&b, "  %9d  %s\n", total.n[k], k)
	}
	t.Logf("%d histories in %v (%.1f/s), %d faults, %d writes acknowledged; slowest to settle %v; %d failed\n%s", *seeds, took.Round(time.Millisecond),
		float64(*seeds)/took.Seconds(), faults, total.n["writes acknowledged"], slowest, len(failed), b.String())
	for _, k := range rareBranches {
		if n := total.n[k]; n <= *rare && (*rare > 0 || *seeds >= 2000) {
			t.Errorf("rare branch %q was taken %d times, more than %d wanted", k, n, *rare)
		}
	}
}

func report(w *world) string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d failed (go test ./test/sim -run Sim -sim.seed %d -v); it drew %+v\n", w.seed, w.seed, w.mix)
	for i, v := range w.violations {
		if i == 6 {
			fmt.Fprintf(&b, "  … and %d more\n", len(w.violations)-i)
			break
		}
		fmt.Fprintf(&b, "  %s: %s\n", v.what, v.text)
	}
	return b.String()
}

// replay runs one seed, with its trace.
func replay(t *testing.T, seed uint64) {
	trace := func(s string) { t.Log(s) }
	if *traceFile != "" {
		f, err := os.Create(*traceFile)
		if err != nil {
			t.Fatal(err)
		}
		out := bufio.NewWriter(f)
		defer func() { _ = out.Flush(); _ = f.Close() }()
		trace = func(s string) { _, _ = fmt.Fprintln(out, s) }
	} else if !testing.Verbose() {
		trace = nil
	}
	w := history(t, seed, kindOf(seed), *offFlag, trace)
	t.Logf("seed %d: %d events, hash %016x, settled in %v, mix %+v", seed, w.step, w.hash, w.healing, w.mix)
	if len(w.violations) > 0 {
		t.Error(report(w))
	}
}

// TestKept runs the seeds that failed once.
func TestKept(t *testing.T) {
	b, err := os.ReadFile("testdata/seeds")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(b), "\n") {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		seed, err := strconv.ParseUint(fields[0], 10, 64)
		if err != nil {
			t.Fatalf("testdata/seeds: %v", err)
		}
		kind := kindOf(seed)
		if len(fields) > 1 && fields[1] != "-" {
			kind = fields[1]
		}
		if w := history(t, seed, kind, "", nil); len(w.violations) > 0 {
			t.Error(report(w))
		}
	}
}
