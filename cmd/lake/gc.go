package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jsonlake/lake/internal/app"
	"github.com/jsonlake/lake/pkg/engine"
)

type gcCmd struct {
	app.Config `embed:""`

	Prefix    string `help:"With --older-than: catalogs whose names begin so; empty: all."`
	OlderThan string `help:"Give up history that is older, as in 90d; the newest snapshot before stays." placeholder:"AGE"`
	DryRun    bool   `help:"Only tell what would go."`
	JSON      bool   `name:"json" help:"Print JSON."`
}

// Validate is called by kong after parsing.
func (c *gcCmd) Validate() error {
	if c.OlderThan != "" {
		c.Retain = append(c.Retain, c.Prefix+"="+c.OlderThan)
	} else if c.Prefix != "" {
		return fmt.Errorf("--prefix needs --older-than")
	}
	return c.Config.Validate()
}

func (c *gcCmd) Run(ctx context.Context, s *streamsIO) error {
	did, err := app.Collect(ctx, &c.Config, c.DryRun, s.err)
	if err != nil && !errors.Is(err, engine.ErrDamaged) { // what does not depend on the damage was done
		return err
	}
	if c.JSON {
		return errors.Join(err, printJSON(s.out, did))
	}
	verb := "deleted"
	if c.DryRun {
		verb = "would delete"
	}
	_, perr := fmt.Fprintf(s.out, "%s %d segments, %d snapshots, %d strays; gave up %d snapshots; compacted %d segments (%d bytes); %d wait for the grace of %v\n",
		verb, did.Segments, did.Snapshots, did.Strays, did.Dropped, did.Compacted, did.Copied, did.Waiting, c.GCGrace)
	return errors.Join(err, perr)
}
