package telemetry

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the metrics of one process.
type Metrics struct {
	engine  engineMetrics
	objects objectsMetrics
	service serviceMetrics
	jobs    jobsMetrics
	relay   relayMetrics
}

// NewMetrics makes the metrics and registers them. A registry takes them once:
// two lakes in one process need two. A nil registry means that nobody looks.
// version is the program's own.
func NewMetrics(reg prometheus.Registerer, version string) (*Metrics, error) {
	b := &builder{reg: reg}
	m := &Metrics{engine: b.engine(), objects: b.objects(), service: b.service(), jobs: b.jobs(), relay: b.relay()}
	b.gaugeVec("build_info", "What runs: always 1.", "version", "revision", "goversion").
		WithLabelValues(version, revision(), runtime.Version()).Set(1)
	if b.err != nil {
		return nil, fmt.Errorf("register metrics: %w", b.err)
	}
	return m, nil
}

// Unwatched are metrics that nobody looks at.
func Unwatched() *Metrics {
	m, err := NewMetrics(nil, "")
	if err != nil { // nothing is registered: cannot fail
		panic(err)
	}
	return m
}

// revision is the commit this program was built from, as far as the build says.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	rev, dirty := "unknown", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			rev = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+dirty"
		}
	}
	return rev + dirty
}

// Classic buckets, for whoever does not scrape native histograms.
var (
	secondBuckets = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
	byteBuckets   = prometheus.ExponentialBuckets(256, 4, 10) // 256 B to 64 MiB
	countBuckets  = prometheus.ExponentialBuckets(1, 4, 10)   // 1 to 262,144
)

// builder makes metrics and collects what registering them says.
type builder struct {
	reg prometheus.Registerer
	err error
}

func register[C prometheus.Collector](b *builder, c C) C {
	if b.reg != nil {
		b.err = errors.Join(b.err, b.reg.Register(c))
	}
	return c
}

func (b *builder) counter(name, help string) prometheus.Counter {
	return register(b, prometheus.NewCounter(prometheus.CounterOpts{Namespace: "lake", Name: name, Help: help}))
}

func (b *builder) counterVec(name, help string, labels ...string) *prometheus.CounterVec {
	return register(b, prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "lake", Name: name, Help: help}, labels))
}

func (b *builder) gauge(name, help string) prometheus.Gauge {
	return register(b, prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "lake", Name: name, Help: help}))
}

func (b *builder) gaugeVec(name, help string, labels ...string) *prometheus.GaugeVec {
	return register(b, prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "lake", Name: name, Help: help}, labels))
}

func (b *builder) histogram(name, help string, buckets []float64) prometheus.Histogram {
	return register(b, prometheus.NewHistogram(histogramOpts(name, help, buckets)))
}

func (b *builder) histogramVec(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return register(b, prometheus.NewHistogramVec(histogramOpts(name, help, buckets), labels))
}

func histogramOpts(name, help string, buckets []float64) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Namespace: "lake", Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160, NativeHistogramMinResetDuration: time.Hour,
	}
}
