package events

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jsonlake/lake/pkg/engine"
)

func TestEventGolden(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		file string
		ev   engine.Event
		id   string
	}{
		{"committed.json", engine.Event{Catalog: "users", Kind: engine.EventCommitted, First: engine.Version{Sec: 1_700_000_000, Seq: 1},
			Version: engine.Version{Sec: 1_700_000_000, Seq: 7}, Count: 7, Bytes: 812, Author: "alice", Writer: "abcdefgh", Time: 1_700_000_000_123,
			LiveDeltas: 300, LiveBytes: 4000, DocBytes: 12}, "(users:committed:1700000000_7"},
		{"snapshotted.json", engine.Event{V: 1, Catalog: "中文.\"x\"", Kind: engine.EventSnapshotted, First: engine.Version{Sec: 1_700_000_000, Seq: 999_999},
			Version: engine.Version{Sec: 1_700_000_001, Seq: 3}, Prev: engine.Version{Sec: 1_699_999_999, Seq: 2}, Count: 4, Bytes: 100_000, Time: 1_700_000_002_000},
			engine.EncodeCatalog("中文.\"x\"") + ":snapshotted:1700000001_3"},
	} {
		b, err := Encode(c.ev)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", c.file)
		if *update {
			if err := os.WriteFile(path, append(b, '\n'), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := append(b, '\n'); !bytes.Equal(got, want) {
			t.Errorf("%s:\ngot  %s\nwant %s", c.file, got, want)
		}
		got, err := Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		ev := c.ev
		ev.V, ev.LiveDeltas, ev.LiveBytes, ev.DocBytes = 1, 0, 0, 0 // not on the wire
		if got != ev {
			t.Errorf("%s: got %+v, want %+v", c.file, got, ev)
		}
		if got := MsgID(c.ev); got != c.id {
			t.Errorf("%s: got id %q, want %q", c.file, got, c.id)
		}
	}
}

func TestEncodeBoundsAuthor(t *testing.T) {
	t.Parallel()
	ev := engine.Event{Catalog: strings.Repeat("\x7f中", 32), Kind: engine.EventCommitted, Version: versionOf(1), Author: strings.Repeat("<", MaxEventBytes/6+1), Writer: "abcdefgh"}
	b, err := Encode(ev)
	if err != nil || len(b) > MaxEventBytes {
		t.Fatalf("got %d bytes, %v", len(b), err)
	}
	if strings.Contains(string(b), "author") {
		t.Error("the author is still there")
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	good := `{"v":1,"catalog":"users","kind":"committed","first":"1_1","version":"1_2","prev":"0_0","count":2,"bytes":1,"time":1,"more":{"x":1}}`
	if _, err := Decode([]byte(good)); err != nil {
		t.Fatalf("good: %v", err)
	}
	for name, text := range map[string]string{
		"empty": "", "not json": "{", "an array": "[]", "null": "null", "no version of the schema": strings.Replace(good, `"v":1`, `"v":0`, 1),
		"a later schema": strings.Replace(good, `"v":1`, `"v":2`, 1), "no catalog": strings.Replace(good, "users", "", 1),
		"control character": strings.Replace(good, "users", `a\u0001`, 1), "no kind": strings.Replace(good, "committed", "", 1),
		"bad version": strings.Replace(good, "1_2", "1_0", 1), "empty range": strings.Replace(good, `"prev":"0_0"`, `"prev":"1_2"`, 1),
		"trailing": good + "x",
	} {
		var inv *engine.InvalidError
		if _, err := Decode([]byte(text)); !errors.As(err, &inv) || inv.Code != "invalid_event" {
			t.Errorf("%s: got %v, want invalid_event", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, name := range []string{"committed.json", "snapshotted.json"} {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ev, err := Decode(b)
		if err != nil {
			return
		}
		out, err := Encode(ev)
		if err != nil {
			t.Fatalf("encode what was decoded: %v", err)
		}
		again, err := Decode(out)
		if ev.Author != "" && again.Author == "" {
			ev.Author = "" // too long
		}
		if err != nil || again != ev {
			t.Fatalf("got %+v, %v, want %+v", again, err, ev)
		}
	})
}
