package telemetry

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"
)

// LogOptions say how a process logs.
type LogOptions struct {
	// Out is where the log goes; nil is standard error.
	Out io.Writer
	// Format is "json" (one object a line), "console" (for people) or "auto", which
	// is console on a terminal and JSON elsewhere; "" is auto.
	Format string
	// Level is the least severe level that is logged: "debug", "info", "warn" or
	// "error"; "" is info.
	Level string
	// Service and Version stand in every line.
	Service, Version string
}

// NewLogger makes the logger of a process. Lines have the fields level,
// service, version, message and time (RFC 3339 with nanoseconds, UTC), and
// whatever the event adds in snake_case; never bodies of documents, never keys.
//
// zerolog's own package variables are left as they are: another library in the
// process may rely on them.
func NewLogger(o LogOptions) (zerolog.Logger, error) {
	if o.Out == nil {
		o.Out = os.Stderr
	}
	level := zerolog.InfoLevel
	switch o.Level {
	case "", "info":
	case "debug":
		level = zerolog.DebugLevel
	case "warn":
		level = zerolog.WarnLevel
	case "error":
		level = zerolog.ErrorLevel
	default:
		return zerolog.Nop(), fmt.Errorf("log level %q: use debug, info, warn or error", o.Level)
	}
	out := o.Out
	switch o.Format {
	case "json":
	case "console":
		out = console(o.Out)
	case "", "auto":
		if isTerminal(o.Out) {
			out = console(o.Out)
		}
	default:
		return zerolog.Nop(), fmt.Errorf("log format %q: use auto, json or console", o.Format)
	}
	ctx := zerolog.New(out).Level(level).With()
	if o.Service != "" {
		ctx = ctx.Str("service", o.Service)
	}
	if o.Version != "" {
		ctx = ctx.Str("version", o.Version)
	}
	return ctx.Logger().Hook(zerolog.HookFunc(timestamp)), nil
}

// timestamp stands in for Context.Timestamp, whose format is a package variable.
func timestamp(e *zerolog.Event, _ zerolog.Level, _ string) {
	e.Str("time", time.Now().UTC().Format(time.RFC3339Nano))
}

func console(out io.Writer) io.Writer {
	return zerolog.ConsoleWriter{
		Out: out, TimeFormat: "15:04:05.000", TimeLocation: time.Local,
		NoColor:       !isTerminal(out) || os.Getenv("NO_COLOR") != "", // https://no-color.org
		FieldsExclude: []string{"service", "version"},
	}
}

func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && (isatty.IsTerminal(f.Fd()) || isatty.IsCygwinTerminal(f.Fd()))
}
