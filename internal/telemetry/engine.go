package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/jsonlake/lake/pkg/engine"
)

type engineMetrics struct {
	runs, deltas             prometheus.Counter
	wait                     prometheus.Histogram
	segmentPut               prometheus.Histogram
	segmentRuns, segmentSize prometheus.Histogram
	merge                    prometheus.Histogram
	mergeDeltas, mergeSize   prometheus.Histogram
	lookups                  map[string][2]prometheus.Counter // tier → miss, hit
	fold                     prometheus.Histogram
	foldDeltas, foldSize     prometheus.Histogram
	decided, collected       map[string]prometheus.Counter
	epoch, recovering        prometheus.Gauge
	trouble                  prometheus.Counter
}

func (b *builder) engine() engineMetrics {
	m := engineMetrics{
		runs:        b.counter("commit_runs_total", "Runs that this process committed."),
		deltas:      b.counter("commit_deltas_total", "Deltas that this process committed."),
		wait:        b.histogram("commit_wait_seconds", "How long commits waited for an older segment, where they had to.", secondBuckets),
		segmentPut:  b.histogram("segment_put_duration_seconds", "Putting a segment, retries included.", secondBuckets),
		segmentRuns: b.histogram("segment_size_runs", "Runs in a segment.", countBuckets),
		segmentSize: b.histogram("segment_size_bytes", "Bytes of a segment.", byteBuckets),
		merge:       b.histogram("merge_duration_seconds", "Merging deltas into a document, loading excluded.", secondBuckets),
		mergeDeltas: b.histogram("merge_input_deltas", "Deltas of a merge.", countBuckets),
		mergeSize:   b.histogram("merge_output_bytes", "Bytes of a merged document.", byteBuckets),
		lookups:     make(map[string][2]prometheus.Counter),
		fold:        b.histogram("fold_duration_seconds", "Folding a catalog, from view to registered snapshot.", secondBuckets),
		foldDeltas:  b.histogram("fold_input_deltas", "Deltas of a fold.", countBuckets),
		foldSize:    b.histogram("fold_output_bytes", "Bytes of a folded document.", byteBuckets),
		decided:     make(map[string]prometheus.Counter),
		collected:   make(map[string]prometheus.Counter),
		epoch:       b.gauge("epoch_number", "The epoch in which this process works; 0 before it joined one."),
		recovering:  b.gauge("epoch_recovering", "1 while this process opens a new epoch."),
		trouble:     b.counter("background_errors_total", "What failed in the background and will be tried again."),
	}
	lookups := b.counterVec("cache_lookups_total", "Lookups in a cache.", "tier", "result")
	for _, tier := range []string{"document", "frame", "shared"} {
		m.lookups[tier] = [2]prometheus.Counter{lookups.WithLabelValues(tier, "miss"), lookups.WithLabelValues(tier, "hit")}
	}
	decided := b.counterVec("sweep_decided_total", "Stuck segments that this process decided.", "how")
	for _, how := range []string{"tombstone", "rolled_back", "rolled_forward"} {
		m.decided[how] = decided.WithLabelValues(how)
	}
	collected := b.counterVec("collect_objects_total", "What this process collected: segments, snapshots and strays that it deleted, segments that it compacted, snapshots that it gave up.", "kind")
	for kind := range collectedKinds(engine.Collected{}) {
		m.collected[kind] = collected.WithLabelValues(kind)
	}
	return m
}

func collectedKinds(c engine.Collected) map[string]int {
	return map[string]int{"segment": c.Segments, "snapshot": c.Snapshots, "stray": c.Strays, "compacted": c.Compacted, "dropped": c.Dropped}
}

// EngineHooks count what an engine does.
func (m *Metrics) EngineHooks() engine.Hooks {
	e := &m.engine
	return engine.Hooks{
		Committed: func(_ string, _ engine.Version, n int) {
			e.runs.Inc()
			e.deltas.Add(float64(n))
		},
		SegmentPut: func(runs, bytes int, d time.Duration) {
			e.segmentPut.Observe(d.Seconds())
			e.segmentRuns.Observe(float64(runs))
			e.segmentSize.Observe(float64(bytes))
		},
		Merged: func(deltas, bytes int, d time.Duration) {
			e.merge.Observe(d.Seconds())
			e.mergeDeltas.Observe(float64(deltas))
			e.mergeSize.Observe(float64(bytes))
		},
		CacheLookup: func(tier string, hit bool) {
			if c, known := e.lookups[tier]; known {
				c[index(hit)].Inc()
			}
		},
		Folded: func(_ string, deltas, bytes int64, d time.Duration) {
			e.fold.Observe(d.Seconds())
			e.foldDeltas.Observe(float64(deltas))
			e.foldSize.Observe(float64(bytes))
		},
		Waited: func(d time.Duration) { e.wait.Observe(d.Seconds()) },
		Decided: func(_ engine.SegmentID, how string) {
			if c, known := e.decided[how]; known {
				c.Inc()
			}
		},
		Collected: func(c engine.Collected) {
			for kind, n := range collectedKinds(c) {
				e.collected[kind].Add(float64(n))
			}
		},
		Epoch: func(n uint64) {
			e.epoch.Set(float64(n))
			e.recovering.Set(0)
		},
		Recovering: func(uint64, string) { e.recovering.Set(1) },
		Trouble:    func(string, error) { e.trouble.Inc() },
	}
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

// LogHooks log what an engine does in the background: epochs, stuck segments
// and trouble. What happens on every write or read is counted, not logged.
func LogHooks(log zerolog.Logger) engine.Hooks {
	// A bucket that is away is in trouble several times a second.
	trouble := log.Sample(&zerolog.BurstSampler{Burst: 10, Period: 10 * time.Second})
	return engine.Hooks{
		Decided: func(s engine.SegmentID, how string) {
			log.Warn().Stringer("segment", s).Str("how", how).Msg("decided a stuck segment")
		},
		Collected: func(c engine.Collected) {
			if c.Waiting, c.Purging = 0, 0; c != (engine.Collected{}) {
				log.Info().Interface("collected", c).Msg("collected garbage")
			}
		},
		Purged: func(r engine.PurgeReceipt) { log.Info().Interface("receipt", r).Msg("erased what a purge gave up") },
		Epoch:  func(n uint64) { log.Info().Uint64("epoch", n).Msg("joined epoch") },
		Recovering: func(n uint64, step string) {
			log.Info().Uint64("epoch", n).Str("step", step).Msg("opening epoch")
		},
		Trouble: func(what string, err error) { trouble.Warn().Str("what", what).Err(err).Msg("background work failed") },
	}
}

// JoinHooks makes one set of hooks that calls each given one, in order.
func JoinHooks(all ...engine.Hooks) engine.Hooks {
	var j engine.Hooks
	for _, h := range all {
		join2(&j.CacheLookup, h.CacheLookup)
		join2(&j.Decided, h.Decided)
		join2(&j.Recovering, h.Recovering)
		join2(&j.Trouble, h.Trouble)
		join1(&j.Waited, h.Waited)
		join1(&j.Epoch, h.Epoch)
		join1(&j.Collected, h.Collected)
		join1(&j.Purged, h.Purged)
		join1(&j.LossAccepted, h.LossAccepted)
		join3(&j.Committed, h.Committed)
		join3(&j.SegmentPut, h.SegmentPut)
		join3(&j.Merged, h.Merged)
		join3(&j.RecoverProgress, h.RecoverProgress)
		join4(&j.Folded, h.Folded)
	}
	return j
}

func join1[A any](to *func(A), f func(A)) {
	if before := *to; before != nil && f != nil {
		*to = func(a A) { before(a); f(a) }
	} else if f != nil {
		*to = f
	}
}

func join2[A, B any](to *func(A, B), f func(A, B)) {
	if before := *to; before != nil && f != nil {
		*to = func(a A, b B) { before(a, b); f(a, b) }
	} else if f != nil {
		*to = f
	}
}

func join3[A, B, C any](to *func(A, B, C), f func(A, B, C)) {
	if before := *to; before != nil && f != nil {
		*to = func(a A, b B, c C) { before(a, b, c); f(a, b, c) }
	} else if f != nil {
		*to = f
	}
}

func join4[A, B, C, D any](to *func(A, B, C, D), f func(A, B, C, D)) {
	if before := *to; before != nil && f != nil {
		*to = func(a A, b B, c C, d D) { before(a, b, c, d); f(a, b, c, d) }
	} else if f != nil {
		*to = f
	}
}
