package main

import (
	"context"

	"github.com/jsonlake/lake/pkg/engine"
)

type batchCmd struct {
	writing
	Catalog string `arg:"" help:"Catalog."`
	Lines   string `arg:"" help:"A delta a line, {\"path\":\"/a\",\"merge\":\"merge-patch\",\"body\":…}: \"-\" for standard input, @file for a file."`
}

func (c *batchCmd) Run(ctx context.Context, s *streamsIO) error {
	b, err := body(c.Lines, s.in)
	if err != nil {
		return err
	}
	if b == nil {
		b = []byte{} // lines, and none of them
	}
	return c.commit(ctx, s, func(ctx context.Context, l store, o engine.WriteOptions) (engine.WriteResult, error) {
		return l.WriteBatch(ctx, engine.BatchRequest{Catalog: c.Catalog, Lines: b, Author: c.Author, WriteOptions: o})
	})
}
