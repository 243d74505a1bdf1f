package events

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"github.com/alitto/pond/v2"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jsonlake/lake/pkg/engine"
)

// ErrLater is what a handler answers when somebody else holds the catalog: the
// job comes again after a second, to any worker.
var ErrLater = errors.New("the catalog is held by another worker: try later")

// Jobs works on snapshot jobs, with any number of other processes.
//
//	pull    one job for each free worker and none in advance: the queue is the
//	        stream, and the clock of AckWait does not run while a job waits for a worker
//	handle  with InProgress every third of AckWait, however long it takes
//	answer  nil → Ack; ErrLater → again in 1 s; another error → again after the back-off;
//	        a job that can never be handled (its subject names no catalog) → Term, with the reason
//
// A job may be given to two workers at once (a newer one of the same catalog,
// or a lost acknowledgement): the handler takes a lease if that would be
// waste. A job that was replaced by a newer one while it was handled is
// acknowledged in vain, which harms nobody.
type Jobs struct {
	JS       jetstream.JetStream
	Subjects Subjects
	// Workers is how many jobs are handled at once; default 2.
	Workers int
	// Handle folds the catalog. The event is the one that made the job due; when
	// somebody asked by hand, only its Catalog is set. Its context ends when
	// DrainTimeout is over, not when Run's does.
	Handle func(ctx context.Context, catalog string, ev engine.Event) error
	// OnError is told of everything that went wrong and will be tried again. It
	// must be safe for concurrent use. nil: nobody is told.
	OnError func(error)
	// DrainTimeout is how long running jobs may go on after Run's context ended;
	// default 25 s.
	DrainTimeout time.Duration
	// MinBackoff and MaxBackoff bound the wait after a failure, which doubles with
	// each failure of a catalog in a row; defaults 1 s and 1 min.
	MinBackoff, MaxBackoff time.Duration
}

const (
	laterDelay = time.Second
	// A pull request lives so long on the server, with heartbeats that tell that
	// it is still there.
	pullExpiry    = 30 * time.Second
	pullHeartbeat = 5 * time.Second
	// attachTimeout bounds a request for a stream or a consumer.
	attachTimeout = 5 * time.Second
)

// Run works until ctx ends, lets what runs finish and returns nil. A missing
// stream or consumer is reported and looked for again. Run returns an error only
// when j is not complete.
func (j *Jobs) Run(ctx context.Context) error {
	if j.JS == nil || j.Handle == nil {
		return errors.New("run the jobs: JS and Handle must be set")
	}
	if err := j.Subjects.Validate(); err != nil {
		return fmt.Errorf("run the jobs: %w", err)
	}
	workers, drain := j.Workers, j.DrainTimeout
	if workers <= 0 {
		workers = 2
	}
	if drain <= 0 {
		drain = 25 * time.Second
	}
	handling, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	run := &jobsRun{Jobs: j, ctx: handling, slots: make(chan struct{}, workers),
		// A slot is taken before a job is pulled, so the pool's queue stays empty.
		pool: pond.NewPool(workers, pond.WithQueueSize(workers))}
	run.strikes.min, run.strikes.max = j.MinBackoff, j.MaxBackoff
	run.strikes.setDefaults()

	for failures := 0; ctx.Err() == nil; {
		attached, err := run.pull(ctx)
		if err == nil || ctx.Err() != nil {
			continue
		}
		if failures++; attached {
			failures = 1
		}
		run.report(err)
		sleep(ctx, min(100*time.Millisecond<<min(failures-1, 10), 5*time.Second))
	}

	stopped := run.pool.Stop().Done()
	t := time.NewTimer(drain)
	defer t.Stop()
	select {
	case <-stopped:
	case <-t.C:
		cancel() // a handler that obeys its context gives its job back
		<-stopped
	}
	return nil
}

type jobsRun struct {
	*Jobs
	ctx     context.Context // of the handlers; ends when draining is over
	pool    pond.Pool
	slots   chan struct{}
	strikes strikes
}

func (r *jobsRun) report(err error) {
	if r.OnError != nil {
		r.OnError(err)
	}
}

// pull hands jobs to free workers until ctx ends or the consumer is lost.
func (r *jobsRun) pull(ctx context.Context) (attached bool, err error) {
	look, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	cons, err := r.JS.Consumer(look, r.Subjects.JobsStream(), ConsumerSnapshotter)
	if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound) {
		err = fmt.Errorf("%w (%w)", ErrNotApplied, err)
	}
	if err != nil {
		return false, fmt.Errorf("attach to consumer %s of stream %s: %w", ConsumerSnapshotter, r.Subjects.JobsStream(), err)
	}
	ackWait := cons.CachedInfo().Config.AckWait
	for {
		select {
		case r.slots <- struct{}{}:
		case <-ctx.Done():
			return true, nil
		}
		msg, err := pullOne(ctx, cons)
		if err == nil {
			err = r.pool.Go(func() {
				defer func() { <-r.slots }()
				r.work(msg, ackWait)
			})
			if err == nil {
				continue
			}
			_ = msg.Nak()
		}
		<-r.slots
		if ctx.Err() != nil {
			return true, nil
		}
		return true, fmt.Errorf("pull jobs: %w", err)
	}
}

// pullOne waits for one job. Each has an iterator of its own: one that pulls
// one message after the other stalls, until it misses a heartbeat, when a
// message is taken before the client has marked its request as sent. The
// iterator's buffer is larger than the one message that it asks for, so that a
// heartbeat cannot displace it.
func pullOne(ctx context.Context, cons jetstream.Consumer) (jetstream.Msg, error) {
	it, err := cons.Messages(jetstream.PullMaxMessages(8), jetstream.StopAfter(1), jetstream.PullExpiry(pullExpiry), jetstream.PullHeartbeat(pullHeartbeat))
	if err != nil {
		return nil, err
	}
	msg, err := it.Next(jetstream.NextContext(ctx))
	if err != nil {
		giveBack(it)
		return nil, err
	}
	it.Stop()
	return msg, nil
}

// giveBack ends a pull and returns what was on its way, so that it need not
// wait for AckWait.
func giveBack(it jetstream.MessagesContext) {
	it.Drain()
	for {
		msg, err := it.Next(jetstream.NextMaxWait(time.Second))
		if err != nil {
			return
		}
		_ = msg.Nak()
	}
}

// work handles one job and answers it.
func (r *jobsRun) work(msg jetstream.Msg, ackWait time.Duration) {
	catalog, ev, err := r.decode(msg)
	if err != nil {
		r.report(fmt.Errorf("job %s can never be handled: %w", msg.Subject(), err))
		r.answer(catalog, "term", msg.TermWithReason(err.Error()))
		return
	}
	if wait := r.strikes.wait(catalog); wait > 0 {
		r.answer(catalog, "nak", msg.NakWithDelay(wait))
		return
	}
	stop := keepAlive(msg, ackWait/3)
	err = r.handle(catalog, ev)
	stop()
	switch {
	case err == nil:
		r.strikes.clear(catalog)
		r.answer(catalog, "ack", msg.Ack())
	case errors.Is(err, ErrLater):
		r.answer(catalog, "nak", msg.NakWithDelay(laterDelay))
	case r.ctx.Err() != nil: // told to stop: nobody's fault, another may go on at once
		r.answer(catalog, "nak", msg.Nak())
	default:
		wait := r.strikes.strike(catalog)
		r.report(fmt.Errorf("snapshot job of catalog %q, again in %v: %w", catalog, wait.Round(time.Millisecond), err))
		r.answer(catalog, "nak", msg.NakWithDelay(wait))
	}
}

// decode takes the catalog from the subject alone. A job without a body was
// made by hand.
func (r *jobsRun) decode(msg jetstream.Msg) (string, engine.Event, error) {
	catalog, err := r.Subjects.JobCatalog(msg.Subject())
	if err != nil {
		return "", engine.Event{}, err
	}
	if len(msg.Data()) == 0 {
		return catalog, engine.Event{Catalog: catalog}, nil
	}
	ev, err := Decode(msg.Data())
	if err == nil && ev.Catalog != catalog {
		err = invalidEvent("it is of catalog %q, but its subject names %q", ev.Catalog, catalog)
	}
	return catalog, ev, err
}

func (r *jobsRun) handle(catalog string, ev engine.Event) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the handler panicked: %v\n%s", p, debug.Stack())
		}
	}()
	return r.Handle(r.ctx, catalog, ev)
}

// answer reports an answer that could not be sent: the job will come again.
func (r *jobsRun) answer(catalog, what string, err error) {
	if err != nil {
		r.report(fmt.Errorf("%s the snapshot job of catalog %q: %w", what, catalog, err))
	}
}

// keepAlive tells the server every d that the message is worked on, until stop
// is called.
func keepAlive(msg jetstream.Msg, d time.Duration) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(max(d, time.Millisecond))
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				_ = msg.InProgress() // if it cannot be sent, the job comes again
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

// strikes remembers which catalogs failed lately. The server's delivery count
// would not do: the next commit of a busy catalog replaces its job by a new one,
// which counts from one.
type strikes struct {
	min, max time.Duration

	mu sync.Mutex
	of map[string]strike
}

type strike struct {
	n     int
	until time.Time
}

// maxStrikes bounds the catalogs remembered. What does not fit is tried as if
// it had not failed before.
const maxStrikes = 4096

func (s *strikes) setDefaults() {
	if s.min <= 0 {
		s.min = time.Second
	}
	if s.max <= 0 {
		s.max = time.Minute
	}
	s.max = max(s.min, s.max)
	s.of = make(map[string]strike)
}

// wait is how long the catalog has still to be left alone.
func (s *strikes) wait(catalog string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k, ok := s.of[catalog]; ok {
		return time.Until(k.until)
	}
	return 0
}

// strike counts a failure and tells how long to wait: twice as long as the
// last time, give or take a quarter.
func (s *strikes) strike(catalog string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.of[catalog]
	wait := min(s.min<<min(k.n, 20), s.max)
	wait = wait*3/4 + rand.N(wait/2+1)
	now := time.Now()
	k.n++
	k.until = now.Add(wait)
	if len(s.of) >= maxStrikes {
		for name, old := range s.of {
			if now.Sub(old.until) > s.max {
				delete(s.of, name)
			}
		}
	}
	if _, known := s.of[catalog]; known || len(s.of) < maxStrikes {
		s.of[catalog] = k
	}
	return wait
}

func (s *strikes) clear(catalog string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.of, catalog)
}
