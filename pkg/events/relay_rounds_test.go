package events

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
)

// asked is an outbox that tells of which shards it was asked.
type asked struct {
	*outbox
	mu     sync.Mutex
	shards [][]int
}

func (a *asked) Next(ctx context.Context, epoch uint64, shards []int, limit int) ([]engine.OutboxBatch, error) {
	a.mu.Lock()
	a.shards = append(a.shards, slices.Clone(shards))
	a.mu.Unlock()
	return a.outbox.Next(ctx, epoch, shards, limit)
}

func (a *asked) all() [][]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.shards)
}

// askedRelay is a relay that runs, and looks at an outbox only when it is poked. told waits
// until all that was committed was heard.
func askedRelay(t *testing.T) (o *asked, r *Relay, told func()) {
	t.Helper()
	js := natsOf(t, testenv.NATS(t), Config{})
	o = &asked{outbox: newOutbox()}
	r = o.relay(js)
	r.Outbox = o
	r.Poll, r.MaxPoll = time.Hour, time.Hour
	w := watch(t, js, WatchOptions{})
	start(t, r.Run)
	return o, r, func() {
		t.Helper()
		testenv.WaitFor(t, patience, func() bool { return o.len() == 0 && w.reached(o.outbox) })
	}
}

// Whoever pokes for a catalog has its shard read, not all of them; the others are
// read when it is time for all.
func TestRelayPokeFor(t *testing.T) {
	t.Parallel()
	o, r, told := askedRelay(t)
	const users = "users"
	other := "a"
	for engine.Shard(other) == engine.Shard(users) {
		other += "a"
	}
	o.commit(users, 1)
	o.commit(other, 1)
	r.Poke()
	told()
	// Each lease that is won pokes for all shards, perhaps late.
	alone := func() bool {
		all := o.all()
		return slices.Equal(all[len(all)-1], []int{engine.Shard(users)})
	}
	for tries := 0; !alone(); tries++ {
		if tries == 100 {
			t.Fatalf("pokes for %s had shards %v read, want its own alone", users, o.all())
		}
		o.commit(users, 1)
		r.PokeFor(users)
		told()
	}
	o.commit(other, 1)
	r.Poke()
	told()
}

// Rounds that publish many events have fewer shards, in turn, until they are even; when
// there is little to publish all shards are read at once again.
func TestRelayRoundsAreEven(t *testing.T) {
	t.Parallel()
	o, r, told := askedRelay(t)
	// commit has one commit of each catalog relayed, and gives the shards of each call.
	commit := func(catalogs int) [][]int {
		before := len(o.all())
		for i := range catalogs {
			o.commit(catalogName(i), 1)
		}
		r.Poke()
		told()
		return o.all()[before:]
	}
	until := func(catalogs int, what string, even func(calls [][]int) bool) {
		t.Helper()
		for tries := 0; ; tries++ {
			calls := commit(catalogs)
			if even(calls) {
				return
			}
			if tries == 50 {
				t.Fatalf("%d events were read in calls for the shards %v, want %s", catalogs, calls, what)
			}
		}
	}
	until(16*evenRound, "one after the other", func(calls [][]int) bool {
		seen := map[int]bool{}
		for _, shards := range calls {
			if len(shards) > 1 {
				return false
			}
			for _, shard := range shards {
				seen[shard] = true
			}
		}
		return len(seen) == engine.Shards
	})
	until(1, "all at once", func(calls [][]int) bool { return len(calls[0]) == engine.Shards })
}

// Who has lost all its leases has no shard left to read: it rests until one is won.
func TestRelayWithoutLeases(t *testing.T) {
	t.Parallel()
	run := &relayRun{Relay: &Relay{Outbox: newOutbox(), Epoch: func() uint64 { return 1 }}, lead: &lead{}, todo: everyShard}
	if n, more, err := run.round(t.Context()); n != 0 || more || err != nil || run.todo != 0 {
		t.Errorf("got %d events, more %v, %v, shards %x to read, want none", n, more, err, run.todo)
	}
}

// The wait after a round is what its events are worth, but so that rounds that take long have
// a quarter of the time, within the bounds.
func TestRelayGap(t *testing.T) {
	t.Parallel()
	run := &relayRun{Relay: &Relay{}, longest: 100 * time.Millisecond}
	run.setDefaults()
	for _, tc := range []struct {
		published  int
		took, want time.Duration
	}{
		{0, 0, 5 * time.Millisecond}, {1, time.Millisecond, 5 * time.Millisecond}, {40, 2 * time.Millisecond, 10 * time.Millisecond},
		{40, 5 * time.Millisecond, 20 * time.Millisecond}, {1000, 5 * time.Millisecond, 100 * time.Millisecond}, {1, time.Second, 100 * time.Millisecond},
	} {
		if got := run.gap(tc.published, tc.took); got != tc.want {
			t.Errorf("%d events in %v: got %v, want %v", tc.published, tc.took, got, tc.want)
		}
	}
}

func TestRoundLimitAdapts(t *testing.T) {
	t.Parallel()
	o := newOutbox()
	run := &relayRun{Relay: &Relay{Outbox: o}, entries: minEntries, share: 1}
	run.setDefaults()
	for want := 2; want <= engine.Shards; want *= 2 { // nothing to read
		if k, _, err := run.read(t.Context(), 1, []int{0}); k != nil || err != nil || run.share != want {
			t.Fatalf("got a round of %v, %v, the next of %d shards, want none and %d", k, err, run.share, want)
		}
	}
	one := span("users", 0, 1)
	shard := engine.Shard("users")
	o.mu.Lock()
	for range 10_000 {
		o.append(one)
	}
	o.mu.Unlock()
	for want := 2 * minEntries; want <= maxEntries; want *= 2 {
		if _, more, err := run.read(t.Context(), 1, []int{shard}); err != nil || !more || run.entries != want {
			t.Fatalf("got %d entries, more %v, %v, want %d", run.entries, more, err, want)
		}
	}
	// Entries that hold very many runs.
	o.mu.Lock()
	o.shards[shard] = nil
	many := slices.Repeat([]engine.Event{one}, 1000)
	for range maxEntries {
		o.append(many...)
	}
	o.mu.Unlock()
	for run.entries > maxEntries/4 {
		before := run.entries
		k, _, err := run.read(t.Context(), 1, []int{shard})
		if err != nil || run.entries != before/2 {
			t.Fatalf("got %d entries after reading %d events, %v, want %d", run.entries, k.stats.Read, err, before/2)
		}
	}
}
