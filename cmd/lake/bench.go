package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jsonlake/lake/internal/app"
	"github.com/jsonlake/lake/internal/bench"
)

type benchCmd struct {
	Profile []string `help:"Profiles, as in p1,p5: ${bench_profiles}." default:"all" placeholder:"NAME,…"`
	Form    string   `help:"Only this form of the lake, embedded or distributed; both by default." enum:",embedded,distributed" default:""`
	Target  string   `help:"NATS URL of a lake that is there, for the profiles that only need a client. It keeps catalogs named bench-… afterwards." placeholder:"URL" aliases:"lake"`

	SubjectPrefix string        `help:"First token of the target's NATS subjects." default:"lake"`
	PutLatency    time.Duration `help:"What each PUT of the bucket takes, or longer where the store does; distributed, in the profiles that set none of their own. 0s: as long as the store takes." default:"0s"`
	Duration      time.Duration `help:"Of one measurement." default:"5s"`
	Rounds        int           `help:"Measurements of which the median counts." default:"3"`
	CPUProfile    string        `name:"cpuprofile" help:"Directory for CPU and allocation profiles of the processes, for go tool pprof: P1, P2, P3, P5, P6 and overload." placeholder:"DIR"`
	Dir           string        `help:"Where temporary data goes; the disk is part of what is measured." placeholder:"DIR"`
	Require       bool          `help:"Fail when a server that a profile needs is not installed."`
	Judge         bool          `help:"Fail when a target is missed."`
	JSON          bool          `name:"json" xor:"output" help:"Print one JSON object a row."`
	Markdown      bool          `xor:"output" help:"Print the section for docs/benchmarks.md."`
}

func (c *benchCmd) Validate() error {
	switch {
	case c.Rounds < 1 || c.Rounds > 100:
		return fmt.Errorf("--rounds must be from 1 to 100, not %d", c.Rounds)
	case c.Duration < 100*time.Millisecond || c.Duration > time.Hour:
		return fmt.Errorf("--duration must be from 100ms to 1h, not %v", c.Duration)
	case c.PutLatency < 0 || c.PutLatency > 10*time.Second:
		return fmt.Errorf("--put-latency must be from 0s to 10s, not %v", c.PutLatency)
	}
	return nil
}

func (c *benchCmd) Run(ctx context.Context, s *streamsIO) error {
	begin := time.Now()
	var printErr error
	rows, err := bench.Run(ctx, bench.Options{
		Profiles: c.Profile, Form: c.Form, Target: c.Target, SubjectPrefix: c.SubjectPrefix, PutLatency: c.PutLatency,
		Duration: c.Duration, Rounds: c.Rounds, CPUProfile: c.CPUProfile, Dir: c.Dir, Require: c.Require, Progress: s.err,
		Emit: func(r bench.Row) {
			if c.JSON && printErr == nil {
				printErr = printJSON(s.out, r)
			}
		},
	})
	switch {
	case c.JSON:
	case c.Markdown:
		printErr = bench.Markdown(s.out, bench.About{
			Command: "lake " + strings.Join(os.Args[1:], " "), Commit: app.BuildInfo().Commit, Machine: bench.Machine(),
			Date: begin.UTC().Format(time.DateOnly), Took: time.Since(begin).Round(time.Second).String(),
		}, rows)
	default:
		printErr = bench.Table(s.out, rows)
	}
	if err != nil {
		return err
	}
	if printErr != nil {
		return printErr
	}
	if c.Judge {
		return judge(rows)
	}
	return nil
}

// judge is an error when a row does not reach its target.
func judge(rows []bench.Row) error {
	var lost []string
	for _, r := range rows {
		if !r.Pass {
			lost = append(lost, r.Row)
		}
	}
	if len(lost) == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d rows do not pass: %s", len(lost), len(rows), strings.Join(lost, ", "))
}

// benchProfiles lists the profiles for the help.
func benchProfiles() string {
	names, what := bench.Names()
	var b strings.Builder
	for i, n := range names {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s %s", n, what[i])
	}
	return b.String()
}
