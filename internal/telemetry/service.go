package telemetry

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type serviceMetrics struct {
	requests, unanswered, replyErrors, requestBytes, replyBytes *prometheus.CounterVec
	took                                                        *prometheus.HistogramVec
	inFlight                                                    *prometheus.GaugeVec
}

func (b *builder) service() serviceMetrics {
	return serviceMetrics{
		requests:     b.counterVec("service_requests_total", "Requests, by the status they were answered with.", "service", "endpoint", "code"),
		unanswered:   b.counterVec("service_unanswered_total", "Of these, requests without a reply subject.", "service", "endpoint", "code"),
		replyErrors:  b.counterVec("service_reply_errors_total", "Replies that could not be published.", "service", "endpoint"),
		requestBytes: b.counterVec("service_request_bytes_total", "Bytes of the bodies of requests.", "service", "endpoint"),
		replyBytes:   b.counterVec("service_reply_bytes_total", "Bytes of the bodies of replies.", "service", "endpoint"),
		took:         b.histogramVec("service_request_duration_seconds", "From a request's arrival to its reply, the wait for a worker included.", secondBuckets, "service", "endpoint"),
		inFlight:     b.gaugeVec("service_requests_in_flight", "Requests that were admitted and not answered yet.", "service", "endpoint"),
	}
}

// statuses that an endpoint answers with; their series start at zero.
var statuses = []int{200, 400, 404, 409, 413, 429, 500, 503, 504}

// Endpoint are the metrics of one endpoint of a service.
type Endpoint struct {
	requests, unanswered map[int]prometheus.Counter
	anyRequests          *prometheus.CounterVec // curried, for a status that is not in the list
	anyUnanswered        *prometheus.CounterVec
	took                 prometheus.Observer
	inFlight             prometheus.Gauge
	replyErrors          prometheus.Counter
	requestBytes         prometheus.Counter
	replyBytes           prometheus.Counter
}

// Endpoint makes the series of an endpoint: Endpoint("ingest", "write").
func (m *Metrics) Endpoint(service, endpoint string) *Endpoint {
	s := &m.service
	labels := prometheus.Labels{"service": service, "endpoint": endpoint}
	e := &Endpoint{
		requests: make(map[int]prometheus.Counter), unanswered: make(map[int]prometheus.Counter),
		anyRequests: s.requests.MustCurryWith(labels), anyUnanswered: s.unanswered.MustCurryWith(labels),
		took: s.took.With(labels), inFlight: s.inFlight.With(labels), replyErrors: s.replyErrors.With(labels),
		requestBytes: s.requestBytes.With(labels), replyBytes: s.replyBytes.With(labels),
	}
	for _, status := range statuses {
		e.requests[status] = e.anyRequests.WithLabelValues(strconv.Itoa(status))
		e.unanswered[status] = e.anyUnanswered.WithLabelValues(strconv.Itoa(status))
	}
	return e
}

// Admitted counts a request in that will be worked on.
func (e *Endpoint) Admitted() { e.inFlight.Inc() }

// Left counts an admitted request out again.
func (e *Endpoint) Left() { e.inFlight.Dec() }

// Done counts a request, admitted or refused, with the HTTP status of its
// answer. answered is false when nobody waits for one.
func (e *Endpoint) Done(status int, answered bool, took time.Duration, requestBytes, replyBytes int) {
	count(e.requests, e.anyRequests, status)
	if !answered {
		count(e.unanswered, e.anyUnanswered, status)
	}
	e.took.Observe(took.Seconds())
	e.requestBytes.Add(float64(requestBytes))
	e.replyBytes.Add(float64(replyBytes))
}

// ReplyFailed counts an answer that could not be published.
func (e *Endpoint) ReplyFailed() { e.replyErrors.Inc() }

func count(known map[int]prometheus.Counter, all *prometheus.CounterVec, status int) {
	if c, ok := known[status]; ok {
		c.Inc()
		return
	}
	all.WithLabelValues(strconv.Itoa(status)).Inc()
}
