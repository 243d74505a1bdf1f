package events

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
)

// Two relays that both believe to lead double events, and nothing worse.
func TestRelaysRace(t *testing.T) {
	t.Parallel()
	srv := testenv.NATS(t)
	js := natsOf(t, srv, Config{})
	o := newOutbox()
	o.shared = true
	w := watch(t, js, WatchOptions{})
	var stops []func()
	for range 2 {
		r := o.relay(connect(t, srv.URL))
		r.OnError = func(err error) { t.Errorf("relay: %v", err) }
		stops = append(stops, start(t, r.Run))
	}
	commits(t, o, 3000, 20, nil)
	testenv.WaitFor(t, patience, func() bool { return o.len() == 0 && w.reached(o) })
	for _, stop := range stops {
		stop()
	}
	all := storedEvents(t, js)
	tiles(t, taken(t, all), o.heads)
	testenv.WaitFor(t, patience, func() bool { return len(w.all()) == len(taken(t, all)) })
	w.complete(t, o)
	t.Logf("%d events, %d of them seen before", len(all), len(all)-len(taken(t, all)))
}

func TestRelayLeadership(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	o := newOutbox()
	var rounds [2]atomic.Int64
	var stops [2]func()
	for i := range 2 {
		r := o.relay(js)
		r.LeaseTTL = time.Hour // nobody takes over but from who gives up
		if i == 1 {
			r.LeaseTTL = 150 * time.Millisecond // its wish to lead comes back often
		}
		r.OnRound = func(Round) { rounds[i].Add(1) }
		stops[i] = start(t, r.Run)
		if i == 0 {
			testenv.WaitFor(t, patience, func() bool { o.mu.Lock(); defer o.mu.Unlock(); return len(o.leases) == engine.Shards })
		}
	}
	commits(t, o, 100, 20, nil)
	testenv.WaitFor(t, patience, func() bool { return o.len() == 0 })
	if a, b := rounds[0].Load(), rounds[1].Load(); a == 0 || b != 0 {
		t.Errorf("rounds: got %d and %d, want only the leader's", a, b)
	}
	stops[0]()
	commits(t, o, 100, 20, nil)
	testenv.WaitFor(t, patience, func() bool { return o.len() == 0 })
	if rounds[1].Load() == 0 {
		t.Error("the other relay did not take over")
	}
	stops[1]()
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.leases) != 0 {
		t.Errorf("leases are still held: %v", o.leases)
	}
	tiles(t, storedEvents(t, js), o.heads)
}

// A relay whose leases cannot be renewed stops reading when they run out.
func TestRelayLosesLease(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	o := newOutbox()
	r := o.relay(js)
	r.LeaseTTL = 300 * time.Millisecond
	var errs errorList
	r.OnError = errs.add
	start(t, r.Run)
	o.commit("users", 1)
	testenv.WaitFor(t, patience, func() bool { return o.len() == 0 })

	var reads atomic.Int64
	o.setFail(func(call string) error {
		switch call {
		case "acquire":
			return errors.New("away")
		case "next":
			reads.Add(1)
		}
		return nil
	})
	testenv.WaitFor(t, patience, func() bool {
		return errs.has(func(err error) bool { return strings.Contains(err.Error(), "relay's lease of") })
	})
	failing := time.Now()
	testenv.WaitFor(t, patience, func() bool { return time.Since(failing) > 2*r.LeaseTTL })
	before := reads.Load()
	testenv.WaitFor(t, patience, func() bool { r.Poke(); return time.Since(failing) > 3*r.LeaseTTL })
	if n := reads.Load() - before; n != 0 {
		t.Errorf("it read %d times without a lease", n)
	}
	o.setFail(nil)
	o.commit("users", 1)
	testenv.WaitFor(t, patience, func() bool { return o.len() == 0 })
	tiles(t, storedEvents(t, js), o.heads)
}

func TestRelayEpoch(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	o := newOutbox()
	r := o.relay(js)
	var epoch, asked atomic.Uint64
	r.Epoch = func() uint64 { asked.Add(1); return epoch.Load() }
	var errs errorList
	r.OnError = errs.add
	stop := start(t, r.Run)
	o.commit("users", 1)
	testenv.WaitFor(t, patience, func() bool { return asked.Load() > 5 })
	if o.len() != 1 || errs.has(func(error) bool { return true }) {
		t.Errorf("without an epoch: %d entries left, errors %v", o.len(), errs.list)
	}
	epoch.Store(1)
	testenv.WaitFor(t, patience, func() bool { return o.len() == 0 })
	o.mu.Lock()
	o.epoch = 2
	o.mu.Unlock()
	o.commit("users", 1)
	testenv.WaitFor(t, patience, func() bool { return errs.has(func(err error) bool { return errors.Is(err, engine.ErrEpoch) }) })
	epoch.Store(2)
	testenv.WaitFor(t, patience, func() bool { return o.len() == 0 })
	stop()
	tiles(t, storedEvents(t, js), o.heads)
}

// A round of an epoch that is over is not told: what was in that outbox need
// not be in the next one.
func TestRelayForgetsRoundOfOldEpoch(t *testing.T) {
	t.Parallel()
	ctx := contextFor(t)
	js := natsOf(t, testenv.NATS(t), Config{})
	if err := js.DeleteStream(ctx, "LAKE_EVENTS"); err != nil {
		t.Fatal(err)
	}
	o := newOutbox()
	r := o.relay(js)
	var epoch atomic.Uint64
	epoch.Store(1)
	r.Epoch = epoch.Load
	var errs errorList
	r.OnError = errs.add
	o.commit("users", 1)
	stop := start(t, r.Run)
	testenv.WaitFor(t, patience, func() bool { return errs.has(func(err error) bool { return errors.Is(err, ErrNotApplied) }) })
	o.mu.Lock()
	o.epoch, o.shards, o.heads = 2, [engine.Shards][]entry{}, make(map[string]engine.Version)
	o.mu.Unlock()
	o.commit("items", 1)
	epoch.Store(2)
	if err := Apply(ctx, js, Config{MaxBytes: testBytes}); err != nil {
		t.Fatal(err)
	}
	testenv.WaitFor(t, patience, func() bool { return o.len() == 0 })
	stop()
	all := storedEvents(t, js)
	tiles(t, all, o.heads)
	if len(all) != 1 {
		t.Errorf("got %+v, want the event of the new epoch only", all)
	}
}

// What an index says while the epoch lease is not valid may not count.
func TestRelayNeedsLease(t *testing.T) {
	t.Parallel()
	js := natsOf(t, testenv.NATS(t), Config{})
	o := newOutbox()
	r := o.relay(js)
	var valid atomic.Bool
	r.Valid = valid.Load
	var errs errorList
	r.OnError = errs.add
	o.commit("users", 1)
	start(t, r.Run)
	testenv.WaitFor(t, patience, func() bool { return errs.has(func(err error) bool { return errors.Is(err, engine.ErrUnavailable) }) })
	if n := len(storedEvents(t, js)); n != 0 || o.len() != 1 {
		t.Errorf("%d events were published, %d entries are left", n, o.len())
	}
	valid.Store(true)
	testenv.WaitFor(t, patience, func() bool { return o.len() == 0 })
}
