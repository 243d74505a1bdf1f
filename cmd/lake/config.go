package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/alecthomas/kong"

	"github.com/jsonlake/lake/internal/app"
)

type configCmd struct {
	Show  configShowCmd  `cmd:"" help:"Print the settings in force: flags, LAKE_*, file, defaults."`
	Check configCheckCmd `cmd:"" help:"Say whether the settings are valid."`
}

type configShowCmd struct {
	app.Config `embed:""`
	JSON       bool `name:"json" help:"Print JSON."`
}

func (c *configShowCmd) Run(k *kong.Context, s *streamsIO) error {
	settings := app.Show(k.Flags())
	if c.JSON {
		return printJSON(s.out, settings)
	}
	w := tabwriter.NewWriter(s.out, 0, 4, 2, ' ', 0)
	for _, v := range settings {
		fmt.Fprintf(w, "%s:\t%s\n", v.Name, v.Value)
	}
	return w.Flush()
}

type configCheckCmd struct {
	app.Config `embed:""`
}

// Run has nothing left to do: parsing checked everything.
func (c *configCheckCmd) Run(s *streamsIO) error {
	_, err := fmt.Fprintln(s.out, "the configuration is valid")
	return err
}
