package bench

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"

	"golang.org/x/sync/errgroup"

	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
)

// document is a JSON document of about n bytes: records of some 220 bytes, by
// name.
func document(n int) []byte {
	r := rand.New(rand.NewPCG(3, 4))
	var d bytes.Buffer
	d.WriteByte('{')
	for i := 0; d.Len() < n-260 || i == 0; i++ {
		if i > 0 {
			d.WriteByte(',')
		}
		fmt.Fprintf(&d, `"r%05d":{"id":%d,"name":"%s","tags":["%s","%s"],"score":%d,"note":"%s"}`, i, i, pad(r, 16), pad(r, 8), pad(r, 8), r.IntN(1000), pad(r, 90))
	}
	if rest := n - d.Len() - len(`,"rest":""}`); rest > 0 {
		fmt.Fprintf(&d, `,"rest":"%s"`, pad(r, rest))
	}
	d.WriteByte('}')
	return d.Bytes()
}

// fill replaces the documents of some catalogs.
func fill(ctx context.Context, to lake, name func(int) string, catalogs int, body []byte) error {
	err := each(ctx, catalogs, func(ctx context.Context, i int) error {
		_, err := to.Write(ctx, engine.WriteRequest{Catalog: name(i), MergeType: engine.MergeTypeReplace, Body: body})
		return err
	})
	if err != nil {
		return fmt.Errorf("fill %d catalogs: %w", catalogs, err)
	}
	return nil
}

// each does n things, 64 at once.
func each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(64)
	for i := range n {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, opTimeout)
			defer cancel()
			return do(ctx, i)
		})
	}
	return g.Wait()
}

// readOf is a load of reads that compares every answer. The lake bounds their time.
func readOf(from lake, name func(int) string, catalogs int, want []byte, relaxed bool) op {
	return func(ctx context.Context, w, i int) (int, error) {
		r, err := from.Read(ctx, engine.ReadRequest{Catalog: name((w*7919 + i) % catalogs), Relaxed: relaxed})
		switch {
		case err != nil:
			return 0, err
		case !bytes.Equal(r.Body, want):
			return 0, fmt.Errorf("WRONG DOCUMENT: %d bytes are not what was written", len(r.Body))
		}
		return 1, nil
	}
}

// p6 is reads of documents that do not change.
func (b *bench) p6(ctx context.Context) error {
	for _, form := range b.forms(Distributed, Embedded) {
		if err := b.p6form(ctx, form); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) p6form(ctx context.Context, form string) error {
	l, c, err := b.serving(ctx, form, labOptions{})
	if err != nil {
		return err
	}
	defer l.stop()
	name, body := newRun(), document(1024)
	if err := fill(ctx, c, name, manyCatalogs, body); err != nil {
		return err
	}
	// Every document is in the reader's cache: these are hot reads.
	if err := each(ctx, manyCatalogs, func(ctx context.Context, i int) error {
		_, err := readOf(c, name, manyCatalogs, body, false)(ctx, 0, i)
		return err
	}); err != nil {
		return err
	}
	if err := b.p6lone(ctx, l, c, name, body); err != nil {
		return err
	}
	for _, k := range []struct {
		row, what, target string
		catalogs          int
		relaxed           bool
		bound             float64
	}{
		{"P6 one catalog", "reads/s of 1 KB, 64 in flight, one hot catalog", "≥ 0.7 × bare NATS", 1, false, 0.7},
		{"P6 1,000 catalogs", "reads/s of 1 KB, 64 in flight, over 1,000 catalogs", "≥ 0.45 × bare NATS", manyCatalogs, false, 0.45},
		{"P6 relaxed", "relaxed reads/s of 1 KB, 64 in flight, one hot catalog", "≥ 0.8 × bare NATS", 1, true, 0.8},
	} {
		do := readOf(c, name, k.catalogs, body, k.relaxed)
		v, err := b.repeat(ctx, l.form+", "+k.row, "reads_per_s", func(ctx context.Context) (Values, error) {
			var v Values
			bare, err := b.besideNATS(ctx, l, 64, 0, len(body), func() error {
				before, err := l.count(ctx)
				if err != nil {
					return err
				}
				load, err := b.profiled(ctx, l, fmt.Sprintf("p6-%s-%d-relaxed-%t", l.form, k.catalogs, k.relaxed), func() (*loaded, error) {
					return sound(closed(ctx, 64, b.warmup(), b.brief(), do))
				})
				if err != nil {
					return err
				}
				after, err := l.count(ctx)
				if err != nil {
					return err
				}
				// What was read in the warm-up has cost, too.
				v = after.per(before, float64(load.n)*float64(b.warmup()+b.brief())/float64(b.brief()))
				v["reads_per_s"], v["p50_ms"], v["p99_ms"] = load.perSecond(), load.quantile(50), load.quantile(99)
				return nil
			})
			if err != nil {
				return nil, err
			}
			delete(v, "puts_per_1000")
			delete(v, "put_ms")
			delete(v, "bytes_put_per_op")
			delete(v, "events_per_1000")
			v["nats_per_s"], v["ratio"] = bare, v["reads_per_s"]/bare
			return v, nil
		})
		if err != nil {
			return err
		}
		lat, err := b.latencyAt(ctx, v["reads_per_s"]/2, 64, b.brief(), do)
		if err != nil {
			return err
		}
		row := Row{Row: k.row, What: k.what, Form: l.form, Target: k.target, Unit: "reads/s", Rounds: b.Rounds, Measured: v["reads_per_s"], Limit: v["nats_per_s"], LimitIs: "bare NATS request-reply at 64, 1 KB",
			Ratio: v["ratio"], AtLeast: true, Bound: k.bound, Latency: lat, Checked: "every answer byte by byte", Others: v.others(), Values: v.aside("reads_per_s", "nats_per_s", "ratio")}
		if form == Embedded {
			row.Row += " embedded"
		}
		b.emit(row)
	}
	return nil
}

// p6lone is one read after the other.
func (b *bench) p6lone(ctx context.Context, l *lab, c *client.Client, name func(int) string, body []byte) error {
	lat := newHistogram()
	v, err := b.repeat(ctx, l.form+", lone hot read", "read_p50_ms", func(ctx context.Context) (Values, error) {
		echo, err := b.bareNATS(ctx, l, 1, 0, len(body))
		if err != nil {
			return nil, fmt.Errorf("bare NATS: %w", err)
		}
		v := Values{"nats_p50_ms": echo.p50(), "parts_ms": echo.p50()}
		if l.redis != nil {
			script, err := b.bareScript(ctx, l.redis, 1)
			if err != nil {
				return nil, fmt.Errorf("bare EVALSHA: %w", err)
			}
			v["evalsha_p50_ms"] = script.p50()
			v["parts_ms"] += script.p50()
			turns, err := b.bareInTurn(ctx, l, 0, len(body), nil)
			if err != nil {
				return nil, fmt.Errorf("the parts in turn: %w", err)
			}
			v["in_turn_ms"] = turns.p50()
		}
		before := l.mark()
		load, err := sound(closed(ctx, 1, b.warmup(), b.brief(), readOf(c, name, 1, body, false)))
		if err != nil {
			return nil, err
		}
		_, _, v["others_cores"] = l.mark().since(before)
		lat.add(load.hist)
		v["read_p50_ms"] = load.p50()
		return v, nil
	})
	if err != nil {
		return err
	}
	row := Row{Row: "P6", What: "p50 of a hot read, unchanged, 1 KB", Form: l.form, Target: "≤ 1.25 × (NATS + one EVALSHA)", Unit: "ms", Rounds: b.Rounds, Measured: v["read_p50_ms"], Limit: v["parts_ms"],
		LimitIs: "NATS + EVALSHA", Bound: 1.25, Latency: latencyOf(lat.merged()), Checked: "every answer byte by byte", Others: v.others(), Values: v.aside("read_p50_ms", "parts_ms", "in_turn_ms")}
	if l.redis == nil {
		// There is no EVALSHA to allow for: the target is not made for this form.
		row.Row, row.Target, row.LimitIs, row.Bound = "P6 "+l.form, "reported", "NATS", 0
	}
	b.emit(row)
	if l.redis != nil {
		b.emit(Row{Row: "P6 in turn", What: "the same against its parts done in turn, as a read does them, so that each finds servers that sleep", Form: l.form, Target: "≤ 1.25 × the parts in turn", Unit: "ms", Rounds: b.Rounds,
			Measured: v["read_p50_ms"], Limit: v["in_turn_ms"], LimitIs: "NATS, EVALSHA in turn", Bound: 1.25, Others: v.others()})
	}
	return nil
}
