package service

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/jsonlake/lake/internal/telemetry"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/events"
)

// Folder is what Snapshotter asks of a lake.
type Folder interface {
	Fold(ctx context.Context, catalog string) (engine.FoldResult, error)
	Purge(ctx context.Context, req engine.PurgeRequest) (engine.PurgeReceipt, error)
	// Ready is nil when a fold would be begun now.
	Ready() error
}

// Snapshotter is the service lake-snapshotter: it folds catalogs, those whose
// jobs it pulls from JetStream, and on request.
//
//	lake.v1.snapshot.<token>   no body
//	→ {"version":"1700000000_7","deltas":7,"bytes":812,"more":false}
//
//	lake.v1.admin.purge.<token>   no body; Lake-Author, Lake-If-Version, Nats-Msg-Id as in a write
//	→ {"catalog":"users","version":"1700000000_8","complete":false,…}: a receipt
//
// One worker at a time folds a catalog for a job, by a lease; what makes a fold
// safe is the compare-and-set that registers it.
type Snapshotter struct {
	door   *door
	lake   Folder
	leases engine.Leases
	jobs   *events.Jobs
}

// NewSnapshotter makes the service; Run runs it.
func NewSnapshotter(c Config, lake Folder, leases engine.Leases, js jetstream.JetStream) (*Snapshotter, error) {
	if err := c.setDefaults(4); err != nil {
		return nil, err
	}
	if leases == nil || js == nil {
		return nil, errors.New("a snapshotter needs leases and JetStream")
	}
	s := &Snapshotter{door: newDoor(c, events.ServiceSnapshotter, "Lake: snapshots of documents", lake.Ready), lake: lake, leases: leases}
	s.door.add(&endpoint{
		name: string(events.VerbSnapshot), subject: c.Subjects.Every(events.VerbSnapshot), response: schemaSnapshot, handle: s.snapshot,
	})
	s.door.add(&endpoint{
		name: "purge", subject: c.Subjects.EveryPurge(), response: schemaPurge, handle: s.purge,
		headers: []string{events.HeaderAuthor, events.HeaderIfVersion, events.HeaderMsgID},
	})
	s.jobs = &events.Jobs{
		JS: js, Subjects: c.Subjects, Workers: c.Workers, Handle: s.job, DrainTimeout: c.DrainTimeout,
		OnError: func(err error) { s.door.Log.Warn().Err(err).Msg("snapshot job") },
	}
	return s, nil
}

// Run serves and works on jobs until ctx ends. It stops in order: requests first,
// then the jobs that are being worked on; what is not done goes back to the
// queue.
func (s *Snapshotter) Run(ctx context.Context) error {
	jobs, stopJobs := context.WithCancel(context.WithoutCancel(ctx))
	defer stopJobs()
	var g errgroup.Group
	g.Go(func() error {
		defer stopJobs()
		return s.door.run(ctx)
	})
	g.Go(func() error { return s.jobs.Run(jobs) })
	return g.Wait()
}

// Listening is closed when the server sends requests here.
func (s *Snapshotter) Listening() <-chan struct{} { return s.door.listening }

// snapshot folds on request: once, so that a very long log needs several.
func (s *Snapshotter) snapshot(ctx context.Context, r *request) (*reply, error) {
	if err := r.empty(); err != nil {
		return nil, err
	}
	const tries = 4
	for n := 1; ; n++ {
		res, err := s.lake.Fold(ctx, r.catalog)
		switch {
		case err == nil:
			return jsonReply(res)
		case !errors.Is(err, engine.ErrStale):
			return nil, err
		case n == tries:
			return nil, fmt.Errorf("%w: other processes fold this catalog; try again after a pause: %w", engine.ErrBusy, err)
		}
	}
}

// purge erases a catalog. What cannot go within the request goes later, by whoever
// collects garbage.
func (s *Snapshotter) purge(ctx context.Context, r *request) (*reply, error) {
	if err := r.empty(); err != nil {
		return nil, err
	}
	o, err := writeOptions(r)
	if err != nil {
		return nil, err
	}
	req := engine.PurgeRequest{Catalog: r.catalog, ID: o.ID, IfVersion: o.IfVersion}
	if req.Author, err = author(r); err != nil {
		return nil, err
	}
	receipt, err := s.lake.Purge(ctx, req)
	if !receipt.Version.IsZero() {
		s.door.Log.Info().Str("author", req.Author).Interface("receipt", receipt).Err(err).Msg("purged a catalog")
	}
	if err != nil {
		return nil, err
	}
	return jsonReply(receipt)
}

const (
	// foldLease is how long a worker that died keeps a catalog.
	foldLease = 30 * time.Second
	// foldTimeout bounds one fold, which is bounded in deltas and bytes.
	foldTimeout = 10 * time.Minute
)

// job folds a catalog until nothing is left.
func (s *Snapshotter) job(ctx context.Context, catalog string, _ engine.Event) error {
	start := time.Now()
	if err := s.lake.Ready(); err != nil {
		s.door.Metrics.Job(telemetry.JobFailed, 0)
		return err
	}
	// The token is the job's own: other workers of this process are others too.
	l := lease{leases: s.leases, shard: engine.Shard(catalog), name: "fold:" + engine.EncodeCatalog(catalog), token: rand.Text()}
	held, err := l.acquire(ctx)
	switch {
	case err != nil:
		s.door.Metrics.Job(telemetry.JobFailed, 0)
		return fmt.Errorf("take the lease of %q: %w", catalog, err)
	case !held:
		s.door.Metrics.Job(telemetry.JobLater, 0)
		return events.ErrLater
	}
	ctx, release := l.keep(ctx)
	defer release()

	res, err := s.foldAll(ctx, catalog)
	took := time.Since(start)
	switch {
	case err != nil:
		s.door.Metrics.Job(telemetry.JobFailed, took)
		return err
	case res.Deltas == 0:
		s.door.Metrics.Job(telemetry.JobNothing, took)
	default:
		s.door.Metrics.Job(telemetry.JobFolded, took)
		s.door.Log.Debug().Str("catalog", catalog).Stringer("version", res.Version).Int64("deltas", res.Deltas).Int64("bytes", res.Bytes).Dur("took", took).Msg("folded")
	}
	return nil
}

// foldAll folds until nothing is left, and tells how many deltas went in all.
// When somebody else was faster there is less to do, or nothing: whatever is due
// after that is announced anew.
func (s *Snapshotter) foldAll(ctx context.Context, catalog string) (all engine.FoldResult, err error) {
	for {
		fctx, cancel := context.WithTimeout(ctx, foldTimeout)
		res, err := s.lake.Fold(fctx, catalog)
		cancel()
		if errors.Is(err, engine.ErrStale) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		res.Deltas += all.Deltas
		if all = res; !res.More {
			return all, nil
		}
	}
}

// lease of a catalog.
type lease struct {
	leases engine.Leases
	shard  int
	name   string
	token  string
}

func (l *lease) acquire(ctx context.Context) (bool, error) {
	return l.leases.Acquire(ctx, l.shard, l.name, l.token, foldLease)
}

// keep renews a lease until it is released. The context ends when the lease
// is lost: what goes on without it is wasted.
func (l *lease) keep(ctx context.Context) (held context.Context, release func()) {
	held, lost := context.WithCancelCause(ctx)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(foldLease / 3)
		defer tick.Stop()
		until := time.Now().Add(foldLease)
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			asked := time.Now()
			actx, cancel := context.WithTimeout(held, foldLease/3)
			ok, err := l.acquire(actx)
			cancel()
			switch {
			case err == nil && ok:
				until = asked.Add(foldLease)
			case err == nil, time.Now().After(until):
				lost(fmt.Errorf("the lease %s was lost", l.name))
				return
			}
		}
	})
	return held, func() {
		close(done)
		wg.Wait()
		lost(nil)
		// The next worker need not wait; if this fails the lease runs out by itself.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		_ = l.leases.Release(ctx, l.shard, l.name, l.token)
	}
}
