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
	Outages, Forced      int
	SplitFor             time.Duration // how long an old primary goes on at most
	LateOnly             []string      // which requests to the index may be late; empty: all
	LateIndex            time.Duration // how late a late request to the index is at most
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
	return m
}
