package events

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
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

// read takes the answer to a message: nil when the stream has it.
func (m *message) read(answer *nats.Msg) error {
	if len(answer.Data) == 0 && answer.Header.Get("Status") == "503" {
		return jetstream.ErrNoStreamResponse
	}
	if plainAck(answer.Data, m.stream) {
		return nil
	}
	var got struct {
		jetstream.PubAck
		Error *jetstream.APIError `json:"error"`
	}
	switch err := json.Unmarshal(answer.Data, &got); {
	case err != nil || got.Error == nil && got.Stream == "":
		return jetstream.ErrInvalidJSAck
	case got.Error != nil:
		return got.Error
	}
	return m.check(&got.PubAck)
}

// plainAck tells an acknowledgement as nearly all are, {"stream":"LAKE_EVENTS","seq":123},
// without reading it as JSON.
func plainAck(data []byte, stream string) bool {
	rest, ok := bytes.CutPrefix(data, []byte(`{"stream":"`))
	if !ok || len(rest) < len(stream) || string(rest[:len(stream)]) != stream {
		return false
	}
	rest, ok = bytes.CutPrefix(rest[len(stream):], []byte(`","seq":`))
	n := len(rest) - 1
	if !ok || n < 1 || rest[n] != '}' {
		return false
	}
	for _, c := range rest[:n] {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// publisher sends messages to JetStream, many at once, and takes the
// acknowledgements itself, on one subscription. jetstream's own PublishAsync has a
// future with two channels, a timer and a parsed document for each, which is half of what
// publishing an event costs.
type publisher struct {
	nc      *nats.Conn
	timeout time.Duration // without any acknowledgement
	sub     *nats.Subscription
	prefix  string         // of the reply subjects; what follows is the number of the message
	answers chan *nats.Msg // to any message
	status  chan nats.Status
	last    uint64 // number of the message that was sent last
}

// window is how many messages may be without an acknowledgement. nats-server
// refuses messages when 10,000 wait before a stream.
const window = 1024

func newPublisher(nc *nats.Conn, ackTimeout time.Duration) (*publisher, error) {
	p := &publisher{nc: nc, timeout: ackTimeout, prefix: nc.NewInbox() + ".", answers: make(chan *nats.Msg, 2*window)}
	var err error
	if p.sub, err = nc.ChanSubscribe(p.prefix+"*", p.answers); err != nil {
		return nil, fmt.Errorf("subscribe to acknowledgements: %w", err)
	}
	p.status = nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	return p, nil
}

func (p *publisher) close() {
	_ = p.sub.Unsubscribe() // fails on a closed connection only
	p.nc.RemoveStatusListener(p.status)
}

// send publishes what is not acknowledged yet and waits for all of it. On an
// error nothing more is sent; what was acknowledged says so. When a message
// fails, those behind it may be in the stream already: a catalog must have only
// one in a call.
func (p *publisher) send(ctx context.Context, msgs []*message) error {
	p.forget()
	// A client that is not connected keeps what it is given and sends it later:
	// many repetitions of the same.
	if status := p.nc.Status(); status != nats.CONNECTED {
		return fmt.Errorf("publish events: NATS is %v: %w", status, nats.ErrDisconnected)
	}
	w := &wave{base: p.last}
	for _, m := range msgs {
		if m.acked {
			continue
		}
		for w.open >= window && w.err == nil {
			p.land(ctx, w)
		}
		if w.err != nil {
			break
		}
		p.last++
		m.msg.Reply = p.prefix + strconv.FormatUint(p.last, 10)
		if err := p.nc.PublishMsg(m.msg); err != nil {
			w.fail(m, err)
			break
		}
		w.sent = append(w.sent, m)
		w.open++
	}
	for w.open > 0 {
		p.land(ctx, w)
	}
	return w.err
}

// wave is what one call sends.
type wave struct {
	base uint64     // the number of the message before the first
	sent []*message // by number; nil: answered
	open int        // of them not answered
	err  error      // the first
}

func (w *wave) fail(m *message, err error) {
	if w.err == nil {
		w.err = fmt.Errorf("publish %s: %w", m.msg.Subject, hinted(err))
	}
}

// land takes one answer of the wave's, or gives all up that are open. What is nobody's
// does not make it wait for longer.
func (p *publisher) land(ctx context.Context, w *wave) {
	select {
	case answer := <-p.answers:
		if p.take(answer, w) {
			return
		}
	default:
	}
	quiet := time.NewTimer(p.timeout)
	defer quiet.Stop()
	var err error
	for err == nil {
		select {
		case answer := <-p.answers:
			if p.take(answer, w) {
				return
			}
		case <-p.status: // the answers are lost with the connection
			err = nats.ErrDisconnected
		case <-quiet.C:
			err = jetstream.ErrAsyncPublishTimeout
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	for _, m := range w.sent {
		if m != nil {
			w.fail(m, err)
			break
		}
	}
	w.open = 0
}

// take gives an answer to its message. One of an earlier wave, or a second one, is
// nobody's: false.
func (p *publisher) take(answer *nats.Msg, w *wave) bool {
	n, err := strconv.ParseUint(strings.TrimPrefix(answer.Subject, p.prefix), 10, 64)
	if err != nil || n <= w.base || n-w.base > uint64(len(w.sent)) || w.sent[n-w.base-1] == nil {
		return false
	}
	m := w.sent[n-w.base-1]
	w.sent[n-w.base-1] = nil
	w.open--
	if err := m.read(answer); err != nil {
		w.fail(m, err)
		return true
	}
	m.acked = true
	return true
}

// forget drops what came since the last wave: late answers, and connections lost
// that nobody waited for.
func (p *publisher) forget() {
	for {
		select {
		case <-p.answers:
		case _, ok := <-p.status:
			if !ok {
				return
			}
		default:
			return
		}
	}
}

// hinted adds the next step to an error that says that no stream listens.
func hinted(err error) error {
	if errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders) {
		return fmt.Errorf("%w (%w)", ErrNotApplied, err)
	}
	return err
}
