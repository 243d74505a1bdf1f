package main

import (
	"context"
	"fmt"

	"github.com/jsonlake/lake/pkg/engine"
)

type snapshotCmd struct {
	target
	Catalog string `arg:"" help:"Catalog."`
}

func (c *snapshotCmd) Run(ctx context.Context, s *streamsIO) error {
	return c.with(ctx, func(ctx context.Context, l store) error {
		var total engine.FoldResult
		for {
			r, err := l.Fold(ctx, c.Catalog)
			if err != nil {
				return err
			}
			r.Deltas += total.Deltas
			if total = r; !r.More {
				break
			}
		}
		if c.JSON {
			return printJSON(s.out, total)
		}
		_, err := fmt.Fprintf(s.out, "%s (%d deltas folded, document of %d bytes)\n", total.Version, total.Deltas, total.Bytes)
		return err
	})
}
