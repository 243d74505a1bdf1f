package bench

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
)

// boundOf is what a service may have resident, as docs/operations.md states it:
// twice what it keeps on purpose, because the garbage collector lets the heap
// double, and what a process has anyhow.
func boundOf(pending, cache int64) int64 {
	return 2*(pending+cache+engine.DefaultFrameCache) + 128<<20
}

// resident holds each service's memory to its bound, under more than the bounds
// of writes and documents: with small ones, so that the load need not be large.
func (b *bench) resident(ctx context.Context) error {
	if err := b.only(Distributed); err != nil {
		return err
	}
	const pending, cache = 32 << 20, 32 << 20
	l, c, err := b.serving(ctx, Distributed, labOptions{flags: []string{"--max-pending-bytes", strconv.Itoa(pending), "--document-cache", strconv.Itoa(cache)}})
	if err != nil {
		return err
	}
	defer l.stop()
	b.say("more than the services may keep: 60 MB of documents, 48 MB of writes at once")
	name := newRun()
	const documents, size = 300, 200 << 10
	body := document(size)
	// 64 at once are within the bound; they only have to be patient.
	patiently := func(ctx context.Context, req engine.WriteRequest) error {
		for {
			_, err := c.Write(ctx, req)
			if !errors.Is(err, engine.ErrBusy) {
				return err
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	if err := each(ctx, documents, func(ctx context.Context, i int) error {
		return patiently(ctx, engine.WriteRequest{Catalog: name(i), MergeType: engine.MergeTypeReplace, Body: body})
	}); err != nil {
		return err
	}
	if err := each(ctx, documents, func(ctx context.Context, i int) error {
		_, err := readOf(c, name, documents, body, false)(ctx, 0, i)
		if errors.Is(err, engine.ErrBusy) {
			err = nil
		}
		return err
	}); err != nil {
		return err
	}
	other, err := l.client() // one alone does not send so much at once
	if err != nil {
		return err
	}
	refused, err := overload(ctx, []*client.Client{c, other}, newRun(), b.Duration)
	if err != nil {
		return err
	}
	for _, p := range l.children {
		if l.ops[p.name] == "" {
			continue // a server, not a service
		}
		peak, ok := peakOf(p.cmd.Process.Pid)
		row := Row{Row: "Memory of " + p.name, What: "most memory resident, --max-pending-bytes and --document-cache 32 MiB each, 60 MB of documents written and read, 48 MB of writes offered at once", Form: Distributed,
			Target: "≤ 2 × (pending + cache + 64 MiB of frames) + 128 MiB", Unit: "MB", Rounds: 1, Measured: float64(peak) / 1e6, Bound: float64(boundOf(pending, cache)) / 1e6, Others: -1, Values: Values{"writes_refused": float64(refused)}, Checked: "every document byte by byte"}
		if !ok {
			row.Missing = "the memory of a process is read on Linux only"
		}
		b.emit(row)
	}
	return nil
}

// overloadWriters offer 512 KB each: more than may wait, and less than the 64 MB
// at which nats-server gives a subscriber up for slow and cuts its connection.
const overloadWriters = 96

// overload offers more writes at once than may wait, and counts the refused.
func overload(ctx context.Context, clients []*client.Client, name func(int) string, d time.Duration) (refused int64, err error) {
	body := document(512 << 10)
	load := closed(ctx, overloadWriters, 0, d, func(ctx context.Context, w, _ int) (int, error) {
		ctx, cancel := context.WithTimeout(ctx, opTimeout)
		defer cancel()
		_, err := clients[w%len(clients)].Write(ctx, engine.WriteRequest{Catalog: name(w), MergeType: engine.MergeTypeReplace, Body: body})
		if errors.Is(err, engine.ErrBusy) {
			time.Sleep(10 * time.Millisecond)
		}
		return 1, err
	})
	return load.refused, load.err
}
