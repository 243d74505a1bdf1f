package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jsonlake/lake"
	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/disk"
	"github.com/jsonlake/lake/pkg/events"
)

type watchCmd struct {
	target
	Catalog    string         `arg:"" optional:"" help:"Catalog; all of them by default."`
	Prefix     string         `help:"Only catalogs whose names begin so."`
	Path       string         `help:"Only changes that can touch the value at this JSON Pointer." placeholder:"POINTER"`
	Since      engine.Version `help:"Begin after this version of the catalog." default:"0_0"`
	Cursor     string         `help:"Go on after the item that had this cursor (--json prints them)."`
	FromStart  bool           `help:"Begin with the first version that is kept."`
	Include    string         `help:"What to tell besides the event: patch (the deltas) or document (the document at that version)." enum:",patch,document" default:""`
	SkipAuthor string         `help:"Pass over the deltas of this author." placeholder:"AUTHOR"`
	Count      int            `help:"End after so many items; 0 goes on." default:"0"`
}

func (c *watchCmd) Run(ctx context.Context, s *streamsIO) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	o := events.WatchOptions{
		Catalog: c.Catalog, Prefix: c.Prefix, Path: c.Path, Since: c.Since, Cursor: c.Cursor, FromStart: c.FromStart,
		Include: events.Include(c.Include), SkipAuthor: c.SkipAuthor,
		OnError: func(err error) { fmt.Fprintf(s.err, "lake: %v\n", err) },
	}
	n := 0
	for item, err := range cl.Watch(ctx, o) {
		var gone *events.GoneError
		switch {
		case errors.As(err, &gone):
			fmt.Fprintf(s.err, "lake: %v\n", err)
			continue
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		if err := c.print(s, &item); err != nil {
			return err
		}
		if n++; n == c.Count {
			return nil
		}
	}
	return nil
}

// client connects to the server of the lake: only a server has events.
func (c *watchCmd) client() (*client.Client, error) {
	if c.isURL() {
		return c.connect(c.Lake)
	}
	addr, err := disk.Address(lake.IndexDir(c.dir()))
	if err != nil {
		return nil, err
	}
	if addr == "" {
		return nil, fmt.Errorf("%w: nobody serves %s, so nothing happens there to watch; run `lake serve --data %s`", engine.ErrUnavailable, c.Lake, c.Lake)
	}
	return c.connect(addr)
}

func (c *watchCmd) print(s *streamsIO, item *events.Item) error {
	if c.JSON {
		return printJSON(s.out, item)
	}
	author, conflated := "", ""
	if item.Author != "" {
		author = " by " + item.Author
	}
	if item.Conflated > 1 {
		conflated = fmt.Sprintf(", %d events made into one", item.Conflated)
	}
	if _, err := fmt.Fprintf(s.out, "%s  %-11s %s  %s (%d deltas, %d bytes%s)%s\n",
		time.UnixMilli(item.Time).UTC().Format(time.DateTime), item.Kind, item.Catalog, item.Version, item.Count, item.Bytes, conflated, author); err != nil {
		return err
	}
	for i := range item.Entries {
		e := &item.Entries[i]
		if _, err := fmt.Fprintf(s.out, "  %s  %-11s %-10s %s  %s\n", e.Version, e.Merge, e.Outcome.Status, e.Path, e.Body); err != nil {
			return err
		}
	}
	switch {
	case item.Document != nil:
		_, err := fmt.Fprintf(s.out, "  %s\n", item.Document)
		return err
	case item.Absent:
		_, err := fmt.Fprintln(s.out, "  (nothing there)")
		return err
	case item.Gone:
		_, err := fmt.Fprintln(s.out, "  (not kept any more)")
		return err
	}
	return nil
}
