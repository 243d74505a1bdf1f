package sim

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/codec"
	"github.com/jsonlake/lake/pkg/engine/memory"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

// scenario is a walk of the process in slot 0, which is to die in it, and what
// stands around it. The others are in slots 1 and 2.
type scenario struct {
	name, walk string
	first      bool // the lake's first start: slot 0 is watched from its boot on
	lost       bool // with the process the index goes too
	old        bool // or falls back to what it was before
	most       int  // it dies at the first few requests of each step only; 0: at all
	retain     bool
	prepare    func(w *world)
	act        func(w *world)
}

var scenarios = []*scenario{
	{name: "writes", walk: "write", act: func(w *world) {
		// Alone, and then in one segment over three shards, with ids and conditions.
		o := w.say(0, 0, engine.WriteOptions{ID: "alone"})
		w.over(o)
		v := o.result.Version
		w.over(w.say(0, 1, engine.WriteOptions{IfAbsent: true}))
		w.over(w.say(0, 1, engine.WriteOptions{}), // while it is put the others come together
			w.say(0, 0, engine.WriteOptions{IfVersion: &v, ID: "next"}), w.say(0, 2, engine.WriteOptions{ID: "shared"}), w.say(0, 1, engine.WriteOptions{}))
	}},
	{name: "a put that is never answered", walk: "write", act: func(w *world) {
		first := ""
		w.force = func(c *call, f *fate) {
			if w.segmentOf(c, 0) && (first == "" || first == c.on) {
				first, f.lost, f.hang = c.on, true, 12*time.Second
			}
		}
		w.over(w.say(0, 0, engine.WriteOptions{ID: "one"}), w.say(0, 1, engine.WriteOptions{}))
	}},
	{name: "a put whose answers are lost", walk: "write", act: func(w *world) {
		w.force = func(c *call, f *fate) { f.lostReply, f.hang = w.segmentOf(c, 0), 12*time.Second }
		w.over(w.say(0, 0, engine.WriteOptions{ID: "one"}), w.say(0, 1, engine.WriteOptions{}))
	}},
	{name: "another's segment never comes", walk: "write", prepare: func(w *world) {
		w.force = func(c *call, f *fate) { f.lost, f.hang = w.segmentOf(c, 1), 12*time.Second }
		w.say(1, 0, engine.WriteOptions{ID: "slow"})
		w.pass(100 * time.Millisecond)
	}, act: func(w *world) { w.over(w.say(0, 0, engine.WriteOptions{ID: "behind"})) }},
	{name: "another does not commit", walk: "write", prepare: func(w *world) {
		w.force = func(c *call, f *fate) { f.lost, f.hang = c.op == "Commit" && c.p.slot == 1, 12*time.Second }
		for c := range 2 {
			w.say(1, c, engine.WriteOptions{ID: fmt.Sprint("slow ", c)})
			w.pass(200 * time.Millisecond)
		}
	}, act: func(w *world) {
		w.over(w.say(0, 0, engine.WriteOptions{ID: "behind"}), w.say(0, 1, engine.WriteOptions{ID: "behind too"}))
	}},
	{name: "sweep forward", walk: "sweep", prepare: func(w *world) { w.leave("Commit") }, act: (*world).sweepUp},
	{name: "sweep back", walk: "sweep", prepare: func(w *world) { w.leave("Put") }, act: (*world).sweepUp},
	{name: "sweep forward, several", walk: "sweep", prepare: (*world).leaveSeveral, act: (*world).sweepUp},
	{name: "folds", walk: "fold", prepare: func(w *world) { w.speak(1, 3) }, act: func(w *world) {
		w.over(w.doFold(0, 0))
		w.over(w.say(1, 0, engine.WriteOptions{}))
		w.over(w.doFold(0, 0), w.doFold(0, 1))
	}},
	{name: "first start", walk: "open", first: true, act: (*world).starts},
	{name: "the index is lost", walk: "open", prepare: (*world).undecided, act: func(w *world) {
		w.lose(memory.NewIndex(memory.Options{Clock: func() time.Time { return time.Now().Add(w.offset) }}))
	}},
	{name: "the index is an old one", walk: "open", prepare: (*world).undecided, act: func(w *world) {
		old := w.primary.mem.Clone()
		w.over(w.say(2, 1, engine.WriteOptions{ID: "tail"}), w.say(2, 2, engine.WriteOptions{}))
		w.over(w.doFold(2, 2))
		w.lose(old)
	}},
	{name: "collection", walk: "collect", retain: true, prepare: (*world).pastToGiveUp, act: (*world).collects},
	{name: "collection and the index is lost", walk: "collect", retain: true, lost: true, prepare: (*world).pastToGiveUp, act: (*world).collects},
	{name: "purge", walk: "purge", most: 3, prepare: (*world).shared, act: (*world).erases},
	{name: "purge and the index is lost", walk: "purge", most: 2, lost: true, prepare: (*world).shared, act: (*world).erases},
	{name: "purge and the index is an old one", walk: "purge", most: 2, old: true, prepare: (*world).shared, act: (*world).erases},
	{name: "purge of a long past", walk: "purge", most: 2, retain: true, prepare: (*world).pastToGiveUp, act: (*world).erases},
	{name: "purge of a copy that nobody knows", walk: "purge", most: 2, prepare: (*world).copied, act: (*world).erases},
	{name: "compaction", walk: "compact", prepare: func(w *world) {
		w.speak(1, 3)
		w.pass(w.mix.CompactAfter + time.Second)
	}, act: func(w *world) { w.over(w.doCollect(0)) }},
}

func (s *scenario) mix() mix {
	m := mix{
		Live: true, Processes: 3, Catalogs: 3, Inflight: 1, Page: 20, FoldMax: 1000, IndexLatency: 300 * time.Microsecond, BucketLatency: 5 * time.Millisecond,
		Grace: 2 * time.Second, FoldTimeout: 20 * time.Second, CompactAfter: 3 * time.Second, Retain: s.retain,
	}
	if s.walk == "write" {
		m.Grace = time.Minute // an empty place is trusted for long enough to roll back
	}
	if s.walk == "purge" {
		m.Purges, m.Grace = 1, lateBy+3*time.Second // what is late must not be later than the last pass of an erasure
	}
	return m
}

// playCrash plays a scenario to its end and checks it, as play does a history.
func (w *world) playCrash(s *scenario) {
	w.relay()
	w.crash.armed = s.first
	w.boot(0, bootMode{})
	w.pass(500 * time.Millisecond) // it is the first to open, to sweep, to collect
	for i := 1; i < len(w.procs); i++ {
		w.boot(i, bootMode{})
	}
	if !s.first {
		w.run(30*time.Second, w.up)
		w.pass(1500 * time.Millisecond)
	}
	if s.prepare != nil {
		s.prepare(w)
	}
	from, old := len(w.ops), w.primary.mem.Clone()
	w.crash.armed = true
	s.act(w)
	w.crash.armed = false
	if w.crash.step != "" {
		w.again(0, 3*time.Second, bootMode{})
		if s.lost {
			w.replace(memory.NewIndex(memory.Options{Clock: func() time.Time { return time.Now().Add(w.offset) }}), 0)
		}
		if s.old {
			w.replace(old, 0)
		}
		for c := range w.mix.Catalogs { // the others go on
			if w.say(1+c%2, c, engine.WriteOptions{}) == nil && w.say(2-c%2, c, engine.WriteOptions{}) == nil && !s.lost && !s.old && s.walk != "open" {
				w.violate("progress", "no process is left")
			}
		}
		for _, o := range w.ops[from:] {
			if o.kind == "purge" && o.state == unknown && w.crash.at%2 == 0 { // else nobody asks again
				w.purge(&op{client: o.client, catalog: o.catalog, author: o.author, options: o.options, again: o}, 1, 20*time.Second)
			}
			if o.kind == "write" && o.options.ID != "" && o.state == unknown {
				w.submit(&op{kind: "write", client: o.client, catalog: o.catalog, author: o.author, deltas: o.deltas, options: o.options, again: o}, 1, 20*time.Second)
			}
		}
		if w.crash.how == "late" {
			w.pass(lateBy + 2*time.Second)
		}
	}
	w.force = nil
	w.heal()
	if s.walk == "purge" { // somebody collects every minute
		w.over(w.doCollect(1))
	}
	w.live()
	for c := range w.mix.Catalogs { // what was left is folded, and what is garbage goes
		w.over(w.doFold(1, c))
	}
	w.over(w.doCollect(1))
	w.pass(w.mix.Grace + time.Second)
	w.over(w.doCollect(1), w.doCollect(2))
	w.end()
}

// --- what scenarios are made of

func (w *world) pass(d time.Duration) { w.run(d, func() bool { return false }) }

// up tells that every process works.
func (w *world) up() bool {
	for _, p := range w.procs {
		if p == nil || p.dead.Load() || p.engine == nil || p.engine.Ready() != nil {
			return false
		}
	}
	return true
}

// over waits until operations are, or until the process that is to die has.
func (w *world) over(ops ...*op) {
	w.run(45*time.Second, func() bool {
		for _, o := range ops {
			if o != nil && !o.over {
				return w.crash.armed && w.crash.step != "" && (w.procs[0] == nil || w.procs[0].dead.Load())
			}
		}
		return true
	})
}

// say writes to a catalog who says it.
func (w *world) say(slot, catalog int, options engine.WriteOptions) *op {
	o := &op{kind: "write", client: 100 + slot, catalog: w.catalog(catalog), author: fmt.Sprintf("w%d.%d", 100+slot, len(w.ops)), options: options}
	o.deltas = []engine.WriteRequest{{Path: "/", MergeType: merge.MergePatch, Body: fmt.Appendf(nil, `{"w%d":%q,"last":%q}`, slot, o.author, o.author)}}
	return w.submit(o, slot, 30*time.Second)
}

// speak writes n times to every catalog.
func (w *world) speak(slot, n int) {
	for i := range n {
		for c := range w.mix.Catalogs {
			w.over(w.say(slot, c, engine.WriteOptions{ID: fmt.Sprintf("id %d %d %d", len(w.ops), i, c)}))
		}
	}
}

func (w *world) doFold(slot, catalog int) *op { return w.fold(300+slot, slot, w.catalog(catalog)) }

func (w *world) doCollect(slot int) *op { return w.collection(500+slot, slot) }

// segmentOf tells a put of a segment by the process in a slot.
func (w *world) segmentOf(c *call, slot int) bool {
	return c.p.slot == slot && c.op == "Put" && strings.HasPrefix(c.on, "wal/") && !isTombstone(c.data)
}

// leave lets the writer in slot 1 die when it is about to do op for a segment of
// two shards. In a third its reservation was made, and it does not know.
func (w *world) leave(op string) {
	shared := false
	w.force = func(c *call, f *fate) {
		if c.p.slot != 1 {
			return
		}
		switch {
		case c.op == "PreCommit" && strings.HasSuffix(c.on, fmt.Sprintf("/%x", engine.Shard(w.catalog(2)))):
			shared = true
			f.lostReply, f.hang = true, 50*time.Millisecond
		case c.op == "Rollback":
			f.lost, f.hang = true, 20*time.Second
		case c.op == op && shared && (op != "Put" || w.segmentOf(c, 1)):
			f.lost, f.hang = true, 20*time.Second
			w.at(0, "kill", func() { w.kill(c.p) })
		}
	}
	w.say(1, 0, engine.WriteOptions{})
	for c := range w.mix.Catalogs {
		w.say(1, c, engine.WriteOptions{ID: fmt.Sprint("left ", c)})
	}
	if !w.run(10*time.Second, func() bool { return w.procs[1].dead.Load() }) {
		w.violate("scenario", "the writer did not come to its %s", op)
		w.kill(w.procs[1])
	}
	w.again(1, 12*time.Second, bootMode{})
}

// leaveSeveral lets the writer in slot 1 die when it has put several segments, two of
// them of one catalog, and committed none.
func (w *world) leaveSeveral() {
	dying := w.procs[1]
	w.force = func(c *call, f *fate) { f.lost, f.hang = c.p == dying && c.op == "Commit", 20*time.Second }
	for c := range w.mix.Catalogs + 1 {
		w.say(1, c%w.mix.Catalogs, engine.WriteOptions{ID: fmt.Sprint("left ", c)})
		w.pass(200 * time.Millisecond)
	}
	w.kill(dying)
	w.again(1, 12*time.Second, bootMode{})
}

// sweepUp lasts until nothing is undecided.
func (w *world) sweepUp() {
	w.run(20*time.Second, func() bool {
		if w.procs[0].dead.Load() {
			return true
		}
		stuck, err := w.primary.Stuck(context.Background(), w.procs[0].engine.Epoch())
		return err == nil && len(stuck) == 0
	})
}

// starts lasts until slot 0 works.
func (w *world) starts() {
	w.run(20*time.Second, func() bool {
		p := w.procs[0]
		return p.dead.Load() || p.engine != nil && p.engine.Ready() == nil
	})
}

// undecided leaves, beside what is folded and committed, a segment that nobody
// committed and a reservation without a segment.
func (w *world) undecided() {
	w.speak(1, 2)
	w.over(w.doFold(1, 0), w.doFold(1, 1))
	w.speak(1, 1)
	w.over(w.doFold(1, 0))
	w.again(2, 0, bootMode{newEpoch: true}) // an epoch that is sealed already
	w.kill(w.procs[2])
	w.pass(9 * time.Second)
	w.speak(1, 1)
	puts := true
	w.force = func(c *call, f *fate) {
		if c.p.slot == 1 && (c.op == "Commit" || c.op == "Rollback" || !puts && w.segmentOf(c, 1)) {
			f.lost, f.hang = true, 20*time.Second
		}
	}
	w.say(1, 0, engine.WriteOptions{ID: "put"})
	w.pass(100 * time.Millisecond)
	puts = false
	w.say(1, 1, engine.WriteOptions{ID: "reserved"})
	w.pass(100 * time.Millisecond)
}

// pastToGiveUp leaves a long past, garbage, and a segment that came too late.
func (w *world) pastToGiveUp() {
	w.speak(1, 2)
	w.again(2, 0, bootMode{newEpoch: true})
	w.kill(w.procs[2])
	w.pass(9 * time.Second)
	w.putStray()
	for range 3 {
		w.speak(1, 1)
		w.over(w.doFold(1, 0), w.doFold(1, 1))
	}
	w.turnClock(retained + time.Hour)
	w.speak(1, 2)
	w.over(w.doFold(1, 0), w.doFold(1, 1))
}

// collects collects until there was a record, and a later one.
func (w *world) collects() {
	for i := range 4 {
		w.over(w.doCollect(0))
		if i < 3 {
			w.speak(1, 1)
			w.over(w.doFold(1, 2))
			w.pass(w.mix.Grace + time.Second)
		}
	}
}

// shared leaves segments that the catalogs share, the past of the first partly
// folded, and a segment of it that came too late.
func (w *world) shared() {
	w.again(2, 0, bootMode{newEpoch: true})
	w.kill(w.procs[2])
	w.pass(9 * time.Second)
	w.putStray()
	for i := range 3 {
		w.over(w.say(1, 2, engine.WriteOptions{}), w.say(1, 0, engine.WriteOptions{ID: fmt.Sprint("shared ", i)}), w.say(1, 1, engine.WriteOptions{}))
		if i < 2 {
			w.over(w.doFold(1, 0))
		}
	}
}

// copied leaves what shared does, and a copy of a segment of this epoch, as a
// collector does that dies before it has moved the runs.
func (w *world) copied() {
	w.shared()
	epoch := w.procs[0].engine.Epoch()
	id := engine.SegmentID{Epoch: epoch, Unix: time.Now().Unix() + 1, Writer: "zzzzzzzz", N: 1}
	var b []byte
	for o, err := range w.bucket.List(context.Background(), "wal/", "") {
		if s, perr := engine.ParseSegmentKey(o.Key); err == nil && perr == nil && s.Epoch == epoch {
			b, _ = w.bucket.Get(context.Background(), o.Key)
		}
	}
	if b == nil {
		panic("nothing to copy")
	}
	_ = w.bucket.Put(context.Background(), id.Key(), b)
}

// erases purges the first catalog, and brings it to its end.
func (w *world) erases() {
	o := &op{client: 600, catalog: w.catalog(0), author: fmt.Sprintf("w600.%d", len(w.ops)), options: engine.WriteOptions{ID: "purge"}}
	w.over(w.purge(o, 0, 20*time.Second))
	for range 2 {
		if w.crash.step == "" {
			w.pass(w.mix.Grace + time.Second)
			w.over(w.doCollect(0))
		}
	}
}

// lose puts another index in the place of the one that is. Slot 0 is the first
// to see it; it lasts until slot 0 works again.
func (w *world) lose(x *memory.Index) {
	w.pause(w.procs[1], 2500*time.Millisecond)
	w.pause(w.procs[2], 2500*time.Millisecond)
	epoch := w.procs[0].engine.Epoch()
	w.replace(x, 0)
	w.run(30*time.Second, func() bool {
		p := w.procs[0]
		return p.dead.Load() || p.engine.Epoch() > epoch && p.engine.Ready() == nil
	})
}

// putStray puts a segment that its epoch's seal does not know.
func (w *world) putStray() {
	id := engine.SegmentID{Epoch: 1, Unix: time.Now().Unix(), Writer: "zzzzzzzz", N: 1}
	payload := append([]byte{byte(engine.MergeTypeMergePatch), 0, 1, '/', 8}, `{"zz":1}`...)
	b, err := codec.Append(nil, &codec.Frame{Header: codec.Header{
		Kind: codec.KindRun, Catalog: w.catalog(0), First: codec.Version{Sec: 1, Seq: 1}, N: 1, Writer: id.Writer, Epoch: 1, Author: "stray",
	}, Payload: payload}, codec.Options{})
	if err != nil {
		panic(err)
	}
	_ = w.bucket.Put(context.Background(), id.Key(), b)
}
