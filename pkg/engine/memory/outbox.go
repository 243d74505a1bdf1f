package memory

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// entry of an outbox: what one commit, fold or restore changed in a shard.
type entry struct {
	id     uint64
	at     time.Time // when it was written
	events []engine.Event
}

// eventList gathers the events of one operation on one shard. Runs of a
// catalog that follow one another become one event.
type eventList struct{ list []engine.Event }

func (l *eventList) committed(e engine.Event) {
	for i := range l.list {
		have := &l.list[i]
		if have.Catalog == e.Catalog && have.Version == e.Prev && have.Writer == e.Writer {
			e.First, e.Prev = have.First, have.Prev
			e.Count += have.Count
			e.Bytes += have.Bytes
			*have = e
			return
		}
	}
	l.list = append(l.list, e)
}

func (s *shard) publish(now time.Time, on bool, events []engine.Event) {
	if !on || len(events) == 0 {
		return
	}
	s.entries++
	s.outbox = append(s.outbox, entry{id: s.entries, at: now, events: events})
}

// SetEvents turns the outbox on or off.
func (x *Index) SetEvents(ctx context.Context, on bool) error {
	_, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return err
	}
	x.events = on
	return nil
}

// Next reads the oldest entries of each shard.
func (x *Index) Next(ctx context.Context, epoch uint64, shards []int, limit int) ([]engine.OutboxBatch, error) {
	if limit < 1 {
		return nil, fmt.Errorf("read at most %d entries: %w", limit, engine.ErrInvalid)
	}
	_, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return nil, err
	}
	var batches []engine.OutboxBatch
	for _, number := range shards {
		s, err := x.working(number, epoch)
		if err != nil {
			return nil, err
		}
		b := engine.OutboxBatch{Shard: number}
		for _, e := range s.outbox[:min(limit, len(s.outbox))] {
			b.UpTo = strconv.FormatUint(e.id, 10)
			b.Events = append(b.Events, e.events...)
		}
		batches = append(batches, b)
	}
	return batches, nil
}

// Trim removes the entries of a shard up to an id.
func (x *Index) Trim(ctx context.Context, epoch uint64, shard int, upTo string) error {
	_, err := x.enter(ctx)
	defer x.mu.Unlock()
	if err != nil {
		return err
	}
	s, err := x.working(shard, epoch)
	if err != nil || upTo == "" {
		return err
	}
	id, err := strconv.ParseUint(upTo, 10, 64)
	if err != nil {
		return fmt.Errorf("trim the outbox of shard %d up to %q: not an id that Next gave: %w", shard, upTo, engine.ErrInvalid)
	}
	for len(s.outbox) > 0 && s.outbox[0].id <= id {
		s.outbox = s.outbox[1:]
	}
	return nil
}
