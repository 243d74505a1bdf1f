package sim

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jsonlake/lake/pkg/engine/codec"
)

var (
	crashFlag  = flag.String("sim.crash", "", "replay one crash point, with its trace: scenario/how/call, as the failure names it")
	crashSteps = flag.Bool("sim.steps", false, "print every step of the crash points, not only the sums of the walks")
)

// steps are the requests that the walks of an engine are made of. At each of
// them a process dies: before the request is sent, after it had its effect and
// before the answer, and (late) when it is sent, to have its effect long
// after others went on. A request that changes nothing has only the first.
var steps = map[string][]string{
	"write": {
		"reserve", "put segment", "put tombstone", "what stands in its place", "commit", "roll back",
		"put another's tombstone", "what stands in another's place", "commit another's", "roll back another's",
		"look at the epoch", "heartbeat",
	},
	"sweep": {
		"lease", "list the undecided",
		"put another's tombstone", "what stands in another's place", "commit another's", "roll back another's",
	},
	"fold": {"view", "read segment", "read snapshot", "put pack", "put snapshot", "register"},
	"open": {
		"read format", "put format", "look at the shards", "list epochs", "lease", "create", "fence", "list a log", "seal", "read seal", "what was collected",
		"what was given up", "empty", "list snapshots", "restore snapshots", "read segment", "read pack", "restore ids", "restore runs", "list reservations", "resolve",
		"restore segments", "open", "release the lease", "heartbeat",
	},
	"collect": {
		"heartbeat", "list catalogs", "list registered", "drop snapshots", "list garbage", "since when unused", "what was collected", "record", "strike older record",
		"lease", "delete segment", "delete pack", "delete snapshot", "forget", "read seal", "list a log", "delete stray",
	},
	"purge": {
		"view", "reserve", "put segment", "commit", "list registered", "read segment", "put purge record", "put pack", "put snapshot", "register",
		"lease", "read purge record", "heartbeat", "drop snapshots", "list snapshots", "look at the shards", "what was collected", "record", "strike older record",
		"delete pack", "delete snapshot", "forget", "list a log", "what is live", "put copy", "relocate", "since when unused", "abandon", "delete segment",
		"read seal", "delete stray", "strike purge record", "release the lease", "list purges",
	},
	"compact": {"list live", "read segment", "what is live", "put copy", "relocate"},
}

// stepOf names a request as a step of a walk; "" when it is none of the walk's.
func stepOf(w *world, walk string, c *call) string {
	c.p.mu.Lock()
	writer, opens := c.p.writer, c.p.opens
	c.p.mu.Unlock()
	on, _, _ := strings.Cut(c.on, " ")
	own := strings.Contains(on, "-"+writer+"-") && writer != ""
	under := func(prefix string) bool { return strings.HasPrefix(on, prefix) }
	name := ""
	switch c.op {
	case "PreCommit":
		name = "reserve"
	case "Commit":
		name = map[bool]string{true: "commit", false: "commit another's"}[own]
	case "Rollback":
		name = map[bool]string{true: "roll back", false: "roll back another's"}[own]
	case "Heartbeat":
		name = "heartbeat"
	case "Stuck":
		name = "list the undecided"
	case "View":
		name = "view"
	case "Fold":
		name = "register"
	case "Catalogs":
		name = "list catalogs"
	case "Snapshots":
		name = "list registered"
	case "Drop":
		name = "drop snapshots"
	case "Garbage":
		name = "list garbage"
	case "Unused":
		name = "since when unused"
	case "Abandon":
		name = "abandon"
	case "Forget":
		name = "forget"
	case "Live":
		name = "list live"
	case "Relocate":
		name = map[bool]string{true: "what is live", false: "relocate"}[c.asks]
	case "Epochs":
		name = "look at the shards"
	case "Fence":
		name = "fence"
	case "Empty":
		name = "empty"
	case "Restore":
		name = "restore " + c.on[strings.IndexByte(c.on, ' ')+1:]
	case "Reservations":
		name = "list reservations"
	case "Resolve":
		name = "resolve"
	case "Open":
		name = "open"
	case "Acquire":
		if c.on == walk {
			name = "lease"
		}
	case "Release":
		if c.on == walk {
			name = "release the lease"
		}
	case "Put":
		switch {
		case under("wal/") && isTombstone(c.data):
			name = map[bool]string{true: "put tombstone", false: "put another's tombstone"}[own]
		case under("wal/"):
			name = "put segment"
			if f, _, err := codec.Decode(c.data, codec.Options{}); err == nil && f.Writer != writer {
				name = "put copy"
			}
		case under("_lake/collected/"):
			name = "record"
		case under("_lake/purge/"):
			name = "put purge record"
		case under("_lake/format"):
			name = "put format"
		case strings.HasSuffix(on, ".seal.json"):
			name = "seal"
		case under("_lake/epoch/"):
			name = "create"
		case strings.HasSuffix(on, ".pack"):
			name = "put pack"
		case strings.HasSuffix(on, ".snap"):
			name = "put snapshot"
		}
	case "Get", "GetRange":
		switch {
		case under("wal/") && (walk == "write" || walk == "sweep"):
			name = map[bool]string{true: "what stands in its place", false: "what stands in another's place"}[own]
		case under("wal/"):
			name = "read segment"
		case strings.HasSuffix(on, ".seal.json"):
			name = "read seal"
		case under("_lake/epoch/") && opens:
			name = "create"
		case under("_lake/epoch/"):
			name = "look at the epoch"
		case under("_lake/format"):
			name = "read format"
		case under("_lake/purge/"):
			name = "read purge record"
		case strings.HasSuffix(on, ".pack"):
			name = "read pack"
		case strings.HasSuffix(on, ".snap"):
			name = "read snapshot"
		}
	case "List":
		switch {
		case under("wal/"):
			name = "list a log"
		case under("_lake/epoch/"):
			name = "list epochs"
		case under("_lake/collected/"):
			name = "what was collected"
		case under("_lake/loss/"):
			name = "what was given up"
		case under("_lake/purge/"):
			name = "list purges"
		default:
			name = "list snapshots"
		}
	case "Delete":
		switch {
		case under("wal/") && w.stray(on):
			name = "delete stray"
		case under("wal/"):
			name = "delete segment"
		case under("_lake/collected/"):
			name = "strike older record"
		case under("_lake/purge/"):
			name = "strike purge record"
		case strings.HasSuffix(on, ".pack"):
			name = "delete pack"
		case strings.HasSuffix(on, ".snap"):
			name = "delete snapshot"
		}
	}
	if !slices.Contains(steps[walk], name) {
		return ""
	}
	return name
}

// changes tells the requests that change something.
func (c *call) changes() bool {
	switch c.op {
	case "View", "Stuck", "Catalogs", "Snapshots", "Garbage", "Unused", "Live", "Epochs", "Reservations", "Get", "GetRange", "List", "Plan", "Outcome":
		return false
	}
	return !c.asks
}

// crash is where the process in slot 0 dies.
type crash struct {
	walk  string
	how   string // before, after, late
	at    int    // which request of its walk, from 1
	most  int    // how often it may die at one step; 0: as often as it comes there
	armed bool
	sends int
	seen  map[string]int // by step
	step  string         // at which it died, "" when it has not come so far
}

// lateBy is how late a late request has its effect: others have decided,
// taken over and gone on by then.
const lateBy = 9 * time.Second

// sent is asked about each request that leaves its process, and tells whether it
// has been dealt with.
func (k *crash) sent(w *world, c *call, f *fate) bool {
	if !k.armed || c.p.slot != 0 || k.step != "" {
		return false
	}
	step := stepOf(w, k.walk, c)
	if step == "" || k.how != "before" && !c.changes() {
		return false
	}
	if k.seen[step]++; k.most > 0 && k.seen[step] > k.most {
		return false
	}
	if k.sends++; k.sends < k.at {
		return false
	}
	k.step = step
	w.faults++
	w.note(c.p.who, "DIES", fmt.Sprintf("%s %q: %s %s", k.how, step, c.op, c.on), nil)
	switch k.how {
	case "after":
		f.lost, f.refused, f.kill = false, nil, true
		return false
	case "before":
		w.kill(c.p)
		c.dropped = true
	default:
		w.kill(c.p)
		c.dropped = false
		w.at(lateBy, "land", func() { _, _ = w.landing(c) })
	}
	return true
}

// walked is how often processes died at each step.
type walked struct {
	mu sync.Mutex
	n  map[string]map[string]int // by walk and step
}

func (k *walked) add(walk, step string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.n == nil {
		k.n = map[string]map[string]int{}
	}
	if k.n[walk] == nil {
		k.n[walk] = map[string]int{}
	}
	k.n[walk][step]++
}

// TestCrashPoints lets a process die at every request of every walk (of a purge, which
// reads all segments again and again, at the first few of each step), a history
// for each, and holds what comes of it against I1 to I9: the others go on, the
// dead one is started again, progress is demanded, and in the end the index is
// wiped and rebuilt. It fails when a step in steps was not among them.
func TestCrashPoints(t *testing.T) {
	if *crashFlag != "" {
		replayCrash(t, *crashFlag)
		return
	}
	var hit walked
	start := time.Now()
	t.Run("points", func(t *testing.T) {
		for _, s := range scenarios {
			for _, how := range []string{"before", "after", "late"} {
				t.Run(s.name+"/"+how, func(t *testing.T) {
					t.Parallel()
					for at := 1; ; at++ {
						w := s.history(t, how, at, nil)
						if len(w.violations) > 0 {
							t.Error(crashReport(s, w))
						}
						if w.crash.step == "" {
							break // the walk is shorter
						}
						hit.add(s.walk, w.crash.step)
					}
				})
			}
		}
	})
	total := 0
	var b strings.Builder
	for _, walk := range sortedKeys(steps) {
		n := 0
		for _, step := range steps[walk] {
			k := hit.n[walk][step]
			if n += k; k == 0 {
				t.Errorf("no process died at step %q of %q", step, walk)
			}
			if *crashSteps {
				fmt.Fprintf(&b, "  %9d    %s\n", k, step)
			}
		}
		fmt.Fprintf(&b, "  %9d  points of %s, %d steps\n", n, walk, len(steps[walk]))
		total += n
	}
	t.Logf("%d crash points in %v\n%s", total, time.Since(start).Round(time.Millisecond), b.String())
}

func (s *scenario) history(t *testing.T, how string, at int, trace func(string)) (w *world) {
	defer func() {
		if r := recover(); r != nil {
			t.Logf("-sim.crash '%s/%s/%d'", s.name, how, at)
			panic(r)
		}
	}()
	synctest.Test(t, func(*testing.T) {
		w = newWorld(uint64(at), s.mix(), *offFlag, trace)
		w.crash = &crash{walk: s.walk, how: how, at: at, most: s.most, seen: map[string]int{}}
		w.playCrash(s)
	})
	return w
}

func crashReport(s *scenario, w *world) string {
	var b strings.Builder
	fmt.Fprintf(&b, "a process died %s %q and (go test ./test/sim -run CrashPoints -sim.crash '%s/%s/%d' -v):\n", w.crash.how, w.crash.step, s.name, w.crash.how, w.crash.at)
	for _, v := range w.violations[:min(len(w.violations), 6)] {
		fmt.Fprintf(&b, "  %s: %s\n", v.what, v.text)
	}
	return b.String()
}

func replayCrash(t *testing.T, point string) {
	parts := strings.Split(point, "/")
	at := 0
	if len(parts) == 3 {
		_, _ = fmt.Sscan(parts[2], &at)
	}
	i := slices.IndexFunc(scenarios, func(s *scenario) bool { return s.name == parts[0] })
	if i < 0 || at < 1 {
		t.Fatalf("got -sim.crash %q, want scenario/how/call", point)
	}
	w := scenarios[i].history(t, parts[1], at, func(line string) { t.Log(line) })
	t.Logf("died at step %q", w.crash.step)
	if len(w.violations) > 0 {
		t.Error(crashReport(scenarios[i], w))
	}
}
