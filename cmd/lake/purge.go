package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/mattn/go-isatty"

	"github.com/jsonlake/lake/pkg/engine"
)

type purgeCmd struct {
	target
	Catalog   string          `arg:"" help:"Catalog."`
	Yes       bool            `help:"Do not ask; needed where there is no terminal to ask on."`
	Wait      bool            `help:"Wait until every byte is gone. Of a distributed lake that takes some minutes."`
	Author    string          `help:"Who asks; kept in the history." placeholder:"NAME"`
	ID        string          `name:"id" help:"Idempotency id: asked again with it, nothing is purged that was written since."`
	IfVersion *engine.Version `help:"Purge only if this is the current version." placeholder:"VERSION"`
}

const (
	waitPause   = 5 * time.Second // before --wait looks again
	maxTimeless = time.Minute     // how long --wait waits for what has no time, such as the publishing of events
)

func (c *purgeCmd) Run(ctx context.Context, s *streamsIO) error {
	req := engine.PurgeRequest{Catalog: c.Catalog, Author: c.Author, ID: c.ID, IfVersion: c.IfVersion}
	if req.ID == "" {
		req.ID = rand.Text() // whatever is repeated purges once
	}
	if err := c.confirm(s); err != nil {
		return err
	}
	receipt, err := c.purge(ctx, req)
	timeless := time.Now() // since when nothing waits for a time
	for err == nil && c.Wait && !receipt.Complete {
		if receipt.Until != nil {
			timeless = time.Now()
		} else if time.Since(timeless) > maxTimeless {
			return fmt.Errorf("%w: catalog %q is purged at version %s, but %s", engine.ErrUnavailable, c.Catalog, receipt.Version, waiting(receipt))
		}
		if !c.JSON {
			_, _ = fmt.Fprintf(s.err, "purged at %s; %s\n", receipt.Version, waiting(receipt))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(waitPause):
		}
		before := receipt
		if receipt, err = c.purge(ctx, req); err == nil {
			receipt.Snapshots, receipt.Packs = receipt.Snapshots+before.Snapshots, receipt.Packs+before.Packs
			receipt.Segments, receipt.Rewritten = receipt.Segments+before.Segments, receipt.Rewritten+before.Rewritten
			receipt.Bytes, receipt.Cached = receipt.Bytes+before.Bytes, receipt.Cached+before.Cached
		}
	}
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s.out, receipt)
	}
	_, err = fmt.Fprintf(s.out, "%s: deleted %d snapshots, %d packs and %d segments (%d bytes); rewrote %d segments; %d cache entries\n",
		receipt.Version, receipt.Snapshots, receipt.Packs, receipt.Segments, receipt.Bytes, receipt.Rewritten, receipt.Cached)
	if err == nil && receipt.Complete {
		_, err = fmt.Fprintln(s.out, "complete: nothing of it is left in the bucket, and nothing answers")
	} else if err == nil {
		_, err = fmt.Fprintf(s.out, "nothing answers; %s (--wait waits for it)\n", waiting(receipt))
	}
	return err
}

func waiting(r engine.PurgeReceipt) string {
	if r.Until == nil {
		return fmt.Sprintf("%d segments wait for their events to be published, by a running lake; then they go by themselves", r.Waiting)
	}
	return fmt.Sprintf("%d segments wait until %s, and go by themselves then", r.Waiting, r.Until.Format(time.RFC3339))
}

func (c *purgeCmd) purge(ctx context.Context, req engine.PurgeRequest) (r engine.PurgeReceipt, err error) {
	err = c.with(ctx, func(ctx context.Context, l store) error {
		r, err = l.Purge(ctx, req)
		return err
	})
	return r, err
}

// confirm asks on a terminal, and refuses where there is none.
func (c *purgeCmd) confirm(s *streamsIO) error {
	if c.Yes {
		return nil
	}
	f, ok := s.in.(*os.File)
	if !ok || !isatty.IsTerminal(f.Fd()) {
		return engine.Invalid("not_confirmed", "yes", "a purge erases catalog %q for good; give --yes where nobody can be asked", c.Catalog)
	}
	_, _ = fmt.Fprintf(s.err, "This erases catalog %q with all its history, for good. Write its name to go on: ", c.Catalog)
	line, err := bufio.NewReader(io.LimitReader(f, 4096)).ReadString('\n')
	if err != nil || strings.TrimRight(line, "\r\n") != c.Catalog {
		return engine.Invalid("not_confirmed", "yes", "nothing was purged: that is not the name of the catalog")
	}
	return nil
}
