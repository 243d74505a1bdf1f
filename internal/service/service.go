// Package service is a lake over NATS: the micro services through which
// requests come in, and the background duties that live by JetStream.
//
//	Ingest       write, outcome                      group lake-ingest
//	Reader       read, log, diff, blame, catalogs    group lake-reader
//	Snapshotter  snapshot, purge, and the jobs       group lake-snapshotter
//	Requeue      jobs for what no event announced
//
// A request's way through a service:
//
//	subscription  one call at a time for an endpoint, so nothing but admission: not
//	              ready → 503, no room → 429, else into the pool
//	pool          headers, deadline, catalog, body → engine → answer on the reply subject;
//	              hot reads and small writes do without: they are answered where index and group commit answer
//
// Whatever is admitted is answered, also when the service stops meanwhile. The
// catalog comes from the subject alone, which is what permissions are about.
package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alitto/pond/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/rs/zerolog"

	"github.com/jsonlake/lake/internal/telemetry"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/events"
)

// Config is what every service needs. The zero value of a field means its
// default.
type Config struct {
	// NATS is the connection to serve on. It should fail fast
	// (ReconnectBufSize -1), have its handlers set already, and outlive the service.
	NATS     *nats.Conn
	Subjects events.Subjects
	// Version of the program, as semantic versioning has it; default "0.0.0".
	Version string
	Metrics *telemetry.Metrics // nil: nobody looks
	Log     zerolog.Logger     // the zero Logger logs nothing

	// Workers is how many requests are worked on at once. Default 1,024 for
	// ingest, whose workers mostly wait for a group commit together; 64 for a
	// reader; 4 for a snapshotter, which is also how many jobs it works on at once.
	Workers int
	// Queue is how many more requests may wait for a worker; default 4 × Workers.
	// What is over it is answered 429.
	Queue int
	// MaxWait is how long the first of those that wait for a worker may have waited
	// when another one comes and as many wait as there are workers; 0: any time.
	// What comes later is answered 429. Default 100 ms for ingest, where writes wait for
	// one another and each costs about as much as the next.
	MaxWait time.Duration
	// MaxPendingBytes bounds the bodies of requests that are admitted and not
	// answered; default 256 MiB. What is over it is answered 429.
	MaxPendingBytes int64
	// MaxBody is the largest body of a write, bytes; default 1 MiB. The server's
	// max_payload bounds it too.
	MaxBody int64
	// Timeout of a request that brings none; default 10 s, at most MaxTimeout.
	Timeout time.Duration
	// DrainTimeout is how long admitted requests may go on after Run's context
	// ended; default 25 s. Then they are cut short and answered.
	DrainTimeout time.Duration
}

// MaxTimeout is the longest that a request may ask for with Lake-Timeout. It is
// no option: clients rely on it.
const MaxTimeout = time.Minute

func (c *Config) setDefaults(workers int) error {
	if c.NATS == nil {
		return errors.New("a service needs a NATS connection")
	}
	if err := c.Subjects.Validate(); err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		v    int64
	}{
		{"Workers", int64(c.Workers)}, {"Queue", int64(c.Queue)}, {"MaxWait", int64(c.MaxWait)}, {"MaxPendingBytes", c.MaxPendingBytes}, {"MaxBody", c.MaxBody},
		{"Timeout", int64(c.Timeout)}, {"DrainTimeout", int64(c.DrainTimeout)},
	} {
		if f.v < 0 {
			return fmt.Errorf("%s of a service is negative", f.name)
		}
	}
	def(&c.Workers, workers)
	def(&c.Queue, 4*c.Workers)
	def(&c.MaxPendingBytes, 256<<20)
	def(&c.MaxBody, 1<<20)
	def(&c.Timeout, 10*time.Second)
	def(&c.DrainTimeout, 25*time.Second)
	def(&c.Version, "0.0.0")
	if c.Timeout > MaxTimeout {
		return fmt.Errorf("a service's Timeout is at most %v, not %v", MaxTimeout, c.Timeout)
	}
	if c.Metrics == nil {
		c.Metrics = telemetry.Unwatched()
	}
	return nil
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// door is a NATS micro service: what Ingest, Reader and Snapshotter have in
// common.
type door struct {
	Config
	name        string // also the queue group
	description string
	ready       func() error // nil when a request would be answered
	endpoints   []*endpoint
	listening   chan struct{}  // closed when requests come in
	faults      zerolog.Logger // of our own errors, sampled: a damaged catalog may be asked for a thousand times a second
	started     atomic.Bool

	pool     pond.Pool
	requests context.Context // of all requests; ends when draining takes too long
	pending  atomic.Int64    // bytes of admitted bodies
	queueing sync.Mutex
	line     *line

	tooMuch, tooMany, tooLate atomic.Pointer[refusal] // by bytes, number and time

	turns *turns // requests that are answered without a worker
}

func newDoor(c Config, name, description string, ready func() error) *door {
	return &door{Config: c, name: name, description: description, ready: ready, listening: make(chan struct{}),
		faults: c.Log.Sample(&zerolog.BurstSampler{Burst: 100, Period: 10 * time.Second})}
}

// add gives the door an endpoint.
func (d *door) add(e *endpoint) {
	e.door = d
	e.metrics = d.Metrics.Endpoint(strings.TrimPrefix(d.name, "lake-"), e.name)
	d.endpoints = append(d.endpoints, e)
}

// Pending limits of an endpoint's subscription. Admission takes microseconds;
// what still overflows is lost, and counted by the client library.
const (
	pendingMessages = 1 << 16
	pendingBytes    = 128 << 20
)

// flushTimeout bounds a round trip to the server.
const flushTimeout = 2 * time.Second

// run serves until ctx ends, then stops in the order of the flow:
//
//	subscriptions  the server sends nothing more; what it has sent is admitted
//	pool           what is admitted is answered
//	connection     the answers are on their way; it is the caller's to close
func (d *door) run(ctx context.Context) error {
	if !d.started.CompareAndSwap(false, true) {
		return fmt.Errorf("service %s was run before: make a new one", d.name)
	}
	requests, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	d.requests = requests
	d.line = newLine(d.Workers + d.Queue)
	if d.MaxWait > 0 {
		d.turns = newTurns(d.Workers, d.Queue)
	} else { // nothing says that a line is too slow: they need not form one
		d.turns = newTurns(d.Workers+d.Queue, 0)
	}
	d.pool = pond.NewPool(d.Workers, pond.WithQueueSize(d.Queue), pond.WithNonBlocking(true))
	closed := d.NATS.StatusChanged(nats.CLOSED)
	defer d.NATS.RemoveStatusListener(closed)

	svc, err := d.register()
	if err == nil {
		err = d.flushed(ctx)
	}
	if err == nil {
		close(d.listening)
		d.Log.Info().Str("id", svc.Info().ID).Msg("service listens")
		select {
		case <-ctx.Done():
		case <-closed:
			err = fmt.Errorf("service %s: %w", d.name, nats.ErrConnectionClosed)
		}
	}
	d.stop(svc, abandon)
	return err
}

// register announces the service and subscribes its endpoints.
func (d *door) register() (micro.Service, error) {
	svc, err := micro.AddService(d.NATS, micro.Config{
		Name: d.name, Version: d.Version, Description: d.description, QueueGroup: d.name,
		StatsHandler: d.stats,
		ErrorHandler: func(_ micro.Service, err *micro.NATSError) {
			d.Log.Warn().Str("subject", err.Subject).Err(err).Msg("subscription failed")
		},
	})
	if err != nil {
		return nil, fmt.Errorf("register service %s: %w", d.name, err)
	}
	for _, e := range d.endpoints {
		err := svc.AddEndpoint(e.name, micro.HandlerFunc(e.receive), micro.WithEndpointSubject(e.subject),
			micro.WithEndpointPendingLimits(pendingMessages, pendingBytes), micro.WithEndpointMetadata(e.metadata()))
		if err != nil {
			return svc, fmt.Errorf("register endpoint %s of service %s: %w", e.name, d.name, err)
		}
	}
	return svc, nil
}

// flushed waits until the server has the subscriptions, for as long as ctx
// lasts: it may be away.
func (d *door) flushed(ctx context.Context) error {
	for ctx.Err() == nil {
		err := d.NATS.FlushTimeout(flushTimeout)
		if err == nil {
			return nil
		}
		if d.NATS.IsClosed() {
			return fmt.Errorf("service %s: %w", d.name, nats.ErrConnectionClosed)
		}
		if !sleep(ctx, 100*time.Millisecond) {
			break
		}
	}
	return nil
}

func (d *door) stop(svc micro.Service, abandon func()) {
	if svc != nil {
		if err := svc.Stop(); err != nil {
			d.Log.Warn().Err(err).Msg("stop the service")
		}
		d.quiesce()
	}
	d.turns.close()
	t := time.AfterFunc(d.DrainTimeout, abandon)
	defer t.Stop()
	soon := make(chan struct{})
	go func() { // ends at the latest when the lake is closed, which answers what is under way
		d.turns.open.Wait()
		close(soon)
	}()
	select {
	case <-soon:
	case <-d.requests.Done():
	}
	<-d.pool.Stop().Done()
	if !d.NATS.IsClosed() {
		if err := d.NATS.FlushTimeout(flushTimeout); err != nil {
			d.Log.Warn().Err(err).Msg("flush the last replies")
		}
	}
	d.Log.Info().Msg("service stopped")
}

// quiesce waits until everything that the server had sent before it knew that
// the service stops has gone through admission. If that takes too long, what
// comes later still finds the pool closed and is answered 503.
func (d *door) quiesce() {
	if d.NATS.FlushTimeout(flushTimeout) != nil {
		return // no server: nothing comes
	}
	admitted := make(chan struct{})
	if d.NATS.Barrier(func() { close(admitted) }) != nil {
		return
	}
	t := time.NewTimer(flushTimeout)
	defer t.Stop()
	select {
	case <-admitted:
	case <-t.C:
	}
}

// endpointStats is what a door adds to the statistics of micro, whose own times
// end at admission.
type endpointStats struct {
	Requests  int64 `json:"requests"`   // answered
	Errors    int64 `json:"errors"`     // of these with an error
	Refused   int64 `json:"refused"`    // of these before they were admitted
	InFlight  int64 `json:"in_flight"`  // admitted and not answered yet
	AverageNS int64 `json:"average_ns"` // from arrival to answer
}

func (d *door) stats(of *micro.Endpoint) any {
	for _, e := range d.endpoints {
		if e.name == of.Name {
			s := endpointStats{Requests: e.answered.Load(), Errors: e.failed.Load(), Refused: e.refused.Load(), InFlight: e.inFlight.Load()}
			if s.Requests > 0 {
				s.AverageNS = e.nanos.Load() / s.Requests
			}
			return s
		}
	}
	return json.RawMessage("{}")
}

// sleep waits for d; false when ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

var errStopping = fmt.Errorf("%w: this service is stopping; nothing was done, ask again", engine.ErrUnavailable)
