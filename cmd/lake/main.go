// Command lake is everything of Lake in one program: the embedded lake
// (`lake serve`), the client commands, and tools.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/jsonlake/lake/internal/app"
	"github.com/jsonlake/lake/pkg/engine"
)

// cli is the command line, one file a command.
type cli struct {
	Serve   serveCmd   `cmd:"" help:"Run a whole lake in one process: durable, no other set-up."`
	Service serviceCmd `cmd:"" hidden:"" help:"Run one service of a distributed lake."`

	Put      putCmd      `cmd:"" help:"Replace the document, or the value at a path."`
	Patch    patchCmd    `cmd:"" help:"Apply a merge patch (RFC 7396) or a JSON Patch (RFC 6902)."`
	Batch    batchCmd    `cmd:"" help:"Apply many deltas, one a line (NDJSON), together or not at all."`
	Get      getCmd      `cmd:"" help:"Print the document, or a part of it."`
	Rm       rmCmd       `cmd:"" help:"Delete the document, or the member at a path; history stays."`
	Log      logCmd      `cmd:"" help:"List the deltas of a catalog, with what they did."`
	Diff     diffCmd     `cmd:"" help:"Print the patch that leads from one version to another."`
	Blame    blameCmd    `cmd:"" help:"Tell who wrote what stands at a JSON Pointer."`
	Revert   revertCmd   `cmd:"" help:"Make the document of a version the current one, by a new delta."`
	Undelete undeleteCmd `cmd:"" help:"Bring a deleted document back, by a new delta."`
	Outcome  outcomeCmd  `cmd:"" help:"Tell what became of a write, by its id."`
	Ls       lsCmd       `cmd:"" help:"List catalogs."`
	Watch    watchCmd    `cmd:"" help:"Follow changes as they are committed."`
	Snapshot snapshotCmd `cmd:"" help:"Fold a catalog's deltas into a snapshot now."`

	Purge purgeCmd `cmd:"" help:"Erase a catalog for good: document, history, and every byte of them in the bucket and the caches."`

	Verify  verifyCmd  `cmd:"" help:"Compare the index with the bucket, and merge every snapshot again."`
	Doctor  doctorCmd  `cmd:"" help:"Say whether this deployment is safe: servers, bucket, disk, clock."`
	Rebuild rebuildCmd `cmd:"" help:"Empty the index and fill it again from the bucket."`
	GC      gcCmd      `cmd:"" name:"gc" help:"Delete what is not needed any more, and history that the retention gives up; services do it by themselves."`

	Bench benchCmd `cmd:"" help:"Measure a lake beside the limits of what it stands on."`
	Cost  costCmd  `cmd:"" help:"Tell what a lake asks of its bucket, Redis and JetStream, in money."`

	Encode  encodeCmd  `cmd:"" help:"Print a catalog's name as NATS subjects and object keys spell it."`
	Streams streamsCmd `cmd:"" help:"Make the JetStream streams of a distributed lake."`
	Config  configCmd  `cmd:"" help:"Show or check the configuration of serve and the services."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "serve":
			app.FewWakeUps(true, false)
		case "service":
			app.FewWakeUps(true, true)
		case "bench": // and the servers in Go that it starts, as docs/operations.md advises
			app.FewWakeUps(false, true)
		}
	}
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// streamsIO is where a command reads and writes.
type streamsIO struct {
	in       io.Reader
	out, err io.Writer
}

// run is the program; its result is the exit status: 0 done, 1 internal, 2 bad
// input or usage, 3 not found, 4 refused, 5 busy, 6 unavailable, 7 outcome
// unknown, 8 damaged object.
func run(args []string, in io.Reader, out, errOut io.Writer) int {
	var c cli
	exit := -1
	opts := append(app.KongOptions("lake", "A store for JSON documents made of many small writes."),
		kong.Writers(out, errOut), kong.Vars{"bench_profiles": benchProfiles()}, kong.Exit(func(code int) { exit = code }), kong.Bind(&streamsIO{in: in, out: out, err: errOut}))
	parser, err := kong.New(&c, opts...)
	if err != nil { // a mistake in this program
		panic(err)
	}
	k, err := parser.Parse(args)
	if exit >= 0 { // --help
		return exit
	}
	if err != nil {
		fmt.Fprintf(errOut, "lake: %v; `lake --help` lists commands and flags\n", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	k.BindTo(ctx, (*context.Context)(nil))
	if err := k.Run(); err != nil {
		fmt.Fprintf(errOut, "lake: %v\n", err)
		return engine.Code(err).Exit
	}
	return 0
}
