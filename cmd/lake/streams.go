package main

import (
	"context"
	"fmt"

	"github.com/jsonlake/lake/internal/app"
)

type streamsCmd struct {
	Apply streamsApplyCmd `cmd:"" help:"Create or update the streams, and turn events on in the index."`
}

type streamsApplyCmd struct {
	app.Config `embed:""`
}

func (c *streamsApplyCmd) Run(ctx context.Context, s *streamsIO) error {
	if err := app.ApplyStreams(ctx, &c.Config, s.err); err != nil {
		return err
	}
	_, err := fmt.Fprintln(s.out, "streams applied, events are on")
	return err
}
