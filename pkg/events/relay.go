package events

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	mrand "math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/jsonlake/lake/pkg/engine"
)

// Relay carries the index's outbox to JetStream, at least once and in order.
//
//	round: read      the oldest entries of every shard that this relay leads
//	       coalesce  the commits of a catalog become one event that covers (prev, version]
//	       publish   in waves: the first event of every catalog, its job beside it when a
//	                 snapshot is due; when all are acknowledged the second of every catalog; …
//	       trim      the entries, when every wave is acknowledged
//
// A catalog never has two events on their way at once, so that none overtakes
// another when a publish fails. A round that fails is kept in memory and
// repeated as it was, first of all: what the stream took already it knows again
// by the message id, <token>:<kind>:<version>.
//
// A round dies with its process, or with a lost lease or epoch. Who reads the
// same entries next may coalesce them differently, and two relays may for a
// while read the same shard: so the stream may hold (0,10] and then (0,15], or
// (0,15] and then (5,10]. This is why listeners drop versions that they have
// seen and take an event whose prev they have passed as covering the rest; the
// package comment has the rules, Watch applies them. Message ids cannot hide a gap
// either: an entry is trimmed only after its event was acknowledged, so whoever
// reads an entry at the head of an outbox knows that everything before it is in
// the stream; of two events with one id, either will do.
//
// Wakes: Poke and PokeFor, and polling. A round reads the shards that were poked for, and
// every Poll all of them: other processes write, too. The faster events come the longer the relay waits
// between two rounds, so that more of them become one: 4,000 events a second
// is what it aims at most for, and rounds have at most a quarter of the time, so that there are
// fewer where servers are busy; MaxLinger is the longest wait of a shard. Rounds that publish many
// have fewer shards, in turn, and follow one another sooner: the servers that carry
// events carry writes, too, and a thousand at once hold those up. When an outbox has
// more than a round reads, rounds follow one another without a wait.
type Relay struct {
	Outbox   engine.Outbox
	Leases   engine.Leases
	JS       jetstream.JetStream
	Subjects Subjects

	// Epoch is the epoch that this process works in, 0 while it has none; it is
	// asked in every round.
	Epoch func() uint64
	// Valid tells whether the epoch lease is valid now. It is asked after every
	// read of the outbox: an index that was replaced behind this process's back
	// may have committed what does not count. nil: always.
	Valid func() bool
	// Due tells whether a commit makes a snapshot due; nil: never.
	Due func(engine.Event) bool
	// OnError is told of everything that went wrong and will be tried again. It
	// must be safe for concurrent use. nil: nobody is told.
	OnError func(error)
	// OnRound is told of every round that published something.
	OnRound func(Round)

	LeaseTTL   time.Duration // of a shard's leadership; default 10 s
	Linger     time.Duration // least time between two rounds; default 5 ms
	MaxLinger  time.Duration // greatest time between two rounds under load; default 500 ms
	Poll       time.Duration // between two looks at an empty outbox, at first; default 50 ms
	MaxPoll    time.Duration // and after a while; default 250 ms
	AckTimeout time.Duration // of what was published, without any acknowledgement; default 5 s
	Timeout    time.Duration // of a call of the index; default 3 s
	MaxBackoff time.Duration // between two attempts after errors; default 2 s
	Shards     []int         // to try to lead; default all

	once  sync.Once
	wake  chan struct{}
	poked atomic.Uint32 // shards that were poked for, a bit each
}

// everyShard are the bits of all shards.
const everyShard = 1<<engine.Shards - 1

// Round is what one round of a relay did.
type Round struct {
	Read      int           // events read from the outbox
	Published int           // events published, after coalescing
	Jobs      int           // snapshot jobs published
	Oldest    time.Time     // index time of the oldest commit in the round
	Took      time.Duration // from reading to trimming, repetitions included
}

// perEvent is the time that the relay grants each published event, by waiting
// before the next round: what an event costs in nats-server and in the relay,
// several times over.
const perEvent = 250 * time.Microsecond

// partOfTime bounds what of the time rounds have: one in so many. A round takes long where
// the servers that carry events have much else to do, writes above all: then events wait, and
// become fewer.
const partOfTime = 4

// The number of entries that a round reads of each shard adapts: entries can
// hold one run or a thousand, and a round has to fit into memory.
const (
	minEntries     = 16
	maxEntries     = 1024
	manyRoundReads = 1 << 16 // events
)

// evenRound is how many events a round should publish at most: one that had more, of
// several shards, is followed by rounds of half as many shards. Rounds that publish next
// to nothing have more of them again.
const evenRound = 64

// stopTimeout bounds the last rounds and the release of the leases.
const stopTimeout = 2 * time.Second

func (r *Relay) init() {
	r.once.Do(func() { r.wake = make(chan struct{}, 1) })
}

// Poke tells that the outbox has something: the next round begins at once, or
// when the wait after the last one is over. It never blocks.
func (r *Relay) Poke() { r.poke(everyShard) }

// PokeFor is Poke of whoever knows which catalog it is about.
func (r *Relay) PokeFor(catalog string) { r.poke(1 << engine.Shard(catalog)) }

func (r *Relay) poke(shards uint32) {
	r.init()
	r.poked.Or(shards)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run relays until ctx ends, then empties the outbox if that takes no longer
// than two seconds, gives its leases up and returns nil. It returns an error only when the relay is not complete. Run may
// be called once at a time.
func (r *Relay) Run(ctx context.Context) error {
	if r.Outbox == nil || r.Leases == nil || r.JS == nil || r.Epoch == nil {
		return errors.New("run the relay: Outbox, Leases, JS and Epoch must be set")
	}
	if err := r.Subjects.Validate(); err != nil {
		return fmt.Errorf("run the relay: %w", err)
	}
	r.init()
	run := &relayRun{Relay: r, entries: minEntries, share: engine.Shards, won: make(chan struct{}, 1)}
	run.setDefaults()
	pub, err := newPublisher(r.JS.Conn(), run.ackTimeout)
	if err != nil {
		return fmt.Errorf("run the relay: %w", err)
	}
	defer pub.close()
	run.pub = pub
	shards := r.Shards
	if shards == nil {
		for shard := range engine.Shards {
			shards = append(shards, shard)
		}
	}
	run.lead = &lead{leases: r.Leases, shards: slices.Sorted(slices.Values(shards)), token: rand.Text(), ttl: run.ttl,
		changed: run.wonLease, failed: run.report, until: make(map[int]time.Time)}

	// The leases outlive ctx by the last rounds.
	leadCtx, stopLead := context.WithCancel(context.WithoutCancel(ctx))
	var leading sync.WaitGroup
	leading.Go(func() { run.lead.run(leadCtx) })

	failing := run.loop(ctx)

	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	for more := !failing; more; {
		var err error
		run.looked, run.share = time.Time{}, engine.Shards
		if _, more, err = run.round(last); err != nil {
			run.report(err)
			break
		}
	}
	stopLead()
	leading.Wait()
	run.lead.release(last)
	return nil
}

// relayRun is the state of one Run.
type relayRun struct {
	*Relay
	pub     *publisher
	lead    *lead
	entries int           // to read of each shard
	kept    *round        // failed, to be repeated
	looked  time.Time     // when all shards were due; zero: they are next
	share   int           // shards that a round reads at most
	todo    uint32        // shards that are due, a bit each
	next    int           // shard whose turn it is
	longest time.Duration // wait after the round: its shards' part of maxLinger
	won     chan struct{}

	ttl, linger, maxLinger, poll, maxPoll, ackTimeout, timeout, maxBackoff time.Duration
}

func (r *relayRun) setDefaults() {
	for _, d := range []struct {
		to    *time.Duration
		given time.Duration
		def   time.Duration
	}{
		{&r.ttl, r.LeaseTTL, 10 * time.Second}, {&r.linger, r.Linger, 5 * time.Millisecond}, {&r.maxLinger, r.MaxLinger, 500 * time.Millisecond},
		{&r.poll, r.Poll, 50 * time.Millisecond}, {&r.maxPoll, r.MaxPoll, 250 * time.Millisecond}, {&r.ackTimeout, r.AckTimeout, defaultAckTimeout},
		{&r.timeout, r.Timeout, 3 * time.Second}, {&r.maxBackoff, r.MaxBackoff, 2 * time.Second},
	} {
		if *d.to = d.given; d.given <= 0 {
			*d.to = d.def
		}
	}
	r.maxLinger = max(r.maxLinger, r.linger)
	r.maxPoll = max(r.maxPoll, r.poll)
}

func (r *relayRun) report(err error) {
	if r.OnError != nil {
		r.OnError(err)
	}
}

// loop makes rounds until ctx ends and tells whether the last one failed.
func (r *relayRun) loop(ctx context.Context) (failing bool) {
	var failures int
	poll := r.poll
	poked := false // the round before the last sleep was up
	for {
		began := time.Now()
		select {
		case <-r.wake: // what it is about is read now
		default:
		}
		published, more, err := r.round(ctx)
		if ctx.Err() != nil {
			return err != nil && !errors.Is(err, context.Canceled)
		}
		if err != nil {
			// No poke shortens this: what fails is not made better by more of it.
			failures++
			r.looked = time.Time{} // what was poked for is forgotten
			r.report(err)
			if !sleep(ctx, r.backoff(failures)) {
				return true
			}
			continue
		}
		failures = 0
		if more {
			r.looked = time.Time{}
			continue
		}
		gap := r.gap(published, time.Since(began))
		if !sleep(ctx, gap-time.Since(began)) {
			return false
		}
		if published > 0 {
			poll, poked = r.poll, false
			continue
		}
		if r.todo != 0 {
			continue
		}
		// Whoever poked for nothing is not heard this time: events may be off, and each
		// look costs the index a script a shard.
		wake := r.wake
		if poked {
			wake = nil
		}
		var ok bool
		if poked, ok = r.rest(ctx, poll-gap, wake); !ok {
			return false
		}
		poll = min(2*poll, r.maxPoll)
	}
}

// gap is the time from the begin of a round to that of the next, after one of so many
// events that took so long.
func (r *relayRun) gap(published int, took time.Duration) time.Duration {
	return min(max(time.Duration(published)*perEvent, partOfTime*took, r.linger), r.longest)
}

// wonLease has the loop look at all shards: one is led from now on.
func (r *relayRun) wonLease() {
	r.poked.Or(everyShard)
	select {
	case r.won <- struct{}{}:
	default:
	}
}

// rest waits for d, or shorter when it is poked or a lease is won; not ok when ctx ended.
func (r *relayRun) rest(ctx context.Context, d time.Duration, wake <-chan struct{}) (poked, ok bool) {
	if d <= 0 {
		return false, ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false, false
	case <-wake:
		return true, true
	case <-r.won:
	case <-t.C:
	}
	return false, true
}

func (r *relayRun) backoff(failures int) time.Duration {
	d := min(50*time.Millisecond<<min(failures-1, 10), r.maxBackoff)
	return d*3/4 + mrand.N(d/2+1)
}

// sleep waits for d; false when ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// round is a round on its way.
type round struct {
	epoch uint64
	began time.Time
	upTo  map[int]string // shard → id to trim
	waves [][]*message
	stats Round
}

// round makes one round, the kept one first. It tells how many events it
// published and whether the outbox may have more.
func (r *relayRun) round(ctx context.Context) (published int, more bool, err error) {
	held := r.lead.held()
	epoch := r.Epoch()
	if k := r.kept; k != nil && !k.ours(epoch, held) {
		r.kept = nil
	}
	if r.kept == nil {
		if len(held) == 0 || epoch == 0 {
			r.looked, r.todo = time.Time{}, 0
			return 0, false, nil
		}
		if held = r.due(held); len(held) == 0 {
			return 0, false, nil
		}
		if r.kept, more, err = r.read(ctx, epoch, held); err != nil || r.kept == nil {
			return 0, false, err
		}
	} else {
		more = true
	}
	k := r.kept
	for _, wave := range k.waves {
		if err := r.pub.send(ctx, wave); err != nil {
			return 0, false, err
		}
	}
	if err := r.trim(ctx, k); err != nil {
		if errors.Is(err, engine.ErrEpoch) {
			r.kept = nil
		}
		return 0, false, err
	}
	r.kept = nil
	if r.OnRound != nil {
		k.stats.Took = time.Since(k.began)
		r.OnRound(k.stats)
	}
	return k.stats.Published, more, nil
}

// due are the shards to be read now: of those that were poked for, or of all when it is
// time for that, as many as a round may have. The others have their turn in the next.
func (r *relayRun) due(held []int) []int {
	r.todo |= r.poked.Swap(0)
	if now := time.Now(); r.looked.IsZero() || now.Sub(r.looked) >= r.poll {
		r.looked, r.todo = now, everyShard
	}
	turn, _ := slices.BinarySearch(held, r.next)
	var list []int
	todo := r.todo
	r.todo = 0
	for _, shard := range slices.Concat(held[turn:], held[:turn]) {
		switch bit := uint32(1) << shard; {
		case todo&bit == 0:
		case len(list) < r.share:
			list, r.next = append(list, shard), shard+1
		default:
			r.todo |= bit
		}
	}
	r.longest = r.maxLinger * time.Duration(max(len(list), 1)) / time.Duration(len(held))
	return list
}

// ours tells whether a kept round may be repeated: its entries are those of this
// epoch and this relay still leads all of its shards.
func (k *round) ours(epoch uint64, held []int) bool {
	for shard := range k.upTo {
		if !slices.Contains(held, shard) {
			return false
		}
	}
	return k.epoch == epoch
}

// read reads and coalesces the outboxes of the shards; nil when they are empty.
func (r *relayRun) read(ctx context.Context, epoch uint64, held []int) (*round, bool, error) {
	began := time.Now()
	callCtx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	batches, err := r.Outbox.Next(callCtx, epoch, held, r.entries)
	if err != nil {
		return nil, false, fmt.Errorf("read the outbox in epoch %d: %w", epoch, err)
	}
	if r.Valid != nil && !r.Valid() {
		return nil, false, fmt.Errorf("read the outbox in epoch %d: the epoch lease is not valid: %w", epoch, engine.ErrUnavailable)
	}
	k := &round{epoch: epoch, began: began, upTo: make(map[int]string)}
	more := false
	for _, b := range batches {
		if b.UpTo == "" {
			continue
		}
		k.upTo[b.Shard] = b.UpTo
		k.stats.Read += len(b.Events)
		for i := range b.Events {
			if t := time.UnixMilli(b.Events[i].Time); k.stats.Oldest.IsZero() || t.Before(k.stats.Oldest) {
				k.stats.Oldest = t
			}
		}
		// An entry holds at least one event: fewer events than entries asked for
		// means that this was all.
		more = more || len(b.Events) >= r.entries
	}
	if len(k.upTo) == 0 {
		r.even(0)
		return nil, false, nil
	}
	switch {
	case k.stats.Read > manyRoundReads:
		r.entries = max(r.entries/2, minEntries)
	case more && k.stats.Read <= manyRoundReads/2:
		r.entries = min(r.entries*2, maxEntries)
	}
	if err := k.plan(r.Subjects, coalesce(batches), r.Due); err != nil {
		return nil, false, err
	}
	r.even(k.stats.Published)
	return k, more, nil
}

// even sets how many shards the next round has, after one of so many events.
func (r *relayRun) even(events int) {
	switch {
	case events > evenRound:
		r.share = max(r.share/2, 1)
	case events < evenRound/4:
		r.share = min(2*r.share, engine.Shards)
	}
}

// plan lays the events of the catalogs out in waves.
func (k *round) plan(s Subjects, catalogs []*history, due func(engine.Event) bool) error {
	add := func(wave int, m *message) {
		for len(k.waves) <= wave {
			k.waves = append(k.waves, nil)
		}
		k.waves[wave] = append(k.waves[wave], m)
	}
	for _, h := range catalogs {
		for i, ev := range h.events {
			m, err := eventMessage(s, ev)
			if err != nil {
				return err
			}
			add(i, m)
			k.stats.Published++
		}
		if h.committed < 0 || due == nil || !due(h.events[h.committed]) {
			continue
		}
		m, err := jobMessage(s, h.events[h.committed])
		if err != nil {
			return err
		}
		add(h.committed, m)
		k.stats.Jobs++
	}
	return nil
}

// trim removes what was published from the outbox. What was trimmed is not
// trimmed again when this is repeated.
func (r *relayRun) trim(ctx context.Context, k *round) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	var mu sync.Mutex
	var g errgroup.Group
	for shard, upTo := range maps.Clone(k.upTo) {
		g.Go(func() error {
			if err := r.Outbox.Trim(ctx, k.epoch, shard, upTo); err != nil {
				return fmt.Errorf("trim the outbox of shard %d: %w", shard, err)
			}
			mu.Lock()
			delete(k.upTo, shard)
			mu.Unlock()
			return nil
		})
	}
	return g.Wait()
}
