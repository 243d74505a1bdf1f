package disk_test

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/disk"
	"github.com/jsonlake/lake/pkg/engine/enginetest"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

var crashSeed = flag.Uint64("crash.seed", 0, "seed of the operations before a kill; 0 draws one")

// script is a sequence of operations that is the same on every index that
// keeps the contract: what it asks depends on the seed and on the answers. Each
// operation works on one shard, in a millisecond of its own.
type script struct {
	x     enginetest.IndexUnderTest
	clock *clock
	rng   *rand.Rand
	n     int // operations done
	epoch uint64
	// trimmed: the last operation was a trim
	trimmed bool
	open    []openSegment
	past    []engine.SegmentID
}

type openSegment struct {
	id    engine.SegmentID
	shard int
	runs  []engine.CommitRun
}

const (
	scriptShards   = 3
	scriptCatalogs = 4 // in each
)

var scriptStart = time.Unix(1_700_000_000, 0).UTC()

func newScript(x enginetest.IndexUnderTest, c *clock, seed uint64) *script {
	return &script{x: x, clock: c, rng: rand.New(rand.NewPCG(seed, 0)), epoch: 1}
}

// begin opens the first epoch.
func (s *script) begin(ctx context.Context) error {
	s.clock.set(scriptStart)
	if err := fenceAndOpen(ctx, s.x, 1); err != nil {
		return err
	}
	return s.x.SetEvents(ctx, true)
}

func fenceAndOpen(ctx context.Context, x enginetest.IndexUnderTest, n uint64) error {
	for shard := range engine.Shards {
		if err := x.Fence(ctx, shard, n); err != nil {
			return err
		}
		if err := x.Open(ctx, shard, n, 0); err != nil {
			return err
		}
	}
	return nil
}

// scriptNames are the catalogs, by shard.
var scriptNames = func() (names [engine.Shards][]string) {
	for i, left := 0, scriptShards*scriptCatalogs; left > 0; i++ {
		name := fmt.Sprintf("catalog-%d", i)
		if s := engine.Shard(name); s < scriptShards && len(names[s]) < scriptCatalogs {
			names[s] = append(names[s], name)
			left--
		}
	}
	return names
}()

// step does the next operation.
func (s *script) step(ctx context.Context) error {
	s.n++
	s.clock.set(scriptStart.Add(time.Duration(s.n) * time.Millisecond))
	s.trimmed = false
	switch r := s.rng.IntN(100); {
	case r < 40 || len(s.open) == 0:
		return s.reserve(ctx)
	case r < 80:
		return s.commit(ctx)
	case r < 86:
		i := s.rng.IntN(len(s.open))
		o := s.open[i]
		s.forget(i)
		return s.x.Rollback(ctx, engine.Rollback{Epoch: s.epoch, Segment: o.id, Shards: []int{o.shard}})
	case r < 94:
		return s.fold(ctx)
	default:
		s.trimmed = true
		return s.trim(ctx)
	}
}

func (s *script) reserve(ctx context.Context) error {
	o := openSegment{shard: s.rng.IntN(scriptShards), id: engine.SegmentID{Epoch: s.epoch, Unix: 1, Writer: "aaaaaaaa", N: uint64(s.n)}}
	p := engine.PreCommit{Epoch: s.epoch, Segment: o.id}
	for range 1 + s.rng.IntN(5) {
		p.Runs = append(p.Runs, engine.Reserve{Catalog: scriptNames[o.shard][s.rng.IntN(scriptCatalogs)], N: 1 + s.rng.IntN(20)})
	}
	got, err := s.x.PreCommit(ctx, p)
	if err != nil {
		return err
	}
	for i, r := range got.Runs {
		if r.Err != nil {
			return r.Err
		}
		if r.State != engine.ReservePaced {
			o.runs = append(o.runs, engine.CommitRun{
				Catalog: p.Runs[i].Catalog, First: r.First, N: p.Runs[i].N, Off: int64(i) * 1000, Len: 1000,
				Author: strings.Repeat("author ", s.rng.IntN(400)), // makes the store flush and compact
			})
		}
	}
	if len(o.runs) > 0 {
		s.open = append(s.open, o)
	}
	return nil
}

func (s *script) commit(ctx context.Context) error {
	i := s.rng.IntN(min(3, len(s.open)))
	o := &s.open[i]
	n := len(o.runs)
	if s.rng.IntN(4) == 0 {
		n = 1 + s.rng.IntN(n)
	}
	got, err := s.x.Commit(ctx, engine.Commit{Epoch: s.epoch, Segment: o.id, Runs: o.runs[:n]})
	if err != nil {
		return err
	}
	var waiting []engine.CommitRun
	for j, g := range got {
		if g.Err != nil {
			return g.Err
		}
		if g.State == engine.RunWaiting {
			waiting = append(waiting, o.runs[j])
		}
	}
	if o.runs = append(waiting, o.runs[n:]...); len(o.runs) == 0 {
		s.forget(i)
	}
	return nil
}

func (s *script) forget(i int) {
	s.past = append(s.past, s.open[i].id)
	s.open = append(s.open[:i], s.open[i+1:]...)
}

func (s *script) fold(ctx context.Context) error {
	name := scriptNames[s.rng.IntN(scriptShards)][s.rng.IntN(scriptCatalogs)]
	v, err := s.x.View(ctx, s.epoch, name, engine.Version{})
	if err != nil || len(v.Runs) == 0 {
		return err
	}
	stop := v.Runs[s.rng.IntN(len(v.Runs))].Last
	return s.x.Fold(ctx, engine.Fold{Epoch: s.epoch, Catalog: name, Snapshot: engine.Snapshot{Start: v.Snapshot.Stop, Stop: stop, DocBytes: int64(s.n), PackBytes: 1}})
}

func (s *script) trim(ctx context.Context) error {
	shard := s.rng.IntN(scriptShards)
	got, err := s.x.Next(ctx, s.epoch, []int{shard}, 1+s.rng.IntN(50))
	if err != nil {
		return err
	}
	return s.x.Trim(ctx, s.epoch, shard, got[0].UpTo)
}

// state is all that an index tells, but for the time.
type state struct {
	Catalogs  []engine.CatalogInfo
	Views     map[string]engine.View
	Snapshots map[string][]engine.Snapshot
	Stuck     []engine.Stuck
	Plans     map[engine.SegmentID][]engine.Planned
	Garbage   [engine.Shards][]engine.Garbage
	Outbox    []engine.OutboxBatch
}

func (s *script) state(ctx context.Context, t *testing.T) state {
	t.Helper()
	s.clock.set(scriptStart.Add(time.Minute))
	ok := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	const many = 1 << 20
	st := state{Views: map[string]engine.View{}, Snapshots: map[string][]engine.Snapshot{}, Plans: map[engine.SegmentID][]engine.Planned{}}
	var err error
	st.Catalogs, err = s.x.Catalogs(ctx, s.epoch, "", "", many)
	ok(err)
	st.Stuck, err = s.x.Stuck(ctx, s.epoch)
	ok(err)
	for shard := range scriptShards {
		for _, name := range scriptNames[shard] {
			st.Views[name], err = s.x.View(ctx, s.epoch, name, engine.Version{})
			ok(err)
			st.Snapshots[name], err = s.x.Snapshots(ctx, s.epoch, name, engine.Version{}, many)
			ok(err)
		}
		for n := range s.n + 1 {
			id := engine.SegmentID{Epoch: 1, Unix: 1, Writer: "aaaaaaaa", N: uint64(n)}
			p, err := s.x.Plan(ctx, s.epoch, shard, id)
			ok(err)
			if p != nil {
				st.Plans[id] = p
			}
		}
		g, err := s.x.Garbage(ctx, s.epoch, shard, many)
		ok(err)
		slices.SortFunc(g, func(a, b engine.Garbage) int { // of one moment in any order
			return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Segment.N, b.Segment.N))
		})
		st.Garbage[shard] = g
		b, err := s.x.Next(ctx, s.epoch, []int{shard}, many)
		ok(err)
		st.Outbox = append(st.Outbox, b...)
	}
	return st
}

// next is the state when the next epoch is open.
func (s *script) next(t *testing.T) state {
	t.Helper()
	s.epoch = 2
	if err := fenceAndOpen(t.Context(), s.x, 2); err != nil {
		t.Fatal(err)
	}
	return s.state(t.Context(), t)
}

// differ tells the first part in which two states differ, "" when they do not.
func differ(got, want state) string {
	g, w := reflect.ValueOf(got), reflect.ValueOf(want)
	for i := range g.NumField() {
		if a, b := g.Field(i).Interface(), w.Field(i).Interface(); !reflect.DeepEqual(a, b) {
			return fmt.Sprintf("%s: got %.1000s, want %.1000s", g.Type().Field(i).Name, fmt.Sprint(a), fmt.Sprint(b))
		}
	}
	return ""
}

// workUntilKilled says which operations of a script it has done.
func workUntilKilled(dir string, seed uint64) error {
	c := new(clock)
	c.set(scriptStart)
	x, err := disk.OpenIndex(dir, disk.Options{Clock: c.now})
	if err != nil {
		return err
	}
	s := newScript(x, c, seed)
	if err := s.begin(context.Background()); err != nil {
		return err
	}
	for {
		if err := s.step(context.Background()); err != nil {
			return err
		}
		if _, err := fmt.Println(s.n); err != nil {
			return err
		}
	}
}

// A process that is killed leaves an index that is as it was after some
// operation, with all before it and nothing of any after it.
func TestKill(t *testing.T) {
	t.Parallel()
	seed := *crashSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("replay with -crash.seed=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for round := range 5 {
		dir, seed, after := t.TempDir(), rng.Uint64(), []int{2, 40, 400, 2000, 8000}[round]
		after = after/2 + rng.IntN(after)
		t.Run(fmt.Sprintf("after %d", after), func(t *testing.T) {
			t.Parallel()
			lines := killAfter(t, "index", dir, seed, after)
			done, err := strconv.Atoi(lines[len(lines)-1])
			if err != nil {
				t.Fatal(err)
			}

			c := new(clock)
			c.set(scriptStart.Add(time.Minute))
			x := openIndex(t, dir, disk.Options{Clock: c.now})
			if x.Clean() {
				t.Fatal("got a clean index after a kill")
			}
			shards, err := x.Epochs(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			last := 0 // operation that the index remembers
			for i, e := range shards {
				if e.N != 1 || !e.Open || e.Same {
					t.Fatalf("shard %d: got %+v, want it open in epoch 1 and not the one that was fenced", i, e)
				}
				if !e.Mark.IsZero() {
					last = max(last, int(e.Mark.Sub(scriptStart)/time.Millisecond))
				}
			}
			t.Logf("killed after %d operations, %d are left", done, last)
			if last > done+1 {
				t.Fatalf("got operation %d, want at most %d", last, done+1)
			}
			if _, err := x.Heartbeat(t.Context(), 1, "aaaaaaaa"); err == nil {
				t.Fatal("got work done in the epoch of the killed process")
			}
			got := (&script{x: x, clock: c, n: done + 1}).next(t)
			ref := reference(t, seed, last)
			want := ref.clone().next(t)
			// A trim leaves no time behind by which it can be told.
			for differ(got, want) != "" && ref.n <= done {
				if ref.run(t, 1); ref.trimmed {
					want = ref.clone().next(t)
				}
			}
			if d := differ(got, want); d != "" {
				t.Error(d)
			}
		})
	}
}

// reference is the same script on the reference index, up to an operation.
func reference(t *testing.T, seed uint64, ops int) *script {
	t.Helper()
	c := new(clock)
	s := newScript(memory.NewIndex(memory.Options{Clock: c.now}), c, seed)
	if err := s.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.run(t, ops)
	return s
}

// clone is the reference as it stands, for the next epoch.
func (s *script) clone() *script {
	return &script{x: s.x.(*memory.Index).Clone(), clock: s.clock, n: s.n}
}

func (s *script) run(t *testing.T, ops int) {
	t.Helper()
	for range ops {
		if err := s.step(t.Context()); err != nil {
			t.Fatalf("operation %d: %v", s.n, err)
		}
	}
}

// An index that was closed goes on where it was, in the same epoch.
func TestReopen(t *testing.T) {
	t.Parallel()
	seed := *crashSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("replay with -crash.seed=%d", seed)
	dir, c := t.TempDir(), new(clock)
	got := newScript(openIndex(t, dir, disk.Options{Clock: c.now}), c, seed)
	if err := got.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		got.run(t, 300)
		if err := got.x.Close(); err != nil {
			t.Fatal(err)
		}
		x := openIndex(t, dir, disk.Options{Clock: c.now})
		if !x.Clean() {
			t.Fatal("got an unclean index after a close")
		}
		got.x = x
	}
	want := reference(t, seed, got.n)
	gotEpochs, err := got.x.Epochs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantEpochs, err := want.x.Epochs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(gotEpochs, wantEpochs) {
		t.Errorf("epochs: got %+v, want %+v", gotEpochs, wantEpochs)
	}
	if d := differ(got.state(t.Context(), t), want.state(t.Context(), t)); d != "" {
		t.Error(d)
	}
}
