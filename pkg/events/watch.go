package events

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jsonlake/lake/pkg/engine"
)

// WatchOptions say what to watch, and from where.
type WatchOptions struct {
	Subjects Subjects

	Catalog string           // one catalog; "" for all
	Prefix  string           // of all, only those whose names begin so
	Kind    engine.EventKind // events of one kind; "" for every kind

	// Since is the last version seen of Catalog: the watch begins after it.
	Since engine.Version
	// FromStart begins with the oldest event in the stream. Without it and Since
	// the watch begins with what happens from now on.
	FromStart bool

	// OnError is told of what the watch has mended or passed over by itself: a
	// lost connection, a deleted consumer, a message that is not an event. nil:
	// nobody is told.
	OnError func(error)

	heartbeat time.Duration // of the consumer; default pullHeartbeat
}

// sinceSlack is how much earlier than the second of Since the watch looks for
// events: for clocks of index and NATS that differ, and for events that were
// published late. What is found too early is dropped by its version.
const sinceSlack = 10 * time.Minute

// Watch yields the events of the stream, every version of a catalog once and in
// order (the rules of the package comment are applied), until ctx ends or the
// caller stops. While NATS is away it waits; it goes on by itself when NATS is
// back, and when the stream was deleted and made again.
//
// With an event may come a *GapError: versions before it are missing in the
// stream. The caller reads them from the log and goes on. Any other error comes
// without an event and is the last: the options are wrong, the connection is
// closed, or at the beginning the stream did not exist (ErrNotApplied) or did not
// answer, as it does to a user who may not read it.
func Watch(ctx context.Context, js jetstream.JetStream, o WatchOptions) iter.Seq2[engine.Event, error] {
	return func(yield func(engine.Event, error) bool) {
		if err := o.validate(); err != nil {
			yield(engine.Event{}, err)
			return
		}
		if o.heartbeat == 0 {
			o.heartbeat = pullHeartbeat
		}
		w := &watcher{WatchOptions: o, js: js}
		if o.Catalog != "" && !o.Since.IsZero() {
			w.cursor.Start(o.Catalog, o.Since)
		}
		w.run(ctx, yield)
	}
}

func (o *WatchOptions) validate() error {
	if err := o.Subjects.Validate(); err != nil {
		return err
	}
	if o.Catalog != "" {
		if err := engine.ValidateCatalog(o.Catalog); err != nil {
			return err
		}
		if o.Prefix != "" {
			return engine.Invalid("invalid_watch", "prefix", "a watch is of one catalog or of a prefix, not of both")
		}
	}
	if !o.Since.IsZero() && o.Catalog == "" {
		return engine.Invalid("invalid_watch", "since", "a watch since a version needs a catalog: versions of different catalogs cannot be compared")
	}
	if !o.Since.IsZero() && o.FromStart {
		return engine.Invalid("invalid_watch", "since", "a watch begins since a version or from the start, not both")
	}
	if !o.Since.Valid() {
		return engine.Invalid("invalid_watch", "since", "%s is not a version", o.Since)
	}
	if strings.ContainsAny(string(o.Kind), ".*> \t\r\n") {
		return engine.Invalid("invalid_watch", "kind", "%q is not a kind of event", o.Kind)
	}
	return nil
}

// watcher reads the stream through an ephemeral consumer that needs no
// acknowledgements and is made anew, after the last message, whenever one may
// have been lost: on a hole in its numbering, after a reconnect, when its
// heartbeat stops. It is what client libraries call an ordered consumer; theirs
// cannot be stopped while it recreates itself, and is deaf after the stream was
// made anew with lower numbers.
type watcher struct {
	WatchOptions
	js     jetstream.JetStream
	cursor Cursor

	placed   bool      // created and next are set
	attached bool      // it has worked once
	created  time.Time // of the stream: its identity
	next     uint64    // stream sequence to go on with; 0: not known yet, by time
}

func (w *watcher) report(err error) {
	if w.OnError != nil && err != nil {
		w.OnError(err)
	}
}

func (w *watcher) run(ctx context.Context, yield func(engine.Event, error) bool) {
	nc := w.js.Conn()
	for failures := 0; ctx.Err() == nil; {
		reconnects := nc.Stats().Reconnects
		cons, err := w.attach(ctx)
		if err == nil {
			failures = 0
			var more bool
			more, err = w.read(ctx, cons, yield)
			if !more {
				return
			}
		}
		if ctx.Err() != nil {
			return
		}
		away := !nc.IsConnected() || nc.Stats().Reconnects != reconnects
		if err != nil && (nc.IsClosed() || !w.attached && !away) {
			yield(engine.Event{}, err)
			return
		}
		w.report(err)
		failures++
		sleep(ctx, min(50*time.Millisecond<<min(failures-1, 10), 5*time.Second), nil)
	}
}

// attach makes a consumer after the last message that was read.
func (w *watcher) attach(ctx context.Context) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	name := w.Subjects.EventsStream()
	stream, err := w.js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		err = fmt.Errorf("%w (%w)", ErrNotApplied, err)
	}
	if err != nil {
		return nil, fmt.Errorf("watch stream %s: %w", name, err)
	}
	info := stream.CachedInfo()
	switch {
	case !w.placed && w.FromStart:
		w.next = 1
	case !w.placed && w.Since.IsZero():
		w.next = info.State.LastSeq + 1
	case w.placed && (!info.Created.Equal(w.created) || w.next > info.State.LastSeq+1):
		// Another stream, or one that lost its end: what was seen will be known by
		// its version.
		w.next = 1
	}
	w.placed, w.created = true, info.Created
	c := jetstream.ConsumerConfig{
		Name:              "watch-" + rand.Text(),
		FilterSubject:     w.Subjects.EveryEvent(w.Kind),
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: time.Minute,
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       w.next,
	}
	if w.Catalog != "" {
		c.FilterSubject = w.Subjects.Event(w.Catalog, w.Kind)
	}
	if w.next == 0 {
		from := w.Since.Time().Add(-sinceSlack)
		c.DeliverPolicy, c.OptStartTime = jetstream.DeliverByStartTimePolicy, &from
	}
	cons, err := stream.CreateConsumer(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("watch stream %s: %w", name, err)
	}
	w.attached = true
	return cons, nil
}

// read yields what the consumer has until something is wrong with it; false
// when the caller wants no more.
func (w *watcher) read(ctx context.Context, cons jetstream.Consumer, yield func(engine.Event, error) bool) (more bool, err error) {
	nc := w.js.Conn()
	defer func() {
		if !nc.IsConnected() {
			return // it goes by itself
		}
		// The caller may be gone; the consumer should go too.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = w.js.DeleteConsumer(ctx, w.Subjects.EventsStream(), cons.CachedInfo().Name)
	}()
	reading, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	status := nc.StatusChanged(nats.CONNECTED)
	defer nc.RemoveStatusListener(status)
	go func() { // ends when the listener is removed
		for range status {
			cancel(errReconnected)
		}
	}()
	msgs, err := cons.Messages(jetstream.PullExpiry(pullExpiry), jetstream.PullHeartbeat(w.heartbeat))
	if err != nil {
		return true, fmt.Errorf("watch: %w", err)
	}
	defer msgs.Stop()
	suspect := false
	for expect := uint64(1); ; expect++ {
		msg, err := w.receive(reading, msgs, suspect)
		if err != nil {
			if reading.Err() != nil {
				err = context.Cause(reading)
			}
			return ctx.Err() == nil, fmt.Errorf("watch: %w", err)
		}
		md, err := msg.Metadata()
		if err != nil {
			return true, fmt.Errorf("watch: %w", err)
		}
		if md.Sequence.Consumer != expect {
			return true, fmt.Errorf("watch: message %d came where %d was due", md.Sequence.Consumer, expect)
		}
		w.next = md.Sequence.Stream + 1
		took := time.Now()
		if !w.take(msg, yield) {
			return false, nil
		}
		suspect = suspect || time.Since(took) > w.heartbeat
	}
}

// receive waits for a message. When the caller was so slow that heartbeats have
// gathered in the client's buffer, they may have displaced the last messages
// that were sent; so if nothing comes for a while the consumer is made anew. A
// message that was displaced in the middle shows by itself.
func (w *watcher) receive(ctx context.Context, msgs jetstream.MessagesContext, suspect bool) (jetstream.Msg, error) {
	if suspect {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, w.heartbeat)
		defer cancel()
	}
	return msgs.Next(jetstream.NextContext(ctx))
}

var errReconnected = errors.New("the connection to NATS was lost and made again")

// take yields a message's event if it is wanted and new; false when the caller
// wants no more.
func (w *watcher) take(msg jetstream.Msg, yield func(engine.Event, error) bool) bool {
	ev, err := Decode(msg.Data())
	if err == nil && msg.Subject() != w.Subjects.Event(ev.Catalog, ev.Kind) {
		err = invalidEvent("it is a %s event of catalog %q", ev.Kind, ev.Catalog)
	}
	if err != nil {
		w.report(fmt.Errorf("watch: pass over a message on %s: %w", msg.Subject(), err))
		return true
	}
	if !strings.HasPrefix(ev.Catalog, w.Prefix) {
		return true
	}
	ev, fresh, err := w.cursor.Take(ev)
	return !fresh || yield(ev, err)
}
