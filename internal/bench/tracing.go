package bench

import (
	"context"
	"errors"
	"time"

	"github.com/jsonlake/lake/pkg/engine/trace"
)

// p15 is what tracing costs where a trace costs most: a hot read and a write of
// an engine in this process.
func (b *bench) p15(ctx context.Context) error {
	if err := b.only(Embedded); err != nil {
		return err
	}
	in, done, err := b.embedded(ctx)
	if err != nil {
		return err
	}
	defer done()
	name, body := newRun(), document(1024)
	if err := fill(ctx, in, name, 1, body); err != nil {
		return err
	}
	w := newWriters(bounded{in}, 1, 1)
	for _, k := range []struct {
		row, what string
		do        op
	}{
		{"P15 write", "p50 of a lone write", w.write},
		{"P15 read", "p50 of a hot read", readOf(bounded{in}, name, 1, body, false)},
	} {
		traced := func(ctx context.Context, worker, i int) (int, error) {
			ctx = trace.WithTrace(ctx, "bench")
			if trace.FromContext(ctx) == nil {
				return 0, errors.New("nothing is traced")
			}
			return k.do(ctx, worker, i)
		}
		v, err := b.repeat(ctx, k.row, "on_p50_ms", func(ctx context.Context) (Values, error) {
			before := mark(nil, true)
			off, on, err := alternately(ctx, b.warmup(), b.brief(), k.do, traced)
			if err != nil {
				return nil, err
			}
			_, _, others := mark(nil, true).since(before)
			return Values{"off_p50_ms": off, "on_p50_ms": on, "ratio": on / off, "others_cores": others}, nil
		})
		if err != nil {
			return err
		}
		b.emit(Row{Row: k.row, What: k.what + " with a trace, against one without, library in this process", Form: Embedded, Target: "≤ 1.01 ×", Unit: "ms", Rounds: b.Rounds,
			Measured: v["on_p50_ms"], Limit: v["off_p50_ms"], LimitIs: "untraced", Ratio: v["ratio"], Bound: 1.01, Others: v.others()})
	}
	b.emit(Row{Row: "P15 encryption", What: "encryption off → on, a 10 KB frame", Target: "≤ 0.05 ms", Missing: "this version does not encrypt: there is nothing to turn on"})
	return nil
}

// alternately does one operation and the other, a and b, again and again, and gives the p50
// of each, milliseconds: what is slow for a while, a disk or the machine, is slow for both.
func alternately(ctx context.Context, warmup, duration time.Duration, a, b op) (p50a, p50b float64, err error) {
	ops := [2]op{a, b}
	each := [2]loaded{{hist: newHistogram()}, {hist: newHistogram()}}
	begin := time.Now().Add(warmup)
	_, err = sound(closed(ctx, 1, warmup, duration, func(ctx context.Context, w, i int) (int, error) {
		start := time.Now()
		n, err := ops[i%2](ctx, w, i/2)
		if took := time.Since(start); err == nil && start.After(begin) {
			each[i%2].hist.record(w, took)
		}
		return n, err
	}))
	return each[0].p50(), each[1].p50(), err
}
