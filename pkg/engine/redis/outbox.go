package redis

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/jsonlake/lake/pkg/engine"
)

// SetEvents turns outbox entries on or off in every shard.
func (x *Index) SetEvents(ctx context.Context, on bool) error {
	pipe := x.admin.Pipeline()
	for s := range x.keys {
		if on {
			pipe.HSet(ctx, x.keys[s].heads, eventsField, "1")
		} else {
			pipe.HDel(ctx, x.keys[s].heads, eventsField)
		}
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return unavailable("set events", err)
	}
	return nil
}

// Next reads the oldest entries of each shard.
func (x *Index) Next(ctx context.Context, epoch uint64, shards []int, limit int) ([]engine.OutboxBatch, error) {
	if limit < 1 {
		return nil, fmt.Errorf("%w: read at most %d entries", engine.ErrInvalid, limit)
	}
	calls := make([]*call, len(shards))
	for i, s := range shards {
		if err := validShard(s); err != nil {
			return nil, err
		}
		calls[i] = x.readCall(s, epoch, x.keys[s].outbox, "open", "XRANGE", "-", "+", "COUNT", strconv.Itoa(limit))
	}
	x.run(ctx, x.work, calls)
	if err := firstError(calls); err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	batches := make([]engine.OutboxBatch, 0, len(calls))
	for _, c := range calls {
		b := engine.OutboxBatch{Shard: c.shard}
		var entries []any
		if len(c.reply) > 0 {
			entries, _ = c.reply[0].([]any)
		}
		for _, entry := range entries {
			var id string
			var err error
			if id, b.Events, err = parseEntry(b.Events, entry); err != nil {
				return nil, fmt.Errorf("outbox of shard %x: entry %s: %w: %w", c.shard, id, engine.ErrDamaged, err)
			}
			b.UpTo = id
		}
		batches = append(batches, b)
	}
	return batches, nil
}

// parseEntry reads a stream entry, id and fields, and appends its events to those before.
func parseEntry(events []engine.Event, entry any) (id string, _ []engine.Event, err error) {
	parts, _ := entry.([]any)
	if len(parts) != 2 {
		return "", nil, fmt.Errorf("it has %d parts", len(parts))
	}
	id, _ = parts[0].(string)
	fields, _ := parts[1].([]any)
	if len(fields) != 2 {
		return id, nil, fmt.Errorf("it has %d fields", len(fields))
	}
	kind, _ := fields[0].(string)
	text, _ := fields[1].(string)
	ms, lines, ok := strings.Cut(text, "\n")
	p := parser{}
	at := p.int(ms)
	if !ok || p.err != nil {
		return id, nil, fmt.Errorf("%q is not an entry", text)
	}
	events = slices.Grow(events, 1+strings.Count(lines, "\n"))
	for line := range strings.SplitSeq(lines, "\n") {
		e, err := parseEvent(kind, line)
		if err != nil {
			return id, nil, err
		}
		e.Time = at
		events = append(events, e)
	}
	return id, events, nil
}

func parseEvent(kind, line string) (engine.Event, error) {
	var f [11]string
	rest, more := line, true
	for i := range f {
		if !more {
			return engine.Event{}, fmt.Errorf("%q is not an event", line)
		}
		f[i], rest, more = strings.Cut(rest, "|")
	}
	if more {
		return engine.Event{}, fmt.Errorf("%q is not an event", line)
	}
	name, err := decodeName(f[0])
	if err != nil {
		return engine.Event{}, fmt.Errorf("catalog of %q: %w", line, err)
	}
	author, err := url.QueryUnescape(f[6])
	if err != nil {
		return engine.Event{}, fmt.Errorf("author of %q: %w", line, err)
	}
	p := parser{}
	e := engine.Event{
		V: 1, Catalog: name, First: p.version(f[1]), Version: p.version(f[2]), Count: p.int(f[3]), Bytes: p.int(f[4]), Writer: f[5], Author: author,
		Prev: p.version(f[7]), LiveDeltas: p.int(f[8]), LiveBytes: p.int(f[9]), DocBytes: p.int(f[10]),
	}
	switch kind {
	case "c":
		e.Kind = engine.EventCommitted
	case "s":
		e.Kind = engine.EventSnapshotted
	case "p":
		e.Kind = engine.EventPurged
	default:
		return engine.Event{}, fmt.Errorf("an entry of kind %q", kind)
	}
	if p.err != nil {
		return engine.Event{}, fmt.Errorf("event %q: %w", line, p.err)
	}
	return e, nil
}

// Trim removes a shard's entries up to an id that Next gave.
func (x *Index) Trim(ctx context.Context, epoch uint64, shard int, upTo string) error {
	if err := validShard(shard); err != nil {
		return err
	}
	keep := "0-1"
	if upTo != "" {
		a, b, ok := strings.Cut(upTo, "-")
		ms, err1 := strconv.ParseUint(a, 10, 64)
		n, err2 := strconv.ParseUint(b, 10, 64)
		if !ok || err1 != nil || err2 != nil {
			return fmt.Errorf("%w: trim the outbox of shard %x up to %q: not an id that Next gave", engine.ErrInvalid, shard, upTo)
		}
		if n++; n == 0 {
			ms++
		}
		keep = strconv.FormatUint(ms, 10) + "-" + strconv.FormatUint(n, 10)
	}
	c := &call{
		script: x.scripts.Load().trimout, shard: shard, keys: []string{x.keys[shard].heads, x.keys[shard].outbox},
		args: []any{strconv.FormatUint(epoch, 10), keep},
	}
	x.run(ctx, x.work, []*call{c})
	return c.err
}
