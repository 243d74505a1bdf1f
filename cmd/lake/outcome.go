package main

import (
	"context"
	"fmt"

	"github.com/jsonlake/lake/pkg/engine"
)

type outcomeCmd struct {
	target
	Catalog string `arg:"" help:"Catalog."`
	ID      string `arg:"" help:"The write's id: your own, or the one an unknown outcome named."`
}

func (c *outcomeCmd) Run(ctx context.Context, s *streamsIO) error {
	return c.with(ctx, func(ctx context.Context, l store) error {
		r, err := l.Outcome(ctx, engine.OutcomeRequest{Catalog: c.Catalog, ID: c.ID})
		switch {
		case err != nil:
			return err
		case c.JSON:
			return printJSON(s.out, r)
		case r.State == "pending":
			_, err = fmt.Fprintln(s.out, r.State)
		default:
			_, err = fmt.Fprintln(s.out, r.State, r.Version)
		}
		return err
	})
}
