package disk

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// shard is one sixteenth of the index. Operations that change it hold mu for
// writing while they read, decide and commit one batch. In memory are only
// what has a bound of its own: the record, segments in flight, leases, and
// writers that are alive.
type shard struct {
	number int
	mu     sync.RWMutex
	shardRecord
	same      bool                       // this is the shard that was fenced; false after an unclean stop
	emptied   uint64                     // the epoch in which this process emptied the shard
	undecided map[engine.SegmentID]int64 // since when, ms
	oldest    uint64                     // number of the oldest entry that the outbox may have
	plans     expiry                     // decided plans
	receipts  expiry                     // of idempotency ids
	gates     map[string]gate            // of catalogs; a second, so they need no disk
	saved     int64                      // ms; the mark on the disk
	moves     uint64                     // how often live runs moved to another segment

	soft    sync.Mutex // guards what is not on the disk
	writers map[string]int64
	leases  map[string]lease
}

// gate holds off the reservations of all but one conditional write.
type gate struct {
	token string
	until int64 // ms
}

func (x *Index) loadShard(number int) (*shard, error) {
	s := &shard{
		number: number, same: x.clean,
		undecided: make(map[engine.SegmentID]int64),
		plans:     expiry{ttl: planTTL},
		gates:     make(map[string]gate),
		writers:   make(map[string]int64),
		leases:    make(map[string]lease),
	}
	if _, err := x.read(keyShard(number), s.decode); err != nil {
		return nil, err
	}
	from, to := tableOf(tableUndecided, number)
	err := x.scan(from, to, func(key, value []byte) (bool, error) {
		segment, err := segmentOfKey(key)
		if err == nil && len(value) != 8 {
			err = errTruncated
		}
		if err == nil {
			s.undecided[segment] = int64(binary.BigEndian.Uint64(value))
		}
		return true, err
	})
	if err != nil {
		return nil, err
	}
	s.oldest = s.entries + 1
	from, to = tableOf(tableOutbox, number)
	err = x.scan(from, to, func(key, _ []byte) (bool, error) {
		s.oldest = numberOfKey(key)
		return false, nil
	})
	s.plans.from, _ = tableOf(tableDecided, number)
	s.receipts.from, _ = tableOf(tableReceipt, number)
	return s, err
}

// shard is the shard of a number.
func (x *Index) shard(number int) (*shard, error) {
	if number < 0 || number >= engine.Shards {
		return nil, fmt.Errorf("%w: shard %d: there are shards 0 to %d", engine.ErrInvalid, number, engine.Shards-1)
	}
	return x.shards[number], nil
}

// works is ErrEpoch unless the shard is open in the epoch. The caller holds mu.
func (s *shard) works(epoch uint64) error {
	if s.n == epoch && s.open && s.same {
		return nil
	}
	return fmt.Errorf("index shard %d, epoch %d: %w", s.number, epoch, engine.ErrEpoch)
}

// look runs f while the shard is open in the epoch and does not change.
func (s *shard) look(epoch uint64, f func() error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.works(epoch); err != nil {
		return err
	}
	return f()
}

// fromMillis is a time of the index; the zero time for 0.
func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
