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
	Catalog   string         `arg:"" optional:"" help:"Catalog; all of them by default."`
	Prefix    string         `help:"Only catalogs whose names begin so."`
	Since     engine.Version `help:"Begin after this version of the catalog." default:"0_0"`
	FromStart bool           `help:"Begin with the oldest event that the stream still has."`
	Count     int            `help:"End after so many events; 0 goes on." default:"0"`
}

func (c *watchCmd) Run(ctx context.Context, s *streamsIO) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	o := events.WatchOptions{
		Catalog: c.Catalog, Prefix: c.Prefix, Since: c.Since, FromStart: c.FromStart,
		OnError: func(err error) { fmt.Fprintf(s.err, "lake: watch: %v\n", err) },
	}
	n := 0
	for ev, err := range cl.Watch(ctx, o) {
		var gap *events.GapError
		switch {
		case errors.As(err, &gap):
			fmt.Fprintf(s.err, "lake: %v; `lake log` has them\n", err)
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		if err := c.print(s, ev); err != nil {
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

func (c *watchCmd) print(s *streamsIO, ev engine.Event) error {
	if c.JSON {
		return printJSON(s.out, ev)
	}
	author := ""
	if ev.Author != "" {
		author = " by " + ev.Author
	}
	_, err := fmt.Fprintf(s.out, "%s  %-11s %s  %s (%d deltas, %d bytes)%s\n",
		time.UnixMilli(ev.Time).UTC().Format(time.DateTime), ev.Kind, ev.Catalog, ev.Version, ev.Count, ev.Bytes, author)
	return err
}
