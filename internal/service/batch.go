package service

import (
	"context"
	"fmt"

	"github.com/klauspost/compress/s2"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/events"
)

// writeBatch commits a body of NDJSON as one run.
func (s *Ingest) writeBatch(ctx context.Context, r *request, form string) (engine.WriteResult, error) {
	if form != "ndjson" {
		return engine.WriteResult{}, engine.Invalid("invalid_header", events.HeaderBatch, "header %s is \"ndjson\" or left out, not %.50q", events.HeaderBatch, form)
	}
	for _, name := range []string{events.HeaderPath, events.HeaderMerge, events.HeaderAutoParents} {
		if r.header[name] != nil {
			return engine.WriteResult{}, engine.Invalid("invalid_header", name, "header %s has no place beside %s: each line says it for its delta", name, events.HeaderBatch)
		}
	}
	req := engine.BatchRequest{Catalog: r.catalog}
	var err error
	if req.Author, req.WriteOptions, err = s.whoAndHow(r); err != nil {
		return engine.WriteResult{}, err
	}
	if req.Lines, err = s.lines(r); err != nil {
		return engine.WriteResult{}, err
	}
	return s.lake.WriteBatch(ctx, req)
}

// lines is the text of a batch, decompressed. What it decompresses to is bounded
// like what may come uncompressed, several times over.
func (s *Ingest) lines(r *request) ([]byte, error) {
	how, given, err := r.value(events.HeaderEncoding)
	switch {
	case err != nil:
		return nil, err
	case !given && r.body == nil:
		return []byte{}, nil // lines, and none of them
	case !given:
		return r.body, nil
	case how != "s2":
		return nil, engine.Invalid("invalid_header", events.HeaderEncoding, "header %s is \"s2\" or left out, not %.50q", events.HeaderEncoding, how)
	}
	n, err := s2.DecodedLen(r.body)
	if most := s.door.MaxBody * maxExpansion; err == nil && int64(n) > most {
		return nil, fmt.Errorf("%w: the batch decompresses to %d bytes, at most %d are allowed over NATS", engine.ErrTooLarge, n, most)
	}
	var lines []byte
	if err == nil {
		lines, err = s2.Decode(make([]byte, 0, n), r.body)
	}
	if err != nil {
		return nil, engine.Invalid("invalid_encoding", "body", "the body is not a block of s2: %v", err)
	}
	return lines, nil
}

// maxExpansion is how many times MaxBody a compressed batch may decompress to.
const maxExpansion = 4
