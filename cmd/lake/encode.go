package main

import (
	"fmt"

	"github.com/jsonlake/lake/pkg/engine"
)

type encodeCmd struct {
	Name   string `arg:"" help:"Name of a catalog; with --decode its encoded form."`
	Decode bool   `help:"Print the name of an encoded form."`
	Dir    bool   `help:"Print the catalog's folder in the bucket."`
}

func (c *encodeCmd) Run(s *streamsIO) error {
	name := c.Name
	if c.Decode {
		var err error
		if name, err = engine.DecodeCatalog(c.Name); err != nil {
			return err
		}
	} else if err := engine.ValidateCatalog(name); err != nil {
		return err
	}
	out := engine.EncodeCatalog(name)
	switch {
	case c.Dir:
		out = engine.CatalogDir(name)
	case c.Decode:
		out = name
	}
	_, err := fmt.Fprintln(s.out, out)
	return err
}
