package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/events"
)

// lake is what the loads need of one: an engine in this process or a client of
// one elsewhere.
type lake interface {
	Write(ctx context.Context, req engine.WriteRequest) (engine.WriteResult, error)
	Read(ctx context.Context, req engine.ReadRequest) (engine.ReadResult, error)
	Fold(ctx context.Context, catalog string) (engine.FoldResult, error)
}

// opTimeout bounds an operation.
const opTimeout = 30 * time.Second

// bounded is a lake in this process, whose operations end in time. Those of a client do so
// by themselves, with less work for each than a context with a timer.
type bounded struct{ lake }

func (b bounded) Write(ctx context.Context, req engine.WriteRequest) (engine.WriteResult, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	return b.lake.Write(ctx, req)
}

func (b bounded) Read(ctx context.Context, req engine.ReadRequest) (engine.ReadResult, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	return b.lake.Read(ctx, req)
}

// writers are workers that each count up a member of one catalog, by merge
// patches of a hundred bytes.
type writers struct {
	to       lake
	catalog  func(i int) string
	catalogs int
	last     []atomic.Int64 // acknowledged, by worker
	sent     []atomic.Int64
	version  []atomic.Pointer[engine.Version] // of the last acknowledged write
	acked    atomic.Int64
	pad      string
	orders   []sync.Mutex // an open load may have two writes of a worker under way
}

func newWriters(to lake, workers, catalogs int) *writers {
	return &writers{to: to, catalog: newRun(), catalogs: catalogs, last: make([]atomic.Int64, workers), sent: make([]atomic.Int64, workers), version: make([]atomic.Pointer[engine.Version], workers),
		pad: pad(rand.New(rand.NewPCG(1, 2)), 100), orders: make([]sync.Mutex, workers)}
}

const patchBytes = 100

// write is the op of a load. The lake bounds its time.
func (w *writers) write(ctx context.Context, worker, _ int) (int, error) {
	w.orders[worker].Lock()
	defer w.orders[worker].Unlock()
	n := w.sent[worker].Add(1)
	body := append(make([]byte, 0, patchBytes), `{"w`...)
	body = strconv.AppendInt(body, int64(worker), 10)
	body = append(body, `":{"n":`...)
	body = strconv.AppendInt(body, n, 10)
	body = append(body, `,"pad":"`...)
	body = append(body, w.pad[:patchBytes-len(body)-3]...)
	body = append(body, `"}}`...)
	r, err := w.to.Write(ctx, engine.WriteRequest{Catalog: w.catalog(worker % w.catalogs), Body: body})
	if err != nil {
		return 0, err
	}
	w.version[worker].Store(&r.Version)
	w.last[worker].Store(n)
	w.acked.Add(1)
	return 1, nil
}

// maxChecked is how many catalogs are read back: none was folded, and each read
// gets every write on its own.
const maxChecked = 100

// check reads catalogs and compares each worker's member with its last
// acknowledged write.
func (w *writers) check(ctx context.Context) (string, error) {
	catalogs := rand.Perm(min(w.catalogs, len(w.last)))
	catalogs = catalogs[:min(len(catalogs), maxChecked)]
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	var checked atomic.Int64
	for _, c := range catalogs {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(gctx, opTimeout)
			defer cancel()
			r, err := w.to.Read(ctx, engine.ReadRequest{Catalog: w.catalog(c)})
			if err != nil {
				if errors.Is(err, engine.ErrNotFound) && w.last[c].Load() == 0 {
					return nil
				}
				return fmt.Errorf("read %s back: %w", w.catalog(c), err)
			}
			var doc map[string]struct{ N int64 }
			if err := json.Unmarshal(r.Body, &doc); err != nil {
				return fmt.Errorf("read %s back: %w", w.catalog(c), err)
			}
			for i := c; i < len(w.last); i += w.catalogs {
				if got, want := doc[fmt.Sprintf("w%d", i)].N, w.last[i].Load(); got != want {
					return fmt.Errorf("WRONG DOCUMENT: %s of %s says %d, the last acknowledged write said %d", fmt.Sprintf("w%d", i), w.catalog(c), got, want)
				}
				checked.Add(1)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s acknowledged writes, the last of each of %d writers read back from %d catalogs", thousands(w.acked.Load()), checked.Load(), len(catalogs)), nil
}

// checkCount compares the deltas that the lake has committed since a moment with
// the acknowledged ones, where the lake is ours alone.
func (l *lab) checkCount(ctx context.Context, before counts, acked int64) (string, error) {
	if len(l.ops) == 0 {
		return "", nil
	}
	after, err := l.count(ctx)
	if err != nil {
		return "", err
	}
	if got, want := int64(after.metrics["lake_commit_deltas_total"]-before.metrics["lake_commit_deltas_total"]), acked; got != want {
		return "", fmt.Errorf("WRONG COUNT: the lake has committed %d deltas, %d writes were acknowledged", got, want)
	}
	return ", as many committed", nil
}

// checkEvents waits until the events stream has each catalog's last acknowledged
// version, of some catalogs.
func (w *writers) checkEvents(ctx context.Context, l *lab) (string, error) {
	nc, err := l.connect()
	if err != nil {
		return "", err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return "", err
	}
	subjects := events.Subjects{Prefix: l.prefix}
	stream, err := js.Stream(ctx, subjects.EventsStream())
	if err != nil {
		return "", fmt.Errorf("the stream of events: %w", err)
	}
	begin := time.Now()
	some := min(w.catalogs, 50)
	for i := range some {
		for {
			m, err := stream.GetLastMsgForSubject(ctx, subjects.Event(w.catalog(i), engine.EventCommitted))
			if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
				return "", fmt.Errorf("the last event of %s: %w", w.catalog(i), err)
			}
			var e engine.Event
			if err == nil {
				if err := json.Unmarshal(m.Data, &e); err != nil {
					return "", fmt.Errorf("the last event of %s: %w", w.catalog(i), err)
				}
			}
			want := *w.version[i].Load()
			if !e.Version.Less(want) {
				break
			}
			if time.Since(begin) > time.Minute {
				return "", fmt.Errorf("a minute after the last write the stream has the events of %s up to %s, not %s", w.catalog(i), e.Version, want)
			}
			select {
			case <-ctx.Done():
				return "", ctx.Err()
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return fmt.Sprintf("; the stream has the last events of %d catalogs", some), nil
}

const (
	manyInFlight = 1024
	manyCatalogs = 1000
)

// p1 is single messages, one write each.
func (b *bench) p1(ctx context.Context) error {
	for _, form := range b.forms(Distributed, Embedded) {
		if err := b.p1form(ctx, form); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) p1form(ctx context.Context, form string) error {
	l, c, err := b.serving(ctx, form, labOptions{})
	if err != nil {
		return err
	}
	defer l.stop()
	published, err := b.barePublish(ctx, l, manyInFlight, 200)
	if err != nil && b.Target == "" {
		return fmt.Errorf("JetStream publish: %w", err)
	}
	base := Row{What: "writes/s, one message each, 1,024 in flight on 1,000 catalogs, events flowing", Form: l.form, Unit: "writes/s",
		LimitIs: "bare NATS request-reply at 1,024", Rounds: b.Rounds}
	for _, flowing := range []bool{true, false} {
		if !flowing {
			if form != Distributed || b.Target != "" {
				break // the switch is in Redis
			}
			if err := l.setEvents(ctx, false); err != nil {
				return err
			}
		}
		w := newWriters(c, manyInFlight, manyCatalogs)
		before, err := l.count(ctx)
		if err != nil {
			return err
		}
		v, err := b.repeat(ctx, fmt.Sprintf("%s, events %v", l.form, flowing), "writes_per_s", func(ctx context.Context) (Values, error) {
			return b.writeRound(ctx, l, w, fmt.Sprintf("p1-%s-events-%t", l.form, flowing), manyInFlight)
		})
		if err != nil {
			return err
		}
		row := base
		if flowing {
			row.Latency, err = b.latencyAt(ctx, v["writes_per_s"]/2, manyInFlight, b.Duration, w.write)
			if err != nil {
				return err
			}
			v["jetstream_publish_per_s"] = published
		}
		if row.Checked, err = w.check(ctx); err != nil {
			return err
		}
		said, err := l.checkCount(ctx, before, w.acked.Load())
		if err != nil {
			return err
		}
		row.Checked += said
		if flowing && b.Target == "" {
			said, err := w.checkEvents(ctx, l)
			if err != nil {
				return err
			}
			row.Checked += said
		}
		row.Measured, row.Limit, row.Ratio, row.Others, row.Values = v["writes_per_s"], v["nats_per_s"], v["ratio"], v.others(), v.aside("writes_per_s", "nats_per_s", "ratio")
		row.AtLeast, row.Bound, row.Target = true, 0.20, "≥ 0.20 × bare NATS"
		switch {
		case form == Embedded:
			row.Row, row.Bound, row.Target = "P1 embedded", 0, "reported"
			row.What = "the same, `lake serve`"
		case !flowing:
			row.Row, row.Bound, row.Target = "P1 events off", 0.25, "≥ 0.25 × bare NATS"
			row.What = "the same without events"
		}
		b.emit(row)
		if flowing && form == Distributed && b.Target == "" {
			b.emit(Row{Row: "P1 CPU", What: "CPU a write, all servers and services together (the client's own beside it)", Form: form, Target: "≤ 100 µs", Unit: "µs", Rounds: b.Rounds,
				Measured: v["cpu_us"], Bound: 100, Others: v.others(), Values: v.pick("cpu_us_client", "cpu_us_redis", "cpu_us_nats-server", "cpu_us_versitygw", "cpu_us_ingest", "cpu_us_snapshotter", "cpu_us_reader")})
			b.emit(Row{Row: "P1 Redis", What: "Redis's time in scripts a write (INFO commandstats)", Form: form, Target: "≤ 28 µs", Unit: "µs", Rounds: b.Rounds,
				Measured: v["redis_us"], Bound: 28, Others: v.others(), Values: v.pick("redis_commands", "redis_script_calls_per_1000", "cpu_us_redis")})
		}
	}
	return nil
}

// writeRound measures the writers, and bare NATS at the same in flight before and after
// them.
func (b *bench) writeRound(ctx context.Context, l *lab, w *writers, name string, inFlight int) (v Values, err error) {
	bare, err := b.besideNATS(ctx, l, inFlight, patchBytes, 100, func() (err error) {
		v, err = b.writeLoad(ctx, l, w, name, inFlight)
		return err
	})
	if err != nil {
		return nil, err
	}
	v["nats_per_s"], v["ratio"] = bare, v["writes_per_s"]/bare
	return v, nil
}

// writeLoad measures the writers.
func (b *bench) writeLoad(ctx context.Context, l *lab, w *writers, name string, inFlight int) (Values, error) {
	acked := w.acked.Load()
	before, err := l.count(ctx)
	if err != nil {
		return nil, err
	}
	load, err := b.profiled(ctx, l, name, func() (*loaded, error) {
		return sound(closed(ctx, inFlight, b.warmup(), b.Duration, w.write))
	})
	if err != nil {
		return nil, err
	}
	after, err := l.count(ctx)
	if err != nil {
		return nil, err
	}
	v := after.per(before, float64(w.acked.Load()-acked))
	v["writes_per_s"], v["p50_ms"], v["p99_ms"] = load.perSecond(), load.quantile(50), load.quantile(99)
	return v, nil
}

// latencyAt measures latencies by a schedule of some duration.
func (b *bench) latencyAt(ctx context.Context, perSecond float64, workers int, duration time.Duration, do op) (*Latency, error) {
	b.say("latencies by a schedule of %s/s", number(perSecond))
	load, err := sound(open(ctx, max(perSecond, 1), workers, b.warmup(), duration, do))
	if err != nil {
		return nil, fmt.Errorf("by a schedule: %w", err)
	}
	lat := load.latency()
	lat.PerSecond, lat.Refused = round(perSecond), load.refused
	return lat, nil
}

// p3 is one write after the other over real servers.
func (b *bench) p3(ctx context.Context) error {
	if err := b.only(Distributed); err != nil {
		return err
	}
	if err := b.p3local(ctx); err != nil {
		return err
	}
	return b.p3slow(ctx)
}

// parts measures what a lone write cannot do without, milliseconds.
func (b *bench) parts(ctx context.Context, l *lab, o engine.Objects) (put, script, rtt float64, err error) {
	puts, err := b.barePut(ctx, o, 1)
	if err != nil {
		return 0, 0, 0, fmt.Errorf("bare PUT: %w", err)
	}
	scripts, err := b.bareScript(ctx, l.redis, 1)
	if err != nil {
		return 0, 0, 0, fmt.Errorf("bare EVALSHA: %w", err)
	}
	echo, err := b.bareNATS(ctx, l, 1, patchBytes, 100)
	if err != nil {
		return 0, 0, 0, fmt.Errorf("bare NATS: %w", err)
	}
	return puts.p50(), scripts.p50(), echo.p50(), nil
}

func (b *bench) p3local(ctx context.Context) error {
	l, c, err := b.serving(ctx, Distributed, labOptions{})
	if err != nil {
		return err
	}
	defer l.stop()
	o, err := l.objects(ctx)
	if err != nil {
		return err
	}
	w := newWriters(c, 1, 1)
	lat := newHistogram()
	v, err := b.repeat(ctx, "lone write", "write_p50_ms", func(ctx context.Context) (Values, error) {
		put, script, rtt, err := b.parts(ctx, l, o)
		if err != nil {
			return nil, err
		}
		turns, err := b.bareInTurn(ctx, l, patchBytes, 100, smallPut(o))
		if err != nil {
			return nil, fmt.Errorf("the parts in turn: %w", err)
		}
		before := l.mark()
		load, err := b.profiled(ctx, l, "p3", func() (*loaded, error) { return sound(closed(ctx, 1, b.warmup(), b.Duration, w.write)) })
		if err != nil {
			return nil, err
		}
		_, _, others := l.mark().since(before)
		lat.add(load.hist)
		return Values{"write_p50_ms": load.p50(), "put_p50_ms": put, "evalsha_p50_ms": script, "nats_p50_ms": rtt, "parts_ms": put + 2*script + rtt, "in_turn_ms": turns.p50(), "others_cores": others}, nil
	})
	if err != nil {
		return err
	}
	checked, err := w.check(ctx)
	if err != nil {
		return err
	}
	b.emit(Row{What: "p50 of a write, one after the other", Form: Distributed, Target: "≤ 1.25 × (PUT + 2 EVALSHA + NATS round trip)", Unit: "ms", Rounds: b.Rounds,
		Measured: v["write_p50_ms"], Limit: v["parts_ms"], LimitIs: "PUT + 2 EVALSHA + NATS", Bound: 1.25, Checked: checked, Latency: latencyOf(lat.merged()), Others: v.others(), Values: v.aside("write_p50_ms", "parts_ms", "in_turn_ms")})
	b.emit(Row{Row: "P3 in turn", What: "the same against its parts done in turn, as a write does them, so that each finds servers that sleep", Form: Distributed, Target: "≤ 1.25 × the parts in turn", Unit: "ms", Rounds: b.Rounds,
		Measured: v["write_p50_ms"], Limit: v["in_turn_ms"], LimitIs: "NATS, EVALSHA, PUT, EVALSHA in turn", Bound: 1.25, Others: v.others()})
	return nil
}

// p3slow is the same over a store that takes 180 ms: what is not the PUT and
// not NATS must not show.
func (b *bench) p3slow(ctx context.Context) error {
	const latency = 180 * time.Millisecond
	l, c, err := b.serving(ctx, Distributed, labOptions{putLatency: latency})
	if err != nil {
		return err
	}
	defer l.stop()
	o, err := l.objects(ctx)
	if err != nil {
		return err
	}
	w := newWriters(c, 1, 1)
	v, err := b.repeat(ctx, "lone write, 180 ms a PUT", "write_p50_ms", func(ctx context.Context) (Values, error) {
		put, script, rtt, err := b.parts(ctx, l, o)
		if err != nil {
			return nil, err
		}
		before := l.mark()
		load, err := sound(closed(ctx, 1, b.warmup(), max(b.Duration, time.Second), w.write))
		if err != nil {
			return nil, err
		}
		_, _, others := l.mark().since(before)
		own := max(load.p50()-put-rtt, 0)
		return Values{"write_p50_ms": load.p50(), "put_p50_ms": put, "evalsha_p50_ms": script, "nats_p50_ms": rtt, "percent": 100 * own / load.p50(), "others_cores": others}, nil
	})
	if err != nil {
		return err
	}
	checked, err := w.check(ctx)
	if err != nil {
		return err
	}
	b.emit(Row{Row: "P3 180 ms", What: "of a lone write's p50 over a store with 180 ms a PUT: all that is neither the PUT nor NATS, so both scripts and the services' own work", Form: Distributed,
		Target: "≤ 2 %", Unit: "%", Rounds: b.Rounds, Measured: v["percent"], Bound: 2, Checked: checked, Others: v.others(), Values: v.aside("percent")})
	return nil
}
