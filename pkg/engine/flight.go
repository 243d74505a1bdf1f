package engine

import (
	"context"
	"sync"

	"github.com/jsonlake/lake/pkg/engine/trace"
)

// flights lets reads that need the same document at the same version share the
// work of loading and merging it. Each has taken its own view, which says what
// the version is, so that joining a flight that began earlier is as true as
// beginning one. A flight has a context of its own: it ends when nobody waits
// for it any more, not when the first caller does.
type flights struct {
	mu sync.Mutex
	m  map[flightKey]*flight
}

// flightKey is all that the work depends on.
type flightKey struct {
	catalog              string
	version, base, start Version // base: of the cached document, or of the snapshot, which begins at start
	cached               bool
}

func flightOf(l *List) flightKey {
	k := flightKey{catalog: l.Catalog, version: l.Version, base: l.Snapshot.Stop, start: l.Snapshot.Start}
	if l.base != nil {
		k.base, k.cached = l.base.version, true
	}
	return k
}

type flight struct {
	waiters int
	cancel  context.CancelFunc
	done    chan struct{}
	// once done is closed:
	doc      *document
	err      error
	panicked any
}

// join waits for the flight of a key; it begins one with work when there is
// none.
func (f *flights) join(ctx context.Context, key flightKey, work func(ctx context.Context) (*document, error)) (*document, error) {
	t := trace.FromContext(ctx)
	begin := t.Now()
	f.mu.Lock()
	fl, joined := f.m[key]
	if !joined {
		fctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // bounded by those who wait
		fl = &flight{cancel: cancel, done: make(chan struct{})}
		if f.m == nil {
			f.m = map[flightKey]*flight{}
		}
		f.m[key] = fl
		go func() {
			defer func() {
				fl.panicked = recover() // those who wait are told where theirs is caught
				cancel()
				f.mu.Lock()
				f.leave(key, fl)
				f.mu.Unlock()
				close(fl.done)
			}()
			fl.doc, fl.err = work(fctx)
		}()
	}
	fl.waiters++
	f.mu.Unlock()
	select {
	case <-fl.done:
		if joined {
			t.Step("Load", begin).Str("by", "another read")
		}
		if fl.panicked != nil {
			panic(fl.panicked)
		}
		return fl.doc, fl.err
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.waiters--; fl.waiters == 0 {
		fl.cancel()
		f.leave(key, fl)
	}
	return nil, context.Cause(ctx)
}

// leave takes a flight off the list, so that nobody joins it any more. The
// caller holds mu.
func (f *flights) leave(key flightKey, fl *flight) {
	if f.m[key] == fl {
		delete(f.m, key)
	}
}
