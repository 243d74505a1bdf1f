// Package app makes processes of Lake's parts: configuration, wiring, the
// order of start and stop.
package app

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/jsonlake/lake/pkg/engine"
)

// Build says what this program is.
type Build struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
}

// version is set by the linker for releases; it must be a semantic version.
var version = "0.1.0-dev"

// BuildInfo says which version of Lake this is.
func BuildInfo() Build {
	b := Build{Version: version, Commit: "unknown commit", Go: runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				b.Commit = s.Value[:12]
			}
		}
	}
	return b
}

// Main is the main function of a service: it parses the configuration, runs
// until SIGINT or SIGTERM, and gives the exit status (see the table of
// engine.Code).
func Main(name, description string, run func(ctx context.Context, c *Config, out, errOut io.Writer) error) int {
	FewWakeUps(true, true)
	var c Config
	parser, err := kong.New(&c, KongOptions(name, description)...)
	if err != nil { // a mistake in this program
		panic(err)
	}
	if _, err := parser.Parse(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v; `%s --help` lists the flags\n", name, err, name)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &c, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return engine.Code(err).Exit
	}
	return 0
}
