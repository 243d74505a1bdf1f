package bench

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"golang.org/x/sync/errgroup"
)

const slowPut = 50 * time.Millisecond

// p2 is P1 over a store that takes 50 ms a PUT.
func (b *bench) p2(ctx context.Context) error {
	if err := b.only(Distributed); err != nil {
		return err
	}
	l, c, err := b.serving(ctx, Distributed, labOptions{putLatency: slowPut})
	if err != nil {
		return err
	}
	defer l.stop()
	w := newWriters(c, manyInFlight, manyCatalogs)
	before, err := l.count(ctx)
	if err != nil {
		return err
	}
	v, err := b.repeat(ctx, "50 ms a PUT", "writes_per_s", func(ctx context.Context) (Values, error) {
		return b.writeLoad(ctx, l, w, "p2", manyInFlight)
	})
	if err != nil {
		return err
	}
	lat, err := b.latencyAt(ctx, v["writes_per_s"]/2, manyInFlight, b.Duration, w.write)
	if err != nil {
		return err
	}
	checked, err := w.check(ctx)
	if err != nil {
		return err
	}
	said, err := l.checkCount(ctx, before, w.acked.Load())
	if err != nil {
		return err
	}
	checked += said
	b.emit(Row{What: "writes/s over a store with 50 ms a PUT, 1,024 in flight on 1,000 catalogs", Form: Distributed, Target: "≥ 0.9 × in flight ÷ 55 ms", Unit: "writes/s", Rounds: b.Rounds,
		Measured: v["writes_per_s"], Limit: manyInFlight / 0.055, LimitIs: "1,024 ÷ 55 ms", AtLeast: true, Bound: 0.9, Checked: checked, Latency: lat, Others: v.others(), Values: v.aside("writes_per_s")})
	b.emit(Row{Row: "P2 PUTs", What: "PUTs of 1,000 writes, counted by the services", Form: Distributed, Target: "≤ 12", Unit: "PUTs", Rounds: b.Rounds, Measured: v["puts_per_1000"], Bound: 12, Others: v.others()})
	return nil
}

// p8 is reads of a catalog that sixteen writers write over a slow store: of a lake
// with a cache Redis, and of one that gets every new segment from the bucket.
func (b *bench) p8(ctx context.Context) error {
	if b.Target != "" {
		return b.p8form(ctx, true)
	}
	if err := b.only(Distributed); err != nil {
		return err
	}
	return errors.Join(b.p8form(ctx, true), b.p8form(ctx, false))
}

func (b *bench) p8form(ctx context.Context, cache bool) error {
	l, c, err := b.serving(ctx, Distributed, labOptions{putLatency: slowPut, cache: cache})
	if err != nil {
		return err
	}
	defer l.stop()
	const perSecond = 200
	w := newWriters(c, 16, 1)
	for i := range 16 { // a document that has every member
		if _, err := w.write(ctx, i, 0); err != nil {
			return err
		}
	}
	read := anyRead(c, w.catalog(0))
	var errs int64
	v, err := b.repeat(ctx, "reads beside 16 writers", "busy_p99_ms", func(ctx context.Context) (Values, error) {
		begin := l.mark()
		idle, err := sound(open(ctx, perSecond, 1, b.warmup(), b.Duration, read))
		if err != nil {
			return nil, err
		}
		busy := l.mark()
		g, gctx := errgroup.WithContext(ctx)
		var reads, writes *loaded
		g.Go(func() error {
			writes = closed(gctx, 16, 0, b.warmup()+b.Duration, w.write)
			return writes.err
		})
		g.Go(func() error {
			reads = open(gctx, perSecond, 1, b.warmup(), b.Duration, read)
			return nil
		})
		if err := g.Wait(); err != nil {
			return nil, fmt.Errorf("writers: %w", err)
		}
		if reads.err != nil {
			b.say("a read failed: %v", reads.err)
		}
		errs += reads.failed + reads.refused
		end := l.mark()
		v := end.cores(busy)
		_, _, v["others_cores"] = end.since(begin) // without the writers, too
		maps.Copy(v, Values{"idle_p99_ms": idle.quantile(99), "busy_p99_ms": reads.quantile(99), "idle_p50_ms": idle.p50(), "busy_p50_ms": reads.p50(), "writes_per_s": writes.perSecond()})
		return v, nil
	})
	if err != nil {
		return err
	}
	checked, err := w.check(ctx)
	if err != nil {
		return err
	}
	row := Row{What: fmt.Sprintf("p99 of %d reads/s by a schedule while 16 writers write the same catalog, 50 ms a PUT", perSecond), Form: l.form, Target: "≤ 3 × idle p99", Unit: "ms", Rounds: b.Rounds,
		Measured: v["busy_p99_ms"], Limit: v["idle_p99_ms"], LimitIs: "p99 without writers", Bound: 3, Checked: checked, Others: v.others(), Values: v.aside("busy_p99_ms", "idle_p99_ms")}
	name := "P8"
	if !cache {
		name = "P8 uncached"
		row.What, row.Target, row.Bound = "the same without a cache Redis", "reported", 0
	}
	row.Row = name
	b.emit(row)
	b.emit(Row{Row: name + " errors", What: "reads that failed or were refused meanwhile, all rounds", Form: l.form, Target: "0", Unit: "reads", Rounds: b.Rounds, Measured: float64(errs), Bound: 0.5, Others: v.others()})
	return nil
}
