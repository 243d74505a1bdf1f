package engine_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/jsonlake/lake/pkg/engine"
)

// Keys are for ever: objects of every release must be found under them.
func TestLayoutGolden(t *testing.T) {
	t.Parallel()
	start, stop := ver(1_700_000_000, 1), ver(1_700_000_005, 999_999)
	for _, c := range []struct{ got, want string }{
		{engine.SegmentID{Epoch: 1, Unix: 1_700_000_000, Writer: "abcdefg2", N: 1}.Key(), "wal/000001/1700000000-abcdefg2-00000001.seg"},
		{engine.SegmentID{Epoch: 1, Unix: 1_700_000_000, Writer: "abcdefg2", N: 1}.String(), "1/1700000000-abcdefg2-1"},
		{engine.SegmentID{Epoch: 123_456, Unix: 5, Writer: "zzzzzzzz", N: 123_456_789}.Key(), "wal/123456/0000000005-zzzzzzzz-123456789.seg"},
		{engine.SegmentID{Epoch: 123_456, Unix: 5, Writer: "zzzzzzzz", N: 123_456_789}.String(), "123456/5-zzzzzzzz-123456789"},
		{engine.SnapshotKey("users", engine.Version{}, stop), "9bc6/(users/snap/0_0~1700000005_999999.snap"},
		{engine.SnapshotKey("USERS", start, stop), "4020/)USERS/snap/1700000000_1~1700000005_999999.snap"},
		{engine.PackKey("Users", start, stop), "f9aa/kvzwk4tt/delta/1700000000_1~1700000005_999999.pack"},
		{engine.PackKey("中文", engine.Version{}, start), "a7ba/4s4k3zuwq4/delta/0_0~1700000000_1.pack"},
	} {
		if c.got != c.want {
			t.Errorf("got %s, want %s", c.got, c.want)
		}
	}
}

func TestSegmentNames(t *testing.T) {
	t.Parallel()
	for _, id := range []engine.SegmentID{
		{Epoch: 1, Unix: 1_700_000_000, Writer: "abcdefg2", N: 1},
		{Epoch: 0, Unix: 0, Writer: "22222222", N: 0},
		{Epoch: 1_000_000, Unix: 10_000_000_000, Writer: "777aaaaz", N: 100_000_000},
		{Epoch: 1<<64 - 1, Unix: 1<<63 - 1, Writer: "aaaaaaaa", N: 1<<64 - 1},
	} {
		if got, err := engine.ParseSegmentKey(id.Key()); err != nil || got != id {
			t.Errorf("%s: got %+v and error %v, want %+v", id.Key(), got, err, id)
		}
		if got, err := engine.ParseSegmentID(id.String()); err != nil || got != id {
			t.Errorf("%s: got %+v and error %v, want %+v", id, got, err, id)
		}
		if id.IsZero() {
			t.Errorf("%s: got it zero", id)
		}
	}
	for _, key := range []string{
		"", "wal/", "wal/000001/", "wal/000001/1700000000-abcdefg2-00000001", "wal/1/1700000000-abcdefg2-00000001.seg", "wal/000001/1700000000-abcdefg2-1.seg", "wal/000001/17-abcdefg2-00000001.seg",
		"wal/000001/1700000000-ABCDEFG2-00000001.seg", "wal/000001/1700000000-abcdefg-00000001.seg", "wal/000001/1700000000-abcdefg1-00000001.seg", "wal/000001/-700000000-abcdefg2-00000001.seg",
		"wal/00000a/1700000000-abcdefg2-00000001.seg", "wal/+00001/1700000000-abcdefg2-00000001.seg", "wal/000001/1700000000-abcdefg2-00000001.seg.seg", "wal/000001/1700000000-abcdefg2-00000001.tmp",
		"Wal/000001/1700000000-abcdefg2-00000001.seg", "x/wal/000001/1700000000-abcdefg2-00000001.seg", "wal/0000001/1700000000-abcdefg2-00000001.seg", "wal/000001/a/1700000000-abcdefg2-00000001.seg",
		"wal/99999999999999999999/1700000000-abcdefg2-00000001.seg", "wal/000001/1700000000-abcdefg2-99999999999999999999.seg", "_lake/format.json", engine.SnapshotKey("users", engine.Version{}, ver(1, 1)),
	} {
		if got, err := engine.ParseSegmentKey(key); err == nil || !got.IsZero() {
			t.Errorf("%q: got %+v and error %v, want an error", key, got, err)
		}
	}
	for _, s := range []string{"", "/", "1/1-abcdefg2", "1/1-abcdefg2-", "01/1-abcdefg2-1", "1/01-abcdefg2-1", "1/1-abcdefg2-01", "1/-1-abcdefg2-1", "1/1-abcdefg-1", "1-1-abcdefg2-1", "1/1-abcdefg2-1 ", "1/1-ABCDEFG2-1", "1/1-abcdefg2-1-1"} {
		if got, err := engine.ParseSegmentID(s); err == nil || !got.IsZero() {
			t.Errorf("%q: got %+v and error %v, want an error", s, got, err)
		}
	}
}

// Segments of a writer list in the order in which it made them.
func TestSegmentKeysSort(t *testing.T) {
	t.Parallel()
	var keys []string
	for epoch := uint64(9); epoch < 12; epoch++ {
		for unix := int64(999_999_998); unix < 1_000_000_002; unix++ {
			for n := uint64(98); n < 102; n++ {
				keys = append(keys, engine.SegmentID{Epoch: epoch, Unix: unix, Writer: "abcdefg2", N: n}.Key())
			}
		}
	}
	if !slices.IsSorted(keys) {
		t.Fatalf("got %q", keys)
	}
}

func TestParseSnapshotKey(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"users", "USERS", "Users", "中文", "a/b", "~", "snap", strings.Repeat("\U0010FFFF", 32)} {
		key := engine.SnapshotKey(name, ver(3, 4), ver(1_700_000_000, 9))
		catalog, start, stop, err := engine.ParseSnapshotKey(key)
		if err != nil || catalog != name || start != ver(3, 4) || stop != ver(1_700_000_000, 9) {
			t.Errorf("%s: got %q, %s, %s and error %v", key, catalog, start, stop, err)
		}
	}
	good := engine.SnapshotKey("users", engine.Version{}, ver(1_700_000_000, 9))
	for _, key := range []string{
		"", "///", strings.Replace(good, "9bc6", "9bc7", 1), strings.Replace(good, "(users", "users", 1), strings.Replace(good, "snap/", "delta/", 1), strings.Replace(good, ".snap", ".pack", 1),
		strings.Replace(good, "~", "-", 1), strings.Replace(good, "0_0", "0_00", 1), strings.Replace(good, "_9", "_0", 1), good + "x", "x" + good, good + "/", "x/" + good, strings.ToUpper(good),
		engine.PackKey("users", engine.Version{}, ver(1, 1)), "wal/000001/1700000000-abcdefg2-00000001.seg", "_lake/epoch/000001.json",
	} {
		if catalog, start, stop, err := engine.ParseSnapshotKey(key); err == nil || catalog != "" || !start.IsZero() || !stop.IsZero() {
			t.Errorf("%q: got %q, %s, %s and error %v, want an error", key, catalog, start, stop, err)
		}
	}
}

// FuzzLayout: what parses as a key has one spelling.
func FuzzLayout(f *testing.F) {
	for _, s := range []string{
		"wal/000001/1700000000-abcdefg2-00000001.seg", "1/1700000000-abcdefg2-1", "9bc6/(users/snap/0_0~1700000005_999999.snap", "f9aa/kvzwk4tt/snap/1_1~2_2.snap", "", "wal/", "a/b/c/d",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := engine.ParseSegmentKey(s); err == nil && id.Key() != s {
			t.Fatalf("%q: got %+v, whose key is %q", s, id, id.Key())
		}
		if id, err := engine.ParseSegmentID(s); err == nil && id.String() != s {
			t.Fatalf("%q: got %+v, whose name is %q", s, id, id)
		}
		if catalog, start, stop, err := engine.ParseSnapshotKey(s); err == nil && engine.SnapshotKey(catalog, start, stop) != s {
			t.Fatalf("%q: got %q, %s, %s, whose key is %q", s, catalog, start, stop, engine.SnapshotKey(catalog, start, stop))
		}
	})
}
