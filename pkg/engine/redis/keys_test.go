package redis

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestKeysGolden holds every key and every text of the index: what another
// version of Lake, or a person with redis-cli, finds there.
func TestKeysGolden(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	line := func(name string, value any) { fmt.Fprintf(&out, "%-14s %v\n", name, value) }
	for _, name := range []string{"", "cluster"} {
		keys := makeShardKeys(prefix(name))
		k := &keys[engine.Shard("user")]
		for _, key := range []string{k.heads, k.logOf(encodeName("user")), k.snapOf(encodeName("中文")), k.planOf("1/1700000000-abcdefgh-1"), k.pending, k.refs, k.garbage, k.outbox, k.catalogs, k.writers, k.leaseOf("relay"), k.idOf(encodeName("user"), "order-7"), cacheKey(prefix(name), "wal/000001/x.seg:0:100")} {
			line("key", key)
		}
		line("key", keys[10].heads)
	}
	line("key", settingKey)
	id := engine.SegmentID{Epoch: 1, Unix: 1_700_000_000, Writer: "abcdefgh", N: 1}
	first := engine.Version{Sec: 1_700_000_000, Seq: 999_999}
	line("fixed", fixed(first))
	line("fixed", fixed(engine.Version{}))
	one := engine.Run{First: first, Last: first, N: 1, Type: merge.MergePatch, Path: "/profile", Segment: id, Off: 10, Len: 180}
	line("log", string(appendRun(nil, &one, id.String())))
	many := engine.Run{First: first, Last: first.Add(2), N: 3, Segment: id, Off: 190, Len: 500}
	line("log", string(appendRun(nil, &many, id.String())))
	line("snapshot", snapMember(engine.Snapshot{Start: first, Stop: first.Add(2), DocBytes: 1, PackBytes: 2}))
	line("plan line", string(appendPlanLine(nil, "dXNlcg==", &engine.CommitRun{First: first, N: 3, ID: "a|b c"})))
	start, end := receipt(first, 3, [16]byte([]byte("0123456789abcdef")))
	line("id", start+"1700000000123"+end)
	line("outbox", string(appendEvent(nil, "dXNlcg==", first, first.Add(2), 3, 500, "abcdefgh", "a|b\n中")))

	const golden = "testdata/keys.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(out.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != string(want) {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestFixedOrder(t *testing.T) {
	t.Parallel()
	versions := []engine.Version{{}, {Sec: 0, Seq: 1}, {Sec: 9, Seq: 999_999}, {Sec: 10, Seq: 1}, {Sec: 1_700_000_000, Seq: 1}, {Sec: 1_700_000_000, Seq: 2}, {Sec: 1_700_000_000, Seq: 999_999}, {Sec: 1_700_000_001, Seq: 1}, {Sec: 9_999_999_999, Seq: 999_999}}
	for i, v := range versions {
		s := fixed(v)
		if back, err := parseFixed(s); err != nil || back != v {
			t.Errorf("parse %q: got %v, %v, want %v", s, back, err, v)
		}
		if i > 0 && fixed(versions[i-1]) >= s {
			t.Errorf("got %q not above %q", s, fixed(versions[i-1]))
		}
	}
	for _, bad := range []string{"", "0", "170000000000001", "17000000000000011", "17000000000000o1", "-700000000000001", "+700000000000001", "1700000000000000", "1700000000 00001"} {
		if v, err := parseFixed(bad); err == nil {
			t.Errorf("parse %q: got %v, want an error", bad, v)
		}
	}
}

func TestRuns(t *testing.T) {
	t.Parallel()
	id := engine.SegmentID{Epoch: 12, Unix: 0, Writer: "zzzzzzz2", N: 1 << 60}
	v := engine.Version{Sec: 1_700_000_000, Seq: 7}
	for _, r := range []engine.Run{
		{First: v, Last: v, N: 1, Type: merge.Delete, Path: "/", Segment: id, Off: 0, Len: 0},
		{First: v, Last: v, N: 1, Type: merge.Replace, Path: "", Segment: id, Off: 1 << 40, Len: 1 << 30},
		{First: v, Last: v, N: 1, Type: merge.JSONPatch, Path: "/a|b|1|2", Segment: id, Off: 1, Len: 2},
		{First: v, Last: v.Add(999_999), N: 1_000_000, Segment: id, Off: 5, Len: 6},
	} {
		m := string(appendRun(nil, &r, id.String()))
		if got, err := parseRun(m); err != nil || got != r {
			t.Errorf("parse %q: got %+v, %v, want %+v", m, got, err, r)
		}
	}
	for _, bad := range []string{"", "V", "V|delta", "V|delta|", "V|delta|1|/|1/1-aaaaaaaa-1|0", "V|run|0|V|1/1-aaaaaaaa-1|0|0", "V|run|x|V|1/1-aaaaaaaa-1|0|0", "V|run|2|1_1|1/1-aaaaaaaa-1|0|0", "V|delta|300|/|1/1-aaaaaaaa-1|0|0",
		"V|dleta|1|/|1/1-aaaaaaaa-1|0|0", "V|delta|1|/|1/1-aaaaaaa-1|0|0", "V|delta|1|/|1/1-aaaaaaaa-1|x|0", "V|delta|1|/|1/1-aaaaaaaa-1|-1|2", "V|delta|1|/|1/1-aaaaaaaa-1|9223372036854775807|1", "1_1|delta|1|/|1/1-aaaaaaaa-1|0|0", "delta|1|/|1_1|1/1-aaaaaaaa-1|0|0"} {
		bad = strings.ReplaceAll(bad, "V", "1700000000000001")
		if r, err := parseRun(bad); err == nil {
			t.Errorf("parse %q: got %+v, want an error", bad, r)
		}
	}
}

// FuzzTexts: nothing that may stand in a Redis makes the parsers panic.
func FuzzTexts(f *testing.F) {
	f.Add("1700000000000001|delta|2|/profile|1/1700000000-abcdefgh-1|0|180")
	f.Add("1700000000000003|run|3|1700000000000001|1/1700000000-abcdefgh-1|0|180")
	f.Add("snap|0_0|1700000000_1|10|20")
	f.Add("1700000000000001|1700000000000001|0000000000000000|0000000000000000|0|0|1|1|180|1700000000123@1/1700000000-abcdefgh-1,")
	f.Add("oc\ndXNlcg==|1|1700000000000001\ndXNlcg==|2|1700000000000002")
	f.Add("1|open|0|1700000000123|abcdef")
	f.Add("dXNlcg==|1700000000000001|1700000000000001|1|180|abcdefgh|me|0000000000000000|1|180|0")
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := parseRun(s); err == nil && r.N == 1 {
			if again, err := parseRun(string(appendRun(nil, &r, r.Segment.String()))); err != nil || again != r {
				t.Errorf("%q: got %+v, then %+v, %v", s, r, again, err)
			}
		}
		_, _ = parseSnapMember(s)
		if h, err := parseHead(s); err == nil {
			if pending, ok := headPending(s); !ok || pending != h.pending {
				t.Errorf("%q: pending %v, %v, but the head says %v", s, pending, ok, h.pending)
			}
		}
		_, _ = parseID(s)
		_ = headField(s)
		_, _, _ = parseEpoch(s)
		_, _ = parseEvent("c", s)
		_, _, _ = parseEntry(nil, []any{"1-1", []any{"c", s}})
		lines, _ := parsePlan(s)
		for _, l := range lines {
			_, _ = l.planned()
		}
		_, _ = ParseURL(s)
	})
}

func TestValidateName(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"", "cluster", "a.b-c_1", "中文"} {
		if err := validateName(good); err != nil {
			t.Errorf("%q: got %v, want none", good, err)
		}
	}
	for _, bad := range []string{"{a}", "a:b", "a b", "a*", strings.Repeat("a", 65), "a\n"} {
		if err := validateName(bad); !errors.Is(err, engine.ErrInvalid) {
			t.Errorf("%q: got %v, want %v", bad, err, engine.ErrInvalid)
		}
	}
}
