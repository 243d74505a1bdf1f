package events

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
)

var update = flag.Bool("update", false, "write golden files")

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

func seeded(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	if s := os.Getenv("LAKE_TEST_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("LAKE_TEST_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("LAKE_TEST_SEED=%d repeats what was drawn", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func contextFor(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	t.Cleanup(cancel)
	return ctx
}

// testBytes of events fit twice into the store of a test's server.
const testBytes = 1 << 30

// natsOf connects to a server with the streams of a lake in it.
func natsOf(t testing.TB, s *testenv.NATSServer, c Config, opts ...nats.Option) jetstream.JetStream {
	t.Helper()
	js := connect(t, s.URL, opts...)
	if c.MaxBytes == 0 {
		c.MaxBytes = testBytes
	}
	if err := Apply(contextFor(t), js, c); err != nil {
		t.Fatalf("apply: %v", err)
	}
	return js
}

func connect(t testing.TB, url string, opts ...nats.Option) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url, append([]nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond)}, opts...)...)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { closed(nc) })
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatalf("jetstream: %v", err)
	}
	return js
}

func closed(nc *nats.Conn) {
	nc.Close()
	for nc.Status() != nats.CLOSED {
		time.Sleep(time.Millisecond)
	}
}

// outbox is an index's outbox and leases on plain maps, with switches for what
// can go wrong. Its clock counts seconds by hand.
type outbox struct {
	mu     sync.Mutex
	epoch  uint64
	shards [engine.Shards][]entry
	ids    int
	heads  map[string]engine.Version
	leases map[string]lease
	fail   func(call string) error // "next", "trim", "acquire"; asked before the call
	shared bool                    // leases are given to everybody
}

type entry struct {
	id     int
	events []engine.Event
}

type lease struct {
	token string
	until time.Time
}

func newOutbox() *outbox {
	return &outbox{epoch: 1, heads: make(map[string]engine.Version), leases: make(map[string]lease)}
}

// commit appends a run of n deltas and returns its event.
func (o *outbox) commit(catalog string, n int) engine.Event {
	o.mu.Lock()
	defer o.mu.Unlock()
	prev := o.heads[catalog]
	first := engine.MaxVersion(prev, engine.Version{Sec: 1_700_000_000}).Add(1 + o.ids%3)
	ev := engine.Event{V: 1, Catalog: catalog, Kind: engine.EventCommitted, First: first, Version: first.Add(n - 1), Prev: prev,
		Count: int64(n), Bytes: int64(100 * n), Author: "alice", Writer: "abcdefgh", Time: time.Now().UnixMilli(), LiveDeltas: int64(o.ids)}
	o.heads[catalog] = ev.Version
	o.append(ev)
	return ev
}

func (o *outbox) append(evs ...engine.Event) {
	o.ids++
	s := engine.Shard(evs[0].Catalog)
	o.shards[s] = append(o.shards[s], entry{o.ids, evs})
}

func (o *outbox) len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, s := range o.shards {
		n += len(s)
	}
	return n
}

func (o *outbox) call(name string) error {
	o.mu.Lock()
	f := o.fail
	o.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(name)
}

func (o *outbox) setFail(f func(call string) error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fail = f
}

func (o *outbox) SetEvents(context.Context, bool) error { return nil }

func (o *outbox) Next(_ context.Context, epoch uint64, shards []int, limit int) ([]engine.OutboxBatch, error) {
	if err := o.call("next"); err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if epoch != o.epoch {
		return nil, engine.ErrEpoch
	}
	var out []engine.OutboxBatch
	for _, shard := range shards {
		b := engine.OutboxBatch{Shard: shard}
		for _, e := range o.shards[shard][:min(limit, len(o.shards[shard]))] {
			b.UpTo = strconv.Itoa(e.id)
			b.Events = append(b.Events, e.events...)
		}
		out = append(out, b)
	}
	return out, nil
}

func (o *outbox) Trim(_ context.Context, epoch uint64, shard int, upTo string) error {
	if err := o.call("trim"); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if epoch != o.epoch {
		return engine.ErrEpoch
	}
	id, err := strconv.Atoi(upTo)
	if err != nil {
		return err
	}
	o.shards[shard] = slices.DeleteFunc(o.shards[shard], func(e entry) bool { return e.id <= id })
	return nil
}

func (o *outbox) Acquire(_ context.Context, shard int, name, token string, ttl time.Duration) (bool, error) {
	if err := o.call("acquire"); err != nil {
		return false, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	key := fmt.Sprint(shard, name)
	if l, ok := o.leases[key]; ok && !o.shared && l.token != token && time.Now().Before(l.until) {
		return false, nil
	}
	o.leases[key] = lease{token, time.Now().Add(ttl)}
	return true, nil
}

func (o *outbox) Release(_ context.Context, shard int, name, token string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if key := fmt.Sprint(shard, name); o.leases[key].token == token {
		delete(o.leases, key)
	}
	return nil
}

var (
	_ engine.Outbox = (*outbox)(nil)
	_ engine.Leases = (*outbox)(nil)
)

// relay is a relay with the short times of a test.
func (o *outbox) relay(js jetstream.JetStream) *Relay {
	return &Relay{Outbox: o, Leases: o, JS: js, Epoch: func() uint64 { return 1 },
		Linger: time.Millisecond, MaxLinger: 20 * time.Millisecond, Poll: 5 * time.Millisecond, MaxPoll: 10 * time.Millisecond,
		MaxBackoff: 50 * time.Millisecond}
}

// start runs something until the test ends or stop is called.
func start(t testing.TB, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("run: %v", err)
				}
			case <-time.After(patience):
				t.Error("run does not end")
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// stored reads every message of a stream, in order.
func stored(t testing.TB, js jetstream.JetStream, stream string) []*jetstream.RawStreamMsg {
	t.Helper()
	ctx := contextFor(t)
	s, err := js.Stream(ctx, stream)
	if err != nil {
		t.Fatalf("stream: %v", err)
	}
	state := s.CachedInfo().State
	var out []*jetstream.RawStreamMsg
	for seq := state.FirstSeq; seq <= state.LastSeq && seq > 0; seq++ {
		m, err := s.GetMsg(ctx, seq)
		if err == jetstream.ErrMsgNotFound {
			continue
		}
		if err != nil {
			t.Fatalf("get message %d: %v", seq, err)
		}
		out = append(out, m)
	}
	return out
}

func storedEvents(t testing.TB, js jetstream.JetStream) []engine.Event {
	t.Helper()
	var out []engine.Event
	for _, m := range stored(t, js, "LAKE_EVENTS") {
		ev, err := Decode(m.Data)
		if err != nil {
			t.Fatalf("message %d: %v", m.Sequence, err)
		}
		if got, want := m.Subject, (Subjects{}).Event(ev.Catalog, ev.Kind); got != want {
			t.Errorf("subject: got %v, want %v", got, want)
		}
		if got, want := m.Header.Get(HeaderMsgID), MsgID(ev); got != want {
			t.Errorf("message id: got %v, want %v", got, want)
		}
		out = append(out, ev)
	}
	return out
}

// tiles fails unless the committed events of every catalog follow one another
// without gaps and doubles, from the beginning to its head.
func tiles(t testing.TB, events []engine.Event, heads map[string]engine.Version) {
	t.Helper()
	at := make(map[string]engine.Version)
	for i, ev := range events {
		if ev.Kind != engine.EventCommitted {
			continue
		}
		if ev.Prev != at[ev.Catalog] {
			t.Fatalf("event %d of %d: catalog %s: (%s, %s] came at %s", i, len(events), ev.Catalog, ev.Prev, ev.Version, at[ev.Catalog])
		}
		at[ev.Catalog] = ev.Version
	}
	for catalog, head := range heads {
		if at[catalog] != head {
			t.Fatalf("catalog %s: events end at %s, want %s", catalog, at[catalog], head)
		}
	}
}

// taken applies the rules of the package comment; there must be no gap.
func taken(t testing.TB, events []engine.Event) []engine.Event {
	t.Helper()
	seen := make(map[string]engine.Version)
	var out []engine.Event
	for _, ev := range events {
		last, known := seen[ev.Catalog+" "+string(ev.Kind)]
		if known && !last.Less(ev.Version) {
			continue
		}
		seen[ev.Catalog+" "+string(ev.Kind)] = ev.Version
		if known && ev.Kind == engine.EventCommitted {
			if last.Less(ev.Prev) {
				t.Fatalf("catalog %s: (%s, %s] came at %s", ev.Catalog, ev.Prev, ev.Version, last)
			}
			ev.Prev, ev.First = last, engine.MaxVersion(ev.First, last.Add(1))
		}
		out = append(out, ev)
	}
	return out
}

// watching collects what Watch yields.
type watching struct {
	mu     sync.Mutex
	events []engine.Event
	items  []Item
	errs   []error
}

// watch runs a watch of a lake whose log is empty: it hears what the stream has.
func watch(t testing.TB, js jetstream.JetStream, o WatchOptions) *watching {
	t.Helper()
	return watchOf(t, js, &book{}, o)
}

// watchOf runs a watch and returns when it has begun: what is written from then on
// is after "now". Of the stream that is certain when the consumer exists, since
// its place was taken before. A watch of one catalog asks for its head after that,
// and what is written in between is older than the watch.
func watchOf(t testing.TB, js jetstream.JetStream, history History, o WatchOptions) *watching {
	t.Helper()
	h := &headTold{History: history}
	attached := consumerOf(t, js)
	w := startWatch(t, js, h, o)
	testenv.WaitFor(t, patience, func() bool {
		return len(w.all()) > 0 || attached() && (o.Catalog == "" || h.told.Load())
	})
	return w
}

// startWatch runs a watch.
func startWatch(t testing.TB, js jetstream.JetStream, history History, o WatchOptions) *watching {
	w := &watching{}
	start(t, func(ctx context.Context) error {
		for item, err := range Watch(ctx, js, history, Subjects{}, o) {
			w.mu.Lock()
			if err != nil {
				w.errs = append(w.errs, err)
			} else {
				w.items = append(w.items, item)
				w.events = append(w.events, item.Event)
			}
			w.mu.Unlock()
		}
		return nil
	})
	return w
}

// consumerOf tells whether the stream of events has a consumer more than now.
func consumerOf(t testing.TB, js jetstream.JetStream) (more func() bool) {
	t.Helper()
	s, err := js.Stream(contextFor(t), Subjects{}.EventsStream())
	if err != nil {
		t.Fatal(err)
	}
	before := s.CachedInfo().State.Consumers
	return func() bool {
		info, err := s.Info(contextFor(t))
		return err == nil && info.State.Consumers > before
	}
}

// headTold is a History that knows whether a read of it has been answered.
type headTold struct {
	History
	told atomic.Bool
}

func (h *headTold) Read(ctx context.Context, req engine.ReadRequest) (engine.ReadResult, error) {
	defer h.told.Store(true)
	return h.History.Read(ctx, req)
}

func (w *watching) all() []engine.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.events)
}

func (w *watching) errors() []error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.errs)
}

// complete fails unless the watch told everything once and in order, without an error.
func (w *watching) complete(t testing.TB, o *outbox) {
	t.Helper()
	tiles(t, w.all(), o.heads)
	if errs := w.errors(); errs != nil {
		t.Errorf("watch: %v", errs)
	}
}

// reached tells whether every catalog's events have come to its head.
func (w *watching) reached(o *outbox) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	at := make(map[string]engine.Version)
	for _, ev := range w.all() {
		if ev.Kind == engine.EventCommitted {
			at[ev.Catalog] = engine.MaxVersion(at[ev.Catalog], ev.Version)
		}
	}
	for catalog, head := range o.heads {
		if at[catalog] != head {
			return false
		}
	}
	return true
}

// watching is how many watches get what is published.
func (f *Feed) watching() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.readers {
		r.mu.Lock()
		n += len(r.rest)
		for _, of := range r.byName {
			n += len(of)
		}
		r.mu.Unlock()
	}
	return n
}

// errorList is an OnError hook.
type errorList struct {
	mu   sync.Mutex
	list []error
}

func (l *errorList) add(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, err)
}

func (l *errorList) has(is func(error) bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.list, is)
}

func (l *errorList) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.list)
}

// wire is a TCP proxy that can swallow what the server says, from some moment
// to the end of each connection, and cut.
type wire struct {
	net.Listener
	target string
	mute   atomic.Bool
	muteAt string // when the client first says this the server is muted; set before it connects
	muted  sync.Once
	mu     sync.Mutex
	conns  []net.Conn
	wg     sync.WaitGroup
}

func newWire(t testing.TB, target string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: l, target: target}
	w.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", w.target)
			if err != nil {
				c.Close()
				continue
			}
			w.mu.Lock()
			w.conns = append(w.conns, c, s)
			w.mu.Unlock()
			w.wg.Go(func() {
				_, _ = io.Copy(s, io.TeeReader(c, hears(func(said []byte) {
					if w.muteAt != "" && bytes.Contains(said, []byte(w.muteAt)) {
						w.muted.Do(func() { w.mute.Store(true) })
					}
				})))
				s.Close()
				c.Close()
			})
			w.wg.Go(func() {
				buf := make([]byte, 32<<10)
				muted := false // for good: what comes after a hole makes no sense
				for {
					n, err := s.Read(buf)
					muted = muted || w.mute.Load()
					if n > 0 && !muted {
						_, _ = c.Write(buf[:n])
					}
					if err != nil {
						s.Close()
						c.Close()
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); w.cut(); w.wg.Wait() })
	return w
}

// hears is a writer that is told what is written.
type hears func(said []byte)

func (h hears) Write(said []byte) (int, error) {
	h(said)
	return len(said), nil
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		c.Close()
	}
	w.conns = nil
}

// renew cuts; the connections that follow are heard.
func (w *wire) renew() {
	w.mute.Store(false)
	w.cut()
}

func (w *wire) url() string { return "nats://" + w.Addr().String() }

// span is a committed event of (prev, version], both counted from 0_0.
func span(catalog string, prev, version int) engine.Event {
	p, v := versionOf(prev), versionOf(version)
	return engine.Event{V: 1, Catalog: catalog, Kind: engine.EventCommitted, First: p.Add(1), Version: v, Prev: p, Count: int64(version - prev), Bytes: 1}
}

func catalogName(i int) string { return fmt.Sprintf("catalog-%d", i) }

func versionOf(n int) engine.Version {
	return engine.Version{}.Add(n)
}
