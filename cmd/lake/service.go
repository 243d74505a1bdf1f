package main

import (
	"context"

	"github.com/jsonlake/lake/internal/app"
)

// serviceCmd runs one service of a distributed lake from this program, so that
// `lake bench` can start a whole lake from one file. The programs ingest,
// snapshotter and reader are the same.
type serviceCmd struct {
	app.Config `embed:""`

	Role string `arg:"" enum:"ingest,snapshotter,reader" help:"Which one: ${enum}."`
}

func (c *serviceCmd) Run(ctx context.Context, s *streamsIO) error {
	switch c.Role {
	case "ingest":
		return app.Ingest(ctx, &c.Config, s.out, s.err)
	case "snapshotter":
		return app.Snapshotter(ctx, &c.Config, s.out, s.err)
	default:
		return app.Reader(ctx, &c.Config, s.out, s.err)
	}
}
