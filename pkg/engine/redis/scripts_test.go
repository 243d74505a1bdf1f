package redis

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
)

// TestScriptFiles holds the house rules of scripts: a header with KEYS, ARGV,
// returns and invariant; no key that is not in KEYS; no globals.
func TestScriptFiles(t *testing.T) {
	t.Parallel()
	files, err := fs.Glob(luaFiles, "lua/*.lua")
	if err != nil || len(files) == 0 {
		t.Fatalf("got %v, %v", files, err)
	}
	built, err := loadScripts(nil)
	if err != nil {
		t.Fatal(err)
	}
	var loaded []string
	for _, s := range built.all {
		loaded = append(loaded, s.name)
		if strings.Contains(s.source, "#include") {
			t.Errorf("%s: an include was not replaced", s.name)
		}
	}
	call := regexp.MustCompile(`redis\.call\('([A-Z]+)'(?:, ([^,)]*(?:\[[^\]]*\])?))?`)
	// What may stand where a key stands: a local that is one of KEYS, or KEYS itself.
	key := regexp.MustCompile(`^(KEYS\[.*|heads|plan_key|pending|refs|garbage|catalogs|outbox|writers|log|snaps|lease|key|id|unpack\(KEYS|unpack\(claimed)`)
	local := regexp.MustCompile(`^\s*local ([a-z_, ]+) = (.*)$`)
	for _, file := range files {
		b, err := luaFiles.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		name := strings.TrimSuffix(strings.TrimPrefix(file, "lua/"), ".lua")
		if !strings.HasSuffix(name, ".inc") {
			for _, part := range []string{"-- " + name + ": ", "\n-- KEYS ", "\n-- ARGV ", "\n-- Returns ", "\n-- Invariant: "} {
				if !strings.Contains(text, part) {
					t.Errorf("%s: its header lacks %q", file, strings.TrimSpace(part))
				}
			}
			found := false
			for _, l := range loaded {
				found = found || l == name
			}
			if !found {
				t.Errorf("%s: is not loaded", file)
			}
		}
		for _, m := range call.FindAllStringSubmatch(text, -1) {
			switch m[1] {
			case "INFO", "TIME":
			default:
				if !key.MatchString(m[2]) {
					t.Errorf("%s: %s is called on %q, which is not one of KEYS", file, m[1], m[2])
				}
			}
		}
		for line := range strings.Lines(text) {
			if m := local.FindStringSubmatch(line); m != nil && strings.Contains(m[2], "KEYS") && strings.Contains(m[2], "..") {
				t.Errorf("%s: builds a key: %s", file, line)
			}
		}
		if strings.Contains(text, "%.") {
			t.Errorf("%s: formats a floating-point number", file)
		}
	}
}

// TestTogether: scripts that can do several shards do so, up to a number of runs, but where
// shards may be apart.
func TestTogether(t *testing.T) {
	t.Parallel()
	several, single := &script{name: "several"}, &script{name: "single"}
	var calls []*call
	for _, runs := range []int{100, 28, 1, 200, 64, 64} {
		calls = append(calls, &call{script: several, runs: runs, values: "x"})
	}
	calls = append(calls, &call{script: single}, &call{script: single}, &call{script: several, runs: 1, values: "x"})
	sizes := func(apart bool) (list []int) {
		at := 0
		for _, shared := range together(calls, apart) {
			for _, c := range shared {
				if c != calls[at] {
					t.Errorf("call %d is not at its place", at)
				}
				at++
			}
			list = append(list, len(shared))
		}
		if at != len(calls) {
			t.Errorf("got %d calls, want %d", at, len(calls))
		}
		return list
	}
	if got, want := sizes(false), []int{2, 1, 1, 2, 1, 1, 1}; !slices.Equal(got, want) {
		t.Errorf("one server: got %v, want %v", got, want)
	}
	if got, want := sizes(true), []int{1, 1, 1, 1, 1, 1, 1, 1, 1}; !slices.Equal(got, want) {
		t.Errorf("apart: got %v, want %v", got, want)
	}
	if got := together(nil, false); len(got) != 0 {
		t.Errorf("no calls: got %v", got)
	}
}

// TestOneShardElsewhere: of the shards that a script does, one that is in another epoch
// answers for itself; the others reserve and commit.
func TestOneShardElsewhere(t *testing.T) {
	t.Parallel()
	x := open(t, testenv.Redis(t).URL)
	begin(t, x, 1)
	segment := engine.SegmentID{Epoch: 1, Unix: 1, Writer: "abcdefgh", N: 1}
	p := engine.PreCommit{Epoch: 1, Segment: segment}
	for i := range 32 {
		p.Runs = append(p.Runs, engine.Reserve{Catalog: fmt.Sprintf("catalog-%d", i), N: 1})
	}
	early := engine.Shard(p.Runs[0].Catalog)
	late := early // another one
	for _, r := range p.Runs {
		if shard := engine.Shard(r.Catalog); shard != early {
			late = shard
		}
	}
	if err := x.Fence(t.Context(), early, 2); err != nil {
		t.Fatal(err)
	}
	res, err := x.PreCommit(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	c := engine.Commit{Epoch: 1, Segment: segment}
	for i, r := range res.Runs {
		if elsewhere := engine.Shard(p.Runs[i].Catalog) == early; errors.Is(r.Err, engine.ErrEpoch) != elsewhere || !elsewhere && r.Err != nil {
			t.Errorf("reserve %s: got %+v, in another epoch %t", p.Runs[i].Catalog, r, elsewhere)
		} else if !elsewhere {
			c.Runs = append(c.Runs, engine.CommitRun{Catalog: p.Runs[i].Catalog, First: r.First, N: 1, Path: "/", Off: int64(i), Len: 1})
		}
	}
	if err := x.Fence(t.Context(), late, 2); err != nil {
		t.Fatal(err)
	}
	done, err := x.Commit(t.Context(), c)
	if err != nil || late == early || len(done) == 0 {
		t.Fatalf("got %d answers, %v", len(done), err)
	}
	for i, r := range done {
		if elsewhere := engine.Shard(c.Runs[i].Catalog) == late; errors.Is(r.Err, engine.ErrEpoch) != elsewhere || !elsewhere && (r.Err != nil || r.State != engine.RunCommitted) {
			t.Errorf("commit %s: got %+v, in another epoch %t", c.Runs[i].Catalog, r, elsewhere)
		}
	}
}

// TestUpto: the place of a version in a live log of any length, be it there,
// between two, before all or after all.
func TestUpto(t *testing.T) {
	t.Parallel()
	client := testenv.Redis(t).Client(t)
	source, err := scriptSource("upto.inc")
	if err != nil {
		t.Fatal(err)
	}
	source = "local sub = string.sub\n" + source + "\nreturn upto(KEYS[1], ARGV[1])"
	at := func(n int) string { return fixed(engine.Version{Sec: 1_700_000_000, Seq: uint32(n)}) }
	for _, size := range []int{0, 1, 2, 3, 7, 64, 300} {
		key := fmt.Sprint("log", size)
		for i := range size {
			if err := client.RPush(t.Context(), key, at(2*i+2)+"|delta|2|/|1/1-aaaaaaaa-1|0|0").Err(); err != nil {
				t.Fatal(err)
			}
		}
		for n := range 2*size + 3 {
			if got, err := client.Eval(t.Context(), source, []string{key}, at(n+1)).Int(); err != nil || got != min((n+1)/2, size) {
				t.Errorf("%d runs: got %d, %v at or below %s, want %d", size, got, err, at(n+1), min((n+1)/2, size))
			}
		}
	}
}
