package service

import (
	"context"
	"fmt"
	"maps"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/jsonlake/lake/internal/telemetry"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/trace"
	"github.com/jsonlake/lake/pkg/events"
)

// endpoint is one kind of request.
type endpoint struct {
	name    string
	subject string   // pattern
	headers []string // Lake-* headers that a request may have, beside those of supported
	// pure: a request changes nothing, so that one without a reply subject is not
	// worth doing.
	pure     bool
	request  string // JSON Schema of the body; "" when there is none
	response string // JSON Schema of the answer
	handle   func(ctx context.Context, r *request) (*reply, error)
	// soon, where there is one, may answer a request without a worker: unless it
	// is false it calls answer once, from any goroutine. A done that is false leaves
	// the request to handle. The reply's body is not kept.
	soon     func(r *request, answer func(rep *reply, err error, done bool)) bool
	soonBody int // largest body of a request that is given to soon, bytes

	door    *door
	metrics *telemetry.Endpoint

	answered, failed, refused, inFlight, nanos atomic.Int64
}

// request is what a handler needs of a message.
type request struct {
	endpoint *endpoint
	subject  string
	catalog  string // "" until decoded, and where the subject has none
	reply    string // "": nobody waits
	header   nats.Header
	body     []byte
	arrived  time.Time
	deadline time.Time // for soon
}

// reply is an answer.
type reply struct {
	header nats.Header // perhaps other replies' too: only who made it writes to it
	body   []byte
}

// receive admits a request or refuses it. micro calls it for one message at a
// time, so it must return at once.
//
// The request's parts are taken out of micro's own, which is not for use
// outside of this call; they are of this message alone and nobody writes to
// them any more.
func (e *endpoint) receive(m micro.Request) {
	r := &request{endpoint: e, subject: m.Subject(), reply: m.Reply(), header: nats.Header(m.Headers()), body: m.Data(), arrived: time.Now()}
	if err := e.admit(r); err != nil {
		e.refused.Add(1)
		e.finish(r, nil, err)
	}
}

// soonTimeout is the least time that a request must have for an answer without a
// worker: nobody watches its deadline here.
const soonTimeout = 5 * time.Second

// trySoon has an admitted request answered without a worker, now or in its turn, if it
// is of the kind and nothing is wrong with it. How many are under way, and how many may
// wait, the door says (turns).
func (e *endpoint) trySoon(r *request) bool {
	d := e.door
	if r.header[events.HeaderTrace] != nil || len(r.body) > e.soonBody || r.reply == "" || r.checkReply() != nil || r.checkHeaders() != nil {
		return false
	}
	timeout, err := r.timeout()
	if err != nil || timeout < soonTimeout {
		return false
	}
	if r.catalog, err = d.Subjects.Catalog(r.subject); err != nil {
		return false
	}
	r.deadline = r.arrived.Add(timeout)
	begins, waits := d.turns.join(r)
	if begins && !e.answerSoon(r) {
		d.turns.open.Done()
		d.nextTurn()
		return false
	}
	return begins || waits
}

// answerSoon has a request answered whose turn it is; false: it needs a worker.
func (e *endpoint) answerSoon(r *request) bool {
	return e.soon(r, func(rep *reply, err error, done bool) {
		if done {
			if err != nil && time.Now().Before(r.deadline) {
				err = inTime(err)
			}
			e.leave(r)
			e.finish(r, rep, err)
		} else {
			e.giveWorker(r)
		}
		e.door.turns.open.Done()
		e.door.nextTurn()
	})
}

// nextTurn ends a turn and begins the next.
func (d *door) nextTurn() {
	for r := d.turns.next(); r != nil; r = d.turns.next() {
		e := r.endpoint
		switch {
		case !time.Now().Before(r.deadline):
			e.leave(r)
			e.finish(r, nil, errTurn)
		case e.answerSoon(r):
			return
		default:
			e.giveWorker(r)
		}
		d.turns.open.Done()
	}
}

// giveWorker gives a request that was admitted long ago to the workers.
func (e *endpoint) giveWorker(r *request) {
	if err := e.enqueue(r); err != nil {
		e.refused.Add(1)
		e.finish(r, nil, err)
	}
}

var errTurn = fmt.Errorf("%w: the request did not get its turn before its deadline; nothing was done", engine.ErrUnavailable)

// serve works on an admitted request.
func (e *endpoint) serve(r *request) (rep *reply, err error) {
	defer func() {
		if p := recover(); p != nil {
			rep, err = nil, fmt.Errorf("the handler of %s panicked: %v\n%s", e.name, p, debug.Stack())
		}
	}()
	if err := r.checkReply(); err != nil {
		return nil, err
	}
	if err := r.checkHeaders(); err != nil {
		return nil, err
	}
	timeout, err := r.timeout()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithDeadline(e.door.requests, r.arrived.Add(timeout))
	defer cancel()
	if strings.HasSuffix(e.subject, "*") {
		if r.catalog, err = e.door.Subjects.Catalog(r.subject); err != nil {
			return nil, err
		}
	}
	if e.pure && r.reply == "" {
		return nil, engine.Invalid("no_reply", "reply", "a %s without a reply subject asks for nothing: send it as a request", e.name)
	}
	if ctx.Err() != nil {
		return nil, errTurn
	}
	if ctx, err = r.traced(ctx); err != nil {
		return nil, err
	}
	rep, err = e.handle(ctx, r)
	if timing := trace.FromContext(ctx).ServerTiming(); timing != "" {
		timed := &reply{header: nats.Header{events.HeaderServerTiming: {cut(timing, maxTiming)}}}
		if rep != nil {
			maps.Copy(timed.header, rep.header)
			timed.body = rep.body
		}
		rep = timed
	}
	if ctx.Err() == nil {
		err = inTime(err)
	}
	return rep, err
}

// inTime is the error of a request whose own time has not run out: a deadline was
// that of something it needs.
func inTime(err error) error {
	if err != nil && engine.Code(err).Code == "deadline" {
		return fmt.Errorf("%w: %w", engine.ErrUnavailable, err)
	}
	return err
}

// finish answers a request and counts it.
func (e *endpoint) finish(r *request, rep *reply, err error) {
	status := 200
	if no, ok := err.(*refusal); ok { //nolint:errorlint // admission returns it bare
		status, rep = no.Status, no.reply
		e.log(r, no.Problem, err)
	} else if err != nil {
		p := problem(err, r.catalog)
		status = p.Status
		rep = problemReply(rep, p)
		e.log(r, p, err)
	}
	if r.reply != "" && r.checkReply() == nil {
		perr := e.door.NATS.PublishMsg(&nats.Msg{Subject: r.reply, Header: rep.header, Data: rep.body})
		if perr != nil {
			e.metrics.ReplyFailed()
			e.door.Log.Debug().Str("endpoint", e.name).Err(perr).Msg("reply not published")
		}
	}
	took := time.Since(r.arrived)
	e.answered.Add(1)
	e.nanos.Add(int64(took))
	if err != nil {
		e.failed.Add(1)
	}
	e.metrics.Done(status, r.reply != "", took, len(r.body), len(rep.body))
}

// log tells of errors: of our own faults as errors, of everything else at debug.
func (e *endpoint) log(r *request, p *engine.Problem, err error) {
	event := e.door.Log.Debug()
	if p.Status == 500 {
		event = e.door.faults.Error()
	}
	event.Str("endpoint", e.name).Str("catalog", r.catalog).Int("status", p.Status).Str("code", p.Code).
		Bool("answered", r.reply != "").Dur("took", time.Since(r.arrived)).Err(err).Msg("request failed")
}

// checkReply refuses to answer where the answer would be a request itself. The
// service may publish what the asker may not: with the reply subject
// lake.v1.write.(other a read would become a write to another's catalog.
func (r *request) checkReply() error {
	prefix := r.endpoint.door.Subjects.Prefix
	if prefix == "" {
		prefix = events.DefaultPrefix
	}
	if strings.HasPrefix(r.reply, "$") || strings.HasPrefix(r.reply, prefix+".") {
		return engine.Invalid("invalid_reply", "reply", "the reply subject %q is not an inbox", r.reply)
	}
	return nil
}

// checkHeaders refuses what the endpoint does not know: a condition that is
// misspelt, or not built yet, must not be taken for none.
func (r *request) checkHeaders() error {
	bad := ""
	for name := range r.header {
		if !r.endpoint.allows(name) && (bad == "" || name < bad) {
			bad = name
		}
	}
	if bad == "" {
		return nil
	}
	allowed := r.endpoint.supported()
	if bad == events.HeaderMsgID || events.UnknownHeader(nats.Header{bad: nil}) == "" {
		return engine.Invalid("unknown_header", bad, "header %s is not supported by %s in this version of Lake: leave it out (supported: %s)", bad, r.endpoint.name, allowed)
	}
	return engine.Invalid("unknown_header", bad, "header %.100q is unknown; names are case-sensitive (supported by %s: %s)", bad, r.endpoint.name, allowed)
}

// supported lists the headers that an endpoint knows.
func (e *endpoint) supported() string {
	return strings.Join(append([]string{events.HeaderTimeout, events.HeaderTrace}, e.headers...), ", ")
}

// traced begins a trace of a request that asks for one, under the endpoint's
// name: "Read".
func (r *request) traced(ctx context.Context) (context.Context, error) {
	v, given, err := r.value(events.HeaderTrace)
	switch {
	case err != nil || !given:
		return ctx, err
	case v != "1":
		return ctx, engine.Invalid("invalid_header", events.HeaderTrace, "header %s is 1 or left out, not %.50q", events.HeaderTrace, v)
	}
	name := r.endpoint.name
	return trace.WithTrace(ctx, strings.ToUpper(name[:1])+name[1:]), nil
}

func (e *endpoint) allows(header string) bool {
	switch {
	case header == events.HeaderMsgID && e.pure: // reading twice is reading once
		return true
	case header == events.HeaderMsgID:
	case len(header) < 5 || !strings.EqualFold(header[:5], "Lake-"), header == events.HeaderTimeout, header == events.HeaderTrace:
		return true
	}
	for _, name := range e.headers {
		if name == header {
			return true
		}
	}
	return false
}

// value is a header that may stand once.
func (r *request) value(name string) (value string, given bool, err error) {
	switch values := r.header[name]; len(values) {
	case 0:
		return "", false, nil
	case 1:
		return values[0], true, nil
	default:
		return "", true, engine.Invalid("invalid_header", name, "header %s is given %d times", name, len(values))
	}
}

// timeout is how long after its arrival the request must be answered.
func (r *request) timeout() (time.Duration, error) {
	d := r.endpoint.door
	s, given, err := r.value(events.HeaderTimeout)
	if err != nil || !given {
		return d.Timeout, err
	}
	ms, err := strconv.ParseUint(s, 10, 32)
	if most := uint64(MaxTimeout.Milliseconds()); err != nil || ms == 0 || ms > most {
		return 0, engine.Invalid("invalid_header", events.HeaderTimeout, "header %s is a number of milliseconds, 1 to %d, not %.50q", events.HeaderTimeout, most, s)
	}
	return time.Duration(ms) * time.Millisecond, nil
}
