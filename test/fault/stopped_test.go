package fault

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
)

var (
	stoppedWriters = flag.Int("fault.stopped", 2, "writers stopped side by side")
	stopTime       = flag.Duration("fault.stop", 15*time.Second, "for how long they are stopped")
)

// gate stands between one writer and the bucket. Shut, it holds the next put of a
// segment: the whole request has left the writer, and nothing of it has reached
// the store.
type gate struct {
	shut    chan struct{} // holds a token while the gate is to hold a put
	holds   chan struct{} // gets one when it does
	release chan struct{} // closed to let the put go on
}

func newGate() *gate {
	return &gate{shut: make(chan struct{}, 1), holds: make(chan struct{}, 1), release: make(chan struct{})}
}

func (g *gate) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPut || !strings.Contains(r.URL.Path, "/wal/") {
			next.ServeHTTP(w, r)
			return
		}
		select {
		case <-g.shut:
		default:
			next.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // its writer was too quick to go
		}
		// The put arrives at the store even if its writer gives it up.
		ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
		defer cancel()
		late := r.Clone(ctx)
		late.Body = io.NopCloser(bytes.NewReader(body))
		g.holds <- struct{}{}
		<-g.release
		next.ServeHTTP(w, late)
	})
}

// frozen is a writer that is stopped in the middle of its put.
type frozen struct {
	*service
	gate   *gate
	client *client.Client
	h      *history
	o      op
	done   chan struct{} // closed when the write was answered, or given up
}

// Writers are stopped in the middle of their puts, for long; the puts come to the
// store while they are stopped, after others have decided them, or after they
// were woken. Others write, read and fold the same catalogs meanwhile. What the
// stopped ones wrote is refused or readable, and nobody was held up for long.
func TestStopped(t *testing.T) {
	n, stop := *stoppedWriters, *stopTime
	c := newCluster(t, "--fold-deltas", "64")
	l := c.connect()
	var hs []*history
	for i := range min(n, 4) {
		h := &history{catalog: fmt.Sprintf("stopped-%d", i), begin: time.Now(), think: 100 * time.Millisecond}
		if err := h.init(l); err != nil {
			t.Fatal(err)
		}
		hs = append(hs, h)
	}
	writers := make([]*frozen, n)
	for i := range writers {
		// A subject prefix of its own: so the write goes to this process and no other.
		prefix := fmt.Sprintf("stopped%d", i)
		c.applyStreams(prefix)
		f := &frozen{gate: newGate(), h: hs[i%len(hs)], done: make(chan struct{})}
		proxy := testenv.S3Proxy(t, &c.store.S3Server, f.gate.wrap)
		t.Cleanup(sync.OnceFunc(func() { // else the proxy waits for its requests
			select {
			case <-f.gate.release:
			default:
				close(f.gate.release)
			}
		}))
		f.service = c.start("ingest", prefix, hostOf(proxy.Endpoint), prefix)
		f.client = c.connect(client.WithPrefix(prefix))
		f.o = op{client: 1000 + i, kind: opKey, value: fmt.Sprintf("stopped_%d", i), id: fmt.Sprintf("stopped-id-%d", i)}
		writers[i] = f
	}

	var load sync.WaitGroup
	for i, h := range hs {
		h.start(c.connect(), 4, uint64(i), &load)
	}
	folding, stopFolding := context.WithCancel(t.Context())
	defer stopFolding()
	folds := 0
	var folder sync.WaitGroup
	folder.Go(func() {
		for folding.Err() == nil {
			for _, h := range hs {
				ctx, cancel := context.WithTimeout(folding, 10*time.Second)
				if _, err := l.Fold(ctx, h.catalog); err == nil {
					folds++
				}
				cancel()
			}
			time.Sleep(500 * time.Millisecond)
		}
	})

	// One after the other: every stop meets writes that wait for the ones before.
	for _, f := range writers {
		f.gate.shut <- struct{}{}
		go func() {
			defer close(f.done)
			f.write(stop + time.Minute)
		}()
		select {
		case <-f.gate.holds:
		case <-time.After(30 * time.Second):
			t.Fatalf("%s has not put its segment after 30 s: %+v\n%s", f.name, f.o, f.Output())
		}
		f.Pause()
	}
	begin := time.Now()
	open := func(which int) {
		for i, f := range writers {
			if i%3 == which {
				close(f.gate.release)
			}
		}
	}
	open(0) // the store takes the put, and its writer does not learn it
	time.Sleep(stop * 3 / 4)
	open(1) // others have put a tombstone there
	time.Sleep(time.Until(begin.Add(stop)))
	for _, f := range writers {
		f.Resume()
	}
	time.Sleep(time.Second)
	open(2)
	for _, f := range writers {
		select {
		case <-f.done:
		case <-time.After(2 * time.Minute):
			t.Fatalf("%s has not answered two minutes after it was woken\n%s", f.name, f.Output())
		}
	}
	time.Sleep(5 * time.Second) // the load goes on after they woke
	for _, h := range hs {
		h.stop.Store(true)
	}
	load.Wait()
	stopFolding()
	folder.Wait()
	for _, f := range writers {
		if !wait(30*time.Second, func() bool { return f.Answers() == nil }) {
			t.Errorf("%s is not well half a minute after it was woken: %v\n%s", f.name, f.Answers(), f.Output())
		}
		f.h.ops = append(f.h.ops, f.o)
	}

	var slowWrite, slowRead time.Duration
	told := map[state]int{}
	var committed, acknowledged, lost int
	for _, h := range hs {
		f := readFinal(t, l, h, decided)
		v := check(h.ops, f)
		v.wrong = append(v.wrong, h.wrong...)
		if len(v.wrong) > 0 {
			t.Errorf("%s: %v", h.catalog, v)
		}
		acknowledged, lost = acknowledged+v.acked, lost+v.lost
		slowWrite = max(slowWrite, heldUp(h.ops, func(o op) bool { return o.kind < opRead }))
		slowRead = max(slowRead, heldUp(h.ops, func(o op) bool { return o.kind == opRead }))
		for _, w := range writers {
			if w.h != h {
				continue
			}
			told[w.o.state]++
			there := slices.ContainsFunc(f.log, func(e engine.LogEntry) bool { return e.Author == w.o.value })
			if there {
				committed++
			}
			w.asked(t, l, there)
		}
	}
	const limit = 15 * time.Second
	if slowWrite > limit || slowRead > limit {
		t.Errorf("a writer was held up for %v, a reader for %v, want at most %v", slowWrite, slowRead, limit)
	}
	if folds == 0 {
		t.Error("nothing was folded meanwhile")
	}
	t.Logf("%d writers stopped for %v in the middle of a put: %d told acknowledged, %d refused, %d unknown; %d of the writes are there, the others never will be; of %d acknowledged writes and reads beside lost %d; %d folds meanwhile; longest held up: a writer %.1f s, a reader %.1f s",
		n, stop, told[acked], told[refused], told[unknown], committed, acknowledged, lost, folds, slowWrite.Seconds(), slowRead.Seconds())
}

// write writes once and notes what was answered.
func (f *frozen) write(limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	f.o.call = time.Since(f.h.begin)
	r, err := f.client.Write(ctx, f.o.request(f.h.catalog))
	f.o.ret = time.Since(f.h.begin)
	switch {
	case err == nil:
		f.o.state, f.o.version = acked, r.Version
	case errors.Is(err, engine.ErrUnknown):
		f.o.state = unknown
	case temporary(err):
		f.o.state = refused
	default:
		f.o.state = unknown
		f.h.violate("%s: %v", f.o.value, err)
	}
}

// asked asks another process what became of the write: what the log says.
func (f *frozen) asked(t *testing.T, l *client.Client, there bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := l.Outcome(ctx, engine.OutcomeRequest{Catalog: f.h.catalog, ID: f.o.id})
	switch {
	case there && (err != nil || r.State != "committed"):
		t.Errorf("outcome of %s, which is in the log: %+v, %v", f.o.value, r, err)
	case !there && !errors.Is(err, engine.ErrNotFound):
		t.Errorf("outcome of %s, which is not in the log: %+v, %v", f.o.value, r, err)
	}
}

// heldUp is the longest time that a client waited for a definite answer to what
// it asked, tries and further requests of the same kind included. The stopped
// writers themselves do not count.
func heldUp(ops []op, counts func(op) bool) (longest time.Duration) {
	since := map[int]time.Duration{} // when the client began to wait
	for _, o := range ops {          // of each client in order
		if o.client >= 1000 || !counts(o) {
			continue
		}
		from, waiting := since[o.client]
		if !waiting {
			from = o.call
		}
		if o.state == refused || o.state == unknown {
			since[o.client] = from
			longest = max(longest, o.ret-from)
			continue
		}
		delete(since, o.client)
		longest = max(longest, o.ret-from)
	}
	return longest
}
