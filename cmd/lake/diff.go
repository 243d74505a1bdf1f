package main

import (
	"context"
	"fmt"

	"github.com/jsonlake/lake/pkg/engine"
)

type diffCmd struct {
	target
	Catalog string     `arg:"" help:"Catalog."`
	From    engine.At  `arg:"" help:"Version or time (RFC 3339, or seconds since 1970); 0_0 is before everything."`
	To      *engine.At `arg:"" optional:"" help:"Version or time; now by default."`
	Format  string     `help:"Kind of patch: merge-patch or json-patch. By default a merge patch, or a JSON Patch where a merge patch cannot say it." enum:",merge-patch,json-patch" default:""`
}

func (c *diffCmd) Run(ctx context.Context, s *streamsIO) error {
	req := engine.DiffRequest{Catalog: c.Catalog, From: c.From, To: c.To}
	switch c.Format {
	case "merge-patch":
		req.Format = engine.MergeTypeMergePatch
	case "json-patch":
		req.Format = engine.MergeTypeJSONPatch
	}
	return c.with(ctx, func(ctx context.Context, l store) error {
		d, err := l.Diff(ctx, req)
		if err != nil {
			return err
		}
		if c.JSON {
			return printJSON(s.out, d)
		}
		if d.Merge == engine.MergeTypeDelete { // which no patch can say
			_, err = fmt.Fprintf(s.out, "delete: there is no document at version %s\n", d.To)
			return err
		}
		_, err = fmt.Fprintf(s.out, "%s\n", d.Patch)
		return err
	})
}
