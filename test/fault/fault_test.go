// Package fault runs Lake's programs as processes on a real redis-server,
// nats-server and versitygw, breaks all of them and what is between them, and
// checks what concurrent clients were told: by porcupine, by an append register,
// and against the history that Lake itself keeps.
//
//	go test ./test/fault                          a short history
//	go test ./test/fault -run Faults -v -fault.rounds 3 -fault.histories 7 -fault.operations 2000 -fault.faults 104
//	go test ./test/fault -run Faults -v -fault.seed 77       the same faults again
//	go test ./test/fault -run Stopped -v -fault.stopped 20 -fault.stop 130s
//
// The seed decides which faults come and how long they last, not what happens
// to be under way: a history cannot be repeated exactly. That is what test/sim
// is for.
package fault

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
)

var (
	seedFlag   = flag.Uint64("fault.seed", 0, "what the faults are drawn from; 0 draws one")
	rounds     = flag.Int("fault.rounds", 1, "rounds, each on new servers")
	histories  = flag.Int("fault.histories", 2, "histories of a round, one a catalog, side by side")
	operations = flag.Int("fault.operations", 150, "least operations of a history")
	faults     = flag.Int("fault.faults", 8, "least faults of a round")
	clients    = flag.Int("fault.clients", 6, "concurrent clients of a history")
	verbose    = flag.Bool("fault.trace", false, "print every fault")
)

// bin is where this run's programs were built.
var bin string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := testenv.Programs()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	return m.Run()
}

// totals are the sums of all rounds.
type totals struct {
	histories, operations, acked, conflicts, unknown, refused int
	lost, duplicated, reordered                               int
	linear, timedOut                                          int
	gaps                                                      int
	faults                                                    map[string]int
	slowest                                                   time.Duration // from healed to working again
}

// TestFaults runs histories under faults, round by round.
func TestFaults(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d: -fault.seed %d -fault.rounds %d -fault.histories %d -fault.operations %d -fault.faults %d", seed, seed, *rounds, *histories, *operations, *faults)
	sum := totals{faults: map[string]int{}}
	for r := range *rounds {
		t.Run(fmt.Sprintf("round-%d", r+1), func(t *testing.T) { round(t, seed+uint64(r), &sum) })
	}
	list, n := counts(sum.faults)
	t.Logf("%d faults:\n%s", n, list)
	t.Logf("%d histories, %d operations: %d acknowledged, %d conflicts, %d unknown; %d refused beside; lost %d, duplicated %d, reordered %d; porcupine passed %d, failed %d, of these by time %d; %d gaps in the events told; working again at most %v after healing",
		sum.histories, sum.operations, sum.acked, sum.conflicts, sum.unknown, sum.refused, sum.lost, sum.duplicated, sum.reordered, sum.linear, sum.histories-sum.linear, sum.timedOut, sum.gaps, sum.slowest.Round(100*time.Millisecond))
}

// round is some histories side by side under one nemesis.
func round(t *testing.T, seed uint64, sum *totals) {
	c := newCluster(t, "--fold-deltas", "64", "--requeue-every", "5s")
	n := newNemesis(c, seed)
	defer func() {
		addCounts(sum.faults, n.count)
		if t.Failed() || *verbose {
			t.Logf("faults of seed %d:\n%s", seed, strings.Join(n.trace, "\n"))
		}
	}()
	l := c.connect()
	seen := watch(t, l)
	var hs []*history
	for i := range *histories {
		h := &history{catalog: fmt.Sprintf("r%d-%d", seed, i), begin: time.Now(), think: 10 * time.Millisecond}
		if err := h.init(l); err != nil {
			t.Fatal(err)
		}
		hs = append(hs, h)
	}
	var load sync.WaitGroup
	for i, h := range hs {
		h.start(c.connect(), *clients, seed+uint64(i)<<32, &load)
	}
	// A history that lasts for longer than this has stood still.
	limit := time.Now().Add(2*time.Minute + time.Duration(*faults)*5*time.Second)
	told := time.Now()
	least := func() int64 { // of all histories
		least := hs[0].count.Load()
		for _, h := range hs {
			least = min(least, h.count.Load())
		}
		if time.Since(told) > 20*time.Second {
			told = time.Now()
			t.Logf("%v: %d faults, at least %d operations", time.Since(n.begin).Round(time.Second), n.done.Load(), least)
		}
		return least
	}
	n.run(func() bool {
		return n.done.Load() >= int64(*faults) && least() >= int64(*operations) || time.Now().After(limit)
	}, func() bool {
		return least() < min(n.done.Load()*int64(*operations)/int64(*faults), int64(*operations))
	})
	for _, h := range hs {
		h.stop.Store(true)
		if got := h.count.Load(); got < int64(*operations) {
			t.Errorf("%s had %d operations when its time was over, want %d", h.catalog, got, *operations)
		}
	}
	healed := time.Now()
	load.Wait()
	for _, h := range hs {
		working(t, l, h)
	}
	c.ready(time.Minute)
	took := time.Since(healed)
	sum.slowest = max(sum.slowest, took)
	t.Logf("round of seed %d: %d faults in %v, working again after %v", seed, n.done.Load(), healed.Sub(n.begin).Round(time.Second), took.Round(100*time.Millisecond))

	finals := map[string]final{}
	for _, h := range hs {
		f := readFinal(t, l, h, decided)
		finals[h.catalog] = f
		v := check(h.ops, f)
		v.wrong = append(v.wrong, h.wrong...)
		t.Logf("%s: %v", h.catalog, v)
		if len(v.wrong) > 0 {
			t.Errorf("%s is not as promised", h.catalog)
		}
		sum.add(v)
		seen.upTo(t, h.catalog, f.version)
	}
	sum.gaps += seen.gapCount()

	// The index is lost once more: the bucket alone gives the same histories.
	n.redisFlushed()
	for _, h := range hs {
		f := readFinal(t, l, h, time.Minute) // every segment is read
		if before := finals[h.catalog]; !sameLog(before.log, f.log) || len(f.log) != len(before.log) || f.doc != before.doc || f.version != before.version {
			t.Errorf("%s after the index was lost: %d entries, %+v at %s; before: %d, %+v at %s", h.catalog, len(f.log), f.doc, f.version, len(before.log), before.doc, before.version)
		}
	}
}

func (s *totals) add(v *verdict) {
	s.histories++
	s.operations += v.operations
	s.acked += v.acked
	s.conflicts += v.conflicts
	s.unknown += v.unknown
	s.refused += v.refused
	s.lost += v.lost
	s.duplicated += v.duplicated
	s.reordered += v.reordered
	switch v.porcupine {
	case porcupine.Ok:
		s.linear++
	case porcupine.Unknown:
		s.timedOut++
	}
}

// working waits until the healed cluster takes a write of the history and gives
// it back. The write belongs to the history.
func working(t *testing.T, l *client.Client, h *history) {
	t.Helper()
	o := op{kind: opReplace, value: "healed", id: h.catalog + "-healed", call: time.Since(h.begin)}
	var err error
	if !wait(time.Minute, func() bool {
		err = h.try(l, &o)
		return err == nil
	}) {
		t.Fatalf("%s takes no write a minute after all was healed: %v", h.catalog, err)
	}
	o.ret, o.state = time.Since(h.begin), acked
	h.ops = append(h.ops, o)
	r := op{kind: opRead, call: time.Since(h.begin)}
	if !wait(time.Minute, func() bool {
		err = h.try(l, &r)
		return err == nil
	}) {
		t.Fatalf("%s cannot be read a minute after all was healed: %v", h.catalog, err)
	}
	r.ret = time.Since(h.begin)
	h.ops = append(h.ops, r)
}

// decided is how long a write may stay undecided after all is healed (I6).
const decided = 15 * time.Second

// readFinal reads a catalog when nothing of it is under way any more.
func readFinal(t *testing.T, l *client.Client, h *history, limit time.Duration) (f final) {
	t.Helper()
	var err error
	read := func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		var r engine.ReadResult
		if r, err = l.Read(ctx, engine.ReadRequest{Catalog: h.catalog}); err != nil {
			return false
		}
		if r.Pending {
			err = errors.New("a write is still pending")
			return false
		}
		f = final{version: r.Version}
		if f.doc, err = parseDocument(r.Body); err != nil {
			return false
		}
		var raw struct{ List []string }
		if err = json.Unmarshal(r.Body, &raw); err != nil {
			return false
		}
		f.list = raw.List
		for next := (engine.Version{}); ; {
			var p engine.LogPage
			if p, err = l.Log(ctx, engine.LogRequest{Catalog: h.catalog, After: next, Limit: 1000}); err != nil {
				return false
			}
			f.log = append(f.log, p.Items...)
			if p.Next == nil {
				break
			}
			next = *p.Next
		}
		if n := len(f.log); n == 0 || f.log[n-1].Version != f.version {
			err = fmt.Errorf("the log ends before the document at %s", f.version)
			return false
		}
		return true
	}
	if !wait(limit, read) {
		t.Fatalf("%s cannot be read to its end after %v: %v", h.catalog, limit, err)
	}
	return f
}
