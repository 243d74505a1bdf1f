package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

type logCmd struct {
	target
	Catalog string         `arg:"" help:"Catalog."`
	After   engine.Version `help:"Only versions after this one; with --desc, before it." default:"0_0"`
	Desc    bool           `help:"Newest first."`
	Limit   int            `help:"Most deltas to print; 0 prints all." default:"100"`
}

func (c *logCmd) Run(ctx context.Context, s *streamsIO) error {
	if c.Limit < 0 {
		return fmt.Errorf("%w: --limit must not be negative", engine.ErrInvalid)
	}
	return c.with(ctx, func(ctx context.Context, l store) error {
		after, left := c.After, c.Limit
		order := engine.Ascending
		if c.Desc {
			order = engine.Descending
		}
		for {
			page := 1000
			if c.Limit > 0 {
				page = min(page, left)
			}
			p, err := l.Log(ctx, engine.LogRequest{Catalog: c.Catalog, After: after, Limit: page, Order: order})
			if err != nil {
				return err
			}
			for _, e := range p.Items {
				if err := c.print(s, e); err != nil {
					return err
				}
			}
			left -= len(p.Items)
			if p.Next == nil || c.Limit > 0 && left == 0 {
				return nil
			}
			after = *p.Next
		}
	})
}

func (c *logCmd) print(s *streamsIO, e engine.LogEntry) error {
	if c.JSON {
		return printJSON(s.out, e)
	}
	outcome := e.Outcome.Status.String()
	if e.Outcome.Reason != 0 {
		outcome += " (" + e.Outcome.Reason.String() + ")"
	}
	author := ""
	if e.Author != "" {
		author = " by " + e.Author
	}
	_, err := fmt.Fprintf(s.out, "%s  %s  %-11s %-10s %s  %s%s\n",
		e.Version, time.UnixMilli(e.Time).UTC().Format(time.DateTime), e.Merge, outcome, e.Path, e.Body, author)
	return err
}
