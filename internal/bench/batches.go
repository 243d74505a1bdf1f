package bench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// batcher is a lake that takes batches.
type batcher interface {
	lake
	WriteBatch(ctx context.Context, req engine.BatchRequest) (engine.WriteResult, error)
	Catalogs(ctx context.Context, prefix, after string, limit int) ([]engine.CatalogInfo, error)
}

// batchers are writers of batches, each with one under way. Of a catalog's
// document every writer has a member: how many deltas it has written (n), and
// their sum.
type batchers struct {
	to       batcher
	catalog  func(i int) string
	catalogs int
	size     int // deltas a batch
	each     []batchWriter
	pad      string
}

type batchWriter struct {
	mu     sync.Mutex // an open load may come to a writer that is busy
	n, sum int64      // acknowledged
	ranges []versionRange
	lines  []byte
	busy   atomic.Int64
}

// versionRange is the versions of one acknowledged batch.
type versionRange struct {
	first, last engine.Version
	n           int
}

const (
	batchSize = 5000
	lineBytes = 10 // of a line, beside its body
)

func newBatchers(to batcher, writers, catalogs int) *batchers {
	return &batchers{to: to, catalog: newRun(), catalogs: catalogs, size: batchSize, each: make([]batchWriter, writers), pad: pad(rand.New(rand.NewPCG(5, 6)), 100)}
}

// body appends a writer's delta number n: a merge patch of a hundred bytes.
func (b *batchers) body(to []byte, writer int, n, sum int64) []byte {
	from := len(to)
	to = append(to, `{"w`...)
	to = strconv.AppendInt(to, int64(writer), 10)
	to = append(to, `":{"n":`...)
	to = strconv.AppendInt(to, n, 10)
	to = append(to, `,"sum":`...)
	to = strconv.AppendInt(to, sum, 10)
	to = append(to, `,"pad":"`...)
	to = append(to, b.pad[:patchBytes-(len(to)-from)-3]...)
	return append(to, `"}}`...)
}

// lay lays out a writer's next batch, and gives its count and sum after it.
func (b *batchers) lay(writer int) (n, sum int64) {
	w := &b.each[writer]
	w.lines = slices.Grow(w.lines[:0], b.size*(patchBytes+lineBytes))
	n, sum = w.n, w.sum
	for range b.size {
		n++
		sum += n
		w.lines = append(w.lines, `{"body":`...)
		w.lines = append(b.body(w.lines, writer, n, sum), '}', '\n')
	}
	return n, sum
}

// generator is what it costs to lay out a delta, µs: the part of the client's CPU
// that is not the lake's to bear.
func (b *batchers) generator() float64 {
	best := time.Hour
	for range 20 {
		begin := time.Now()
		b.lay(0)
		best = min(best, time.Since(begin))
	}
	return float64(best.Nanoseconds()) / 1e3 / float64(b.size)
}

// write is the op of a load: one batch.
func (b *batchers) write(ctx context.Context, writer, _ int) (int, error) {
	w := &b.each[writer]
	w.mu.Lock()
	defer w.mu.Unlock()
	n, sum := b.lay(writer)
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	r, err := b.to.WriteBatch(ctx, engine.BatchRequest{Catalog: b.catalog(writer % b.catalogs), Lines: w.lines})
	if errors.Is(err, engine.ErrBusy) {
		w.busy.Add(1)
	}
	if err != nil {
		return 0, err
	}
	if r.Count != b.size || r.First.Add(b.size-1) != r.Version {
		return 0, fmt.Errorf("WRONG ANSWER: a batch of %d got %+v", b.size, r)
	}
	w.n, w.sum = n, sum
	w.ranges = append(w.ranges, versionRange{r.First, r.Version, r.Count})
	return b.size, nil
}

// written is how many deltas were acknowledged.
func (b *batchers) written() (n int64) {
	for i := range b.each {
		b.each[i].mu.Lock()
		n += b.each[i].n
		b.each[i].mu.Unlock()
	}
	return n
}

// check compares what is read with what was written: each writer's count and
// sum, the whole document by its checksum, and that no version was given twice.
func (b *batchers) check(ctx context.Context) (string, error) {
	var total int64
	for c := range b.catalogs {
		want := map[string]json.RawMessage{}
		var ranges []versionRange
		for i := c; i < len(b.each); i += b.catalogs {
			w := &b.each[i]
			ranges = append(ranges, w.ranges...)
			total += w.n
			if w.n == 0 {
				continue
			}
			if err := json.Unmarshal(b.body(nil, i, w.n, w.sum), &want); err != nil {
				return "", err
			}
		}
		slices.SortFunc(ranges, func(a, z versionRange) int { return a.first.Compare(z.first) })
		for i := 1; i < len(ranges); i++ {
			if !ranges[i-1].last.Less(ranges[i].first) {
				return "", fmt.Errorf("WRONG VERSIONS: batches up to %s and from %s of %s overlap", ranges[i-1].last, ranges[i].first, b.catalog(c))
			}
		}
		if len(ranges) == 0 {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
		defer cancel()
		r, err := b.readFolded(ctx, b.catalog(c))
		if err != nil {
			return "", fmt.Errorf("read %s back: %w", b.catalog(c), err)
		}
		if r.Version != ranges[len(ranges)-1].last {
			return "", fmt.Errorf("WRONG VERSION: %s is at %s, the last acknowledged batch ended at %s", b.catalog(c), r.Version, ranges[len(ranges)-1].last)
		}
		got := map[string]json.RawMessage{}
		if err := json.Unmarshal(r.Body, &got); err != nil {
			return "", fmt.Errorf("read %s back: %w", b.catalog(c), err)
		}
		if checksum(got) != checksum(want) {
			return "", fmt.Errorf("WRONG DOCUMENT: %s is not what was written", b.catalog(c))
		}
	}
	return fmt.Sprintf("%s deltas acknowledged; count, sum and checksum of the documents read back are theirs, versions without overlap", thousands(total)), nil
}

// readFolded reads a document with a long log: it is folded first, in steps,
// because a read has to finish within a deadline and a fold goes on where it
// stopped.
func (b *batchers) readFolded(ctx context.Context, catalog string) (engine.ReadResult, error) {
	for {
		r, err := b.to.Fold(ctx, catalog)
		if err != nil {
			if errors.Is(err, engine.ErrBusy) || errors.Is(err, engine.ErrContended) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, engine.ErrUnavailable) {
				if ctx.Err() != nil {
					return engine.ReadResult{}, err
				}
				time.Sleep(100 * time.Millisecond) // a snapshotter has it
				continue
			}
			return engine.ReadResult{}, fmt.Errorf("fold: %w", err)
		}
		if !r.More {
			break
		}
	}
	return b.to.Read(ctx, engine.ReadRequest{Catalog: catalog})
}

func checksum(doc map[string]json.RawMessage) string {
	names := make([]string, 0, len(doc))
	for k := range doc {
		names = append(names, k)
	}
	slices.Sort(names)
	h := sha256.New()
	for _, k := range names {
		var compact bytes.Buffer
		if json.Compact(&compact, doc[k]) != nil {
			return "not JSON"
		}
		fmt.Fprintf(h, "%q:%s\n", k, compact.Bytes())
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// neverFold are flags under which nothing is folded by itself.
var neverFold = []string{"--fold-deltas", "1000000000000", "--fold-bytes", "1000000000000000", "--max-unfolded=-1"}

// batched is a lake for batches, and the client that sends them.
func (b *bench) batched(ctx context.Context, form string, fold bool) (batcher, *lab, error) {
	flags := []string{}
	if !fold {
		flags = neverFold
	}
	l, c, err := b.serving(ctx, form, labOptions{flags: flags})
	if err != nil {
		return nil, nil, err
	}
	return c, l, nil
}

// p5Writers is how many batches are under way at once.
const p5Writers = 16

// p5 is one catalog, as many deltas a second as there are versions.
func (b *bench) p5(ctx context.Context) error {
	for _, form := range b.forms(Embedded, Distributed) {
		for _, part := range []func(context.Context, string) error{b.p5flat, b.p5folding, b.p5four} {
			if err := part(ctx, form); err != nil {
				return fmt.Errorf("%s: %w", form, err)
			}
		}
	}
	return nil
}

// long is the duration of P5: a minute, unless the run is only to show that it
// works.
func (b *bench) long() time.Duration {
	if b.Duration < 5*time.Second {
		return 2 * b.Duration
	}
	return time.Minute
}

// batchLoad runs the writers and gives what they cost.
func (b *bench) batchLoad(ctx context.Context, l *lab, name string, w *batchers, d time.Duration) (Values, *loaded, error) {
	generator := w.generator()
	b.say("write for %v", d)
	had := w.written()
	before, err := l.count(ctx)
	if err != nil {
		return nil, nil, err
	}
	load, err := b.profiled(ctx, l, "p5-"+l.form+"-"+name, func() (*loaded, error) {
		return sound(closed(ctx, len(w.each), b.warmup(), d, w.write))
	})
	if err != nil {
		return nil, nil, err
	}
	after, err := l.count(ctx)
	if err != nil {
		return nil, nil, err
	}
	v := after.per(before, float64(w.written()-had))
	v["deltas_per_s"], v["refused"] = load.perSecond(), float64(load.refused)
	v["generator_us"] = generator
	v["batch_p50_ms"], v["batch_p99_ms"] = load.quantile(50), load.quantile(99)
	for _, c := range l.children {
		if b, ok := peakOf(c.cmd.Process.Pid); ok {
			v["peak_mb_"+c.name] = float64(b) / 1e6
		}
	}
	return v, load, nil
}

func (b *bench) p5flat(ctx context.Context, form string) error {
	to, l, err := b.batched(ctx, form, false)
	if err != nil {
		return err
	}
	defer l.stop()
	w := newBatchers(to, p5Writers, 1)
	v, _, err := b.batchLoad(ctx, l, "one", w, b.long())
	if err != nil {
		return err
	}
	// Latencies by a schedule: what the target asks for, or what this machine can.
	rate := min(990_000, 0.9*v["deltas_per_s"])
	lat, err := b.latencyAt(ctx, rate/batchSize, len(w.each), b.Duration, w.write)
	if err != nil {
		return err
	}
	checked, err := w.check(ctx)
	if err != nil {
		return err
	}
	b.emit(Row{Row: "P5 " + form, What: fmt.Sprintf("deltas/s on one catalog for %v, 100-byte merge patches in batches of %d, %d under way, client over NATS", b.long(), batchSize, p5Writers),
		Form: l.form, Target: "≥ 990,000", Unit: "deltas/s", Rounds: 1, Measured: v["deltas_per_s"], AtLeast: true, Bound: 990_000, Checked: checked, Others: v.others(), Values: v.aside("deltas_per_s")})
	b.emit(Row{Row: "P5 " + form + " p99", What: fmt.Sprintf("p99 of a batch, by a schedule of %s deltas/s", number(rate)), Form: l.form, Target: "≤ 150 ms", Unit: "ms", Rounds: 1,
		Measured: lat.P99, Bound: 150, Latency: lat, Others: v.others()})
	b.emit(Row{Row: "P5 " + form + " refused", What: "batches answered with 429 in both loads", Form: l.form, Target: "0", Unit: "batches", Rounds: 1, Measured: v["refused"] + float64(lat.Refused), Bound: 0.5, Others: v.others()})
	return nil
}

func (b *bench) p5folding(ctx context.Context, form string) error {
	to, l, err := b.batched(ctx, form, true)
	if err != nil {
		return err
	}
	defer l.stop()
	w := newBatchers(to, p5Writers, 1)
	v, _, err := b.batchLoad(ctx, l, "folding", w, max(b.long()/4, b.Duration))
	if err != nil {
		return err
	}
	drained, err := b.drain(ctx, to, w)
	if err != nil {
		return err
	}
	checked, err := w.check(ctx)
	if err != nil {
		return err
	}
	b.emit(Row{Row: "P5 " + form + " folding", What: "the same with folding", Form: l.form, Target: "≥ 800,000", Unit: "deltas/s", Rounds: 1, Measured: v["deltas_per_s"], AtLeast: true, Bound: 800_000,
		Checked: checked, Others: v.others(), Values: v.aside("deltas_per_s")})
	b.emit(Row{Row: "P5 " + form + " drained", What: "until no snapshot is due any more, after it", Form: l.form, Target: "≤ 15 s", Unit: "s", Rounds: 1, Measured: drained, Bound: 15, Others: v.others()})
	return nil
}

// drain waits until the catalogs' logs are short enough, at most a minute.
func (b *bench) drain(ctx context.Context, to batcher, w *batchers) (float64, error) {
	begin := time.Now()
	for {
		infos, err := to.Catalogs(ctx, w.catalog(0)[:len(w.catalog(0))-6], "", 1000)
		if err != nil {
			return 0, err
		}
		due := slices.ContainsFunc(infos, func(i engine.CatalogInfo) bool { return engine.Policy{}.Due(i.Catalog, i.Deltas, 0, i.Bytes, 0) })
		took := time.Since(begin)
		if !due || took > time.Minute {
			return took.Seconds(), nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (b *bench) p5four(ctx context.Context, form string) error {
	to, l, err := b.batched(ctx, form, false)
	if err != nil {
		return err
	}
	defer l.stop()
	w := newBatchers(to, 2*p5Writers, 4)
	v, _, err := b.batchLoad(ctx, l, "four", w, max(b.long()/4, b.Duration))
	if err != nil {
		return err
	}
	checked, err := w.check(ctx)
	if err != nil {
		return err
	}
	bound := 1_600_000.0
	if form == Distributed {
		bound = 1_200_000
	}
	b.emit(Row{Row: "P5 " + form + " four", What: "deltas/s on four catalogs", Form: l.form, Target: "≥ " + thousands(int64(bound)), Unit: "deltas/s", Rounds: 1, Measured: v["deltas_per_s"], AtLeast: true, Bound: bound,
		Checked: checked, Others: v.others(), Values: v.aside("deltas_per_s")})
	return nil
}
