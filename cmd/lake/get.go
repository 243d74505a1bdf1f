package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/jsonlake/lake/pkg/engine"
)

type getCmd struct {
	target
	Catalog string `arg:"" help:"Catalog."`
	Pointer string `arg:"" optional:"" help:"JSON Pointer (RFC 6901) of the part to print; the whole document by default."`
	Pretty  bool   `help:"Indent the document."`
}

func (c *getCmd) Run(ctx context.Context, s *streamsIO) error {
	return c.with(ctx, func(ctx context.Context, l store) error {
		r, err := l.Read(ctx, engine.ReadRequest{Catalog: c.Catalog, Pointer: c.Pointer})
		if err != nil {
			return err
		}
		if c.JSON {
			return printJSON(s.out, struct {
				Version engine.Version  `json:"version"`
				Pending bool            `json:"pending"`
				Body    json.RawMessage `json:"body"`
			}{r.Version, r.Pending, r.Body})
		}
		if c.Pretty {
			var b bytes.Buffer
			if err := json.Indent(&b, r.Body, "", "  "); err != nil {
				return fmt.Errorf("indent the document: %w", err)
			}
			r.Body = b.Bytes()
		}
		_, err = fmt.Fprintf(s.out, "%s\n", r.Body)
		return err
	})
}
