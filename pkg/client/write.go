package client

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats.go"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/merge"
	"github.com/jsonlake/lake/pkg/events"
)

// Write commits one delta; see engine.Engine.Write. Where no answer came the
// error is engine.ErrUnknown; with an id of the caller's own the write can be
// repeated or asked for (Outcome).
//
// Writes of one catalog without an id or a condition that come while another one
// is under way leave together, in their order, as one batch of one author (see
// WithoutCoalescing); each has its own answer. When no answer comes to a batch, the
// *engine.UnknownError of each of its writes has the batch's id, and Outcome tells
// what became of all of them. A write whose batch was refused is sent again by itself.
func (c *Client) Write(ctx context.Context, req engine.WriteRequest) (engine.WriteResult, error) {
	if c.coalesce == nil || req.WriteOptions != (engine.WriteOptions{}) {
		return c.writeOne(ctx, &req)
	}
	return c.coalesce.write(ctx, &req)
}

// WriteBatch commits deltas of one catalog as one run: contiguous versions, all or
// nothing; see engine.Engine.WriteBatch. As text a batch has at most the server's max_payload
// (1 MiB by default): what is larger is engine.ErrTooLarge.
func (c *Client) WriteBatch(ctx context.Context, req engine.BatchRequest) (engine.WriteResult, error) {
	if err := engine.ValidateCatalog(req.Catalog); err != nil {
		return engine.WriteResult{}, err
	}
	lines := req.Lines
	switch {
	case req.Deltas != nil && req.Lines != nil:
		return engine.WriteResult{}, engine.Invalid("invalid_batch", "body", "a batch is given as deltas or as lines, not both")
	case req.Lines == nil:
		// Once a batch is sent, nats.go holds no part of it.
		room := batchRoom.Get().(*[]byte)
		defer batchRoom.Put(room)
		lines = (*room)[:0]
		for i := range req.Deltas {
			var err error
			if lines, err = appendLine(lines, &req.Deltas[i]); err != nil {
				return engine.WriteResult{}, fmt.Errorf("delta %d of the batch: %w", i+1, err)
			}
		}
		if cap(lines) <= maxBatchBytes {
			*room = lines
		}
	}
	return c.sendLines(ctx, req.Catalog, lines, req.Author, req.WriteOptions)
}

// What batches are laid out in, and what checks their deltas.
var (
	batchRoom = sync.Pool{New: func() any { return new([]byte) }}
	checkers  = sync.Pool{New: func() any { return new(merge.Checker) }}
)

// appendLine appends a delta as a line of a batch. It holds the delta to the rules
// of the engine with its default limits.
func appendLine(b []byte, req *engine.WriteRequest) ([]byte, error) {
	if err := checkDelta(req); err != nil {
		return b, err
	}
	line := *req
	if line.MergeType == 0 {
		line.MergeType = engine.MergeTypeMergePatch
	}
	k := checkers.Get().(*merge.Checker)
	defer checkers.Put(k)
	var err error
	if line.Body, err = k.Check(line.MergeType, req.Body, merge.Limits{}); err != nil {
		return b, err
	}
	return engine.AppendLine(b, &line), nil
}

func checkDelta(req *engine.WriteRequest) error {
	if req.Path != "" {
		if err := engine.ValidatePath(req.Path); err != nil {
			return err
		}
	}
	if req.MergeType != 0 && !req.MergeType.Valid() {
		return engine.Invalid("invalid_merge", "merge", "merge type %d is none of replace, merge-patch, json-patch, delete", req.MergeType)
	}
	return nil
}

func (c *Client) sendLines(ctx context.Context, catalog string, lines []byte, author string, o engine.WriteOptions) (engine.WriteResult, error) {
	h := nats.Header{events.HeaderBatch: {"ndjson"}}
	if c.compress {
		h[events.HeaderEncoding] = []string{"s2"}
		lines = s2.Encode(nil, lines)
	}
	return c.send(ctx, catalog, h, lines, author, o)
}

// writeOne sends a delta as a request of its own.
func (c *Client) writeOne(ctx context.Context, req *engine.WriteRequest) (engine.WriteResult, error) {
	if err := engine.ValidateCatalog(req.Catalog); err != nil {
		return engine.WriteResult{}, err
	}
	if err := checkDelta(req); err != nil {
		return engine.WriteResult{}, err
	}
	h := nats.Header{}
	// Only what is not the default: fewer bytes on the way.
	if req.Path != "" && req.Path != "/" {
		h[events.HeaderPath] = []string{req.Path}
	}
	if req.MergeType != 0 {
		h[events.HeaderMerge] = []string{req.MergeType.String()}
	}
	if req.NoAutoParents {
		h[events.HeaderAutoParents] = []string{"off"}
	}
	return c.send(ctx, req.Catalog, h, req.Body, req.Author, req.WriteOptions)
}

// send sends a write or a batch and reads the answer.
func (c *Client) send(ctx context.Context, catalog string, h nats.Header, body []byte, author string, o engine.WriteOptions) (res engine.WriteResult, err error) {
	err = c.change(ctx, c.subjects.Write(catalog), h, body, author, o, &res)
	return res, err
}

// change asks for something that changes the lake: what is not answered is unknown.
func (c *Client) change(ctx context.Context, subject string, h nats.Header, body []byte, author string, o engine.WriteOptions, res any) error {
	if author != "" {
		if err := checkValue("author", author); err != nil {
			return err
		}
		h[events.HeaderAuthor] = []string{author}
	}
	if err := setWriteOptions(h, o); err != nil {
		return err
	}
	msg, err := c.ask(ctx, subject, h, body, change)
	if err != nil && o.ID != "" && errors.Is(err, engine.ErrUnknown) {
		return &engine.UnknownError{ID: o.ID, Err: err}
	}
	if err != nil {
		return err
	}
	if err := decode(msg, res); err != nil {
		return fmt.Errorf("%w: %w", engine.ErrUnknown, err)
	}
	return nil
}
