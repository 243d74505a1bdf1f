package bench

import (
	"context"
	"fmt"

	root "github.com/jsonlake/lake"
)

// embedded opens an embedded lake in this process.
func (b *bench) embedded(ctx context.Context, opts ...root.Option) (*root.Lake, func(), error) {
	dir, err := b.temp("lake")
	if err != nil {
		return nil, nil, err
	}
	l, err := root.Open(ctx, root.DirURL(dir), opts...)
	if err != nil {
		empty(dir)
		return nil, nil, err
	}
	return l, func() {
		_ = l.Close()
		empty(dir)
	}, nil
}

// p4 is one durable write after the other in the embedded form.
func (b *bench) p4(ctx context.Context) error {
	if err := b.only(Embedded); err != nil {
		return err
	}
	in, done, err := b.embedded(ctx)
	if err != nil {
		return err
	}
	defer done()
	l, c, err := b.serving(ctx, Embedded, labOptions{})
	if err != nil {
		return err
	}
	defer l.stop()
	for _, way := range []struct {
		row, what, target string
		to                lake
		bound             float64
	}{
		{"P4", "p50 of a durable write, library in this process", "≤ 1.5 × the file store's own durable put", bounded{in}, 1.5},
		{"P4 TCP", "p50 of a durable write, `lake serve` over TCP", "≤ 1.8 × the file store's own durable put", c, 1.8},
	} {
		w := newWriters(way.to, 1, 1)
		lat := newHistogram()
		v, err := b.repeat(ctx, way.what, "write_p50_ms", func(ctx context.Context) (Values, error) {
			put, err := b.bareFilePut(ctx)
			if err != nil {
				return nil, fmt.Errorf("the file store's put: %w", err)
			}
			sync, err := b.bareAppend(ctx)
			if err != nil {
				return nil, fmt.Errorf("append and fdatasync: %w", err)
			}
			before := l.mark()
			load, err := sound(closed(ctx, 1, b.warmup(), b.brief(), w.write))
			if err != nil {
				return nil, err
			}
			_, _, others := l.mark().since(before)
			lat.add(load.hist)
			return Values{"write_p50_ms": load.p50(), "put_p50_ms": put.p50(), "append_fdatasync_p50_ms": sync.p50(), "others_cores": others}, nil
		})
		if err != nil {
			return err
		}
		checked, err := w.check(ctx)
		if err != nil {
			return err
		}
		b.emit(Row{Row: way.row, What: way.what, Form: Embedded, Target: way.target, Unit: "ms", Rounds: b.Rounds, Measured: v["write_p50_ms"], Limit: v["put_p50_ms"],
			LimitIs: "durable put of a file", Bound: way.bound, Checked: checked, Latency: latencyOf(lat.merged()), Others: v.others(), Values: v.aside("write_p50_ms", "put_p50_ms")})
	}
	return nil
}
