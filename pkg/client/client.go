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
// The deadline of a context goes along with the request. A context with a trace
// (trace.WithTrace) asks the service for its steps, and is given a last one, Wire:
// what the way there and back took. A Client is safe for
// concurrent use. Bytes handed in or out are the caller's alone.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/semaphore"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/trace"
	"github.com/jsonlake/lake/pkg/events"
)

// Client is a lake over NATS.
type Client struct {
	nc       *nats.Conn
	subjects events.Subjects
	timeout  time.Duration
	own      bool // nc was made here
	compress bool
	wire     *semaphore.Weighted
	coalesce *coalescer // nil: every write is a request of its own
	feed     *events.Feed

	inbox  inbox
	status chan nats.Status
	done   chan struct{} // closed when watchLink has ended
}

// Option of a Client.
type Option func(*options)

type options struct {
	subjects events.Subjects
	timeout  time.Duration
	inbox    string
	nats     []nats.Option
	compress bool
	alone    bool
}

// WithPrefix sets the first token of the lake's subjects; default "lake".
func WithPrefix(prefix string) Option {
	return func(o *options) { o.subjects = events.Subjects{Prefix: prefix} }
}

// defaultTimeout is also what a service gives a request that brings no time.
const defaultTimeout = 10 * time.Second

// WithTimeout bounds requests whose context has no deadline; default 10 s.
func WithTimeout(d time.Duration) Option { return func(o *options) { o.timeout = d } }

// WithoutCoalescing makes every Write a request of its own. By default writes to
// one catalog that come while one is under way are sent together.
func WithoutCoalescing() Option { return func(o *options) { o.alone = true } }

// WithCompression compresses batches with s2: for networks that are slower than
// about 500 MB/s.
func WithCompression() Option { return func(o *options) { o.compress = true } }

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
		events.WriteTogether,
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
// server is away and arrive when nobody expects them any more; and
// events.WriteTogether, if many requests are under way at once.
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
	o := &options{timeout: defaultTimeout}
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
	c := &Client{nc: nc, subjects: o.subjects, timeout: o.timeout, compress: o.compress, inbox: inbox{nc: nc}, wire: semaphore.NewWeighted(maxWire), done: make(chan struct{})}
	if !o.alone {
		c.coalesce = newCoalescer(c)
	}
	c.feed = events.NewFeed(js, c, o.subjects)
	// Of a connection that drains, answers do not come in any more.
	c.status = nc.StatusChanged(nats.DISCONNECTED, nats.RECONNECTING, nats.DRAINING_SUBS, nats.CLOSED)
	go c.watchLink()
	return c, nil
}

// watchLink ends the requests that are under way when the connection is lost.
func (c *Client) watchLink() {
	defer close(c.done)
	for s := range c.status {
		c.inbox.lose(s == nats.CLOSED)
		if s == nats.CLOSED {
			return
		}
	}
}

// Close ends the client, and closes the connection if Connect made it. Requests
// that are under way fail. It may be called more than once.
func (c *Client) Close() {
	if c.own {
		c.nc.Close()
	}
	c.nc.RemoveStatusListener(c.status)
	<-c.done
	c.inbox.close()
	if c.coalesce != nil {
		c.coalesce.close()
	}
}

// maxTimeout is the longest that a service works on a request.
const maxTimeout = time.Minute

// minMargin and maxMargin bound how much earlier than the caller the service gives
// up, so that its answer, which knows more, still comes in time: a tenth of the
// time left.
const (
	minMargin = 2 * time.Millisecond
	maxMargin = 100 * time.Millisecond
)

// manner is what a request is to a service.
type manner int

const (
	query  manner = iota // changes nothing
	read                 // the same, and mostly answered at once
	change               // may change something
)

// ask sends a request and gives the answer; of an error the answer too, for its
// headers.
func (c *Client) ask(ctx context.Context, subject string, header nats.Header, body []byte, what manner) (*nats.Msg, error) {
	deadline, bounded := ctx.Deadline()
	left := c.timeout
	if bounded {
		left = time.Until(deadline)
	}
	err := ctx.Err()
	if err == nil && left <= 0 { // its timer is late
		err = context.DeadlineExceeded
	}
	if err != nil {
		return nil, fmt.Errorf("nothing was sent: %w", err)
	}
	if size := min(int64(len(body)), maxWire); size >= smallBody {
		if !c.wire.TryAcquire(size) {
			begin := time.Now()
			wctx, cancel := context.WithTimeout(ctx, left)
			err := c.wire.Acquire(wctx, size)
			cancel()
			if err != nil {
				return nil, fmt.Errorf("%w: %d bytes of requests are not answered yet; nothing was sent: %w", engine.ErrBusy, maxWire, err)
			}
			left -= time.Since(begin)
		}
		defer c.wire.Release(size)
	}
	t := trace.FromContext(ctx)
	begin := t.Now()
	// Most requests are not told a time, and travel without a header: it costs both sides
	// and the server. The service takes its default, and is waited for. A read with at least
	// twice as much time has no less left than that when it has to be asked for again.
	untold := header[events.HeaderMinVersion] == nil && t == nil &&
		(!bounded && left == defaultTimeout || bounded && what == read && left >= 2*defaultTimeout)
	if untold {
		left += maxMargin // only where ctx is not the bound
	} else {
		if header == nil {
			header = nats.Header{}
		}
		header[events.HeaderTimeout] = []string{strconv.FormatInt(budget(left).Milliseconds(), 10)}
	}
	if t != nil {
		header[events.HeaderTrace] = []string{"1"}
	}
	id, reply, w, err := c.inbox.expect()
	if err != nil {
		return nil, err
	}
	// Looked at after the request is in the inbox: what breaks from now on ends it.
	if status := c.nc.Status(); status != nats.CONNECTED {
		c.inbox.forget(id, w)
		return nil, fmt.Errorf("%w: the connection to NATS is %s; nothing was sent", engine.ErrUnavailable, status)
	}
	if err = c.nc.PublishMsg(&nats.Msg{Subject: subject, Reply: reply, Header: header, Data: body}); err != nil {
		c.inbox.forget(id, w)
		return nil, c.failed(err, what == change)
	}
	msg, err := c.inbox.wait(ctx, id, w, left)
	if err != nil {
		return nil, c.failed(err, what == change)
	}
	if t != nil {
		there := t.AddServerTiming(msg.Header.Get(events.HeaderServerTiming))
		t.Add("Wire", max(0, time.Since(begin)-there)).Str("subject", subject)
	}
	if err = problemOf(msg); err != nil && untold && bounded && isLate(err) && time.Until(deadline) > maxMargin {
		return c.ask(ctx, subject, header, body, query) // it needs more than the default, and there is more
	}
	return msg, err
}

var errClosed = fmt.Errorf("%w: the client is closed; nothing was sent", engine.ErrUnavailable)

// maxWire bounds the bodies of a client's requests that are not answered yet, bytes;
// what is over it waits. It is half of what may wait for a subscriber before
// nats-server, as it comes, takes it for slow and cuts its connection.
const (
	maxWire   = 32 << 20
	smallBody = 1 << 10 // below it a body is not counted
)

// budget is what a service is told of the time left.
func budget(left time.Duration) time.Duration {
	left -= min(max(left/10, minMargin), maxMargin)
	return min(max(left, time.Millisecond), maxTimeout)
}

var errLost = errors.New("the connection to NATS was lost")

// failed explains why there is no answer.
func (c *Client) failed(err error, write bool) error {
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%w: no service answers here; is the lake's service running, on this NATS account and with this subject prefix? (%w)", engine.ErrUnavailable, err)
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("%w: over the server's max_payload of %d bytes; nothing was sent", engine.ErrTooLarge, c.nc.MaxPayload())
	case errors.Is(err, nats.ErrReconnectBufExceeded):
		return fmt.Errorf("%w: the connection to NATS was lost; nothing was sent: %w", engine.ErrUnavailable, err)
	case write:
		return fmt.Errorf("%w: no answer came; the write may have been committed, or may yet be: %w", engine.ErrUnknown, err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
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

// isLate tells whether a service's time ran out.
func isLate(err error) bool {
	var late *deadlineError
	return errors.As(err, &late)
}
