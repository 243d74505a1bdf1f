package events

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jsonlake/lake/internal/testenv"
)

// What a stream may answer to a message.
func TestAcknowledgements(t *testing.T) {
	t.Parallel()
	m := &message{msg: &nats.Msg{Subject: "lake.v1.event.dQ.committed"}, stream: "LAKE_EVENTS"}
	var api *jetstream.APIError
	for _, c := range []struct {
		data  string
		plain bool
		want  func(err error) bool
	}{
		{`{"stream":"LAKE_EVENTS","seq":1}`, true, func(err error) bool { return err == nil }},
		{`{"stream":"LAKE_EVENTS","seq":18446744073709551615}`, true, func(err error) bool { return err == nil }},
		{`{"stream":"LAKE_EVENTS","seq":7,"duplicate": true}`, false, func(err error) bool { return err == nil }},
		{`{"stream":"LAKE_EVENTS","domain":"hub","seq":7}`, false, func(err error) bool { return err == nil }},
		{`{"stream":"LAKE_EVENTS2","seq":7}`, false, func(err error) bool {
			return err != nil && strings.Contains(err.Error(), "stream LAKE_EVENTS2, not LAKE_EVENTS")
		}},
		{`{"stream":"LAKE","seq":7}`, false, func(err error) bool {
			return err != nil && strings.Contains(err.Error(), "stream LAKE, not LAKE_EVENTS")
		}},
		{`{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"LAKE_EVENTS","seq":0}`, false, func(err error) bool { return errors.As(err, &api) && api.ErrorCode == 10077 }},
		{`{"stream":"LAKE_EVENTS","seq":}`, false, invalidAck},
		{`{"stream":"LAKE_EVENTS","seq":1x}`, false, invalidAck},
		{`{"stream":"LAKE_EVENTS","seq":1`, false, invalidAck},
		{`{"seq":1}`, false, invalidAck},
		{`{}`, false, invalidAck},
		{`[]`, false, invalidAck},
		{`+OK`, false, invalidAck},
		{``, false, invalidAck},
	} {
		if got := plainAck([]byte(c.data), m.stream); got != c.plain {
			t.Errorf("%s: plain %v", c.data, got)
		}
		if err := m.read(&nats.Msg{Data: []byte(c.data)}); !c.want(err) {
			t.Errorf("%s: %v", c.data, err)
		}
	}
	nobody := &nats.Msg{Header: nats.Header{"Status": {"503"}}}
	if err := m.read(nobody); !errors.Is(err, jetstream.ErrNoStreamResponse) || !errors.Is(hinted(err), ErrNotApplied) {
		t.Errorf("nobody listens: %v", err)
	}
}

func invalidAck(err error) bool { return errors.Is(err, jetstream.ErrInvalidJSAck) }

// stand answers to messages as a stream would, when told to.
func stand(t *testing.T, nc *nats.Conn, subject string, answer func(m *nats.Msg)) {
	t.Helper()
	if _, err := nc.Subscribe(subject, answer); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

func messages(n int) []*message {
	all := make([]*message, n)
	for i := range all {
		all[i] = &message{stream: "S", msg: &nats.Msg{Subject: fmt.Sprintf("stand.%d", i), Data: []byte("x")}}
	}
	return all
}

const standAck = `{"stream":"S","seq":1}`

// More messages than may be without an acknowledgement; one of them is refused, the others
// say so; repeated, only that one is sent.
func TestPublisherSendsWhatIsNotAcknowledged(t *testing.T) {
	t.Parallel()
	nc := connect(t, testenv.NATS(t).URL).Conn()
	p, err := newPublisher(nc, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	const n = 3*window + 17
	refused := fmt.Sprintf("stand.%d", n-1)
	var heard, refuses atomic.Int64
	refuses.Store(1)
	stand(t, connect(t, nc.ConnectedUrl()).Conn(), "stand.*", func(m *nats.Msg) {
		n := heard.Add(1)
		answer := standAck
		if m.Subject == refused && refuses.Add(-1) == 0 {
			answer = `{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},"stream":"S","seq":0}`
		}
		_ = m.Respond([]byte(answer))
		if n <= 100 {
			_ = m.Respond([]byte(answer)) // a second answer counts for nothing
		}
	})
	msgs := messages(n)
	var api *jetstream.APIError
	if err := p.send(contextFor(t), msgs); !errors.As(err, &api) || !strings.Contains(err.Error(), refused) {
		t.Fatalf("got %v, want the refusal of %s", err, refused)
	}
	for i, m := range msgs {
		if m.acked != (i < n-1) {
			t.Fatalf("message %d of %d: acknowledged %v", i, n, m.acked)
		}
	}
	if err := p.send(contextFor(t), msgs); err != nil {
		t.Fatal(err)
	}
	if heard.Load() != n+1 {
		t.Errorf("%d messages were sent, want %d", heard.Load(), n+1)
	}
}

// An answer that comes after its message was given up is not taken for that of a
// later one.
func TestPublisherLateAnswers(t *testing.T) {
	t.Parallel()
	nc := connect(t, testenv.NATS(t).URL).Conn()
	p, err := newPublisher(nc, 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	other := connect(t, nc.ConnectedUrl()).Conn()
	var late []*nats.Msg
	held := make(chan *nats.Msg, 16)
	stand(t, other, "stand.*", func(m *nats.Msg) { held <- m })
	msgs := messages(3)
	for range 2 {
		if err := p.send(contextFor(t), msgs); !errors.Is(err, jetstream.ErrAsyncPublishTimeout) {
			t.Fatalf("got %v, want a timeout", err)
		}
		for range msgs {
			late = append(late, <-held)
		}
	}
	p.timeout = patience
	ended := make(chan error, 1)
	go func() { ended <- p.send(contextFor(t), msgs) }()
	var now []*nats.Msg
	for range msgs {
		now = append(now, <-held)
	}
	for _, m := range append(late, now[:2]...) {
		if err := m.Respond([]byte(standAck)); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.Flush(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		t.Fatalf("ended with %v before the last message was answered", err)
	case <-time.After(100 * time.Millisecond):
	}
	if err := now[2].Respond([]byte(standAck)); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// Answers that are nobody's, however many, do not keep a message from being given up.
func TestPublisherStrayAnswers(t *testing.T) {
	t.Parallel()
	nc := connect(t, testenv.NATS(t).URL).Conn()
	p, err := newPublisher(nc, 200*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	other := connect(t, nc.ConnectedUrl()).Conn()
	stand(t, other, "stand.*", func(*nats.Msg) {}) // who never answers
	ctx, cancel := context.WithTimeout(contextFor(t), patience)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- p.send(ctx, messages(1)) }()
	for {
		select {
		case err := <-ended:
			if !errors.Is(err, jetstream.ErrAsyncPublishTimeout) {
				t.Fatalf("got %v, want a timeout", err)
			}
			return
		case <-ctx.Done():
			t.Fatal("the message was never given up")
		default:
			if err := other.Publish(p.prefix+"999", []byte(standAck)); err != nil {
				t.Fatal(err)
			}
			if err := other.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Answers are lost with a connection: nobody waits for them until the timeout. Nor for
// longer than the caller's context.
func TestPublisherConnectionLost(t *testing.T) {
	t.Parallel()
	srv := testenv.NATS(t)
	line := newWire(t, strings.TrimPrefix(srv.URL, "nats://"))
	p, err := newPublisher(connect(t, line.url()).Conn(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	heard := make(chan struct{}, 16)
	stand(t, connect(t, srv.URL).Conn(), "stand.*", func(*nats.Msg) { heard <- struct{}{} })
	ctx, cancel := context.WithCancel(contextFor(t))
	ended := make(chan error, 1)
	go func() { ended <- p.send(ctx, messages(1)) }()
	<-heard
	line.cut()
	if err := <-ended; !errors.Is(err, nats.ErrDisconnected) {
		t.Fatalf("got %v, want %v", err, nats.ErrDisconnected)
	}
	testenv.WaitFor(t, patience, p.nc.IsConnected)
	go func() { ended <- p.send(ctx, messages(1)) }()
	<-heard
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want %v", err, context.Canceled)
	}
}
