package main

import (
	"fmt"

	"github.com/jsonlake/lake/internal/app"
)

type versionCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

func (c *versionCmd) Run(s *streamsIO) error {
	v := app.BuildInfo()
	if c.JSON {
		return printJSON(s.out, v)
	}
	_, err := fmt.Fprintf(s.out, "lake %s (%s, %s)\n", v.Version, v.Commit, v.Go)
	return err
}
