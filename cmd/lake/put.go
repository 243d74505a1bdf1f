package main

import (
	"context"
	"fmt"

	"github.com/jsonlake/lake/pkg/engine"
)

// writing is what put, patch, batch and rm share.
type writing struct {
	target
	Author    string          `help:"Who asks; kept in the history." placeholder:"NAME"`
	ID        string          `name:"id" help:"Idempotency id: the same id has one effect in 24 h, however often it is sent."`
	IfVersion *engine.Version `help:"Write only if this is the current version; 0_0: if it was never written." placeholder:"VERSION"`
	IfAbsent  bool            `help:"Write only if there is no document."`
}

func (w *writing) write(ctx context.Context, s *streamsIO, req engine.WriteRequest) error {
	return w.commit(ctx, s, func(ctx context.Context, l store, o engine.WriteOptions) (engine.WriteResult, error) {
		req.Author, req.WriteOptions = w.Author, o
		return l.Write(ctx, req)
	})
}

// commit makes a write and prints its version.
func (w *writing) commit(ctx context.Context, s *streamsIO, write func(context.Context, store, engine.WriteOptions) (engine.WriteResult, error)) error {
	return w.with(ctx, func(ctx context.Context, l store) error {
		r, err := write(ctx, l, engine.WriteOptions{ID: w.ID, IfVersion: w.IfVersion, IfAbsent: w.IfAbsent})
		if err != nil {
			return err
		}
		if w.JSON {
			return printJSON(s.out, r)
		}
		_, err = fmt.Fprintln(s.out, r.Version)
		return err
	})
}

type putCmd struct {
	writing
	Catalog string `arg:"" help:"Catalog."`
	Path    string `arg:"" help:"Path, \"/\" for the whole document."`
	Body    string `arg:"" help:"JSON, \"-\" for standard input, @file for a file."`
}

func (c *putCmd) Run(ctx context.Context, s *streamsIO) error {
	b, err := body(c.Body, s.in)
	if err != nil {
		return err
	}
	return c.write(ctx, s, engine.WriteRequest{Catalog: c.Catalog, Path: c.Path, MergeType: engine.MergeTypeReplace, Body: b})
}

type patchCmd struct {
	writing
	Catalog       string `arg:"" help:"Catalog."`
	Path          string `arg:"" help:"Path, \"/\" for the whole document."`
	Body          string `arg:"" help:"The patch: JSON, \"-\" for standard input, @file for a file."`
	Type          string `help:"Kind of patch: ${enum}." enum:"merge-patch,json-patch" default:"merge-patch"`
	NoAutoParents bool   `help:"JSON Patch as plain RFC 6902: do not create missing parents."`
}

func (c *patchCmd) Run(ctx context.Context, s *streamsIO) error {
	b, err := body(c.Body, s.in)
	if err != nil {
		return err
	}
	req := engine.WriteRequest{Catalog: c.Catalog, Path: c.Path, MergeType: engine.MergeTypeMergePatch, Body: b, NoAutoParents: c.NoAutoParents}
	if c.Type == "json-patch" {
		req.MergeType = engine.MergeTypeJSONPatch
	}
	return c.write(ctx, s, req)
}

type rmCmd struct {
	writing
	Catalog string `arg:"" help:"Catalog."`
	Path    string `arg:"" optional:"" help:"Path of the member to delete; the whole document by default." default:"/"`
}

func (c *rmCmd) Run(ctx context.Context, s *streamsIO) error {
	return c.write(ctx, s, engine.WriteRequest{Catalog: c.Catalog, Path: c.Path, MergeType: engine.MergeTypeDelete})
}
