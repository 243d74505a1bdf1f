package disk

import (
	"bytes"
	"math"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// planTTL is how long a plan is kept, as the receipt of its segment, after the
// last of its runs was decided: ms.
const planTTL = int64(10 * time.Minute / time.Millisecond)

// sweepPause and sweepStep bound how often expired plans are looked for, and how
// many go at once.
const (
	sweepPause = 100 // ms
	sweepStep  = 256
)

// expiry is a queue of what goes at a time that its keys begin with.
type expiry struct {
	ttl  int64  // ms; after the time in the key
	from []byte // no key lies before it
	at   int64  // ms; nothing goes before
}

// sweepPlans forgets plans that were decided long enough ago.
func (c *change) sweepPlans() error {
	return c.sweep(&c.s.plans, tableDecided, &c.swept[0], func(key []byte) error {
		segment, err := segmentOfKey(key)
		c.delete(keyPlan(c.s.number, segment))
		return err
	})
}

// sweepReceipts forgets idempotency ids.
func (c *change) sweepReceipts() error {
	return c.sweep(&c.s.receipts, tableReceipt, &c.swept[1], func(key []byte) error {
		catalog, id, err := idOfReceipt(key)
		if err != nil {
			return err
		}
		r, err := c.id(catalog, id)
		if err == nil && r.at(c.now).State == engine.IDUnknown { // else it was used again
			r.known, r.changed = false, true
		}
		return err
	})
}

// sweep goes through what has expired, a step at a time.
func (c *change) sweep(q *expiry, table byte, swept *[]byte, forget func(key []byte) error) error {
	if c.now < q.at {
		return nil
	}
	_, to := tableOf(table, c.s.number)
	next, found := int64(math.MaxInt64), 0
	err := c.x.scan(q.from, to, func(key, _ []byte) (bool, error) {
		at := int64(numberOfKey(key)) + q.ttl
		if at > c.now || found == sweepStep {
			next = at
			return false, nil
		}
		found++
		c.delete(key)
		*swept = append((*swept)[:0], key...)
		return true, forget(key)
	})
	q.at = max(next, c.now+sweepPause)
	if found == sweepStep {
		q.at = c.now
	}
	return err
}

// add says that a key was added to the queue. The clock may have stepped back.
func (q *expiry) add(key []byte) {
	q.at = min(q.at, int64(numberOfKey(key))+q.ttl)
	if bytes.Compare(key, q.from) < 0 {
		q.from = key
	}
}
