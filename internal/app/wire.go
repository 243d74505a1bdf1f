package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/rs/zerolog"

	"github.com/jsonlake/lake"
	"github.com/jsonlake/lake/internal/telemetry"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/events"
)

// process is what every process of a lake has: a log, metrics, the operations
// port, and parts that start and stop in order.
type process struct {
	cfg     *Config
	name    string
	log     zerolog.Logger
	reg     *prometheus.Registry
	metrics *telemetry.Metrics
	health  *health
	sup     *supervisor
	ballast []byte
	ops     string // address of the operations port, "" when there is none
}

// ballast is memory that is never touched, and so never resident. The garbage
// collector lets a heap double before it runs: without this, that of a service that
// keeps little is collected many times a second, a tenth of its work.
const ballast = 32 << 20

// limitMemory has the garbage collector keep a service within what docs/operations.md
// states (Memory): without it the heap may grow to twice what was alive at a bad
// moment. Half of the 128 MiB beside the caches is for what is not Go's heap.
// GOMEMLIMIT in the environment goes before.
func limitMemory(c *Config) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(2*(max(c.MaxPendingBytes, 0)+max(c.DocumentCache, 0)+max(c.FrameCache, 0)) + 64<<20)
	}
}

func newProcess(c *Config, name string, errOut io.Writer) (*process, error) {
	log, err := telemetry.NewLogger(telemetry.LogOptions{Out: errOut, Format: c.LogFormat, Level: c.LogLevel, Service: name, Version: version})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", engine.ErrInvalid, err)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m, err := telemetry.NewMetrics(reg, version)
	if err != nil {
		return nil, err
	}
	return &process{ballast: make([]byte, ballast), cfg: c, name: name, log: log, reg: reg, metrics: m, health: newHealth(), sup: newSupervisor(log)}, nil
}

// startOps opens the operations port first of all: a process that waits for
// its servers is alive and says what it waits for.
func (p *process) startOps(ctx context.Context, checks ...string) error {
	for _, c := range checks {
		p.health.set(c, starting)
	}
	if p.cfg.OpsListen == "" {
		return nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", p.cfg.OpsListen)
	if err != nil {
		return fmt.Errorf("%w: --ops-listen %s: %w; choose another port, or \"\" for none", engine.ErrInvalid, p.cfg.OpsListen, err)
	}
	p.ops = l.Addr().String()
	p.sup.run(ctx, "operations port", func(ctx context.Context) error { return p.health.serve(ctx, l, p.reg, p.cfg.Pprof) })
	return nil
}

// connect connects to NATS and closes the connection in its turn.
func (p *process) connect(ctx context.Context) (*nats.Conn, jetstream.JetStream, error) {
	nc, err := connectNATS(ctx, p.cfg, "lake-"+p.name+"/"+version, p.log)
	if err != nil {
		return nil, nil, err
	}
	return p.adopt(nc)
}

func (p *process) adopt(nc *nats.Conn) (*nats.Conn, jetstream.JetStream, error) {
	p.sup.cleanup("nats connection", func() error { return drainNATS(nc) })
	p.health.set("nats", func() error {
		if !nc.IsConnected() {
			return fmt.Errorf("not connected: %s", nc.Status())
		}
		return nil
	})
	js, err := jetstream.New(nc)
	return nc, js, err
}

// openParts opens the index and the bucket; while one of them does not answer
// it waits and tries again.
func (p *process) openParts(ctx context.Context, url string, opts ...lake.Option) (*lake.Parts, error) {
	o := p.cfg.engineOptions()
	o.Hooks = telemetry.JoinHooks(p.metrics.EngineHooks(), telemetry.LogHooks(p.log))
	opts = append([]lake.Option{lake.WithOptions(o), lake.WithoutBackground()}, opts...)
	var parts *lake.Parts
	err := p.patiently(ctx, "open the lake", func() (err error) {
		parts, err = lake.OpenParts(ctx, url, opts...)
		return err
	})
	if err != nil {
		return nil, err
	}
	p.sup.cleanup("index and bucket", parts.Close)
	for _, w := range parts.Warnings {
		p.log.Warn().Msg(w)
	}
	parts.Objects = telemetry.Objects(parts.Objects, p.metrics)
	return parts, nil
}

// openServers opens the parts of the distributed form.
func (p *process) openServers(ctx context.Context) (*lake.Parts, error) {
	var opts []lake.Option
	if p.cfg.S3 != "" {
		opts = append(opts, lake.WithBucket(p.cfg.S3))
	}
	if p.cfg.CacheRedis != "" {
		opts = append(opts, lake.WithSnapCacheMetaURL(p.cfg.CacheRedis, p.cfg.CacheTTL))
	}
	return p.openParts(ctx, p.cfg.Redis, opts...)
}

// patiently tries until it succeeds, ctx ends, or trying again is no use.
func (p *process) patiently(ctx context.Context, what string, try func() error) error {
	for pause := 250 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := try()
		if err == nil {
			return nil
		}
		if !errors.Is(err, engine.ErrUnavailable) && !errors.Is(err, engine.ErrRecovering) && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		if ctx.Err() != nil {
			return err
		}
		p.log.Warn().Err(err).Msg(what + ": will try again")
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// startEngine puts an engine on the parts.
func (p *process) startEngine(ctx context.Context, parts *lake.Parts, change func(*engine.Options)) (*engine.Engine, error) {
	o := parts.Options
	if change != nil {
		change(&o)
	}
	// An index that was lost has forgotten that events are on. Whoever opens the
	// new epoch says so again, before anything is restored: what is restored has
	// its events, too.
	o.Hooks = telemetry.JoinHooks(o.Hooks, engine.Hooks{Recovering: func(_ uint64, step string) {
		if step != "restore" {
			return
		}
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := parts.Index.SetEvents(sctx, true); err != nil {
			p.log.Warn().Err(err).Msg("turn events on; `lake streams apply` does it too")
		}
	}})
	var e *engine.Engine
	err := p.patiently(ctx, "join the lake", func() (err error) {
		jctx, cancel := context.WithTimeout(ctx, 30*time.Minute) // it may have to rebuild the index
		defer cancel()
		e, err = engine.New(jctx, parts.Index, parts.Objects, o)
		return err
	})
	if err != nil {
		return nil, err
	}
	p.sup.cleanup("engine", func() error {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 25*time.Second)
		defer cancel()
		return e.Close(cctx)
	})
	p.health.set("lake", e.Ready)
	return e, nil
}

// relay is a relay that can be poked before there is an engine for it.
func (p *process) relay(parts *lake.Parts, js jetstream.JetStream) *events.Relay {
	return &events.Relay{
		Outbox: parts.Index, Leases: parts.Index, JS: js, Subjects: p.cfg.subjects(),
		Due: parts.Options.Policy.DueEvent,
		OnError: func(err error) {
			p.metrics.RelayError()
			p.log.Warn().Err(err).Msg("relay")
		},
		OnRound: func(r events.Round) { p.metrics.RelayRound(r.Read, r.Published, r.Jobs, r.Oldest, r.Took) },
	}
}

func (p *process) startRelay(ctx context.Context, r *events.Relay, e *engine.Engine) {
	r.Epoch, r.Valid = e.Epoch, e.Valid
	p.sup.run(ctx, "relay", r.Run)
}

// pokes are hooks that wake the relay when something was committed or folded.
func pokes(r *events.Relay) engine.Hooks {
	return engine.Hooks{
		Committed: func(catalog string, _ engine.Version, _ int) { r.PokeFor(catalog) },
		Folded:    func(catalog string, _, _ int64, _ time.Duration) { r.PokeFor(catalog) },
	}
}

// awaitStreams waits until the lake's streams are there, and warns of what is
// not as it should be.
func (p *process) awaitStreams(ctx context.Context, js jetstream.JetStream) error {
	for said := false; ; said = true {
		drifts, err := events.Check(ctx, js, p.cfg.streams(false))
		if err == nil {
			for _, d := range drifts {
				p.log.Warn().Str("drift", d.String()).Msg("stream is not as `lake streams apply` makes it")
			}
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.health.set("streams", func() error { return err })
		if !said {
			p.log.Warn().Err(err).Msg("waiting for the streams")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// until says that the process is ready, and waits for its end. Only now is it: of
// several services the first may listen long before the last.
func (p *process) until(ctx context.Context, out io.Writer, ready string) error {
	p.health.set("process", func() error { return nil })
	p.log.Info().Msg("ready")
	if _, err := fmt.Fprintln(out, ready); err != nil {
		p.log.Debug().Err(err).Msg("nobody reads standard output")
	}
	err := p.sup.wait(ctx)
	p.health.set("process", func() error { return errors.New("stopping") })
	p.log.Info().Msg("stopping")
	return err
}

// absolute is a directory's full path.
func absolute(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("--data %s: %w", dir, err)
	}
	return abs, nil
}

// quiet is nil for the error of a start that was interrupted: being told to
// stop is no failure.
func quiet(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
