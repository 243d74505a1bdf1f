package disk

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

var update = flag.Bool("update", false, "write the golden file anew")

var (
	aSegment = engine.SegmentID{Epoch: 3, Unix: 1_700_000_000, Writer: "abcdefgh", N: 258}
	aVersion = engine.Version{Sec: 1_700_000_000, Seq: 999_999}
	aFirst   = engine.Version{Sec: 1_700_000_000, Seq: 3}
	aPrint   = [16]byte{0: 1, 15: 255}
)

type record interface {
	append([]byte) []byte
	decode([]byte) error
}

// records are one of each kind with every field set, and an empty one.
func records() map[string]record {
	return map[string]record{
		"shard":       &shardRecord{n: 300, open: true, floor: 1_700_000_006, mark: 1_700_000_000_123, catalogs: 5, entries: 1 << 40},
		"shard empty": &shardRecord{},
		"head": &headRecord{
			last: aVersion, head: aFirst, snap: engine.Snapshot{Start: aFirst, Stop: aVersion, DocBytes: 1 << 33, PackBytes: 7},
			runs: 2, deltas: 1000, bytes: 1 << 20,
			open: []reservation{{segment: aSegment, since: 1_700_000_000_123, runs: 2}, {segment: engine.SegmentID{Writer: "zzzzzzzz"}, runs: 1}},
		},
		"head empty": &headRecord{},
		"refs":       &refsRecord{live: 3, garbage: 1_700_000_000_123, known: true},
		"id pending": &idRecord{known: true, segment: aSegment, IDState: engine.IDState{State: engine.IDPending, First: aFirst, N: 2, Fingerprint: aPrint}},
		"id receipt": &idRecord{known: true, until: 1_700_086_400_123, IDState: engine.IDState{State: engine.IDCommitted, First: aFirst, N: 2, Fingerprint: aPrint}},
	}
}

var (
	aRun      = engine.Run{First: aFirst, Last: aVersion, N: 999_997, Segment: aSegment, Off: 1 << 20, Len: 1 << 21}
	aRunOfOne = engine.Run{First: aVersion, Last: aVersion, N: 1, Type: merge.JSONPatch, Path: "/a/b.c", Segment: aSegment, Len: 10}
	aSnapshot = engine.Snapshot{Start: aFirst, Stop: aVersion, DocBytes: 1 << 33, PackBytes: 7}
	anEvent   = engine.Event{
		V: 1, Catalog: "中文", Kind: engine.EventCommitted, First: aFirst, Version: aVersion, Prev: engine.Version{Sec: 1, Seq: 1}, Count: 2, Bytes: 300,
		Author: "ann", Writer: "abcdefgh", Time: 1_700_000_000_123, LiveDeltas: 10, LiveBytes: 1000, DocBytes: 1 << 33,
	}
	aFold = engine.Event{V: 1, Catalog: "users", Kind: engine.EventSnapshotted, First: aFirst, Version: aVersion, Count: 2}
)

func aPlan() *planRecord {
	p := newPlan(1_700_000_000_123, 2)
	p.add(plannedRun{Planned: engine.Planned{Catalog: "users", First: aFirst, N: 300}, place: 1, id: "id-1"})
	p.add(plannedRun{Planned: engine.Planned{Catalog: "中文", First: aFirst, N: 1}, place: 2})
	p.add(plannedRun{Planned: engine.Planned{Catalog: "users", First: aVersion, N: 1}, back: 2, place: 300})
	p.set(1, engine.PlanRolledBack)
	p.setUndecided(2)
	p.setDecided(1_700_000_000_124)
	return p
}

// The bytes of keys and records are a format: another program must read them.
func TestGolden(t *testing.T) {
	t.Parallel()
	lines := map[string][]byte{
		"key format":         keyFormat(),
		"key events":         keyEvents(),
		"key shard":          keyShard(15),
		"key head":           keyHead("users"),
		"key run":            keyRun("users", aVersion),
		"key snapshot":       keySnapshot("中文", aFirst),
		"key plan":           keyPlan(1, aSegment),
		"key undecided":      keyUndecided(2, aSegment),
		"key decided":        keyDecided(3, 1_700_000_000_123, aSegment),
		"key refs":           keyRefs(4, aSegment),
		"key garbage":        keyGarbage(5, 1_700_000_000_123, aSegment),
		"key outbox":         keyOutbox(6, 258),
		"key id":             keyID("users", "id-1"),
		"key receipt":        keyReceipt(7, 1_700_086_400_123, "users", "id-1"),
		"record run":         appendRun(nil, aRun),
		"record run of one":  appendRun(nil, aRunOfOne),
		"record snapshot":    appendSnapshot(nil, aSnapshot),
		"record plan":        aPlan().raw,
		"record outbox":      appendEvents(nil, []engine.Event{anEvent, aFold}),
		"record outbox none": appendEvents(nil, nil),
	}
	for name, r := range records() {
		lines["record "+name] = r.append(nil)
	}
	var names []string
	for name := range lines {
		names = append(names, name)
	}
	slices.Sort(names)
	var got strings.Builder
	for _, name := range names {
		fmt.Fprintf(&got, "%-20s %s\n", name, hex.EncodeToString(lines[name]))
	}
	const file = "testdata/index.golden"
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
}

func TestRecords(t *testing.T) {
	t.Parallel()
	equal := func(what string, err error, got, want any) {
		t.Helper()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v, want %+v", what, got, err, want)
		}
	}
	for name, want := range records() {
		got := reflect.New(reflect.TypeOf(want).Elem()).Interface().(record)
		err := got.decode(want.append(nil))
		equal(name, err, got, want)
	}
	for _, want := range []engine.Run{aRun, aRunOfOne} {
		got, err := decodeRun(keyRun("users", want.Last), appendRun(nil, want))
		equal("run", err, got, want)
	}
	s, err := decodeSnapshot(keySnapshot("users", aSnapshot.Stop), appendSnapshot(nil, aSnapshot))
	equal("snapshot", err, s, aSnapshot)
	p, err := decodePlan(aPlan().raw)
	equal("plan", err, p, aPlan())
	if p.undecided() != 2 || p.decided() != 1_700_000_000_124 || p.since() != 1_700_000_000_123 {
		t.Errorf("plan: got %d undecided, decided at %d, since %d", p.undecided(), p.decided(), p.since())
	}
	e, err := decodeEvents(nil, appendEvents(nil, []engine.Event{anEvent, aFold}))
	equal("events", err, e, []engine.Event{anEvent, aFold})

	segment, err := segmentOfKey(keyGarbage(5, 7, aSegment))
	equal("segment", err, segment, aSegment)
	catalog, id, err := idOfReceipt(keyReceipt(5, 7, "users", "a\x00b"))
	equal("receipt", err, []string{catalog, id}, []string{"users", "a\x00b"})
}

// Keys sort like what they hold, and no catalog's keys lie among another's.
func TestKeyOrder(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	versions := []engine.Version{{}, {Sec: 0, Seq: 1}, {Sec: 1, Seq: 1}, aFirst, aVersion, {Sec: 1_700_000_001, Seq: 1}, {Sec: 9_999_999_999, Seq: engine.MaxSeq}}
	for range 200 {
		versions = append(versions, engine.Version{Sec: rng.Int64N(10_000_000_000), Seq: 1 + rng.Uint32N(engine.MaxSeq)})
	}
	for _, a := range versions {
		if got := versionOfKey(keyRun("users", a)); got != a {
			t.Fatalf("got %v, want %v", got, a)
		}
		for _, b := range versions {
			if got, want := bytes.Compare(keyRun("users", a), keyRun("users", b)), a.Compare(b); got != want {
				t.Fatalf("%v and %v: got %d, want %d", a, b, got, want)
			}
		}
	}
	for _, v := range []engine.Version{{Sec: -1}, {Sec: 1 << 62, Seq: 5}, {Sec: 1, Seq: 1 << 31}} { // what no version is
		from, to := keyRun("users", engine.Version{}), endOf(tableRun, "users")
		if k := keyRun("users", v); bytes.Compare(k, from) < 0 || bytes.Compare(k, to) >= 0 {
			t.Errorf("%v: got %x, want it between %x and %x", v, k, from, to)
		}
	}
	names := []string{"a", "a ", "ab", "a!", "b", "users", "users2", "中", "中文", strings.Repeat("x", engine.MaxCatalogBytes)}
	for _, a := range names {
		for _, b := range names {
			inside := bytes.Compare(keyRun(b, aVersion), keyRun(a, engine.Version{})) >= 0 && bytes.Compare(keyRun(b, aVersion), endOf(tableRun, a)) < 0
			if inside != (a == b) {
				t.Errorf("a run of %q lies among those of %q: got %v", b, a, inside)
			}
		}
	}
	for in, want := range map[string]string{"a": "b", "a\xff": "b", "ab": "ac", "\xff\xff": ""} {
		if got := string(successor([]byte(in))); got != want {
			t.Errorf("successor of %q: got %q, want %q", in, got, want)
		}
	}
}

// Records that are cut or changed decode to an error or to another record, and
// do nothing worse.
func FuzzRecords(f *testing.F) {
	for _, r := range records() {
		f.Add(r.append(nil))
	}
	f.Add(appendRun(nil, aRun))
	f.Add(aPlan().raw)
	f.Add(appendEvents(nil, []engine.Event{anEvent, aFold}))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, r := range []record{new(shardRecord), new(headRecord), new(refsRecord), new(idRecord)} {
			if r.decode(b) != nil {
				continue
			}
			again := reflect.New(reflect.TypeOf(r).Elem()).Interface().(record)
			if err := again.decode(r.append(nil)); err != nil || !reflect.DeepEqual(again, r) {
				t.Errorf("%x: got %+v, %v, want %+v", b, again, err, r)
			}
		}
		if p, err := decodePlan(bytes.Clone(b)); err == nil {
			for i := range p.runs {
				p.behind(i)
				if got := p.find(p.runs[i].Catalog, p.runs[i].First, i); got != i {
					t.Errorf("find run %d: got %d", i, got)
				}
			}
		}
		_, _ = decodeRun(b, b)
		_, _ = decodeSnapshot(b, b)
		_, _ = decodeEvents(nil, b)
		_, _ = segmentOfKey(b)
		_, _, _ = idOfReceipt(b)
		_, _, _ = versionOfKey(b), numberOfKey(b), successor(b)
	})
}
