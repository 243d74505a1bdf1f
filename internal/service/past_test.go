package service_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/jsonlake/lake/pkg/engine"
)

// The past, by hand: reads at a version and a time, the log from its end, diff and
// blame.
func TestPast(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{}).serve()
	nc := h.connect()
	var versions []string
	for i, body := range []string{`{"a":1,"b":{"c":1}}`, `{"b":{"c":2}}`, `{"a":null}`} {
		versions = append(versions, versionOf(t, ok(t, nc, "lake.v1.write.(users", body, "Lake-Author", "w"+strconv.Itoa(i))))
	}
	docs := []string{`{"a":1,"b":{"c":1}}`, `{"a":1,"b":{"c":2}}`, `{"b":{"c":2}}`}
	for i, v := range versions {
		m := ok(t, nc, "lake.v1.read.(users", "", "Lake-At", v)
		if string(m.Data) != docs[i] || m.Header.Get("Lake-Version") != v {
			t.Errorf("at %s: got %s at %s, want %s", v, m.Data, m.Header.Get("Lake-Version"), docs[i])
		}
	}
	if m := ok(t, nc, "lake.v1.read.(users", "", "Lake-At", versions[0], "Lake-Pointer", "/b/c"); string(m.Data) != "1" {
		t.Errorf("a part of the past: got %s", m.Data)
	}
	for _, at := range []string{"9999999999", time.Now().Add(time.Hour).UTC().Format(time.RFC3339)} {
		if m := ok(t, nc, "lake.v1.read.(users", "", "Lake-At", at); string(m.Data) != docs[2] || m.Header.Get("Lake-Version") != versions[2] {
			t.Errorf("at %s: got %s", at, m.Data)
		}
	}
	if p := problem(t, nc, "lake.v1.read.(users", "", "Lake-At", "1000"); p.Status != 404 {
		t.Errorf("before everything: got %+v", p)
	}

	if got := ok(t, nc, "lake.v1.diff.(users", fmt.Sprintf(`{"from":%q,"to":%q}`, versions[0], versions[2])).Data; string(got) != fmt.Sprintf(`{"from":%q,"to":%q,"merge":"merge-patch","patch":{"a":null,"b":{"c":2}}}`, versions[0], versions[2]) {
		t.Errorf("diff: got %s", got)
	}
	if got := ok(t, nc, "lake.v1.diff.(users", fmt.Sprintf(`{"from":%q,"format":"json-patch"}`, versions[1])).Data; !strings.HasSuffix(string(got), `"merge":"json-patch","patch":[{"op":"remove","path":"/a"}]}`) {
		t.Errorf("diff as JSON Patch: got %s", got)
	}

	var log engine.LogPage
	decode(t, ok(t, nc, "lake.v1.log.(users", `{"order":"desc","limit":2}`).Data, &log)
	if len(log.Items) != 2 || log.Items[0].Version.String() != versions[2] || log.Next == nil || log.Next.String() != versions[1] {
		t.Errorf("the log from its end: got %+v", log)
	}

	for pointer, want := range map[string]string{"": "w2", "/": "w2", "/a": "w2", "/b": "w1", "/b/c": "w1"} {
		var b engine.BlameResult
		decode(t, ok(t, nc, "lake.v1.blame.(users", fmt.Sprintf(`{"pointer":%q}`, pointer)).Data, &b)
		if len(b.Items) != 1 || b.Items[0].Author != want || b.Version.String() != versions[2] || b.Items[0].Present == (pointer == "/a") {
			t.Errorf("blame %q: got %+v, want %s", pointer, b, want)
		}
	}
	var b engine.BlameResult
	decode(t, ok(t, nc, "lake.v1.blame.(users", fmt.Sprintf(`{"members":true,"at":%q}`, versions[1])).Data, &b)
	if len(b.Items) != 2 || b.Items[0].Pointer != "/a" || b.Items[0].Author != "w0" || b.Items[1].Pointer != "/b" || b.Items[1].Author != "w1" {
		t.Errorf("blame members: got %+v", b)
	}
}

func decode(t *testing.T, b []byte, to any) {
	t.Helper()
	if err := json.Unmarshal(b, to); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
}

// Conditions of a read: what the asker has, and what it waits for.
func TestReadConditions(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{}).serve()
	nc := h.connect()
	first := versionOf(t, ok(t, nc, "lake.v1.write.(users", `{"a":1}`))
	m := ok(t, nc, "lake.v1.read.(users", "", "Lake-If-None-Match", first, "Lake-Consistency", "relaxed")
	if len(m.Data) != 0 || m.Header.Get("Lake-Version") != first {
		t.Errorf("unchanged: got %q, %v", m.Data, m.Header)
	}
	v, err := engine.ParseVersion(first)
	if err != nil {
		t.Fatal(err)
	}
	m = request(t, nc, "lake.v1.read.(users", "", "Lake-Min-Version", v.Add(1).String(), "Lake-Timeout", "50")
	if p := problemOf(t, m); p.Status != 504 || p.Code != "not_reached" || m.Header.Get("Lake-Version") != first {
		t.Errorf("not reached: got %+v at %s", p, m.Header.Get("Lake-Version"))
	}
	second := versionOf(t, ok(t, nc, "lake.v1.write.(users", `{"a":2}`))
	m = ok(t, nc, "lake.v1.read.(users", "", "Lake-Min-Version", second, "Lake-If-None-Match", first, "Lake-Consistency", "strict")
	if string(m.Data) != `{"a":2}` || m.Header.Get("Lake-Version") != second {
		t.Errorf("changed: got %s at %s", m.Data, m.Header.Get("Lake-Version"))
	}
}

// Answers that a message cannot hold: pages of blame are shorter then, a diff is
// too large.
func TestLargePast(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{}, func(o *server.Options) { o.MaxPayload = 256 << 10 }).serve()
	nc := h.connect()
	var doc strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&doc, `,"%s%d":%d`, strings.Repeat("n", 50), i, i)
	}
	ok(t, nc, "lake.v1.write.(big", "{"+doc.String()[1:]+"}")
	c := h.client()
	var names []string
	req := engine.BlameRequest{Catalog: "big", Members: true}
	pages := 0
	for {
		res, err := c.Blame(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		pages++
		for _, item := range res.Items {
			names = append(names, item.Pointer)
		}
		if req.After = res.Next; req.After == nil {
			break
		}
	}
	if len(names) != 2000 || names[1999] != "/"+strings.Repeat("n", 50)+"1999" || pages < 3 {
		t.Errorf("got %d members in %d pages, the last %q", len(names), pages, names[len(names)-1])
	}
	ok(t, nc, "lake.v1.write.(big", `{"x":"`+strings.Repeat("x", 150_000)+`"}`)
	if p := problem(t, nc, "lake.v1.diff.(big", `{}`); p.Status != 413 {
		t.Errorf("got %+v, want 413", p)
	}
}
