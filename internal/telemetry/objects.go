package telemetry

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/jsonlake/lake/pkg/engine"
)

type objectsMetrics struct {
	op map[string]objectsOp
}

// objectsOp are the series of one operation.
type objectsOp struct {
	results map[string]prometheus.Counter
	took    prometheus.Observer
	bytes   prometheus.Counter
}

// Results of an operation on the bucket. The ones that a store answers on
// purpose are not errors: a conditional put that finds an object, a lease check
// that finds none.
const (
	resultOK       = "ok"
	resultExists   = "exists"
	resultNotExist = "not_exist"
	resultCanceled = "canceled"
	resultError    = "error"
)

func (b *builder) objects() objectsMetrics {
	requests := b.counterVec("objects_requests_total", "Operations on the bucket; a listing is one, however many pages it has.", "op", "result")
	took := b.histogramVec("objects_request_duration_seconds", "Operations on the bucket.", secondBuckets, "op")
	size := b.counterVec("objects_bytes_total", "Bytes of objects: put, or got.", "op")
	m := objectsMetrics{op: make(map[string]objectsOp)}
	for _, op := range []string{"put", "get", "get_range", "delete", "list"} {
		o := objectsOp{results: make(map[string]prometheus.Counter), took: took.WithLabelValues(op), bytes: size.WithLabelValues(op)}
		for _, result := range []string{resultOK, resultExists, resultNotExist, resultCanceled, resultError} {
			o.results[result] = requests.WithLabelValues(op, result)
		}
		m.op[op] = o
	}
	return m
}

func (o objectsOp) done(start time.Time, bytes int, err error) {
	o.took.Observe(time.Since(start).Seconds())
	result := resultError
	switch {
	case err == nil:
		result = resultOK
		o.bytes.Add(float64(bytes))
	case errors.Is(err, engine.ErrExists):
		result = resultExists
	case errors.Is(err, engine.ErrNotExist):
		result = resultNotExist
	case errors.Is(err, context.Canceled):
		result = resultCanceled
	}
	o.results[result].Inc()
}

// Objects counts the requests of a bucket, with their bytes and latencies, by
// operation and result. Each call of the inner bucket is one request, whatever
// the store's client makes of it (retries, pages of a listing).
func Objects(inner engine.Objects, m *Metrics) engine.Objects {
	return &counted{inner: inner, put: m.objects.op["put"], get: m.objects.op["get"], getRange: m.objects.op["get_range"],
		del: m.objects.op["delete"], list: m.objects.op["list"]}
}

type counted struct {
	inner                         engine.Objects
	put, get, getRange, del, list objectsOp
}

var _ engine.Objects = (*counted)(nil)

func (c *counted) Put(ctx context.Context, key string, data []byte) error {
	start := time.Now()
	err := c.inner.Put(ctx, key, data)
	c.put.done(start, len(data), err)
	return err
}

func (c *counted) Get(ctx context.Context, key string) ([]byte, error) {
	start := time.Now()
	b, err := c.inner.Get(ctx, key)
	c.get.done(start, len(b), err)
	return b, err
}

func (c *counted) GetRange(ctx context.Context, key string, off, length int64) ([]byte, error) {
	start := time.Now()
	b, err := c.inner.GetRange(ctx, key, off, length)
	c.getRange.done(start, len(b), err)
	return b, err
}

func (c *counted) Delete(ctx context.Context, key string) error {
	start := time.Now()
	err := c.inner.Delete(ctx, key)
	c.del.done(start, 0, err)
	return err
}

// List measures from the first key asked for to the last one taken, the
// caller's own work between them included.
func (c *counted) List(ctx context.Context, prefix, after string) iter.Seq2[engine.ObjectInfo, error] {
	return func(yield func(engine.ObjectInfo, error) bool) {
		start := time.Now()
		var failed error
		defer func() { c.list.done(start, 0, failed) }()
		for info, err := range c.inner.List(ctx, prefix, after) {
			if err != nil {
				failed = err
			}
			if !yield(info, err) {
				return
			}
		}
	}
}
