package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"github.com/jsonlake/lake/internal/bench"
)

type costCmd struct {
	Config kong.ConfigFlag `help:"YAML file: flags by name, as a price table." placeholder:"FILE"`

	Ops        []string      `help:"Operations ports of the lake's processes, all of them." default:"127.0.0.1:9422" placeholder:"HOST:PORT,…"`
	IndexRedis string        `help:"Redis of the index, to be asked for its memory and commands." placeholder:"URL"`
	Writes     float64       `help:"Deltas a month to reckon with, in the proportions that were counted; without --writes and --reads: what was counted."`
	Reads      float64       `help:"Reads a month to reckon with."`
	Kept       float64       `help:"Months that what is written is kept." default:"1"`
	Timeout    time.Duration `help:"How long to wait for the processes." default:"10s"`
	JSON       bool          `name:"json" help:"Print JSON."`

	PricePut     float64 `help:"Of a million PUT or LIST requests. The default is an EXAMPLE: S3 Standard, us-east-1, list price in USD as documented in 2025; look yours up." default:"5.00" group:"Prices"`
	PriceGet     float64 `help:"Of a million GET requests; an example like --price-put." default:"0.40" group:"Prices"`
	PriceStorage float64 `help:"Of a GB in the bucket for a month; an example like --price-put." default:"0.023" group:"Prices"`
	PriceRedis   float64 `help:"Of a GB of the index's memory for a month; not counted unless you say." default:"0" group:"Prices"`
}

func (c *costCmd) Validate() error {
	for _, x := range []float64{c.Writes, c.Reads, c.Kept, c.PricePut, c.PriceGet, c.PriceStorage, c.PriceRedis} {
		if x < 0 || x != x {
			return errors.New("numbers of requests, months and prices must not be negative")
		}
	}
	return nil
}

// costResult is what --json prints.
type costResult struct {
	Counted bench.Usage      `json:"counted"`
	Bill    []bench.BillLine `json:"bill"`
	Total   float64          `json:"total"`
}

func (c *costCmd) Run(ctx context.Context, s *streamsIO) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	u, err := bench.UsageOf(ctx, c.Ops, c.IndexRedis)
	if err != nil {
		return err
	}
	if c.Writes > 0 && u.Writes == 0 || c.Reads > 0 && u.Reads == 0 {
		return errors.New("the lake has counted no writes or reads to take proportions from; let it work for a while, and name the ports of all its processes (--ops)")
	}
	r := costResult{Counted: u, Bill: bench.Bill(u, bench.Prices{MillionPuts: c.PricePut, MillionGets: c.PriceGet, GBMonth: c.PriceStorage, RedisGB: c.PriceRedis}, c.Writes, c.Reads, c.Kept)}
	for _, l := range r.Bill {
		r.Total += l.Cost
	}
	if c.JSON {
		return printJSON(s.out, r)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "counted: %.0f writes, %.0f reads, by %d processes since they started\n\n", u.Writes, u.Reads, u.Processes)
	w := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "WHAT\tA 1,000\tAMOUNT\t\tCOST")
	for _, l := range r.Bill {
		per := ""
		if l.Per > 0 {
			per = fmt.Sprintf("%.4g", l.Per)
		}
		fmt.Fprintf(w, "%s\t%s\t%.6g\t%s\t%.2f\n", l.What, per, l.Amount, l.Unit, l.Cost)
	}
	fmt.Fprintf(w, "total, a month\t\t\t\t%.2f\n", r.Total)
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(&b, "\nPrices are examples unless you gave yours (--price-put, --price-get, --price-storage, --price-redis). Traffic, servers and JetStream are not in it.")
	_, err = fmt.Fprint(s.out, b.String())
	return err
}
