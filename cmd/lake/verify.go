package main

import (
	"context"
	"fmt"

	"github.com/jsonlake/lake/internal/app"
	"github.com/jsonlake/lake/pkg/engine"
)

type verifyCmd struct {
	app.Config `embed:""`

	Prefix string `help:"Only catalogs whose names begin so; segments are read in any case."`
	Strays bool   `help:"List objects that nothing refers to, too; they are no faults."`
	JSON   bool   `name:"json" help:"Print JSON, and no progress."`
}

// maxFindings is how many findings the report names; all are counted.
const maxFindings = 10_000

// verifyReport is what --json prints.
type verifyReport struct {
	engine.Verified
	Seconds  float64          `json:"seconds"`
	Findings []engine.Finding `json:"findings"` // at most maxFindings
}

func (c *verifyCmd) Run(ctx context.Context, s *streamsIO) error {
	p := newProgress(s.err, c.JSON)
	r := verifyReport{Findings: []engine.Finding{}}
	var err error
	r.Verified, err = app.Verify(ctx, &c.Config, engine.VerifyRequest{
		Prefix: c.Prefix, Workers: c.Workers, Progress: p.show,
		Found: func(f engine.Finding) {
			if f.Kind == engine.FindingStray && !c.Strays {
				return
			}
			if c.JSON {
				if len(r.Findings) < maxFindings {
					r.Findings = append(r.Findings, f)
				}
				return
			}
			p.end()
			_, _ = fmt.Fprintf(s.out, "%s: %s\n", f.Kind, f.Detail)
		},
	}, s.err)
	p.end()
	if err != nil {
		return err
	}
	r.Seconds = p.seconds()
	if c.JSON {
		err = printJSON(s.out, r)
	} else {
		_, err = fmt.Fprintf(s.out, "verified %d catalogs, %d snapshots (%d replayed), %d live runs, %d segments, %d objects, %d bytes read in %.1f s: %d faults, %d accepted losses, %d strays\n",
			r.Catalogs, r.Snapshots, r.Replayed, r.Runs, r.Segments, r.Objects, r.Bytes, r.Seconds, r.Faults, r.Accepted, r.Strays)
	}
	if err == nil && r.Faults > 0 {
		err = fmt.Errorf("%w: verify found %d faults", engine.ErrDamaged, r.Faults)
	}
	return err
}
