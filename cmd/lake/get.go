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

	At          *engine.At     `help:"The document of the past: a version or a time (RFC 3339, or seconds since 1970)." placeholder:"VERSION|TIME"`
	MinVersion  engine.Version `help:"Wait until the catalog has reached this version." default:"0_0"`
	IfNoneMatch engine.Version `help:"Print nothing if the catalog is at this version." default:"0_0"`
	Relaxed     bool           `help:"Answer also while the bucket is away; may miss the writes of the last 100 ms, and more while the index is being replaced."`
}

func (c *getCmd) Run(ctx context.Context, s *streamsIO) error {
	return c.with(ctx, func(ctx context.Context, l store) error {
		r, err := l.Read(ctx, engine.ReadRequest{Catalog: c.Catalog, Pointer: c.Pointer, At: c.At, MinVersion: c.MinVersion, IfNoneMatch: c.IfNoneMatch, Relaxed: c.Relaxed})
		if err != nil {
			return err
		}
		if c.JSON {
			return printJSON(s.out, struct {
				Version     engine.Version  `json:"version"`
				Pending     bool            `json:"pending"`
				NotModified bool            `json:"not_modified,omitempty"`
				Body        json.RawMessage `json:"body,omitempty"`
			}{r.Version, r.Pending, r.NotModified, r.Body})
		}
		if r.NotModified {
			return nil
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
