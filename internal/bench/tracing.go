package bench

import (
	"context"
	"errors"

	"github.com/jsonlake/lake/pkg/engine/trace"
)

// p15 is what tracing costs where a trace costs most: a hot read and a write of
// an engine in this process. Each is measured in turns, the turn that begins
// changing, so that a slower moment falls on both.
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
	w := newWriters(in, 1, 1)
	for _, k := range []struct {
		row, what string
		do        op
	}{
		{"P15 write", "p50 of a lone write", w.write},
		{"P15 read", "p50 of a hot read", readOf(in, name, 1, body, false)},
	} {
		traced := func(ctx context.Context, worker, i int) (int, error) {
			ctx = trace.WithTrace(ctx, "bench")
			if trace.FromContext(ctx) == nil {
				return 0, errors.New("nothing is traced")
			}
			return k.do(ctx, worker, i)
		}
		turn := 0
		v, err := b.repeat(ctx, k.row, "on_p50_ms", func(ctx context.Context) (Values, error) {
			before := mark(nil, true)
			v := Values{}
			ways := []struct {
				figure string
				do     op
			}{{"off_p50_ms", k.do}, {"on_p50_ms", traced}}
			for i := range ways {
				way := ways[(i+turn)%2]
				load, err := sound(closed(ctx, 1, b.warmup(), b.brief()/2, way.do))
				if err != nil {
					return nil, err
				}
				v[way.figure] = load.p50()
			}
			turn++
			_, _, v["others_cores"] = mark(nil, true).since(before)
			return v, nil
		})
		if err != nil {
			return err
		}
		b.emit(Row{Row: k.row, What: k.what + " with a trace, against one without, library in this process", Form: Embedded, Target: "≤ 1.01 ×", Unit: "ms", Rounds: b.Rounds,
			Measured: v["on_p50_ms"], Limit: v["off_p50_ms"], LimitIs: "untraced", Bound: 1.01, Others: v.others()})
	}
	b.emit(Row{Row: "P15 encryption", What: "encryption off → on, a 10 KB frame", Target: "≤ 0.05 ms", Missing: "this version does not encrypt: there is nothing to turn on"})
	return nil
}
