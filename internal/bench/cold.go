package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	root "github.com/jsonlake/lake"
	"github.com/jsonlake/lake/pkg/engine"
)

// anyRead is a read of one catalog that must give a document.
func anyRead(from lake, catalog string) op {
	return func(ctx context.Context, _, _ int) (int, error) {
		ctx, cancel := context.WithTimeout(ctx, opTimeout)
		defer cancel()
		r, err := from.Read(ctx, engine.ReadRequest{Catalog: catalog})
		if err == nil && len(r.Body) == 0 {
			err = fmt.Errorf("WRONG DOCUMENT: nothing was read of %s", catalog)
		}
		return 1, err
	}
}

// p7 is the first read of a document after a thousand small patches.
func (b *bench) p7(ctx context.Context) error {
	if err := b.ownLake(); err != nil {
		return err
	}
	for _, form := range b.forms(Distributed, Embedded) {
		if err := b.p7form(ctx, form); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) p7form(ctx context.Context, form string) error {
	l, c, err := b.serving(ctx, form, labOptions{cache: true, flags: neverFold})
	if err != nil {
		return err
	}
	defer l.stop()
	// Frames come into the cache Redis by a read of another process: this one. The
	// reader itself has never seen the catalog.
	warm := func(context.Context, string) error { return nil }
	how := "lake serve, frames in files"
	if form == Distributed {
		how = "a reader that never saw it, frames in the cache Redis"
		objects, err := l.objects(ctx)
		if err != nil {
			return err
		}
		other, err := root.Open(ctx, l.redisURL, root.WithStorage(objects), root.WithSnapCacheMetaURL(l.cacheURL, 5*time.Minute), root.WithoutBackground())
		if err != nil {
			return err
		}
		defer other.Close()
		warm = func(ctx context.Context, catalog string) error {
			_, err := other.Read(ctx, engine.ReadRequest{Catalog: catalog})
			return err
		}
	}
	if err := b.fillCaches(ctx, c); err != nil {
		return err
	}
	for _, k := range []struct {
		size  int
		what  string
		bound float64
	}{{100 << 10, "100 KB", 8}, {1 << 20, "1 MB", 20}} {
		name, body := newRun(), document(k.size)
		reads := 0
		lat := newHistogram()
		for start := time.Now(); time.Since(start) < b.warmup(); {
			reads++
			if _, err := b.coldRead(ctx, c, name(reads), body, warm); err != nil {
				return err
			}
		}
		v, err := b.repeat(ctx, fmt.Sprintf("%s, first read of %s", form, k.what), "read_p50_ms", func(ctx context.Context) (Values, error) {
			own := newHistogram()
			for range 5 {
				reads++
				catalog := name(reads)
				took, err := b.coldRead(ctx, c, catalog, body, warm)
				if err != nil {
					return nil, err
				}
				own.record(0, took)
			}
			lat.add(own)
			return Values{"read_p50_ms": latencyOf(own.merged()).P50}, nil
		})
		if err != nil {
			return err
		}
		row := Row{Row: "P7 " + k.what, What: "first read after 1,000 small patches on " + k.what + ": " + how, Form: form, Target: fmt.Sprintf("≤ %g ms", k.bound), Unit: "ms", Rounds: b.Rounds, Measured: v["read_p50_ms"], Bound: k.bound,
			Latency: latencyOf(lat.merged()), Checked: "every patched member of every document", Others: -1}
		if form == Embedded {
			row.Row += " embedded"
		}
		b.emit(row)
	}
	return nil
}

// fillCaches has a reader keep half as much again as its caches hold by default (256 MiB of
// documents, 64 of segments). A process that has just started touches new memory for all
// that it allocates, until its caches are full and the garbage collector has run with them
// full; where a page of new memory costs 20 µs, as under some hypervisors, a read of 1 MB
// takes 20 ms longer for it.
func (b *bench) fillCaches(ctx context.Context, c lake) error {
	const documents = 500 // of 1 MB
	b.say("fill the caches")
	name, body := newRun(), document(1000<<10)
	read := readOf(c, name, documents, body, false)
	for i := range documents {
		if _, err := c.Write(ctx, engine.WriteRequest{Catalog: name(i), MergeType: engine.MergeTypeReplace, Body: body}); err != nil {
			return err
		}
		if _, err := read(ctx, 0, i); err != nil {
			return err
		}
	}
	return nil
}

// coldRead makes a document, patches it a thousand times and reads it.
func (b *bench) coldRead(ctx context.Context, c lake, catalog string, body []byte, warm func(context.Context, string) error) (time.Duration, error) {
	if _, err := c.Write(ctx, engine.WriteRequest{Catalog: catalog, MergeType: engine.MergeTypeReplace, Body: body}); err != nil {
		return 0, err
	}
	const patches = 1000
	if err := each(ctx, patches, func(ctx context.Context, i int) error {
		_, err := c.Write(ctx, engine.WriteRequest{Catalog: catalog, Body: fmt.Appendf(nil, `{"p":{"m%d":%d}}`, i, i)})
		return err
	}); err != nil {
		return 0, err
	}
	if err := warm(ctx, catalog); err != nil {
		return 0, err
	}
	start := time.Now()
	r, err := c.Read(ctx, engine.ReadRequest{Catalog: catalog})
	took := time.Since(start)
	if err != nil {
		return 0, err
	}
	var doc struct{ P map[string]int }
	if err := json.Unmarshal(r.Body, &doc); err != nil {
		return 0, err
	}
	for i := range patches {
		if got, ok := doc.P[fmt.Sprintf("m%d", i)]; !ok || got != i {
			return 0, fmt.Errorf("WRONG DOCUMENT: m%d of %s is %d", i, catalog, got)
		}
	}
	return took, nil
}
