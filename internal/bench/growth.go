package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	root "github.com/jsonlake/lake"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

const (
	fewCatalogs = 1000
	allCatalogs = 1_000_000
)

// p13 is how hot reads and writes change as a lake grows.
func (b *bench) p13(ctx context.Context) error {
	if err := b.ownLake(); err != nil {
		return err
	}
	for _, form := range b.forms(Embedded, Distributed) {
		if err := b.growth(ctx, form); err != nil {
			return fmt.Errorf("%s: %w", form, err)
		}
	}
	return nil
}

// grown is a lake in this process that grows: on files, or on Redis with a bucket in
// memory, where the index is what grows.
func (b *bench) grown(ctx context.Context, form string) (*root.Lake, *lab, func(), error) {
	o := engine.Options{FoldWorkers: 1}
	if form == Embedded {
		in, done, err := b.embedded(ctx, root.WithOptions(o))
		return in, &lab{form: Embedded}, done, err
	}
	l := &lab{form: Distributed}
	if err := b.onlyRedis(ctx, l); err != nil {
		l.stop()
		return nil, nil, nil, err
	}
	in, err := root.Open(ctx, l.redisURL, root.WithStorage(memory.NewObjects()), root.WithOptions(o))
	if err != nil {
		l.stop()
		return nil, nil, nil, err
	}
	return in, l, func() { _ = in.Close(); l.stop() }, nil
}

func (b *bench) growth(ctx context.Context, form string) error {
	in, l, done, err := b.grown(ctx, form)
	if err != nil {
		return err
	}
	defer done()
	// By versions: the same document, written again and again.
	w := newWriters(bounded{in}, 10, 1)
	var at [2]Values
	for i, versions := range []int64{10, 10_000} {
		if err := each(ctx, int(max(versions-w.acked.Load(), 0)), func(ctx context.Context, i int) error {
			_, err := w.write(ctx, i%len(w.last), i)
			return err
		}); err != nil {
			return err
		}
		if at[i], err = b.hot(ctx, l, w, fmt.Sprintf("%s, %d versions", form, versions)); err != nil {
			return err
		}
	}
	checked, err := w.check(ctx)
	if err != nil {
		return err
	}
	b.emitGrowth(form, "versions", "from 10 to 10,000 versions", at, checked, "")

	// By catalogs.
	name := newRun()
	hot := newWriters(bounded{in}, 100, 100)
	filled := 0
	for i, catalogs := range []int{fewCatalogs, allCatalogs} {
		if filled, err = b.fillUp(ctx, in, name, filled, catalogs); err != nil {
			return err
		}
		if at[i], err = b.hot(ctx, l, hot, fmt.Sprintf("%s, %s catalogs", form, thousands(int64(filled)))); err != nil {
			return err
		}
	}
	if checked, err = hot.check(ctx); err != nil {
		return err
	}
	short := ""
	if filled < allCatalogs {
		short = fmt.Sprintf("the time was enough for %s catalogs only", thousands(int64(filled)))
	}
	if l.redis != nil {
		c, err := l.count(ctx)
		if err != nil {
			return err
		}
		at[1]["redis_bytes_a_catalog"] = c.redis["used_memory"] / float64(filled)
	}
	if peak, ok := peakOf(os.Getpid()); ok {
		at[1]["peak_mb_bench"] = float64(peak) / 1e6
	}
	b.emitGrowth(form, "catalogs", fmt.Sprintf("from 1,000 to %s catalogs", thousands(int64(filled))), at, checked, short)
	return nil
}

// hot measures lone reads and writes of some catalogs.
func (b *bench) hot(ctx context.Context, l *lab, w *writers, what string) (Values, error) {
	return b.repeat(ctx, what, "read_p50_ms", func(ctx context.Context) (Values, error) {
		before := l.mark()
		writes, err := sound(closed(ctx, 1, b.warmup(), b.Duration/2, func(ctx context.Context, _, i int) (int, error) { return w.write(ctx, i%len(w.last), i) }))
		if err != nil {
			return nil, err
		}
		reads, err := sound(closed(ctx, 1, b.warmup(), b.Duration/2, func(ctx context.Context, _, i int) (int, error) {
			return anyRead(w.to, w.catalog(i%w.catalogs))(ctx, 0, i)
		}))
		if err != nil {
			return nil, err
		}
		_, _, others := l.mark().since(before)
		return Values{"read_p50_ms": reads.p50(), "write_p50_ms": writes.p50(), "others_cores": others}, nil
	})
}

func (b *bench) emitGrowth(form, by, what string, at [2]Values, checked, short string) {
	for _, k := range []struct{ name, figure string }{{"reads", "read_p50_ms"}, {"writes", "write_p50_ms"}} {
		v := at[1].aside("read_p50_ms", "write_p50_ms")
		b.emit(Row{Row: fmt.Sprintf("P13 %s, %s, %s", by, k.name, form), What: "p50 of hot " + k.name + " " + what + ", library in this process", Form: form, Target: "≤ 1.3 ×", Unit: "ms", Rounds: b.Rounds,
			Measured: at[1][k.figure], Limit: at[0][k.figure], LimitIs: "the p50 before", Bound: 1.3, Checked: checked, Short: short, Others: max(at[0].others(), at[1].others()), Values: v})
	}
}

// fillTime bounds how long a lake is filled.
func (b *bench) fillTime() time.Duration {
	if b.Duration < 5*time.Second {
		return 3 * b.Duration
	}
	return 2 * time.Minute
}

// fillUp writes a small document to each catalog from a number to another, as far
// as the time goes, and gives how many there are.
func (b *bench) fillUp(ctx context.Context, to lake, name func(int) string, from, catalogs int) (int, error) {
	b.say("fill up to %s catalogs", thousands(int64(catalogs)))
	end := time.Now().Add(b.fillTime())
	var next, done atomic.Int64
	next.Store(int64(from))
	done.Store(int64(from))
	g, gctx := errgroup.WithContext(ctx)
	for range 1024 {
		g.Go(func() error {
			for {
				i := next.Add(1) - 1
				if i >= int64(catalogs) || time.Now().After(end) && catalogs > fewCatalogs {
					return nil
				}
				if _, err := to.Write(gctx, engine.WriteRequest{Catalog: name(int(i)), Body: fmt.Appendf(nil, `{"id":%d}`, i)}); err != nil {
					return fmt.Errorf("fill catalog %d: %w", i, err)
				}
				done.Add(1)
			}
		})
	}
	err := g.Wait()
	return int(done.Load()), err
}

// p14 is the rebuild of an index that was lost whole.
func (b *bench) p14(ctx context.Context) error {
	if err := b.only(Embedded); err != nil {
		return err
	}
	if err := b.rebuildCatalogs(ctx); err != nil {
		return err
	}
	return b.rebuildBytes(ctx)
}

// lose removes the index of a closed lake and opens it again, which rebuilds it.
func (b *bench) lose(ctx context.Context, dir string) (*root.Lake, Values, error) {
	if err := os.RemoveAll(root.IndexDir(dir)); err != nil {
		return nil, nil, err
	}
	before, begin := mark(nil, true), time.Now()
	l, err := root.Open(ctx, root.DirURL(dir), root.WithoutBackground())
	if err != nil {
		return nil, nil, fmt.Errorf("open the lake without its index: %w", err)
	}
	took := time.Since(begin)
	_, _, others := mark(nil, true).since(before)
	return l, Values{"seconds": took.Seconds(), "others_cores": others}, nil
}

func (b *bench) rebuildCatalogs(ctx context.Context) error {
	dir, err := b.temp("rebuild")
	if err != nil {
		return err
	}
	defer empty(dir)
	l, err := root.Open(ctx, root.DirURL(dir), root.WithoutBackground())
	if err != nil {
		return err
	}
	name := newRun()
	n, err := b.fillUp(ctx, l, name, 0, 200_000)
	if err != nil {
		_ = l.Close()
		return err
	}
	if err := l.Close(); err != nil {
		return err
	}
	v, err := b.repeat(ctx, "rebuild", "catalogs_per_s", func(ctx context.Context) (Values, error) {
		l, v, err := b.lose(ctx, dir)
		if err != nil {
			return nil, err
		}
		defer l.Close()
		v["catalogs_per_s"] = float64(n) / v["seconds"]
		found := 0
		for after := ""; ; {
			page, err := l.Catalogs(ctx, "", after, 1000)
			if err != nil {
				return nil, err
			}
			found += len(page)
			if len(page) < 1000 {
				break
			}
			after = page[len(page)-1].Catalog
		}
		if found != n {
			return nil, fmt.Errorf("LOST: %d of %d catalogs are there after the rebuild", found, n)
		}
		r, err := l.Read(ctx, engine.ReadRequest{Catalog: name(rand.IntN(n))})
		if err != nil || len(r.Body) == 0 {
			return nil, fmt.Errorf("read after the rebuild: %w", err)
		}
		return v, nil
	})
	if err != nil {
		return err
	}
	b.emit(Row{Row: "P14 catalogs", What: fmt.Sprintf("catalogs/s of a rebuild, %s catalogs, from opening without an index until it serves", thousands(int64(n))), Form: Embedded, Target: "≥ 20,000", Unit: "catalogs/s", Rounds: b.Rounds,
		Measured: v["catalogs_per_s"], AtLeast: true, Bound: 20_000, Checked: "every catalog is there", Others: v.others(), Values: v.aside("catalogs_per_s")})
	return nil
}

func (b *bench) rebuildBytes(ctx context.Context) error {
	dir, err := b.temp("rebuild")
	if err != nil {
		return err
	}
	defer empty(dir)
	l, err := root.Open(ctx, root.DirURL(dir), root.WithoutBackground())
	if err != nil {
		return err
	}
	name := newRun()
	size := 512 << 20
	if b.Duration < 5*time.Second {
		size = 128 << 20
	}
	b.say("write a log of %d MB", size>>20)
	const body, catalogs = 100 << 10, 100
	heads := make([]engine.Version, catalogs)
	doc := document(body)
	err = each(ctx, catalogs, func(_ context.Context, c int) error {
		for range size / body / catalogs {
			r, err := l.Write(ctx, engine.WriteRequest{Catalog: name(c), MergeType: engine.MergeTypeReplace, Body: doc})
			if err != nil {
				return err
			}
			heads[c] = r.Version
		}
		return nil
	})
	if err != nil {
		_ = l.Close()
		return err
	}
	if err := l.Close(); err != nil {
		return err
	}
	onDisk, _ := stored(root.ObjectsDir(dir))
	v, err := b.repeat(ctx, "rebuild", "mb_per_s", func(ctx context.Context) (Values, error) {
		l, v, err := b.lose(ctx, dir)
		if err != nil {
			return nil, err
		}
		defer l.Close()
		for c, want := range heads {
			if list := l.List(ctx, name(c)); list.Err != nil || list.Version != want {
				return nil, fmt.Errorf("LOST: %s is at %s after the rebuild, not %s (%w)", name(c), list.Version, want, list.Err)
			}
		}
		v["mb_per_s"] = float64(onDisk) / 1e6 / v["seconds"]
		return v, nil
	})
	if err != nil {
		return err
	}
	b.emit(Row{Row: "P14 bytes", What: fmt.Sprintf("MB/s of log in a rebuild, %.0f MB of segments as stored, %d MB of bodies", float64(onDisk)/1e6, size>>20), Form: Embedded, Target: "≥ 200 MB/s", Unit: "MB/s", Rounds: b.Rounds,
		Measured: v["mb_per_s"], AtLeast: true, Bound: 200, Checked: "every catalog's head", Others: v.others(), Values: v.aside("mb_per_s")})
	return nil
}
