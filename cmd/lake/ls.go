package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

type lsCmd struct {
	target
	Prefix string `arg:"" optional:"" help:"Only catalogs whose names begin so."`
	After  string `help:"Only catalogs after this name."`
	Limit  int    `help:"Most catalogs to print; 0 prints all." default:"0"`
}

func (c *lsCmd) Run(ctx context.Context, s *streamsIO) error {
	if c.Limit < 0 {
		return fmt.Errorf("%w: --limit must not be negative", engine.ErrInvalid)
	}
	w := tabwriter.NewWriter(s.out, 0, 4, 2, ' ', 0)
	if !c.JSON {
		fmt.Fprintln(w, "CATALOG\tVERSION\tUPDATED\tBYTES AT SNAPSHOT\tDELTAS SINCE")
	}
	err := c.with(ctx, func(ctx context.Context, l store) error {
		after, left := c.After, c.Limit
		for {
			page := 1000
			if c.Limit > 0 {
				page = min(page, left)
			}
			list, err := l.Catalogs(ctx, c.Prefix, after, page)
			if err != nil {
				return err
			}
			for _, i := range list {
				if c.JSON {
					err = printJSON(s.out, i)
				} else {
					_, err = fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\n", i.Catalog, i.Version, time.Unix(i.Updated, 0).UTC().Format(time.DateTime), i.Bytes, i.Deltas)
				}
				if err != nil {
					return err
				}
			}
			left -= len(list)
			if len(list) < page || c.Limit > 0 && left == 0 {
				return nil
			}
			after = list[len(list)-1].Catalog
		}
	})
	if ferr := w.Flush(); err == nil {
		err = ferr
	}
	return err
}
