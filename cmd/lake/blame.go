package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

type blameCmd struct {
	target
	Catalog string     `arg:"" help:"Catalog."`
	Pointer string     `arg:"" optional:"" help:"JSON Pointer (RFC 6901) of the value; the whole document by default."`
	Members bool       `help:"Each member of the object instead of the object."`
	At      *engine.At `help:"Of the document at a version or time; now by default." placeholder:"VERSION|TIME"`
}

func (c *blameCmd) Run(ctx context.Context, s *streamsIO) error {
	w := tabwriter.NewWriter(s.out, 0, 4, 2, ' ', 0)
	err := c.with(ctx, func(ctx context.Context, l store) error {
		req := engine.BlameRequest{Catalog: c.Catalog, Pointer: c.Pointer, Members: c.Members, At: c.At}
		for {
			res, err := l.Blame(ctx, req)
			if err != nil {
				return err
			}
			for _, item := range res.Items {
				if c.JSON {
					err = printJSON(s.out, item)
				} else {
					err = printBlame(w, item)
				}
				if err != nil {
					return err
				}
			}
			if res.Next == nil {
				return nil
			}
			// The pages are of one document, whatever is written meanwhile.
			req.After, req.At = res.Next, engine.AtVersion(res.Version)
		}
	})
	if ferr := w.Flush(); err == nil {
		err = ferr
	}
	return err
}

func printBlame(w *tabwriter.Writer, b engine.BlameEntry) error {
	pointer := b.Pointer
	if pointer == "" {
		pointer = "/"
	}
	if b.Gone {
		_, err := fmt.Fprintf(w, "%s\tor before\tits history is not kept\t\t%s\n", b.Version, pointer)
		return err
	}
	what := b.Merge.String() + " " + b.Path
	if !b.Present {
		what += " (removed)"
	}
	_, err := fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", b.Version, time.UnixMilli(b.Time).UTC().Format(time.DateTime), what, b.Author, pointer)
	return err
}
