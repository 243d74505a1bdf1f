package main

import (
	"context"
	"fmt"

	"github.com/jsonlake/lake/internal/app"
	"github.com/jsonlake/lake/pkg/engine"
)

type doctorCmd struct {
	app.Config `embed:""`

	JSON bool `name:"json" help:"Print JSON."`
}

func (c *doctorCmd) Run(ctx context.Context, s *streamsIO) error {
	found := app.Doctor(ctx, &c.Config)
	failed := 0
	for _, f := range found {
		if f.Level == app.LevelFail {
			failed++
		}
		if !c.JSON {
			if _, err := fmt.Fprintf(s.out, "%-4s  %s: %s\n", f.Level, f.Check, f.Detail); err != nil {
				return err
			}
		}
	}
	if c.JSON {
		if err := printJSON(s.out, found); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%w: %d checks failed", engine.ErrUnavailable, failed)
	}
	return nil
}
