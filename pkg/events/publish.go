package events

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jsonlake/lake/pkg/engine"
)

// PublishJob asks the snapshotters to fold a catalog: what a reader does whose
// merge took too long, and the requeue task with what no event announced. The
// event is what made the job due; only its Catalog must be set: without a kind
// and a range the job has no body. A job of the same catalog that is not done yet is replaced. Unlike the
// relay's jobs it bears no message id: asking again must count again.
func PublishJob(ctx context.Context, js jetstream.JetStream, s Subjects, ev engine.Event) error {
	if err := engine.ValidateCatalog(ev.Catalog); err != nil {
		return fmt.Errorf("publish a snapshot job: %w", err)
	}
	m, err := jobMessage(s, ev)
	if err != nil {
		return fmt.Errorf("publish the snapshot job of catalog %q: %w", ev.Catalog, err)
	}
	if ev.Kind == "" || !ev.Prev.Less(ev.Version) {
		m.msg.Data = nil
	}
	m.msg.Header.Del(HeaderMsgID)
	// An answer that was lost with a connection never comes, however long the
	// caller may wait.
	ctx, cancel := context.WithTimeout(ctx, defaultAckTimeout)
	defer cancel()
	ack, err := js.PublishMsg(ctx, m.msg)
	if err != nil {
		return fmt.Errorf("publish the snapshot job of catalog %q: %w", ev.Catalog, hinted(err))
	}
	return m.check(ack)
}

// defaultAckTimeout is how long a stream may take to acknowledge.
const defaultAckTimeout = 5 * time.Second

// message on its way to a stream.
type message struct {
	msg    *nats.Msg
	stream string // that must take it
	acked  bool
}

func eventMessage(s Subjects, ev engine.Event) (*message, error) {
	b, err := Encode(ev)
	if err != nil {
		return nil, err
	}
	return &message{stream: s.EventsStream(), msg: &nats.Msg{
		Subject: s.Event(ev.Catalog, ev.Kind), Data: b, Header: nats.Header{HeaderMsgID: {MsgID(ev)}},
	}}, nil
}

func jobMessage(s Subjects, ev engine.Event) (*message, error) {
	b, err := Encode(ev)
	if err != nil {
		return nil, err
	}
	return &message{stream: s.JobsStream(), msg: &nats.Msg{
		Subject: s.Job(ev.Catalog), Data: b, Header: nats.Header{HeaderMsgID: {MsgID(ev)}},
	}}, nil
}

// check tells whether the stream that acknowledged a message is the one it was
// meant for: any stream may be set up to capture the subject.
func (m *message) check(ack *jetstream.PubAck) error {
	if ack.Stream != m.stream {
		return fmt.Errorf("subject %s is taken by stream %s, not %s: remove the subject from it", m.msg.Subject, ack.Stream, m.stream)
	}
	return nil
}

// publisher sends messages to JetStream, many at once. It has a JetStream
// context of its own, so that its acknowledgements time out whatever the
// caller's context is set to.
type publisher struct {
	js jetstream.JetStream
}

// window is how many messages may be without an acknowledgement. nats-server
// refuses messages when 10,000 wait before a stream.
const window = 1024

func newPublisher(nc *nats.Conn, ackTimeout time.Duration) (*publisher, error) {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncTimeout(ackTimeout), jetstream.WithPublishAsyncMaxPending(2*window))
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	return &publisher{js: js}, nil
}

func (p *publisher) close() { p.js.CleanupPublisher() }

// send publishes what is not acknowledged yet and waits for all of it. On an
// error nothing more is sent; what was acknowledged says so. When a message
// fails, those behind it may be in the stream already: a catalog must have only
// one in a call.
func (p *publisher) send(ctx context.Context, msgs []*message) error {
	type flight struct {
		jetstream.PubAckFuture
		m *message
	}
	var first error
	fail := func(m *message, err error) {
		if first == nil {
			first = fmt.Errorf("publish %s: %w", m.msg.Subject, hinted(err))
		}
	}
	land := func(f flight) {
		select {
		case ack := <-f.Ok():
			if err := f.m.check(ack); err != nil {
				fail(f.m, err)
				return
			}
			f.m.acked = true
		case err := <-f.Err():
			fail(f.m, err)
		case <-ctx.Done():
			fail(f.m, ctx.Err())
		}
	}
	// A client that is not connected keeps what it is given and sends it later:
	// many repetitions of the same.
	if nc := p.js.Conn(); !nc.IsConnected() {
		return fmt.Errorf("publish events: NATS is %v: %w", nc.Status(), nats.ErrDisconnected)
	}
	var out []flight
	landed := 0
	for _, m := range msgs {
		if m.acked {
			continue
		}
		if len(out)-landed >= window {
			land(out[landed])
			landed++
		}
		if first != nil {
			break
		}
		// Without the client's own retries: who calls repeats everything.
		f, err := p.js.PublishMsgAsync(m.msg, jetstream.WithRetryAttempts(0))
		if err != nil {
			fail(m, err)
			break
		}
		out = append(out, flight{f, m})
	}
	for _, f := range out[landed:] {
		land(f)
	}
	return first
}

// hinted adds the next step to an error that says that no stream listens.
func hinted(err error) error {
	if errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders) {
		return fmt.Errorf("%w (%w)", ErrNotApplied, err)
	}
	return err
}
