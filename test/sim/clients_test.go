package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

// op is one request of a client and what it saw of it.
type op struct {
	id         int
	kind       string // write, purge, read, past, log, fold, collection
	client     int
	catalog    string
	p          *process
	begin, end int // steps
	over       bool
	cancel     context.CancelFunc

	author  string
	deltas  []engine.WriteRequest
	options engine.WriteOptions
	again   *op // the attempt before, with the same id

	state  state
	err    error
	result engine.WriteResult

	at      engine.Version // which past
	version engine.Version // of a read
	body    string
	absent  bool
	gone    bool // of the past
	receipt engine.PurgeReceipt
	log     []engine.LogEntry
}

// state of a write.
type state string

const (
	open     state = "open"
	acked    state = "acknowledged"
	rejected state = "rejected"
	unknown  state = "unknown"
)

var errConnection = errors.New("the connection to the process was lost")

// answer is what the engine gave.
type answer struct {
	result  engine.WriteResult
	err     error
	version engine.Version
	body    []byte
	log     []engine.LogEntry
	receipt engine.PurgeReceipt
}

// begin starts an operation on the process in a slot, nil when none is up.
func (w *world) begin(o *op, slot int, timeout time.Duration, do func(ctx context.Context, e *engine.Engine) answer) *op {
	p := w.procs[slot]
	if p == nil || p.dead.Load() || p.engine == nil {
		return nil
	}
	o.id, o.p, o.begin, o.state = len(w.ops), p, w.step, open
	w.ops = append(w.ops, o)
	live := p.ops[:0]
	for _, q := range p.ops {
		if !q.over {
			live = append(live, q)
		}
	}
	p.ops = append(live, o)
	ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), clientKey{}, 1+o.id), timeout)
	o.cancel = cancel
	w.note(o.client, o.kind, fmt.Sprintf("%s %s begins", o.catalog, o.author), nil)
	go func() {
		a := do(ctx, p.engine)
		w.arrive(arrival{who: 1_000_000 + o.id, op: "answer", do: func() { w.finish(o, &a, nil) }})
	}()
	synctest.Wait() // operations that begin at one moment do so in order
	return o
}

// finish records an answer, or that there will be none.
func (w *world) finish(o *op, a *answer, lost error) {
	if o.over {
		return
	}
	o.over, o.end = true, w.step
	o.cancel()
	err := lost
	if a != nil {
		err = a.err
		o.result, o.version, o.body, o.log, o.receipt = a.result, a.version, string(a.body), a.log, a.receipt
	}
	o.err = err
	if o.kind == "purge" {
		w.purged(o)
	}
	if o.kind == "write" || o.kind == "purge" {
		switch {
		case o.state != open:
		case err == nil:
			o.state = acked
			w.counters.add("writes acknowledged")
			if o.result.Duplicate {
				w.counters.add("duplicates answered")
			}
			if o.options.IfVersion != nil || o.options.IfAbsent {
				w.counters.add("conditional writes acknowledged")
			}
		case lost != nil, errors.Is(err, engine.ErrUnknown):
			o.state = unknown
			w.counters.add("writes unknown")
		case errors.Is(err, engine.ErrVersionMismatch), errors.Is(err, engine.ErrContended), errors.Is(err, engine.ErrInFlight):
			o.state = rejected
			w.counters.add("conditions not met, or ids in flight")
		case errors.Is(err, engine.ErrIDReused):
			w.violate("I4", "%s: %v", o.author, err)
		case errors.Is(err, engine.ErrBusy), errors.Is(err, engine.ErrUnavailable), errors.Is(err, engine.ErrRecovering), errors.Is(err, engine.ErrClosed),
			errors.Is(err, context.DeadlineExceeded):
			o.state = rejected
			w.counters.add("writes rejected")
		default:
			o.state = unknown
			w.violate("error", "write %s: an error of no kind: %v", o.author, err)
		}
	} else {
		o.absent, o.gone = errors.Is(err, engine.ErrNotFound), errors.Is(err, engine.ErrHistoryGone)
		if err == nil || o.absent {
			o.state = acked
			w.counters.add(o.kind + "s done")
		} else {
			o.state = unknown
		}
		if errors.Is(err, engine.ErrNotExist) {
			w.violate("missing", "%s of %s: %v", o.kind, o.catalog, err)
		}
	}
	if errors.Is(err, engine.ErrDamaged) {
		w.violate("damage", "%s of %s: %v", o.kind, o.catalog, err)
	}
	if refusedByLease(err) {
		w.counters.add("lease refused")
	}
	if o.kind == "purge" {
		w.counters.add("purges " + string(o.state))
	}
	w.note(o.client, o.kind, fmt.Sprintf("%s %s %s %v %v", o.catalog, o.author, o.state, o.result.Version, o.version), err)
}

func refusedByLease(err error) bool { return err != nil && strings.Contains(err.Error(), "lease") }

// load starts the clients.
func (w *world) load() {
	m := &w.mix
	for i := range m.Writers {
		w.client(100+i, m.Writes, func(client, slot int) *op {
			timeout := []time.Duration{2 * time.Second, 8 * time.Second, 30 * time.Second}[w.rnd.IntN(3)]
			if o := w.latest[client]; o != nil && o.options.ID != "" && (o.state == unknown || o.state == rejected || w.chance(0.1)) && w.chance(0.8) {
				return w.submit(&op{kind: "write", client: client, catalog: o.catalog, author: o.author, deltas: o.deltas, options: o.options, again: o}, slot, timeout)
			}
			if o := w.old(client); o != nil {
				return w.submit(&op{kind: "write", client: client, catalog: o.catalog, author: o.author, deltas: o.deltas, options: o.options, again: o}, slot, timeout)
			}
			return w.write(client, slot, w.catalog(w.rnd.IntN(m.Catalogs)), timeout)
		})
	}
	for i := range m.Readers {
		w.client(200+i, 15, func(client, slot int) *op {
			name := w.catalog(w.rnd.IntN(m.Catalogs))
			return w.begin(&op{kind: "read", client: client, catalog: name}, slot, 5*time.Second, func(ctx context.Context, e *engine.Engine) answer {
				r, err := e.Read(ctx, engine.ReadRequest{Catalog: name})
				return answer{version: r.Version, body: r.Body, err: err}
			})
		})
	}
	if m.Folds > 0 {
		w.client(300, m.Folds, func(client, slot int) *op { return w.fold(client, slot, w.catalog(w.rnd.IntN(m.Catalogs))) })
	}
	if m.Retain {
		w.client(500, 12, w.collection)
	}
	if m.Purges > 0 {
		w.client(600, m.Purges, w.purges)
	}
	if m.Pasts > 0 {
		w.client(700, m.Pasts, w.past)
	}
	if m.Logs > 0 {
		w.client(400, m.Logs, func(client, slot int) *op {
			name, page := w.catalog(w.rnd.IntN(m.Catalogs)), 1+w.rnd.IntN(12)
			return w.begin(&op{kind: "log", client: client, catalog: name}, slot, 20*time.Second, func(ctx context.Context, e *engine.Engine) answer {
				l, err := wholeLog(ctx, e, name, page)
				return answer{log: l, err: err}
			})
		})
	}
}

func (w *world) fold(client, slot int, name string) *op {
	return w.begin(&op{kind: "fold", client: client, catalog: name}, slot, w.mix.FoldTimeout, func(ctx context.Context, e *engine.Engine) answer {
		_, err := e.Fold(ctx, name)
		return answer{err: err}
	})
}

func (w *world) collection(client, slot int) *op {
	return w.begin(&op{kind: "collection", client: client, catalog: "all"}, slot, 30*time.Second, func(ctx context.Context, e *engine.Engine) answer {
		_, err := e.Collect(ctx, false)
		return answer{err: err}
	})
}

// client does n operations one after the other, each after a pause.
func (w *world) client(name, n int, start func(client, slot int) *op) {
	w.clients++
	slot := w.rnd.IntN(w.mix.Processes)
	pause := w.mix.Horizon / time.Duration(n+1)
	var next, wait func()
	var current *op
	wait = func() {
		if w.clients < 0 {
			return
		}
		if !current.over {
			w.at(5*time.Millisecond, "client waits", wait)
			return
		}
		next()
	}
	next = func() {
		if n == 0 {
			w.clients--
			return
		}
		w.at(w.about(pause), "client", func() {
			if w.clients < 0 {
				return
			}
			if w.chance(0.25) || w.procs[slot] == nil || w.procs[slot].dead.Load() {
				slot = w.rnd.IntN(w.mix.Processes)
			}
			if current = start(name, slot); current == nil {
				w.at(w.about(300*time.Millisecond), "client", next)
				return
			}
			n--
			wait()
		})
	}
	next()
}

// write sends deltas that tell in the document who wrote them, and in which
// order.
func (w *world) write(client, slot int, catalog string, timeout time.Duration) *op {
	o := &op{kind: "write", client: client, catalog: catalog, author: fmt.Sprintf("w%d.%d", client, len(w.ops))}
	n := 1
	if w.chance(0.15) {
		n = 2 + w.rnd.IntN(4)
	}
	for i := range n {
		me, tag := fmt.Sprintf("w%d", client), fmt.Sprintf("%q", fmt.Sprintf("%s.%d", o.author, i))
		d := engine.WriteRequest{Path: "/", MergeType: merge.MergePatch}
		body := ""
		switch k := w.rnd.IntN(20); {
		case k < 10:
			body = fmt.Sprintf(`{%q:%s,"last":%s}`, me, tag, tag)
		case k < 13:
			d.Path, d.MergeType, body = "/deep/"+me, merge.Replace, tag
		case k < 17:
			d.MergeType, body = merge.JSONPatch, fmt.Sprintf(`[{"op":"add","path":"/list/-","value":%s}]`, tag)
		case k < 18:
			d.MergeType, body = merge.JSONPatch, fmt.Sprintf(`[{"op":"test","path":"/last","value":"nobody"},{"op":"add","path":"/never","value":%s}]`, tag)
		case k < 19:
			d.Path, d.MergeType = "/deep", merge.Delete
		default:
			d.Path, d.MergeType = "/list", merge.Delete
		}
		d.Body = []byte(body)
		o.deltas = append(o.deltas, d)
	}
	if w.chance(0.3) && !w.mix.Retain { // ids are kept for as long as history: their clock must not jump
		o.options.ID = o.author
	}
	switch {
	case w.chance(0.12):
		known := engine.Version{}
		for _, q := range w.ops {
			if q.catalog == catalog && q.client == client && q.state == acked {
				known = engine.MaxVersion(known, engine.MaxVersion(q.version, q.result.Version))
			}
		}
		o.options.IfVersion = &known
	case w.chance(0.03):
		o.options.IfAbsent = true
	}
	if client >= 900 {
		o.options = engine.WriteOptions{}
	}
	return w.submit(o, slot, timeout)
}

// old is a write that a client may well send again long after it: the last attempt of
// any of its writes with an id. nil where the mix has none.
func (w *world) old(client int) *op {
	if w.mix.Old == 0 || !w.chance(w.mix.Old) {
		return nil
	}
	var last []*op
	for _, o := range w.ops {
		if o.kind != "write" || o.client != client || o.options.ID == "" || o.state == open {
			continue
		}
		last = slices.DeleteFunc(last, func(q *op) bool { return q.author == o.author })
		last = append(last, o)
	}
	if len(last) == 0 {
		return nil
	}
	return last[w.rnd.IntN(len(last))]
}

// submit sends a write, for the first time or again.
func (w *world) submit(o *op, slot int, timeout time.Duration) *op {
	sent := w.begin(o, slot, timeout, func(ctx context.Context, e *engine.Engine) answer {
		r, err := e.WriteBatch(ctx, engine.BatchRequest{Catalog: o.catalog, Deltas: o.deltas, Author: o.author, WriteOptions: o.options})
		return answer{result: r, err: err}
	})
	if sent != nil {
		w.latest[o.client] = sent
	}
	return sent
}
