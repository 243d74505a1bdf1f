package main

import (
	"context"
	"fmt"

	"github.com/jsonlake/lake/pkg/engine"
)

// reverting is what revert and undelete share.
type reverting struct {
	target
	Author string `help:"Who asks; kept in the history." placeholder:"NAME"`
	ID     string `name:"id" help:"Idempotency id: the same id has one effect in 24 h, however often it is sent."`
}

func (r *reverting) revert(ctx context.Context, s *streamsIO, catalog string, to *engine.At) error {
	return r.with(ctx, func(ctx context.Context, l store) error {
		res, err := l.Revert(ctx, engine.RevertRequest{Catalog: catalog, To: to, Author: r.Author, ID: r.ID})
		if err != nil {
			return err
		}
		if r.JSON {
			return printJSON(s.out, res)
		}
		_, err = fmt.Fprintln(s.out, res.Version)
		return err
	})
}

type revertCmd struct {
	reverting
	Catalog string    `arg:"" help:"Catalog."`
	Version engine.At `arg:"" help:"Version or time (RFC 3339, or seconds since 1970) whose document becomes the current one."`
}

func (c *revertCmd) Run(ctx context.Context, s *streamsIO) error {
	return c.revert(ctx, s, c.Catalog, &c.Version)
}

type undeleteCmd struct {
	reverting
	Catalog string `arg:"" help:"Catalog."`
}

func (c *undeleteCmd) Run(ctx context.Context, s *streamsIO) error {
	return c.revert(ctx, s, c.Catalog, nil)
}
