package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type jobsMetrics struct {
	results  map[string]prometheus.Counter
	took     prometheus.Histogram
	walks    map[string]prometheus.Counter
	walked   prometheus.Counter
	requeued prometheus.Counter
	walk     prometheus.Histogram
	dirty    prometheus.Gauge
}

// What can become of a snapshot job.
const (
	JobFolded  = "folded"  // a snapshot was registered
	JobNothing = "nothing" // there was nothing to fold any more
	JobLater   = "later"   // another worker has the catalog
	JobFailed  = "failed"  // it will be tried again
)

// What can become of a walk through the catalogs.
const (
	WalkDone   = "done"
	WalkLost   = "lost" // another process took the lease
	WalkFailed = "failed"
)

func (b *builder) jobs() jobsMetrics {
	m := jobsMetrics{
		results:  make(map[string]prometheus.Counter),
		took:     b.histogram("jobs_duration_seconds", "Snapshot jobs that folded.", secondBuckets),
		walks:    make(map[string]prometheus.Counter),
		walked:   b.counter("requeue_catalogs_total", "Catalogs looked at by the requeue task."),
		requeued: b.counter("requeue_jobs_total", "Snapshot jobs published by the requeue task: what no event announced."),
		walk:     b.histogram("requeue_walk_duration_seconds", "Walks through all catalogs.", []float64{.1, 1, 10, 60, 300, 900, 3600}),
		dirty:    b.gauge("requeue_dirty_catalogs", "Catalogs that had deltas after their snapshot when last walked through by this process."),
	}
	results := b.counterVec("jobs_handled_total", "Snapshot jobs.", "result")
	for _, r := range []string{JobFolded, JobNothing, JobLater, JobFailed} {
		m.results[r] = results.WithLabelValues(r)
	}
	walks := b.counterVec("requeue_walks_total", "Walks through all catalogs.", "result")
	for _, r := range []string{WalkDone, WalkLost, WalkFailed} {
		m.walks[r] = walks.WithLabelValues(r)
	}
	return m
}

// Job counts a snapshot job; result is one of the Job constants.
func (m *Metrics) Job(result string, took time.Duration) {
	m.jobs.results[result].Inc()
	if result == JobFolded {
		m.jobs.took.Observe(took.Seconds())
	}
}

// Requeued counts a walk of the requeue task; result is one of the Walk
// constants.
func (m *Metrics) Requeued(result string, catalogs, dirty, jobs int, took time.Duration) {
	m.jobs.walks[result].Inc()
	m.jobs.walked.Add(float64(catalogs))
	m.jobs.requeued.Add(float64(jobs))
	if result == WalkDone {
		m.jobs.dirty.Set(float64(dirty))
		m.jobs.walk.Observe(took.Seconds())
	}
}

type relayMetrics struct {
	read, published, jobs, errors prometheus.Counter
	took, lag                     prometheus.Histogram
}

func (b *builder) relay() relayMetrics {
	return relayMetrics{
		read:      b.counter("relay_events_read_total", "Events read from the outbox."),
		published: b.counter("relay_events_published_total", "Events published, after those of a catalog were made one."),
		jobs:      b.counter("relay_jobs_published_total", "Snapshot jobs published beside events."),
		errors:    b.counter("relay_errors_total", "What went wrong in the relay and will be tried again."),
		took:      b.histogram("relay_round_duration_seconds", "Rounds that published something.", secondBuckets),
		lag:       b.histogram("relay_lag_seconds", "Age of the oldest commit in a round when it was published, by the clocks of index and relay.", secondBuckets),
	}
}

// RelayRound counts a round of the relay. oldest is the index time of the
// oldest commit in it; zero is unknown.
func (m *Metrics) RelayRound(read, published, jobs int, oldest time.Time, took time.Duration) {
	m.relay.read.Add(float64(read))
	m.relay.published.Add(float64(published))
	m.relay.jobs.Add(float64(jobs))
	m.relay.took.Observe(took.Seconds())
	if !oldest.IsZero() {
		m.relay.lag.Observe(max(time.Since(oldest), 0).Seconds())
	}
}

// RelayError counts an error of the relay.
func (m *Metrics) RelayError() { m.relay.errors.Inc() }
