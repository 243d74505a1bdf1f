package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"

	root "github.com/jsonlake/lake"
	"github.com/jsonlake/lake/pkg/engine"
)

// p10 is folding small deltas into a document of a megabyte.
func (b *bench) p10(ctx context.Context) error {
	if err := b.ownLake(); err != nil {
		return err
	}
	if b.wants(Embedded) {
		for _, k := range []struct {
			row, what  string
			n, members int
			bound      float64
		}{
			{row: "P10 10,000", what: "deltas/s a core, 10,000 small deltas folded onto a 1 MB document", n: 10_000, members: 10_000, bound: 500_000},
			{row: "P10 100,000", what: "deltas/s a core, 100,000 small deltas on 1,000 members folded onto a 1 MB document", n: 100_000, members: 1000, bound: 1_000_000},
		} {
			v, err := b.repeat(ctx, k.row, "deltas_per_core_s", func(ctx context.Context) (Values, error) { return b.foldOnce(ctx, k.n, k.members) })
			if err != nil {
				return err
			}
			b.emit(Row{Row: k.row, What: k.what, Form: "library in this process", Target: "≥ " + thousands(int64(k.bound)), Unit: "deltas/s", Rounds: b.Rounds, Measured: v["deltas_per_core_s"], AtLeast: true, Bound: k.bound,
				Checked: "the last value of every member", Others: v.others(), Values: v.aside("deltas_per_core_s")})
		}
	}
	if !b.wants(Distributed) {
		return nil
	}
	return b.twoSnapshotters(ctx)
}

// foldOnce writes n deltas to a new lake and folds them: view, frames, merge,
// snapshot and pack, registered.
func (b *bench) foldOnce(ctx context.Context, n, members int) (Values, error) {
	l, done, err := b.embedded(ctx, root.WithoutBackground())
	if err != nil {
		return nil, err
	}
	defer done()
	if _, err := l.Write(ctx, engine.WriteRequest{Catalog: "fold", MergeType: engine.MergeTypeReplace, Body: document(1 << 20)}); err != nil {
		return nil, err
	}
	if err := foldAll(ctx, l, "fold"); err != nil {
		return nil, err
	}
	last := map[string]int{}
	r := rand.New(rand.NewPCG(7, 8))
	for from := 0; from < n; from += 1000 {
		batch := engine.BatchRequest{Catalog: "fold"}
		for i := from; i < min(from+1000, n); i++ {
			m := fmt.Sprintf("m%d", r.IntN(members))
			last[m] = i
			batch.Deltas = append(batch.Deltas, engine.WriteRequest{Body: fmt.Appendf(nil, `{"p":{"%s":%d}}`, m, i)})
		}
		if _, err := l.WriteBatch(ctx, batch); err != nil {
			return nil, err
		}
	}
	runtime.GC() // of what came before
	machine := mark(nil, true)
	cpu, known := ownCPU()
	start := time.Now()
	if err := foldAll(ctx, l, "fold"); err != nil {
		return nil, err
	}
	wall := time.Since(start)
	after, _ := ownCPU()
	_, _, others := mark(nil, true).since(machine)
	busy := after - cpu
	if !known {
		busy = wall
	}
	res, err := l.Read(ctx, engine.ReadRequest{Catalog: "fold"})
	if err != nil {
		return nil, err
	}
	var doc struct{ P map[string]int }
	if err := json.Unmarshal(res.Body, &doc); err != nil {
		return nil, err
	}
	if len(doc.P) != len(last) {
		return nil, fmt.Errorf("WRONG DOCUMENT: %d members of %d", len(doc.P), len(last))
	}
	for m, want := range last {
		if doc.P[m] != want {
			return nil, fmt.Errorf("WRONG DOCUMENT: %s is %d, not %d", m, doc.P[m], want)
		}
	}
	return Values{"deltas_per_core_s": float64(n) / busy.Seconds(), "deltas_per_s": float64(n) / wall.Seconds(), "fold_ms": millis(wall), "others_cores": others}, nil
}

func foldAll(ctx context.Context, l lake, catalog string) error {
	for {
		r, err := l.Fold(ctx, catalog)
		if err != nil || !r.More {
			return err
		}
	}
}

// twoSnapshotters compares how fast one and two snapshotters work off a backlog.
func (b *bench) twoSnapshotters(ctx context.Context) error {
	const cores = 4
	row := Row{Row: "P10 two snapshotters", What: "two snapshotters against one on the same backlog", Form: Distributed, Target: "≥ 1.8 × one, judged on ≥ 4 cores"}
	if runtime.NumCPU() < cores {
		row.Missing = fmt.Sprintf("two snapshotters are judged on %d cores; this machine has %d", cores, runtime.NumCPU())
		b.emit(row)
		return nil
	}
	v, err := b.repeat(ctx, row.Row, "ratio", func(ctx context.Context) (Values, error) {
		one, err := b.backlog(ctx, "snapshotter-1")
		if err != nil {
			return nil, err
		}
		two, err := b.backlog(ctx, "snapshotter-1", "snapshotter-2")
		if err != nil {
			return nil, err
		}
		return Values{"one_s": one.Seconds(), "two_s": two.Seconds(), "ratio": one.Seconds() / two.Seconds()}, nil
	})
	if err != nil {
		return err
	}
	row.Measured, row.Unit, row.Rounds, row.AtLeast, row.Bound, row.Others, row.Values = v["ratio"], "× as fast", b.Rounds, true, 1.8, -1, v.aside("ratio")
	b.emit(row)
	return nil
}

// backlog makes many catalogs due, starts snapshotters and gives the time until
// none is due any more.
func (b *bench) backlog(ctx context.Context, snapshotters ...string) (time.Duration, error) {
	l, err := b.start(ctx, Distributed, labOptions{only: []string{"ingest", "reader"}})
	if err != nil {
		return 0, err
	}
	defer l.stop()
	objects, err := l.objects(ctx)
	if err != nil {
		return 0, err
	}
	in, err := root.Open(ctx, l.redisURL, root.WithStorage(objects), root.WithoutBackground())
	if err != nil {
		return 0, err
	}
	defer in.Close()
	name := newRun()
	const catalogs = 64
	if err := each(ctx, catalogs, func(ctx context.Context, i int) error {
		if _, err := in.Write(ctx, engine.WriteRequest{Catalog: name(i), MergeType: engine.MergeTypeReplace, Body: document(256 << 10)}); err != nil {
			return err
		}
		for range 5 {
			batch := engine.BatchRequest{Catalog: name(i)}
			for d := range 2000 {
				batch.Deltas = append(batch.Deltas, engine.WriteRequest{Body: fmt.Appendf(nil, `{"p":{"m%d":%d}}`, d, d)})
			}
			if _, err := in.WriteBatch(ctx, batch); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return 0, err
	}
	start := time.Now()
	for _, s := range snapshotters {
		if err := b.startService(ctx, l, s, bucketKeys, nil); err != nil {
			return 0, err
		}
	}
	for end := start.Add(2 * time.Minute); ; {
		infos, err := in.Catalogs(ctx, name(0)[:len(name(0))-6], "", 1000)
		if err != nil {
			return 0, err
		}
		due := 0
		for _, i := range infos {
			if i.Deltas > 1000 {
				due++
			}
		}
		if due == 0 {
			return time.Since(start), nil
		}
		if time.Now().After(end) {
			return 0, fmt.Errorf("%d of %d catalogs are not folded after 2 min", due, catalogs)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
