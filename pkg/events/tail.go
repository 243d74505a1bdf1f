package events

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jsonlake/lake/pkg/engine"
)

// tail reads the stream of events, every message of a filter once and in order,
// for as long as the stream keeps it; where it does not, it says so (lost).
//
// It reads through an ephemeral consumer that needs no acknowledgements and is
// made anew, after the last message, whenever one may have been lost: on a hole
// in its numbering, after a reconnect, when its heartbeat stops. It is what
// client libraries call an ordered consumer; theirs cannot be stopped while it
// recreates itself, and is deaf after the stream was made anew with lower
// numbers.
type tail struct {
	js        jetstream.JetStream
	subjects  Subjects
	filter    string        // of subjects
	from      uint64        // stream sequence to begin with; 0: with what comes from now on
	heartbeat time.Duration // of the consumer
	check     time.Duration // between two looks at the stream itself

	// attached is told the place after which messages come, once, before the first.
	attached func(at place)
	// take gets a message's event; false ends the tail.
	take func(seq uint64, ev engine.Event) bool
	// lost is told that messages before a place were never taken: the stream was
	// purged or has aged faster than it was read, or it is another one. What comes
	// after that place is taken. false ends the tail.
	lost func(at place) bool
	// report is told of what the tail has mended or passed over by itself.
	report func(error)

	at     place         // where it began, or went on after a loss
	placed bool          // attached was told of it
	broken bool          // lost is to be told of it
	next   atomic.Uint64 // stream sequence to go on with
}

// place is a place in the stream: everything up to a message.
type place struct {
	created time.Time // of the stream: its identity, with the name
	seq     uint64    // of the last message
	now     time.Time // server time when the place was taken
}

// checkEvery is how often a tail looks after its stream.
const checkEvery = 30 * time.Second

// errEnough ends a tail whose callbacks want no more.
var errEnough = errors.New("enough")

// run reads until ctx ends or a callback wants no more (nil), the connection is
// closed, or at the beginning the stream does not exist (ErrNotApplied) or does
// not answer, as it does to a user who may not read it. While NATS is away it
// waits.
func (w *tail) run(ctx context.Context) error {
	nc := w.js.Conn()
	attached := false
	for failures := 0; ctx.Err() == nil; {
		reconnects := nc.Stats().Reconnects
		cons, err := w.attach(ctx)
		if err == nil {
			failures, attached = 0, true
			err = w.read(ctx, cons)
		}
		if errors.Is(err, errEnough) || ctx.Err() != nil {
			return nil
		}
		away := !nc.IsConnected() || nc.Stats().Reconnects != reconnects
		if nc.IsClosed() || !attached && !away {
			return err
		}
		w.report(err)
		failures++
		sleep(ctx, min(50*time.Millisecond<<min(failures-1, 10), 5*time.Second))
	}
	return nil
}

// attach makes a consumer after the last message that was read. The place to begin
// with is taken once: where the consumer's making fails, or its answer is lost, the
// next one begins there, too.
func (w *tail) attach(ctx context.Context) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	name := w.subjects.EventsStream()
	stream, err := w.js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		err = fmt.Errorf("%w (%w)", ErrNotApplied, err)
	}
	if err != nil {
		return nil, fmt.Errorf("watch stream %s: %w", name, err)
	}
	info := stream.CachedInfo()
	next, begins, broken := w.next.Load(), w.at.created.IsZero(), false
	switch first := info.State.FirstSeq; {
	case begins && w.from == 0:
		next = info.State.LastSeq + 1
	case begins:
		next, broken = max(w.from, first), w.from < first
	case !info.Created.Equal(w.at.created) || next > info.State.LastSeq+1:
		// Another stream, or one that lost its end: what was seen will be known by
		// its version.
		next, broken = max(first, 1), true
	case next < first:
		next, broken = first, true
	}
	if begins || broken {
		w.at, w.broken = place{created: info.Created, seq: next - 1, now: info.TimeStamp}, broken
		w.next.Store(next)
	}
	c := jetstream.ConsumerConfig{
		Name:              "watch-" + rand.Text(),
		FilterSubject:     w.filter,
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: time.Minute,
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       next,
	}
	cons, err := stream.CreateConsumer(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("watch stream %s: %w", name, err)
	}
	if !w.placed {
		w.placed = true
		w.attached(w.at)
	}
	if w.broken {
		w.broken = false
		if !w.lost(w.at) {
			w.drop(ctx, cons)
			return nil, errEnough
		}
	}
	return cons, nil
}

// drop deletes a consumer. The caller may be gone; the consumer should go too.
func (w *tail) drop(ctx context.Context, cons jetstream.Consumer) {
	if !w.js.Conn().IsConnected() {
		return // it goes by itself
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = w.js.DeleteConsumer(ctx, w.subjects.EventsStream(), cons.CachedInfo().Name)
}

// read takes what the consumer has until something is wrong with it.
func (w *tail) read(ctx context.Context, cons jetstream.Consumer) error {
	defer w.drop(ctx, cons)
	reading, cancel := context.WithCancelCause(ctx)
	nc := w.js.Conn()
	status := nc.StatusChanged(nats.CONNECTED)
	defer nc.RemoveStatusListener(status)
	go func() { // ends when the listener is removed
		for range status {
			cancel(errReconnected)
		}
	}()
	looking := make(chan struct{})
	go func() {
		defer close(looking)
		w.look(reading, cancel)
	}()
	defer func() { cancel(nil); <-looking }()
	msgs, err := cons.Messages(jetstream.PullExpiry(pullExpiry), jetstream.PullHeartbeat(w.heartbeat))
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	defer msgs.Stop()
	suspect := false
	for expect := uint64(1); ; expect++ {
		msg, err := w.receive(reading, msgs, suspect)
		if err != nil {
			if reading.Err() != nil {
				err = context.Cause(reading)
			}
			return fmt.Errorf("watch: %w", err)
		}
		md, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		if md.Sequence.Consumer != expect {
			return fmt.Errorf("watch: message %d came where %d was due", md.Sequence.Consumer, expect)
		}
		seq := md.Sequence.Stream
		if due := w.next.Load(); w.filter == w.subjects.EveryEvent("") && seq > due {
			// Every message of the stream is read here, so this one's number shows that
			// some were purged before they could be.
			w.report(fmt.Errorf("watch: messages %d to %d of the stream were purged", due, seq-1))
			if !w.lost(place{created: w.at.created, seq: seq - 1, now: md.Timestamp}) {
				return errEnough
			}
		}
		took := time.Now()
		ev, err := w.decode(msg)
		if err != nil {
			w.report(fmt.Errorf("watch: pass over a message on %s: %w", msg.Subject(), err))
		}
		w.next.Store(seq + 1)
		if !w.take(seq, ev) {
			return errEnough
		}
		suspect = suspect || time.Since(took) > w.heartbeat
	}
}

// receive waits for a message. When the caller was so slow that heartbeats have
// gathered in the client's buffer, they may have displaced the last messages
// that were sent; so if nothing comes for a while the consumer is made anew. A
// message that was displaced in the middle shows by itself.
func (w *tail) receive(ctx context.Context, msgs jetstream.MessagesContext, suspect bool) (jetstream.Msg, error) {
	if suspect {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, w.heartbeat)
		defer cancel()
	}
	return msgs.Next(jetstream.NextContext(ctx))
}

var (
	errReconnected = errors.New("the connection to NATS was lost and made again")
	errReplaced    = errors.New("the stream was purged or made anew")
)

// look finds out from time to time whether the stream still has what is to be
// read: a consumer of a purged stream is just silent.
func (w *tail) look(ctx context.Context, cancel context.CancelCauseFunc) {
	for sleep(ctx, w.check) {
		asking, done := context.WithTimeout(ctx, attachTimeout)
		stream, err := w.js.Stream(asking, w.subjects.EventsStream())
		done()
		if err != nil {
			continue // the consumer itself will show what is wrong
		}
		if info := stream.CachedInfo(); !info.Created.Equal(w.at.created) || w.next.Load() < info.State.FirstSeq {
			cancel(errReplaced)
			return
		}
	}
}

// decode gives a message's event, without a kind when it has none.
func (w *tail) decode(msg jetstream.Msg) (engine.Event, error) {
	ev, err := Decode(msg.Data())
	if err == nil && msg.Subject() != w.subjects.Event(ev.Catalog, ev.Kind) {
		err = invalidEvent("it is a %s event of catalog %q", ev.Kind, ev.Catalog)
	}
	if err != nil {
		return engine.Event{}, err
	}
	return ev, nil
}

// lastUpTo gives the last committed event of a catalog among the first seq
// messages of the stream; false when there is none any more.
func lastUpTo(ctx context.Context, js jetstream.JetStream, s Subjects, catalog string, seq uint64) (engine.Event, bool, error) {
	req, err := json.Marshal(map[string]any{"multi_last": []string{s.Event(catalog, engine.EventCommitted)}, "up_to_seq": seq})
	if err != nil {
		return engine.Event{}, false, err
	}
	// The client library has no call for this; it is the request of ADR-31.
	prefix := jetstream.DefaultAPIPrefix
	switch o := js.Options(); {
	case o.Domain != "":
		prefix = "$JS." + o.Domain + ".API."
	case o.APIPrefix != "":
		prefix = strings.TrimSuffix(o.APIPrefix, ".") + "."
	}
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	m, err := js.Conn().RequestWithContext(ctx, prefix+"DIRECT.GET."+s.EventsStream(), req)
	if err != nil {
		return engine.Event{}, false, fmt.Errorf("ask the stream for the last event of catalog %q: %w", catalog, err)
	}
	switch status := m.Header.Get("Status"); status {
	case "":
	case "404", "204":
		return engine.Event{}, false, nil
	default:
		return engine.Event{}, false, fmt.Errorf("ask the stream for the last event of catalog %q: %s %s", catalog, status, m.Header.Get("Description"))
	}
	ev, err := Decode(m.Data)
	return ev, err == nil && ev.Catalog == catalog, err
}
