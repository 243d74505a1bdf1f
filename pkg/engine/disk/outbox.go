package disk

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jsonlake/lake/pkg/engine"
)

// SetEvents turns the outbox on or off, durably.
func (x *Index) SetEvents(ctx context.Context, on bool) error {
	_, end, err := x.enter(ctx)
	if err != nil {
		return fmt.Errorf("turn events on or off: %w", err)
	}
	defer end()
	// Operations under way see it before or after.
	for _, s := range x.shards {
		s.mu.Lock()
		defer s.mu.Unlock()
	}
	if err := x.set(keyEvents(), []byte{boolByte(on)}); err != nil {
		return fmt.Errorf("turn events on or off: %w", err)
	}
	x.events.Store(on)
	return nil
}

// Next reads the oldest entries of each shard.
func (x *Index) Next(ctx context.Context, epoch uint64, shards []int, limit int) ([]engine.OutboxBatch, error) {
	var batches []engine.OutboxBatch
	err := x.list(ctx, limit, func(int64) error {
		batches = make([]engine.OutboxBatch, 0, len(shards))
		for _, number := range shards {
			b, err := x.next(ctx, epoch, number, limit)
			if err != nil {
				return err
			}
			batches = append(batches, b)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	return batches, nil
}

func (x *Index) next(ctx context.Context, epoch uint64, number, limit int) (engine.OutboxBatch, error) {
	b := engine.OutboxBatch{Shard: number}
	s, err := x.shard(number)
	if err != nil {
		return b, err
	}
	err = s.look(epoch, func() error {
		if s.oldest > s.entries {
			return ctx.Err() // most of the time there is nothing
		}
		// Entries below the oldest one are deleted, and their remains stepped over.
		_, to := tableOf(tableOutbox, number)
		left := limit
		return x.scan(keyOutbox(number, s.oldest), to, func(key, value []byte) (bool, error) {
			var err error
			b.Events, err = decodeEvents(b.Events, value)
			b.UpTo = strconv.FormatUint(numberOfKey(key), 10)
			left--
			if err == nil {
				err = ctx.Err()
			}
			return left > 0, err
		})
	})
	return b, err
}

// Trim removes the entries of a shard up to an id.
func (x *Index) Trim(ctx context.Context, epoch uint64, shard int, upTo string) error {
	if err := x.trim(ctx, epoch, shard, upTo); err != nil {
		return fmt.Errorf("trim the outbox of index shard %d: %w", shard, err)
	}
	return nil
}

func (x *Index) trim(ctx context.Context, epoch uint64, shard int, upTo string) error {
	now, end, err := x.enter(ctx)
	if err != nil {
		return err
	}
	defer end()
	s, err := x.shard(shard)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.works(epoch); err != nil || upTo == "" {
		return err
	}
	id, err := strconv.ParseUint(upTo, 10, 64)
	if err != nil {
		return fmt.Errorf("%w: %q is not an id that Next gave", engine.ErrInvalid, upTo)
	}
	c := x.begin(s, now)
	oldest := s.oldest
	for ; oldest <= min(id, s.entries); oldest++ {
		c.delete(keyOutbox(shard, oldest))
	}
	if oldest == s.oldest {
		return c.drop(nil)
	}
	if err := c.commit(false); err != nil {
		return err
	}
	s.oldest = oldest
	return nil
}
