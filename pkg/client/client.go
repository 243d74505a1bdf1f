// Package client is a lake over NATS, with the methods of the engine: what runs
// on one runs on the other.
//
//	l, err := client.Connect("nats://127.0.0.1:4222")
//	res, err := l.Write(ctx, engine.WriteRequest{Catalog: "users", Path: "/profile", Body: []byte(`{"name":"Alice"}`)})
//	doc, err := engine.ReadMap(ctx, l.List(ctx, "users"))
//
// Errors are those of the serving side: an *engine.Problem, for which errors.Is
// holds with the engine's sentinels and engine.Code gives the same status. When
// nobody serves a request it is engine.ErrUnavailable at once; when nobody
// answers a write in time it is engine.ErrUnknown.
//
// The deadline of a context goes along with the request. A Client is safe for
// concurrent use. Bytes handed in or out are the caller's alone.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/events"
)

// Client is a lake over NATS.
type Client struct {
	nc       *nats.Conn
	js       jetstream.JetStream
	subjects events.Subjects
	timeout  time.Duration
	own      bool // nc was made here

	status chan nats.Status
	done   chan struct{} // closed when watch has ended
	mu     sync.Mutex
	link   context.Context // ends when the connection is lost
	lost   context.CancelFunc
}

// Option of a Client.
type Option func(*options)

type options struct {
	subjects events.Subjects
	timeout  time.Duration
	inbox    string
	nats     []nats.Option
}

// WithPrefix sets the first token of the lake's subjects; default "lake".
func WithPrefix(prefix string) Option {
	return func(o *options) { o.subjects = events.Subjects{Prefix: prefix} }
}

// WithTimeout bounds requests whose context has no deadline; default 10 s.
func WithTimeout(d time.Duration) Option { return func(o *options) { o.timeout = d } }

// WithInboxPrefix sets the prefix of the subjects on which answers come back,
// such as "_INBOX_alice": with permissions on it nobody else in the account can
// read them. It is for Connect; of a connection of your own it is
// nats.CustomInboxPrefix.
func WithInboxPrefix(prefix string) Option { return func(o *options) { o.inbox = prefix } }

// WithNATS adds options of the connection: credentials, TLS, handlers. It is
// for Connect.
func WithNATS(opts ...nats.Option) Option {
	return func(o *options) { o.nats = append(o.nats, opts...) }
}

// Connect connects to NATS servers, a comma-separated list of URLs. The
// connection goes on trying for ever when it is lost; requests fail at once
// meanwhile. Close it.
func Connect(url string, opts ...Option) (*Client, error) {
	o, err := collect(opts)
	if err != nil {
		return nil, err
	}
	all := []nats.Option{
		nats.Name("lake client"), nats.MaxReconnects(-1), nats.ReconnectWait(500 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, time.Second),
		// What is published while the server is away must fail, not wait: a write
		// that comes minutes late is worse than an error.
		nats.ReconnectBufSize(-1),
	}
	if o.inbox != "" {
		all = append(all, nats.CustomInboxPrefix(o.inbox))
	}
	nc, err := nats.Connect(url, append(all, o.nats...)...)
	if err != nil {
		return nil, fmt.Errorf("%w: connect to %s: %w", engine.ErrUnavailable, url, err)
	}
	c, err := newClient(nc, o)
	if err != nil {
		nc.Close()
		return nil, err
	}
	c.own = true
	return c, nil
}

// New makes a client on a connection of the caller's, which stays the caller's
// to close. Set nats.ReconnectBufSize(-1) on it, lest writes are kept while the
// server is away and arrive when nobody expects them any more.
func New(nc *nats.Conn, opts ...Option) (*Client, error) {
	o, err := collect(opts)
	if err != nil {
		return nil, err
	}
	if o.inbox != "" || o.nats != nil {
		return nil, errors.New("options of a connection have no effect on one that is there: give them to nats.Connect, or use client.Connect")
	}
	return newClient(nc, o)
}

func collect(opts []Option) (*options, error) {
	o := &options{timeout: 10 * time.Second}
	for _, opt := range opts {
		opt(o)
	}
	if o.timeout <= 0 {
		return nil, fmt.Errorf("a timeout of %v leaves no time: give a positive one", o.timeout)
	}
	return o, o.subjects.Validate()
}

func newClient(nc *nats.Conn, o *options) (*Client, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	c := &Client{nc: nc, js: js, subjects: o.subjects, timeout: o.timeout, done: make(chan struct{})}
	c.link, c.lost = context.WithCancel(context.Background())
	c.status = nc.StatusChanged(nats.DISCONNECTED, nats.RECONNECTING, nats.CLOSED)
	go c.watchLink()
	return c, nil
}

// watchLink ends the requests that are under way when the connection is lost.
// Their answers are lost with it, and NATS itself does not tell.
func (c *Client) watchLink() {
	defer close(c.done)
	for s := range c.status {
		c.mu.Lock()
		c.lost()
		if s != nats.CLOSED {
			c.link, c.lost = context.WithCancel(context.Background())
		}
		c.mu.Unlock()
		if s == nats.CLOSED {
			return
		}
	}
}

func (c *Client) currentLink() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link
}

// Close ends the client, and closes the connection if Connect made it. Requests
// that are under way fail. It may be called more than once.
func (c *Client) Close() {
	if c.own {
		c.nc.Close()
	}
	c.nc.RemoveStatusListener(c.status)
	<-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost()
}

// maxTimeout is the longest that a service works on a request.
const maxTimeout = time.Minute

// timeoutMargin is how much earlier than the caller the service gives up, so
// that its answer, which knows more, still comes in time: a tenth of the time
// left, between these two.
const (
	minMargin = 2 * time.Millisecond
	maxMargin = 100 * time.Millisecond
)

// ask sends a request and gives the answer; of an error the answer too, for its
// headers. write says that the request changes something.
func (c *Client) ask(ctx context.Context, subject string, header nats.Header, body []byte, write bool) (*nats.Msg, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("nothing was sent: %w", err)
	}
	link := c.currentLink()
	if link.Err() != nil {
		return nil, fmt.Errorf("%w: the client is closed; nothing was sent", engine.ErrUnavailable)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(link, func() { cancel(errLost) })()
	if header == nil {
		header = nats.Header{}
	}
	deadline, _ := ctx.Deadline()
	header[events.HeaderTimeout] = []string{strconv.FormatInt(budget(time.Until(deadline)).Milliseconds(), 10)}
	if status := c.nc.Status(); status != nats.CONNECTED {
		return nil, fmt.Errorf("%w: the connection to NATS is %s; nothing was sent", engine.ErrUnavailable, status)
	}
	msg, err := c.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: subject, Header: header, Data: body})
	if err != nil {
		return nil, c.failed(ctx, err, write)
	}
	return msg, problemOf(msg)
}

// budget is what a service is told of the time left.
func budget(left time.Duration) time.Duration {
	left -= min(max(left/10, minMargin), maxMargin)
	return min(max(left, time.Millisecond), maxTimeout)
}

var errLost = errors.New("the connection to NATS was lost")

// failed explains why there is no answer.
func (c *Client) failed(ctx context.Context, err error, write bool) error {
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%w: no service answers here; is the lake's service running, on this NATS account and with this subject prefix? (%w)", engine.ErrUnavailable, err)
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("%w: over the server's max_payload of %d bytes; nothing was sent", engine.ErrTooLarge, c.nc.MaxPayload())
	case errors.Is(err, nats.ErrReconnectBufExceeded):
		return fmt.Errorf("%w: the connection to NATS was lost; nothing was sent: %w", engine.ErrUnavailable, err)
	case errors.Is(context.Cause(ctx), errLost):
		err = errLost
	}
	switch {
	case write:
		return fmt.Errorf("%w: no answer came; the write may have been committed, or may yet be: %w", engine.ErrUnknown, err)
	case ctx.Err() != nil && !errors.Is(err, errLost):
		return fmt.Errorf("no answer came: %w", err)
	default:
		return fmt.Errorf("%w: no answer came: %w", engine.ErrUnavailable, err)
	}
}

// problemOf is the error that a message tells of, nil if it tells of none.
func problemOf(m *nats.Msg) error {
	code := m.Header.Get(events.HeaderErrorCode)
	if code == "" {
		return nil
	}
	status, err := strconv.Atoi(code)
	if err != nil || status < 400 || status > 599 {
		status = http.StatusInternalServerError
	}
	var p engine.Problem
	if json.Unmarshal(m.Data, &p) != nil || p.Status != status || p.Code == "" {
		// Not the lake's own: something between answered.
		p = engine.Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: codeOf(status), Detail: m.Header.Get(events.HeaderError)}
	}
	if p.Code == "deadline" {
		return &deadlineError{&p}
	}
	return &p
}

// codeOf is the code of a status without a problem.
func codeOf(status int) string {
	switch status {
	case http.StatusBadRequest:
		return "invalid"
	case http.StatusNotFound:
		return "not_found"
	case http.StatusRequestEntityTooLarge:
		return "too_large"
	case http.StatusTooManyRequests:
		return "busy"
	case http.StatusInternalServerError:
		return "internal"
	case http.StatusServiceUnavailable:
		return "unavailable"
	case http.StatusGatewayTimeout:
		return "deadline"
	default:
		return fmt.Sprintf("http_%d", status)
	}
}

// deadlineError is the problem of a request whose time ran out at the service:
// for the caller the same as a deadline of its own.
type deadlineError struct{ *engine.Problem }

func (e *deadlineError) Is(target error) bool { return target == context.DeadlineExceeded }

func (e *deadlineError) Unwrap() error { return e.Problem }
