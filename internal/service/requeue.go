package service

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"

	"github.com/jsonlake/lake/internal/telemetry"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/events"
)

// Walker is what Requeue asks of a lake.
type Walker interface {
	Catalogs(ctx context.Context, prefix, after string, limit int) ([]engine.CatalogInfo, error)
	// Due tells whether a snapshot is due, by age too.
	Due(ctx context.Context, catalog string) (bool, error)
}

// Requeue publishes snapshot jobs for what no event announced: a catalog whose
// deltas have grown old, whose job was lost with NATS, or that was written while
// there was no relay.
//
// It walks through all catalogs, page by page, at a bounded rate. One process at a
// time walks, by a lease that it keeps until the next walk is due: however
// many processes run this, there is about one walk an interval.
type Requeue struct {
	config  Config
	lake    Walker
	leases  engine.Leases
	js      jetstream.JetStream
	every   time.Duration
	limiter *rate.Limiter
	token   string
}

// RequeueOptions of a Requeue. The zero value of a field means its default.
type RequeueOptions struct {
	Every time.Duration // between two walks; default 10 min
	// Rate is how many questions a second a walk asks of the index at most: one for
	// a page of 500 catalogs, one for each that has deltas after its snapshot.
	// Default 200.
	Rate float64
}

const (
	requeueLease = "requeue"
	requeueShard = 0 // whose leases are used
	requeuePage  = 500
	// minRequeueLease is how long a process that died in a walk holds up the
	// others, at least.
	minRequeueLease = 30 * time.Second
	// requeueRetry is the wait after a walk that failed, if that is sooner.
	requeueRetry = 30 * time.Second
)

// NewRequeue makes the task; Run runs it. Of the configuration it uses
// Subjects, Metrics and Log.
func NewRequeue(c Config, lake Walker, leases engine.Leases, js jetstream.JetStream, o RequeueOptions) (*Requeue, error) {
	if lake == nil || leases == nil || js == nil {
		return nil, errors.New("the requeue task needs a lake, leases and JetStream")
	}
	if err := c.Subjects.Validate(); err != nil {
		return nil, err
	}
	if o.Every < 0 || o.Rate < 0 {
		return nil, fmt.Errorf("options of the requeue task are negative: %+v", o)
	}
	def(&o.Every, 10*time.Minute)
	def(&o.Rate, 200)
	if c.Metrics == nil {
		c.Metrics = telemetry.Unwatched()
	}
	return &Requeue{config: c, lake: lake, leases: leases, js: js, every: o.Every, limiter: rate.NewLimiter(rate.Limit(o.Rate), 1), token: rand.Text()}, nil
}

// Run walks until ctx ends, gives its lease up and returns nil.
func (q *Requeue) Run(ctx context.Context) error {
	// Processes that start together should not ask for the lease together.
	wait := mrand.N(min(q.every, requeueRetry) + 1)
	for sleep(ctx, wait) {
		wait = q.every*9/10 + mrand.N(q.every/5+1)
		if err := q.turn(ctx); err != nil {
			q.config.Log.Warn().Err(err).Msg("requeue snapshot jobs")
			wait = min(wait, requeueRetry)
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if err := q.leases.Release(ctx, requeueShard, requeueLease, q.token); err != nil {
		q.config.Log.Debug().Err(err).Msg("release the requeue lease")
	}
	return nil
}

var errLeaseLost = errors.New("another process walks")

// turn walks once if it is this process's turn.
func (q *Requeue) turn(ctx context.Context) error {
	w := walk{Requeue: q, start: time.Now()}
	err := w.renew(ctx)
	if errors.Is(err, errLeaseLost) {
		return nil
	}
	if err == nil {
		err = w.run(ctx)
	}
	if ctx.Err() != nil {
		return nil
	}
	result := telemetry.WalkDone
	switch {
	case errors.Is(err, errLeaseLost):
		result = telemetry.WalkLost
	case err != nil:
		result = telemetry.WalkFailed
	}
	q.config.Metrics.Requeued(result, w.catalogs, w.dirty, w.jobs, time.Since(w.start))
	if w.jobs > 0 {
		q.config.Log.Info().Int("catalogs", w.catalogs).Int("jobs", w.jobs).Msg("requeued snapshot jobs")
	}
	return err
}

// walk is one walk through the catalogs.
type walk struct {
	*Requeue
	start                 time.Time
	renewed               time.Time
	catalogs, dirty, jobs int
}

// run walks, and keeps the lease until the next walk.
func (w *walk) run(ctx context.Context) error {
	for after := ""; ; {
		if err := w.step(ctx); err != nil {
			return err
		}
		page, err := w.lake.Catalogs(ctx, "", after, requeuePage)
		if err != nil {
			return fmt.Errorf("list catalogs after %q: %w", after, err)
		}
		for i := range page {
			if err := w.look(ctx, &page[i]); err != nil {
				return err
			}
		}
		if len(page) < requeuePage {
			return w.renew(ctx)
		}
		after = page[len(page)-1].Catalog
	}
}

// look publishes a job if a snapshot of the catalog is due.
func (w *walk) look(ctx context.Context, c *engine.CatalogInfo) error {
	w.catalogs++
	if c.Deltas == 0 {
		return nil
	}
	w.dirty++
	if err := w.step(ctx); err != nil {
		return err
	}
	due, err := w.lake.Due(ctx, c.Catalog)
	if err != nil {
		return fmt.Errorf("look whether a snapshot of %q is due: %w", c.Catalog, err)
	}
	if !due {
		return nil
	}
	ev := engine.Event{Catalog: c.Catalog, Kind: engine.EventCommitted, First: c.Version, Version: c.Version, Count: c.Deltas, Time: time.Now().UnixMilli()}
	pctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := events.PublishJob(pctx, w.js, w.config.Subjects, ev); err != nil {
		return err
	}
	w.jobs++
	return nil
}

// step waits for its turn by the rate and renews the lease when it is time.
func (w *walk) step(ctx context.Context) error {
	if err := w.limiter.Wait(ctx); err != nil {
		return err
	}
	if time.Since(w.renewed) < w.ttl()/3 {
		return nil
	}
	return w.renew(ctx)
}

func (w *walk) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	asked := time.Now()
	held, err := w.leases.Acquire(ctx, requeueShard, requeueLease, w.token, w.ttl())
	if err != nil {
		return fmt.Errorf("take the requeue lease: %w", err)
	}
	if !held {
		return errLeaseLost
	}
	w.renewed = asked
	return nil
}

// ttl of the lease: until the next walk is due, and a little longer.
func (q *Requeue) ttl() time.Duration { return max(q.every*5/4, minRequeueLease) }
