package main

import (
	"context"
	"fmt"

	"github.com/jsonlake/lake/internal/app"
)

type rebuildCmd struct {
	app.Config `embed:""`

	AcceptLoss []string `name:"accept-loss" placeholder:"KEY" help:"Give up what this damaged segment or pack has lost, for good; 'all': whatever is damaged. Look at lake verify first. Repeatable."`
	JSON       bool     `name:"json" help:"Print JSON, and no progress."`
}

func (c *rebuildCmd) Run(ctx context.Context, s *streamsIO) error {
	p, last := newProgress(s.err, c.JSON), ""
	r, err := app.Rebuild(ctx, &c.Config, c.AcceptLoss, func(step string) {
		if step != last { // a shard at a time says the same sixteen times
			last = step
			p.line("%6.1f s  %s", p.seconds(), step)
		}
	}, p.show, s.err)
	p.end()
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s.out, r)
	}
	for _, l := range r.Accepted {
		if _, err := fmt.Fprintf(s.out, "gave up of %s: %s\n", l.Object, l.What()); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(s.out, "rebuilt the index from the bucket: %d catalogs in %.1f s, epoch %d\n", r.Catalogs, r.Seconds, r.Epoch)
	return err
}
