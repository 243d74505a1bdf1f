package sim

import (
	"math/rand/v2"
	"time"
)

// mix is what a seed draws: how large a history is and what goes wrong in it.
type mix struct {
	Live bool // liveness: all is healed in the end and progress is demanded

	Processes, Catalogs  int
	Writers, Readers     int
	Writes               int // a writer
	Horizon              time.Duration
	Inflight             int
	FoldMax              int64
	Page                 int // keys a listing
	Cache                bool
	Folds, Logs          int
	IndexLatency         time.Duration
	BucketLatency        time.Duration
	Index, Bucket        odds
	Kills, Pauses, Steps int
	Tails, Wipes, Splits int
	LongTails            bool // the index falls back by seconds, not by moments
	Outages, Forced      int
	SplitFor             time.Duration // how long an old primary goes on at most
	LateOnly             []string      // which requests to the index may be late; empty: all
	Collect              bool
	Retain               bool // old history is given up, and the clock jumps by more than its age
	Stops                int  // of a process that only collects, in the middle of it
	Grace, CompactAfter  time.Duration
	LateIndex            time.Duration // how late a late request to the index is at most
	RestoreShards        int           // that a new epoch fills at once
	SplitCommit          int           // from how many runs on a segment is committed in parts; 0: never
	Purges, Pasts        int
	FoldTimeout          time.Duration // of a client that folds
	Old                  float64       // of writes that are sent again long after
}

// odds of what may happen to one request.
type odds struct {
	Lost, Reply, Twice, Late float64
}

func drawMix(seed uint64, kind string) mix {
	r := rand.New(rand.NewPCG(seed, 0xd1ce))
	one := func(p float64) int {
		n := 0
		for r.Float64() < p && n < 4 {
			n++
		}
		return n
	}
	pick := func(fs ...float64) float64 { return fs[r.IntN(len(fs))] }
	m := mix{
		Live:      r.IntN(2) == 0,
		Processes: 1 + r.IntN(3), Catalogs: 1 + r.IntN(3), Writers: 2 + r.IntN(3), Readers: 1 + r.IntN(2), Writes: 6 + r.IntN(10),
		Horizon: 15*time.Second + time.Duration(r.Int64N(int64(25*time.Second))), Inflight: 1 + r.IntN(8), Page: 5 + r.IntN(40), Cache: r.IntN(3) == 0,
		Folds: r.IntN(8), Logs: r.IntN(4), FoldMax: []int64{3, 8, 1000}[r.IntN(3)],
		IndexLatency: 300 * time.Microsecond, BucketLatency: time.Duration(1+r.IntN(60)) * time.Millisecond,
		Index:  odds{Lost: pick(0, 0, 0.01, 0.05), Reply: pick(0, 0.01, 0.05), Twice: pick(0, 0.02, 0.1), Late: pick(0, 0.01, 0.03)},
		Bucket: odds{Lost: pick(0, 0, 0.02, 0.1), Reply: pick(0, 0.02, 0.1), Twice: pick(0, 0.02, 0.1), Late: pick(0, 0.02, 0.1)},
		Kills:  one(0.5), Pauses: one(0.4), Steps: one(0.4), Tails: one(0.25), Wipes: one(0.2), Splits: one(0.25), Outages: one(0.3), Forced: one(0.05),
		SplitFor: 8 * time.Second, LateIndex: 6 * time.Second,
	}
	switch kind {
	case "split": // a long split brain and late puts: what seal, wait and leases are for
		m.Processes, m.Writers, m.Splits = 2+r.IntN(2), 4, 1+r.IntN(2)
		m.SplitFor = 30 * time.Second
		m.Horizon = 40 * time.Second
		m.Writes = 20
		m.Index, m.Bucket = odds{}, odds{Late: 0.15}
		m.Kills, m.Steps, m.Tails, m.Outages, m.Pauses = 0, 0, 0, 0, one(0.3)
	case "fence": // many new epochs over an index that is whole, and requests to it that come late
		m.Live, m.Processes, m.Writers, m.Catalogs, m.Writes = true, 3, 4, 1, 25
		m.Kills, m.Steps, m.Tails, m.Wipes, m.Splits, m.Outages, m.Pauses = 0, 0, 0, 0, 0, 0, 0
		m.Forced, m.Horizon = 3, 70*time.Second
		m.Index, m.Bucket, m.LateIndex, m.LateOnly = odds{Late: 0.15}, odds{}, 12*time.Second, []string{"PreCommit", "Open"}
	case "calm":
		m.Kills, m.Pauses, m.Steps, m.Tails, m.Wipes, m.Splits, m.Outages, m.Forced = 0, 0, 0, 0, 0, 0, 0, 0
		m.Index, m.Bucket = odds{}, odds{}
	}
	c := rand.New(rand.NewPCG(seed, 0xc011)) // of its own, so that what is drawn above stays
	m.Collect = c.IntN(3) > 0
	m.Grace = []time.Duration{200 * time.Millisecond, time.Second, 4 * time.Second}[c.IntN(3)]
	if m.Bucket.Late > 0 || m.Bucket.Twice > 0 || m.Pauses > 0 || kind == "split" {
		m.Grace = 30 * time.Second // above what a put may be late, as the hour is
	}
	m.RestoreShards = 1 + int(seed%8)
	m.SplitCommit = int(seed % 3)
	m.CompactAfter = []time.Duration{time.Second, 3 * time.Second, 8 * time.Second}[c.IntN(3)]
	if c.IntN(2) == 0 && kind == "" && m.Collect { // a process that only collects is stopped in it; no put is late or stopped, and the grace is short
		m.Stops = 3 + c.IntN(3)
		m.Pauses, m.Bucket.Late, m.Bucket.Twice, m.Folds = 0, 0, 0, 6+c.IntN(6)
		m.Grace = []time.Duration{200 * time.Millisecond, time.Second, 4 * time.Second}[c.IntN(3)]
	}
	if c.IntN(4) == 0 && kind == "" && m.Collect {
		m.Retain, m.Folds, m.FoldMax = true, 12+c.IntN(10), 3
	}
	// Where the clock jumps, a segment whose put was not answered is decided, folded
	// and collected at once: a grace shorter than a put may be unanswered is unsafe,
	// as an hour is not.
	if m.Retain {
		m.Bucket.Reply = 0
	} else if m.Steps > 0 && m.Bucket.Reply > 0 {
		m.Grace = 30 * time.Second
	}
	if kind == "ids" || kind == "packs" { // answers are lost, so that writes are sent again, and then the index
		m.Live, m.Wipes, m.Tails, m.Splits, m.Forced, m.Kills, m.Pauses, m.Steps, m.Outages = true, 2, 0, 0, 0, 3, 0, 0, 0
		m.Processes, m.Catalogs, m.Writers, m.Writes, m.Horizon = 2, 1, 4, 25, 40*time.Second
		m.Index, m.Bucket = odds{Reply: 0.1}, odds{Reply: 0.1}
		m.Collect, m.Grace, m.Folds = false, time.Second, 0
	}
	if kind == "packs" { // by then the runs are in packs only
		m.Collect, m.Folds, m.Grace, m.Wipes, m.Kills, m.FoldMax = true, 60, 100*time.Millisecond, 4, 4, 1000
		m.Old, m.Horizon, m.Writes, m.Index.Reply = 0.3, 90*time.Second, 40, 0.03
	}
	m.drawPurges(seed, kind)
	if kind == "collect" { // what is live moves to other segments all the time, and the index falls back to where it was
		m.Live, m.Collect, m.Grace, m.CompactAfter, m.Folds, m.Writes, m.Horizon = true, true, time.Second, time.Second, 4, 30, 40*time.Second
		m.Tails, m.LongTails = 2, true
		m.Kills, m.Pauses, m.Steps, m.Wipes, m.Splits, m.Outages, m.Forced = 0, 0, 0, 0, 0, 0, 0
		m.Index, m.Bucket = odds{}, odds{}
	}
	return m
}

// drawPurges draws the purges of a third of the histories, from a source of its own.
func (m *mix) drawPurges(seed uint64, kind string) {
	p := rand.New(rand.NewPCG(seed, 0x9e4a6e))
	m.Pasts, m.FoldTimeout = p.IntN(6), 20*time.Second
	if kind != "purge" && (kind != "" && kind != "split" || p.IntN(3) > 0) {
		return
	}
	m.Purges, m.Folds, m.Logs = 1+p.IntN(3), m.Folds+p.IntN(4), m.Logs+p.IntN(3)
	m.Collect = m.Collect || p.IntN(2) == 0
	if m.Wipes+m.Tails == 0 { // what an older index makes of a purge
		m.Wipes, m.Tails = p.IntN(2), p.IntN(2)
	}
	if kind == "purge" {
		m.Purges, m.Wipes, m.Collect = 3, 2, true
	}
	// A fold that began before a purge must have put what it puts when the last pass
	// of the erasure comes, and whoever put a segment must not look for it any more, as
	// with the 5 min and the 6 of the program. So either nothing comes late, or the
	// grace is long and erasures end after the history.
	m.FoldTimeout, m.Grace = 20*time.Second, 25*time.Second
	if kind == "purge" || kind == "" && p.IntN(2) == 0 {
		m.Pauses, m.Stops, m.Bucket.Late, m.Bucket.Twice, m.Bucket.Reply = 0, 0, 0, 0, 0
		m.FoldTimeout, m.Grace = 3*time.Second, time.Duration(4+p.IntN(4))*time.Second
		return
	}
	if m.Pauses+m.Stops > 0 {
		m.Grace += 30 * time.Second
	}
	if m.Bucket.Late > 0 || m.Bucket.Twice > 0 {
		m.Grace += 30 * time.Second
	}
}
