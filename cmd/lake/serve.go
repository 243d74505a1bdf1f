package main

import (
	"context"

	"github.com/jsonlake/lake/internal/app"
)

type serveCmd struct {
	app.Config `embed:""`
}

func (c *serveCmd) Run(ctx context.Context, s *streamsIO) error {
	return app.Serve(ctx, &c.Config, s.out, s.err)
}
