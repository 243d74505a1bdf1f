package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/jsonlake/lake"
	"github.com/jsonlake/lake/internal/service"
	"github.com/jsonlake/lake/internal/telemetry"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/disk"
	"github.com/jsonlake/lake/pkg/engine/redis"
	"github.com/jsonlake/lake/pkg/events"
)

// Every role starts its parts in the order of what they stand on and the
// supervisor stops them in the reverse order: doors, workers, relay, engine,
// index, connection, operations port.

// servers is what every role of the distributed form begins with: the
// operations port, NATS, the index and the bucket. The caller stops the
// process's parts, error or not.
func (p *process) servers(ctx context.Context, checks ...string) (nc *nats.Conn, js jetstream.JetStream, parts *lake.Parts, err error) {
	limitMemory(p.cfg)
	if err := p.startOps(ctx, append([]string{"process", "nats", "lake"}, checks...)...); err != nil {
		return nil, nil, nil, err
	}
	if nc, js, err = p.connect(ctx); err != nil {
		return nil, nil, nil, err
	}
	parts, err = p.openServers(ctx)
	return nc, js, parts, err
}

// Ingest commits writes, relays events and sweeps.
func Ingest(ctx context.Context, c *Config, out, errOut io.Writer) error {
	p, err := newProcess(c, "ingest", errOut)
	if err != nil {
		return err
	}
	defer p.sup.stop()
	nc, js, parts, err := p.servers(ctx, "streams")
	if err != nil {
		return quiet(ctx, err)
	}
	relay := p.relay(parts, js)
	e, err := p.startEngine(ctx, parts, func(o *engine.Options) {
		o.Sweep = true
		o.FrameCache, o.DocumentCache = cacheBytes(0), cacheBytes(0) // it reads nothing
		o.Hooks = telemetry.JoinHooks(o.Hooks, pokes(relay))
	})
	if err != nil {
		return quiet(ctx, err)
	}
	p.startRelay(ctx, relay, e)
	if err := p.startIngest(ctx, nc, e); err != nil {
		return quiet(ctx, err)
	}
	if err := p.startStreamsCheck(ctx, js); err != nil {
		return err
	}
	return p.until(ctx, out, "ready: ingest on "+nc.ConnectedUrlRedacted())
}

// Snapshotter folds what is due, looks for what no event announced, and collects
// garbage.
func Snapshotter(ctx context.Context, c *Config, out, errOut io.Writer) error {
	p, err := newProcess(c, "snapshotter", errOut)
	if err != nil {
		return err
	}
	defer p.sup.stop()
	nc, js, parts, err := p.servers(ctx, "streams")
	if err != nil {
		return quiet(ctx, err)
	}
	e, err := p.startEngine(ctx, parts, func(o *engine.Options) {
		o.Collect = true
		o.FrameCache = snapshotterFrames(c)
	})
	if err != nil {
		return quiet(ctx, err)
	}
	if err := p.startSnapshotter(ctx, nc, js, e, parts); err != nil {
		return quiet(ctx, err)
	}
	if err := p.startStreamsCheck(ctx, js); err != nil {
		return err
	}
	return p.until(ctx, out, "ready: snapshotter on "+nc.ConnectedUrlRedacted())
}

// snapshotterFrames is how many bytes of segments a snapshotter keeps: the room that
// others have for writes that wait is its own for them. The deltas of a catalog stand in
// as many segments, beside those of all that are written at the same time; what does not
// stay in memory until all of these are folded is got from the bucket again and again.
func snapshotterFrames(c *Config) int64 {
	if c.FrameCache <= 0 {
		return cacheBytes(c.FrameCache)
	}
	return c.FrameCache + c.MaxPendingBytes
}

// Reader answers reads.
func Reader(ctx context.Context, c *Config, out, errOut io.Writer) error {
	p, err := newProcess(c, "reader", errOut)
	if err != nil {
		return err
	}
	defer p.sup.stop()
	nc, _, parts, err := p.servers(ctx)
	if err != nil {
		return quiet(ctx, err)
	}
	e, err := p.startEngine(ctx, parts, nil)
	if err != nil {
		return quiet(ctx, err)
	}
	if err := p.startReader(ctx, nc, e); err != nil {
		return quiet(ctx, err)
	}
	return p.until(ctx, out, "ready: reader on "+nc.ConnectedUrlRedacted())
}

// Serve is a whole lake in one process: embedded NATS, index and bucket.
func Serve(ctx context.Context, c *Config, out, errOut io.Writer) error {
	p, err := newProcess(c, "lake", errOut)
	if err != nil {
		return err
	}
	defer p.sup.stop()
	if err := p.startOps(ctx, "process", "nats", "lake"); err != nil {
		return err
	}
	if err := checkListen(c); err != nil {
		return err
	}
	dir, err := absolute(c.Data)
	if err != nil {
		return err
	}
	parts, err := p.openParts(ctx, lake.DirURL(dir))
	if err != nil {
		return serveHint(quiet(ctx, err), c)
	}
	nc, js, url, err := p.startEmbeddedNATS(ctx)
	if err != nil {
		return err
	}
	if err := events.Apply(ctx, js, c.streams(true)); err != nil {
		return fmt.Errorf("make the streams: %w", err)
	}
	if err := parts.Index.SetEvents(ctx, true); err != nil {
		return fmt.Errorf("turn events on: %w", err)
	}
	relay := p.relay(parts, js)
	e, err := p.startEngine(ctx, parts, func(o *engine.Options) {
		o.Sweep, o.Collect = true, true
		o.Hooks = telemetry.JoinHooks(o.Hooks, pokes(relay))
	})
	if err != nil {
		return quiet(ctx, err)
	}
	p.startRelay(ctx, relay, e)
	if err := p.startSnapshotter(ctx, nc, js, e, parts); err != nil {
		return quiet(ctx, err)
	}
	if err := p.startReader(ctx, nc, e); err != nil {
		return quiet(ctx, err)
	}
	if err := p.startIngest(ctx, nc, e); err != nil {
		return quiet(ctx, err)
	}
	if d, ok := parts.Index.(*disk.Index); ok && url != "" {
		if err := d.SetAddress(url); err != nil {
			return fmt.Errorf("note the server's address: %w", err)
		}
	}
	ready := "ready: data in " + dir
	if url != "" {
		ready += ", NATS on " + url
	}
	if p.ops != "" {
		ready += ", metrics on http://" + p.ops + "/metrics"
	}
	return p.until(ctx, out, ready)
}

// serveHint says what to do about a directory that another process holds.
func serveHint(err error, c *Config) error {
	if errors.Is(err, disk.ErrLocked) {
		return fmt.Errorf("%w: %w; `lake get CATALOG --lake %s` goes through that process", engine.ErrUnavailable, err, c.Data)
	}
	return err
}

// startEmbeddedNATS starts the server and connects to it within the process.
func (p *process) startEmbeddedNATS(ctx context.Context) (*nats.Conn, jetstream.JetStream, string, error) {
	s, err := startNATS(p.cfg, p.log)
	if err != nil {
		return nil, nil, "", err
	}
	p.sup.cleanup("nats server", func() error {
		s.Shutdown()
		s.WaitForShutdown()
		return nil
	})
	nc, err := nats.Connect("", append(natsOptions(p.cfg, "lake-serve/"+version, p.log.Level(zerolog.ErrorLevel)), nats.InProcessServer(s))...)
	if err != nil {
		return nil, nil, "", fmt.Errorf("connect to the embedded NATS: %w", err)
	}
	_, js, err := p.adopt(nc)
	if err != nil {
		return nil, nil, "", err
	}
	url := ""
	if p.cfg.NATSListen != "" {
		url = s.ClientURL()
	}
	return nc, js, url, ctx.Err()
}

func (p *process) serviceConfig(nc *nats.Conn) service.Config {
	return service.Config{
		NATS: nc, Subjects: p.cfg.subjects(), Version: version, Metrics: p.metrics, Log: p.log,
		Workers: p.cfg.Workers, MaxPendingBytes: p.cfg.MaxPendingBytes, MaxBody: p.cfg.MaxBody,
	}
}

// door is a service that says when it listens.
type door interface {
	Run(ctx context.Context) error
	Listening() <-chan struct{}
}

func (p *process) startDoor(ctx context.Context, name string, d door) error {
	p.sup.run(ctx, name, d.Run)
	select {
	case <-d.Listening():
		return nil
	case err := <-p.sup.failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(30 * time.Second):
		return fmt.Errorf("%s does not listen after 30 s; is NATS well?", name)
	}
}

func (p *process) startIngest(ctx context.Context, nc *nats.Conn, e *engine.Engine) error {
	s, err := service.NewIngest(p.serviceConfig(nc), e)
	if err != nil {
		return err
	}
	return p.startDoor(ctx, "ingest", s)
}

func (p *process) startReader(ctx context.Context, nc *nats.Conn, e *engine.Engine) error {
	s, err := service.NewReader(p.serviceConfig(nc), e)
	if err != nil {
		return err
	}
	return p.startDoor(ctx, "reader", s)
}

// startSnapshotter starts the folding and the requeue task.
func (p *process) startSnapshotter(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, e *engine.Engine, parts *lake.Parts) error {
	q, err := service.NewRequeue(p.serviceConfig(nc), e, parts.Index, js, service.RequeueOptions{Every: p.cfg.RequeueEvery})
	if err != nil {
		return err
	}
	p.sup.run(ctx, "requeue", q.Run)
	s, err := service.NewSnapshotter(p.serviceConfig(nc), e, parts.Index, js)
	if err != nil {
		return err
	}
	return p.startDoor(ctx, "snapshotter", s)
}

// startStreamsCheck makes the process ready only once the streams are there.
func (p *process) startStreamsCheck(ctx context.Context, js jetstream.JetStream) error {
	if err := p.awaitStreams(ctx, js); err != nil {
		return quiet(ctx, err)
	}
	p.health.set("streams", func() error { return nil })
	return nil
}

// ApplyStreams makes the streams of the distributed form, and turns events on
// in its index.
func ApplyStreams(ctx context.Context, c *Config, errOut io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	p, err := newProcess(c, "streams", errOut)
	if err != nil {
		return err
	}
	defer p.sup.stop()
	_, js, err := p.connect(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", engine.ErrUnavailable, err)
	}
	if err := events.Apply(ctx, js, c.streams(false)); err != nil {
		return fmt.Errorf("make the streams: %w", err)
	}
	index, err := redis.OpenIndex(ctx, redis.Options{URL: c.Redis, Name: c.Name})
	if err != nil {
		return err
	}
	defer index.Close()
	if err := index.SetEvents(ctx, true); err != nil {
		return fmt.Errorf("turn events on: %w", err)
	}
	return nil
}
