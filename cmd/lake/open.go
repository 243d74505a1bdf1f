package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats.go"

	"github.com/jsonlake/lake"
	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/disk"
	"github.com/jsonlake/lake/pkg/engine/trace"
)

// store is what the client commands need of a lake; the engine and the client
// over NATS both have it.
type store interface {
	Write(ctx context.Context, req engine.WriteRequest) (engine.WriteResult, error)
	WriteBatch(ctx context.Context, req engine.BatchRequest) (engine.WriteResult, error)
	Read(ctx context.Context, req engine.ReadRequest) (engine.ReadResult, error)
	Outcome(ctx context.Context, req engine.OutcomeRequest) (engine.OutcomeResult, error)
	Log(ctx context.Context, req engine.LogRequest) (engine.LogPage, error)
	Diff(ctx context.Context, req engine.DiffRequest) (engine.DiffResult, error)
	Blame(ctx context.Context, req engine.BlameRequest) (engine.BlameResult, error)
	Revert(ctx context.Context, req engine.RevertRequest) (engine.WriteResult, error)
	Catalogs(ctx context.Context, prefix, after string, limit int) ([]engine.CatalogInfo, error)
	Fold(ctx context.Context, catalog string) (engine.FoldResult, error)
	Purge(ctx context.Context, req engine.PurgeRequest) (engine.PurgeReceipt, error)
}

// target is how every client command says which lake it means.
type target struct {
	Lake          string        `help:"The lake: nats://… or the directory of an embedded one." default:"nats://127.0.0.1:4222" env:"LAKE_LAKE,NATS_URL"`
	NATSCreds     string        `name:"nats-creds" help:"NATS credentials file." env:"LAKE_NATS_CREDS,NATS_CREDS" placeholder:"FILE"`
	SubjectPrefix string        `help:"First token of every NATS subject." default:"lake"`
	Timeout       time.Duration `help:"How long to wait for an answer." default:"10s"`
	JSON          bool          `name:"json" help:"Print JSON."`
	Trace         bool          `help:"Print to standard error where the time went."`

	command string    // its name
	errOut  io.Writer // for the trace
}

// AfterApply is called by kong before the command runs.
func (t *target) AfterApply(k *kong.Context, s *streamsIO) error {
	t.command, t.errOut = k.Selected().Name, s.err
	if t.Trace && t.command == "watch" {
		return errors.New("--trace is of a request, and a watch is none; leave it out")
	}
	return nil
}

// isURL tells a server from a directory.
func (t *target) isURL() bool { return strings.Contains(t.Lake, "://") }

// open opens the lake. A directory that a server holds open is reached through
// that server.
func (t *target) open(ctx context.Context) (store, func(), error) {
	if t.isURL() {
		c, err := t.connect(t.Lake)
		if err != nil {
			return nil, nil, err
		}
		return c, c.Close, nil
	}
	dir := t.dir()
	if _, err := os.Stat(lake.IndexDir(dir)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%w: there is no lake in %s; `lake serve --data %s` makes one", engine.ErrNotFound, dir, t.Lake)
	}
	l, err := lake.Open(ctx, lake.DirURL(dir), lake.WithoutBackground())
	var locked *disk.LockedError
	if errors.As(err, &locked) && locked.Address != "" {
		c, err := t.connect(locked.Address)
		if err != nil {
			return nil, nil, err
		}
		return c, c.Close, nil
	}
	if err != nil {
		return nil, nil, err
	}
	return l, func() { _ = l.Close() }, nil
}

func (t *target) dir() string {
	dir, err := filepath.Abs(t.Lake)
	if err != nil {
		return t.Lake
	}
	return dir
}

// connect connects to a lake over NATS. An address that does not answer is an
// error at once.
func (t *target) connect(url string) (*client.Client, error) {
	opts := []nats.Option{nats.Name("lake " + strings.Join(os.Args[1:min(2, len(os.Args))], "")), nats.Timeout(min(t.Timeout, 5*time.Second))}
	if t.NATSCreds != "" {
		opts = append(opts, nats.UserCredentials(t.NATSCreds))
	}
	c, err := client.Connect(url, client.WithPrefix(t.SubjectPrefix), client.WithNATS(opts...))
	if err != nil {
		return nil, fmt.Errorf("%w: connect to %s: %w; is `lake serve` running? --lake names another lake", engine.ErrUnavailable, url, err)
	}
	return c, nil
}

// with opens the lake, runs f within the timeout and closes it again.
func (t *target) with(ctx context.Context, f func(ctx context.Context, s store) error) error {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	if t.Trace {
		ctx = trace.WithTrace(ctx, t.command)
		defer func() { _, _ = fmt.Fprint(t.errOut, trace.FromContext(ctx).Dump()) }()
	}
	s, done, err := t.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	return f(ctx, s)
}

// printJSON prints one value on one line.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// maxStdin bounds what a body may be, before the lake's own limits apply.
const maxStdin = 64 << 20

// body reads a body: a literal, "-" for standard input, "@file".
func body(arg string, in io.Reader) ([]byte, error) {
	switch {
	case arg == "-":
		b, err := io.ReadAll(io.LimitReader(in, maxStdin+1))
		if err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		if len(b) > maxStdin {
			return nil, fmt.Errorf("%w: standard input has more than %d bytes", engine.ErrTooLarge, maxStdin)
		}
		return b, nil
	case strings.HasPrefix(arg, "@"):
		b, err := os.ReadFile(arg[1:])
		if err != nil {
			return nil, fmt.Errorf("%w: read the body: %w", engine.ErrInvalid, err)
		}
		return b, nil
	default:
		return []byte(arg), nil
	}
}
