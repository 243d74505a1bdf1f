package fault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
)

// kind is what a client does. Every write carries a value of its own.
type kind uint8

const (
	opInit    kind = iota // the whole document: an empty register, list and map
	opReplace             // /reg becomes the value
	opSwap                // the same, if the catalog is at a version
	opAppend              // JSON Patch: the value at the end of /list
	opKey                 // merge patch: a new member of /keys
	opRead                // the document, strict
	opLog                 // the newest page of the log
)

// state is what a client was told.
type state uint8

const (
	acked    state = iota // committed; of a read: answered
	conflict              // the condition does not hold
	refused               // every try was told that nothing was stored
	unknown               // some try had no answer, or "unknown", and none a definite one
)

// op is one operation of a history. Times are since the history's begin.
type op struct {
	client    int
	kind      kind
	value     string // of a write; its author too
	id        string // idempotency id, "" for none
	ifVersion engine.Version
	call, ret time.Duration
	state     state
	version   engine.Version // of the write, of what was read, of what stood against it
	seen      document       // of a read
	page      []engine.LogEntry
	tries     int
}

// document is what a history's catalog holds, short enough to be kept for each
// read: the list and the map as numbers and a hash.
type document struct {
	reg        string
	list, keys int
	hash       uint64 // of the list
}

func (d document) appended(v string) document {
	d.list++
	d.hash = chain(d.hash, v)
	return d
}

func chain(h uint64, v string) uint64 {
	f := fnv.New64a()
	fmt.Fprintf(f, "%d %s", h, v)
	return f.Sum64()
}

func parseDocument(b []byte) (document, error) {
	var raw struct {
		Reg  *string
		List []string
		Keys map[string]int
	}
	if err := json.Unmarshal(b, &raw); err != nil || raw.Reg == nil {
		return document{}, fmt.Errorf("a document that nobody wrote: %.200q: %w", b, err)
	}
	d := document{reg: *raw.Reg, keys: len(raw.Keys)}
	for _, v := range raw.List {
		d = d.appended(v)
	}
	return d, nil
}

// history is what concurrent clients did to one catalog.
type history struct {
	catalog string
	begin   time.Time
	stop    atomic.Bool // no new operation
	count   atomic.Int64
	think   time.Duration // mean pause between two operations of a client

	mu    sync.Mutex
	ops   []op
	wrong []string // answers that are never right
}

func (h *history) violate(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.wrong) < 20 {
		h.wrong = append(h.wrong, fmt.Sprintf(format, args...))
	}
}

// tryTimeout bounds one try of an operation.
const tryTimeout = 4 * time.Second

// init puts the catalog's first document.
func (h *history) init(l *client.Client) error {
	o := op{kind: opInit, value: "init", id: h.catalog + "-init"}
	h.do(l, &o, rand.New(rand.NewPCG(1, 1)))
	h.ops = append(h.ops, o)
	if o.state != acked {
		return fmt.Errorf("the first write of %s was not acknowledged", h.catalog)
	}
	return nil
}

// start runs clients until h.stop; done counts them down.
func (h *history) start(l *client.Client, clients int, seed uint64, done *sync.WaitGroup) {
	for i := range clients {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		done.Go(func() {
			var at engine.Version // the newest version that this client knows
			for n := 0; !h.stop.Load(); n++ {
				o := op{client: i, kind: pick(rng), ifVersion: at}
				if o.kind < opRead {
					o.value = fmt.Sprintf("c%d_%d", i, n)
					if rng.IntN(10) < 7 {
						o.id = h.catalog + "-" + o.value
					}
				}
				h.do(l, &o, rng)
				at = engine.MaxVersion(at, o.version)
				h.mu.Lock()
				h.ops = append(h.ops, o)
				h.mu.Unlock()
				if o.state != refused { // a refusal tells nothing
					h.count.Add(1)
				}
				time.Sleep(time.Duration(rng.ExpFloat64() * float64(h.think)))
			}
		})
	}
}

func pick(rng *rand.Rand) kind {
	switch p := rng.IntN(100); {
	case p < 20:
		return opReplace
	case p < 34:
		return opSwap
	case p < 54:
		return opAppend
	case p < 62:
		return opKey
	case p < 95:
		return opRead
	default:
		return opLog
	}
}

// do does an operation. One with an id is tried again, as a careful client does,
// until it has a definite answer; one without is tried once.
func (h *history) do(l *client.Client, o *op, rng *rand.Rand) {
	o.call = time.Since(h.begin)
	tries := 1
	if o.id != "" {
		tries = 4
	}
	o.state = refused
	for {
		err := h.try(l, o)
		o.tries++
		switch {
		case err == nil:
			o.state = acked
		case errors.Is(err, engine.ErrVersionMismatch):
			o.state = conflict
			var p *engine.Problem
			if !errors.As(err, &p) || p.Current == nil {
				h.violate("%s: a version mismatch without the current version: %v", o.value, err)
				break
			}
			o.version = *p.Current
		case errors.Is(err, engine.ErrUnknown) && o.kind < opRead:
			o.state = unknown
		case !temporary(err):
			h.violate("%s of kind %d: %v", o.value, o.kind, err)
			if o.kind < opRead {
				o.state = unknown
			}
		}
		if o.state == acked || o.state == conflict || o.tries >= tries {
			break
		}
		time.Sleep(time.Duration(50+rng.IntN(250)) * time.Millisecond)
	}
	o.ret = time.Since(h.begin)
	if o.state == refused {
		time.Sleep(time.Duration(50+rng.IntN(100)) * time.Millisecond)
	}
}

// temporary tells whether an error is one that a client has to expect while
// servers fail. A write that is past its deadline and not unknown was never sent: it
// waited behind one of its catalog that was not answered (docs/batches.md).
func temporary(err error) bool {
	for _, e := range []error{engine.ErrUnavailable, engine.ErrRecovering, engine.ErrBusy, engine.ErrContended, engine.ErrInFlight, context.DeadlineExceeded} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (h *history) try(l *client.Client, o *op) error {
	ctx, cancel := context.WithTimeout(context.Background(), tryTimeout)
	defer cancel()
	switch o.kind {
	case opRead:
		r, err := l.Read(ctx, engine.ReadRequest{Catalog: h.catalog})
		if err != nil {
			return err
		}
		o.version = r.Version
		if o.seen, err = parseDocument(r.Body); err != nil {
			h.violate("read at %s: %v", r.Version, err)
		}
		return nil
	case opLog:
		p, err := l.Log(ctx, engine.LogRequest{Catalog: h.catalog, Limit: 20, Order: engine.Descending})
		slices.Reverse(p.Items)
		o.page = p.Items
		return err
	}
	r, err := l.Write(ctx, o.request(h.catalog))
	if err == nil {
		o.version = r.Version
	}
	return err
}

func (o *op) request(catalog string) engine.WriteRequest {
	w := engine.WriteRequest{Catalog: catalog, Path: "/reg", MergeType: engine.MergeTypeReplace, Author: o.value, Body: fmt.Appendf(nil, "%q", o.value)}
	w.ID = o.id
	switch o.kind {
	case opInit:
		w.Path, w.Body = "/", []byte(`{"reg":"","list":[],"keys":{}}`)
	case opSwap:
		w.IfVersion = &o.ifVersion
	case opAppend:
		w.Path, w.MergeType, w.Body = "/", engine.MergeTypeJSONPatch, fmt.Appendf(nil, `[{"op":"add","path":"/list/-","value":%q}]`, o.value)
	case opKey:
		w.Path, w.MergeType, w.Body = "/keys", engine.MergeTypeMergePatch, fmt.Appendf(nil, `{%q:1}`, o.value)
	}
	return w
}
