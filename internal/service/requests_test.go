package service_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/trace"
	"github.com/jsonlake/lake/pkg/events"
)

// What the nats CLI does: a write and a read, by hand.
func TestWriteAndRead(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{}).serve()
	nc := h.connect()

	m := ok(t, nc, "lake.v1.write.(users", `{"name":"Alice"}`, "Lake-Path", "/profile")
	var res engine.WriteResult
	if err := json.Unmarshal(m.Data, &res); err != nil {
		t.Fatal(err)
	}
	if res.Version.IsZero() || res.First != res.Version || res.Count != 1 || res.Duplicate {
		t.Errorf("got %s", m.Data)
	}
	if want := fmt.Sprintf(`{"version":"%s","first":"%s","count":1,"duplicate":false}`, res.Version, res.Version); string(m.Data) != want {
		t.Errorf("got %s, want %s", m.Data, want)
	}
	if len(m.Header) != 0 {
		t.Errorf("got header %v, want none: the body tells everything", m.Header)
	}

	for _, tc := range []struct {
		headers    []string
		want       string
		wantStatus int
	}{
		{nil, `{"profile":{"name":"Alice"}}`, 0},
		{[]string{"Lake-Pointer", "/"}, `{"profile":{"name":"Alice"}}`, 0},
		{[]string{"Lake-Pointer", "/profile"}, `{"name":"Alice"}`, 0},
		{[]string{"Lake-Pointer", "/profile/name"}, `"Alice"`, 0},
		{[]string{"Lake-Timeout", "60000", "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Nats-Expected-Stream", "x", "X-Mine", "y", "Nats-Msg-Id", "1"}, `{"profile":{"name":"Alice"}}`, 0},
		{[]string{"Lake-Pointer", "/profile/age"}, "", 404},
	} {
		m := request(t, nc, "lake.v1.read.(users", "", tc.headers...)
		if tc.wantStatus != 0 {
			if p := problemOf(t, m); p.Status != tc.wantStatus || p.Catalog != "users" {
				t.Errorf("%v: got %+v, want %d", tc.headers, p, tc.wantStatus)
			}
			continue
		}
		if string(m.Data) != tc.want {
			t.Errorf("%v: got %s, want %s", tc.headers, m.Data, tc.want)
		}
		if want := (nats.Header{"Lake-Version": {res.Version.String()}}); !maps.EqualFunc(m.Header, want, slices.Equal) {
			t.Errorf("%v: got header %v, want %v", tc.headers, m.Header, want)
		}
	}
}

// All merge types, Lake-Auto-Parents and Lake-Author, seen in the log.
func TestWriteHeaders(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{}).serve()
	nc := h.connect()
	for _, w := range []struct {
		body    string
		headers []string
	}{
		{`{"a":1}`, []string{"Lake-Merge", "replace", "Lake-Author", "Zoë <zoe@example.org>"}},
		{`{"b":{"c":2}}`, []string{"Lake-Merge", "merge-patch"}},
		{`[{"op":"add","path":"/x/y","value":3}]`, []string{"Lake-Merge", "json-patch"}},
		{`[{"op":"add","path":"/p/q","value":3}]`, []string{"Lake-Merge", "json-patch", "Lake-Auto-Parents", "off"}},
		{``, []string{"Lake-Merge", "delete", "Lake-Path", "/a"}},
		{`{"html":"<b>&"}`, nil},
	} {
		ok(t, nc, "lake.v1.write.(users", w.body, w.headers...)
	}
	if got, want := string(ok(t, nc, "lake.v1.read.(users", "").Data), `{"b":{"c":2},"x":{"y":3},"html":"<b>&"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	m := ok(t, nc, "lake.v1.log.(users", "")
	if !strings.Contains(string(m.Data), `"body":{"html":"<b>&"}`) {
		t.Errorf("a body in the log is not as it was written:\n%s", m.Data)
	}
	var page engine.LogPage
	if err := json.Unmarshal(m.Data, &page); err != nil {
		t.Fatal(err)
	}
	if len(page.Items) != 6 || page.Next != nil {
		t.Fatalf("got %d entries, next %v, want 6 and none", len(page.Items), page.Next)
	}
	for i, want := range []string{"replace", "merge-patch", "json-patch", "json-patch", "delete", "merge-patch"} {
		if got := page.Items[i].Merge.String(); got != want {
			t.Errorf("entry %d: got %s, want %s", i, got, want)
		}
	}
	if e := page.Items[0]; e.Author != "Zoë <zoe@example.org>" || e.Path != "/" || !e.Prev.IsZero() {
		t.Errorf("got %+v", e)
	}
	if e := page.Items[3]; !e.NoAutoParents || e.Outcome.Status.String() != "noop" || e.Outcome.Reason.String() != "path_missing" {
		t.Errorf("plain RFC 6902: got %+v, want a no-op", e)
	}
}

func TestDeletedAndNeverWritten(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{}).serve()
	nc := h.connect()
	m := request(t, nc, "lake.v1.read.(never", "")
	if p := problemOf(t, m); p.Status != 404 || p.Code != "not_found" || m.Header.Get("Lake-Version") != "" {
		t.Errorf("got %+v, version %q", p, m.Header.Get("Lake-Version"))
	}
	if p := problem(t, nc, "lake.v1.log.(never", ""); p.Status != 404 {
		t.Errorf("log: got %+v, want 404", p)
	}
	ok(t, nc, "lake.v1.write.(users", `{"a":1}`)
	v := versionOf(t, ok(t, nc, "lake.v1.write.(users", ``, "Lake-Merge", "delete"))
	m = request(t, nc, "lake.v1.read.(users", "")
	if p := problemOf(t, m); p.Status != 404 || m.Header.Get("Lake-Version") != v {
		t.Errorf("deleted: got %+v at %q, want 404 at %s", p, m.Header.Get("Lake-Version"), v)
	}
}

// Bad input: a status, a stable code, the rule and the place; nothing reserved,
// nothing stored.
func TestBadInput(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{}).serve()
	nc := h.connect()
	ok(t, nc, "lake.v1.write.(there", `{"a":1}`)
	before := h.trace()

	const write, read, log, catalogs = "lake.v1.write.(users", "lake.v1.read.(there", "lake.v1.log.(there", "lake.v1.catalogs"
	const diff, blame = "lake.v1.diff.(there", "lake.v1.blame.(there"
	const none = -1
	for _, tc := range []struct {
		name, subject, body string
		headers             []string
		status              int
		code, field         string
		offset              int
		says                string
	}{
		{"path without slash", write, `1`, []string{"Lake-Path", "user"}, 400, "invalid_path", "path", 0, "must begin with"},
		{"path empty", write, `1`, []string{"Lake-Path", ""}, 400, "invalid_path", "path", none, "is needed"},
		{"path trailing slash", write, `1`, []string{"Lake-Path", "/user/"}, 400, "invalid_path", "path", 5, "ends with"},
		{"path digit", write, `1`, []string{"Lake-Path", "/123"}, 400, "invalid_path", "path", 1, "begins with a letter"},
		{"path dash", write, `1`, []string{"Lake-Path", "/user-name"}, 400, "invalid_path", "path", 5, "not '-'"},
		{"path twice", write, `1`, []string{"Lake-Path", "/a", "Lake-Path", "/b"}, 400, "invalid_header", "Lake-Path", none, "2 times"},
		{"path long", write, `1`, []string{"Lake-Path", "/" + strings.Repeat("a", 512)}, 400, "invalid_path", "path", none, "at most 512"},
		{"merge type", write, `1`, []string{"Lake-Merge", "append"}, 400, "invalid_merge", "merge", none, "json-patch"},
		{"merge type case", write, `1`, []string{"Lake-Merge", "Replace"}, 400, "invalid_merge", "merge", none, "replace"},
		{"auto-parents", write, `1`, []string{"Lake-Auto-Parents", "on"}, 400, "invalid_header", "Lake-Auto-Parents", none, "off"},
		{"author long", write, `1`, []string{"Lake-Author", strings.Repeat("a", 257)}, 400, "invalid_author", "author", none, "at most 256"},
		{"author not UTF-8", write, `1`, []string{"Lake-Author", "\xff"}, 400, "invalid_author", "author", none, "UTF-8"},
		{"timeout zero", write, `1`, []string{"Lake-Timeout", "0"}, 400, "invalid_header", "Lake-Timeout", none, "1 to 60000"},
		{"timeout word", write, `1`, []string{"Lake-Timeout", "10s"}, 400, "invalid_header", "Lake-Timeout", none, "milliseconds"},
		{"timeout long", read, ``, []string{"Lake-Timeout", "60001"}, 400, "invalid_header", "Lake-Timeout", none, "1 to 60000"},
		{"timeout negative", read, ``, []string{"Lake-Timeout", "-1"}, 400, "invalid_header", "Lake-Timeout", none, "1 to 60000"},

		{"body empty", write, ``, nil, 400, "empty_body", "body", none, "needs a JSON value"},
		{"body spaces", write, "  \n", nil, 400, "empty_body", "body", none, "needs a JSON value"},
		{"body of a delete", write, `1`, []string{"Lake-Merge", "delete"}, 400, "unexpected_body", "body", 0, "no body"},
		{"body no JSON", write, `{"a":}`, nil, 400, "invalid_json", "body", 5, "byte 5"},
		{"body two values", write, `1 2`, nil, 400, "invalid_json", "body", 2, "follow"},
		{"body NaN", write, `{"a":NaN}`, nil, 400, "invalid_json", "body", 5, "byte 5"},
		{"body not UTF-8", write, "{\"a\":\"\xff\"}", nil, 400, "invalid_utf8", "body", 6, "byte 6"},
		{"body byte order mark", write, "\xEF\xBB\xBF1", nil, 400, "invalid_json", "body", 0, "byte order mark"},
		{"body duplicate names", write, `{"a":1,"\u0061":2}`, nil, 400, "duplicate_name", "body", 7, "twice"},
		{"body deep", write, strings.Repeat("[", 200) + strings.Repeat("]", 200), nil, 400, "too_deep", "body", 128, "deep"},
		{"body large", write, `"` + strings.Repeat("a", 1<<20) + `"`, nil, 413, "too_large", "", none, "at most 1048576"},
		{"patch no array", write, `{"op":"add"}`, []string{"Lake-Merge", "json-patch"}, 400, "invalid_patch", "body", none, "array of operations"},
		{"patch unknown op", write, `[{"op":"jump","path":"/a"}]`, []string{"Lake-Merge", "json-patch"}, 400, "invalid_patch", "body", none, `in "/0/op"`},

		{"catalog base32", "lake.v1.write.1", `1`, nil, 400, "invalid_catalog", "catalog", none, "lake encode"},
		{"catalog not canonical", "lake.v1.write.(Users", `1`, nil, 400, "invalid_catalog", "catalog", none, "canonical"},
		{"catalog empty", "lake.v1.read.(", ``, nil, 400, "invalid_catalog", "catalog", none, "1 to 128"},
		{"catalog control", "lake.v1.read.pufa", ``, nil, 400, "invalid_catalog", "catalog", 1, "U+000A"},
		{"catalog long", "lake.v1.read.(" + strings.Repeat("a", 129), ``, nil, 400, "invalid_catalog", "catalog", none, "at most 128"},

		{"read with a body", read, `{}`, nil, 400, "unexpected_body", "body", none, "no body"},
		{"read pointer", read, ``, []string{"Lake-Pointer", "a"}, 400, "invalid_pointer", "pointer", 0, "must begin with"},
		{"read pointer escape", read, ``, []string{"Lake-Pointer", "/a~2"}, 400, "invalid_pointer", "pointer", 2, "RFC 6901"},
		{"read path header", read, ``, []string{"Lake-Path", "/a"}, 400, "unknown_header", "Lake-Path", none, "Lake-Pointer"},

		{"log no JSON", log, `{`, nil, 400, "invalid_json", "body", 1, "byte 1"},
		{"log array", log, `[]`, nil, 400, "invalid_request", "body", none, "JSON object"},
		{"log unknown field", log, `{"until":"1_1"}`, nil, 400, "unknown_field", "body", none, `"until"`},
		{"log field case", log, `{"Limit":1}`, nil, 400, "unknown_field", "body", none, `"Limit"`},
		{"log field twice", log, `{"limit":1,"limit":2}`, nil, 400, "duplicate_name", "body", 11, "twice"},
		{"log after", log, `{"after":"yesterday"}`, nil, 400, "invalid_version", "after", none, "1700000000_1"},
		{"log after number", log, `{"after":1}`, nil, 400, "invalid_version", "after", none, "1700000000_1"},
		{"log limit zero", log, `{"limit":0}`, nil, 400, "invalid_limit", "limit", none, "1 to 1000"},
		{"log limit large", log, `{"limit":1001}`, nil, 400, "invalid_limit", "limit", none, "1 to 1000"},
		{"log limit fraction", log, `{"limit":1.5}`, nil, 400, "invalid_field", "limit", none, "1.5"},
		{"log limit null", log, `{"limit":null}`, nil, 400, "invalid_field", "limit", none, "null"},
		{"log order", log, `{"order":"up"}`, nil, 400, "invalid_order", "order", none, "asc"},
		{"log large", log, `{"order":"` + strings.Repeat("a", 70_000) + `"}`, nil, 413, "too_large", "", none, "65536"},

		{"read at", read, ``, []string{"Lake-At", "yesterday"}, 400, "invalid_at", "Lake-At", none, "nor a time"},
		{"read at twice", read, ``, []string{"Lake-At", "1_1", "Lake-At", "1_1"}, 400, "invalid_header", "Lake-At", none, "2 times"},
		{"read consistency", read, ``, []string{"Lake-Consistency", "eventual"}, 400, "invalid_header", "Lake-Consistency", none, "relaxed"},
		{"read minimal version", read, ``, []string{"Lake-Min-Version", "1"}, 400, "invalid_version", "Lake-Min-Version", none, "1700000000_1"},
		{"read version had", read, ``, []string{"Lake-If-None-Match", "\"1_1\""}, 400, "invalid_version", "Lake-If-None-Match", none, "1700000000_1"},

		{"diff from", diff, `{"from":"yesterday"}`, nil, 400, "invalid_at", "from", none, "nor a time"},
		{"diff to", diff, `{"to":1}`, nil, 400, "invalid_field", "to", none, "to"},
		{"diff format", diff, `{"format":"replace"}`, nil, 400, "invalid_format", "format", none, "json-patch"},
		{"diff format unknown", diff, `{"format":"unified"}`, nil, 400, "invalid_field", "format", none, "unified"},
		{"diff ahead", diff, `{"from":"0_0","to":"9999999999_1"}`, nil, 404, "not_found", "", none, "no later one"},

		{"blame pointer", blame, `{"pointer":"a"}`, nil, 400, "invalid_pointer", "pointer", 0, "begin with"},
		{"blame members", blame, `{"pointer":"/a","members":true}`, nil, 400, "not_an_object", "members", none, "no object"},
		{"blame limit", blame, `{"members":true,"limit":1001}`, nil, 400, "invalid_limit", "limit", none, "1000"},
		{"blame after", blame, `{"pointer":"/a","after":"b"}`, nil, 400, "invalid_request", "members", none, "members"},
		{"blame nothing", blame, `{"pointer":"/nothing"}`, nil, 404, "not_found", "", none, "never"},

		{"catalogs limit", catalogs, `{"limit":-1}`, nil, 400, "invalid_limit", "limit", none, "1 to 1000"},
		{"catalogs prefix", catalogs, `{"prefix":1}`, nil, 400, "invalid_field", "prefix", none, "prefix"},
		{"catalogs field", catalogs, `{"pre":"a"}`, nil, 400, "unknown_field", "body", none, "after, limit, prefix"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := problem(t, nc, tc.subject, tc.body, tc.headers...)
			offset := none
			if p.Offset != nil {
				offset = *p.Offset
			}
			if p.Status != tc.status || p.Code != tc.code || p.Field != tc.field || offset != tc.offset {
				t.Errorf("got %d %s, field %q, offset %d, want %d %s, field %q, offset %d (%s)", p.Status, p.Code, p.Field, offset, tc.status, tc.code, tc.field, tc.offset, p.Detail)
			}
			if !strings.Contains(p.Detail, tc.says) {
				t.Errorf("got %q, want it to say %q", p.Detail, tc.says)
			}
		})
	}
	if after := h.trace(); after != before {
		t.Errorf("bad input left a trace: got %+v, want %+v", after, before)
	}
	if p := problem(t, nc, "lake.v1.read.(users", ""); p.Status != 404 {
		t.Errorf("got %+v, want that users was never written", p)
	}
	if got := h.metric("lake_service_requests_total", "code=500"); got != 0 {
		t.Errorf("got %v answers 500, want none", got)
	}
}

// What is not built yet is refused, and so is what nobody knows.
func TestUnknownHeaders(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{}).serve()
	nc := h.connect()
	ok(t, nc, "lake.v1.write.(users", `{"a":1}`)
	before := h.trace()
	for _, header := range []string{
		"Lake-Accept", "Lake-Pfad", "lake-path", "LAKE-PATH", "Lake-", "Lake-Version",
	} {
		for _, subject := range []string{"lake.v1.write.(users", "lake.v1.read.(users", "lake.v1.log.(users", "lake.v1.catalogs"} {
			p := problem(t, nc, subject, `1`, header, "1")
			if p.Status != 400 || p.Code != "unknown_header" || p.Field != header || !strings.Contains(p.Detail, header) {
				t.Errorf("%s on %s: got %+v, want 400 unknown_header that names it", header, subject, p)
			}
		}
	}
	for _, header := range []string{"Lake-Batch", "Lake-Encoding"} { // of writes alone
		for _, subject := range []string{"lake.v1.read.(users", "lake.v1.log.(users", "lake.v1.catalogs"} {
			if p := problem(t, nc, subject, ``, header, "1"); p.Code != "unknown_header" || p.Field != header {
				t.Errorf("%s on %s: got %+v, want unknown_header", header, subject, p)
			}
		}
	}
	for _, header := range []string{"Lake-At", "Lake-Min-Version", "Lake-Consistency", "Lake-If-None-Match"} { // of reads alone
		for _, subject := range []string{"lake.v1.write.(users", "lake.v1.log.(users", "lake.v1.diff.(users", "lake.v1.blame.(users", "lake.v1.catalogs"} {
			if p := problem(t, nc, subject, `1`, header, "1"); p.Code != "unknown_header" || p.Field != header {
				t.Errorf("%s on %s: got %+v, want unknown_header", header, subject, p)
			}
		}
	}
	// Of several the first by name is told.
	if p := problem(t, nc, "lake.v1.write.(users", `{"a":2}`, "Lake-Zzz", "1", "Lake-Aaa", "1", "Lake-Mmm", "1"); p.Field != "Lake-Aaa" {
		t.Errorf("got %s, want Lake-Aaa", p.Field)
	}
	if after := h.trace(); after != before {
		t.Errorf("refused writes left a trace: got %+v, want %+v", after, before)
	}
}

// Lake-Trace: 1 is answered with the steps, of errors too; other values are
// refused.
func TestServerTiming(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{}).serve()
	nc := h.connect()
	for _, tc := range []struct{ subject, body, want string }{
		{"lake.v1.write.(users", `{"a":1}`, `^Init;dur=[0-9.]+;desc="catalog=users, deltas=1", PreCommit;dur=.*, StoragePut;dur=.*, Commit;dur=[0-9.]+;desc="version=[0-9]+_[0-9]+"$`},
		{"lake.v1.read.(users", ``, `^Init;dur=[0-9.]+;desc="catalog=users", View;dur=.*, Load;dur=.*, Merge;dur=`},
		{"lake.v1.read.(users", ``, `^Init;dur=[0-9.]+;desc="catalog=users", View;dur=[0-9.]+;desc="version=[0-9]+_[0-9]+, have=[0-9]+_[0-9]+, runs=0"$`},
		{"lake.v1.read.(nobody", ``, `^Init;dur=.*, View;dur=`},
	} {
		if got := request(t, nc, tc.subject, tc.body, "Lake-Trace", "1").Header.Get("Server-Timing"); !regexp.MustCompile(tc.want).MatchString(got) {
			t.Errorf("%s: got %q, want %s", tc.subject, got, tc.want)
		}
		if got := request(t, nc, tc.subject, tc.body).Header.Get("Server-Timing"); got != "" {
			t.Errorf("%s without a trace: got %q", tc.subject, got)
		}
		if p := problem(t, nc, tc.subject, tc.body, "Lake-Trace", "yes"); p.Code != "invalid_header" || p.Field != "Lake-Trace" {
			t.Errorf("%s: got %+v, want invalid_header", tc.subject, p)
		}
	}
	ctx := trace.WithTrace(t.Context(), "Read")
	if _, err := h.client().Read(ctx, engine.ReadRequest{Catalog: "users"}); err != nil {
		t.Fatal(err)
	}
	if got := trace.FromContext(ctx).Dump(); !regexp.MustCompile(`(?s)^=== Trace \[Read\]: Total .*1\. Init: .*2\. View: .*3\. .*Wire: .*\{subject=lake\.v1\.read\.\(users\}\n$`).MatchString(got) {
		t.Errorf("over the client: got\n%s", got)
	}
}

// A write that nobody waits for is applied; one that is wrong is counted and
// logged; a read is not worth doing.
func TestWithoutReply(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{}).serve()
	nc := h.connect()
	for i := range 20 {
		if err := nc.PublishMsg(&nats.Msg{Subject: "lake.v1.write.(users", Header: nats.Header{"Lake-Path": {fmt.Sprintf("/n%d", i)}}, Data: []byte(`1`)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, subject := range []string{"lake.v1.write.(users", "lake.v1.read.(users"} {
		if err := nc.Publish(subject, []byte(`{`)); err != nil {
			t.Fatal(err)
		}
	}
	testenv.WaitFor(t, patience, func() bool { return h.metric("lake_service_unanswered_total") == 22 })
	if got := h.metric("lake_service_unanswered_total", "endpoint=write", "code=200"); got != 20 {
		t.Errorf("got %v writes applied, want 20", got)
	}
	if got := h.metric("lake_service_unanswered_total", "endpoint=write", "code=400"); got != 1 {
		t.Errorf("got %v writes refused, want 1", got)
	}
	if got := h.metric("lake_service_unanswered_total", "endpoint=read", "code=400"); got != 1 {
		t.Errorf("got %v reads refused, want 1", got)
	}
	var doc map[string]int
	if err := json.Unmarshal(ok(t, nc, "lake.v1.read.(users", "").Data, &doc); err != nil || len(doc) != 20 {
		t.Errorf("got %v, %v, want 20 members", doc, err)
	}
	if log := h.log.String(); !strings.Contains(log, `"level":"debug","endpoint":"write","catalog":"users","status":400,"code":"invalid_json","answered":false`) {
		t.Errorf("the refused write is not in the log:\n%s", log)
	}
}

// The service may publish what the asker may not: it must not be talked into it.
func TestReplySubjectIsNoRequest(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{}).serve()
	nc := h.connect()
	ok(t, nc, "lake.v1.write.(mine", `{"stolen":true}`)
	sys, err := nc.SubscribeSync("$JS.API.>")
	if err != nil {
		t.Fatal(err)
	}
	for _, reply := range []string{"lake.v1.write.(other", "lake.v1.job.snapshot.(other", "$JS.API.STREAM.PURGE.LAKE_EVENTS"} {
		for _, subject := range []string{"lake.v1.read.(mine", "lake.v1.write.(mine"} {
			if err := nc.PublishRequest(subject, reply, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	testenv.WaitFor(t, patience, func() bool { return h.metric("lake_service_requests_total", "code=400") == 6 })
	if p := problem(t, nc, "lake.v1.read.(other", ""); p.Status != 404 {
		t.Errorf("got %+v, want that nothing was written", p)
	}
	if n, _, err := sys.Pending(); n != 0 || err != nil {
		t.Errorf("got %d messages on the JetStream API, %v, want none", n, err)
	}
}

// A document that no reply holds is refused with what to do; its parts are
// read, and a page of the log holds what fits.
func TestLargeReplies(t *testing.T) {
	t.Parallel()
	const most = 64 << 10
	h := newHouse(t, engine.Options{}, func(o *server.Options) { o.MaxPayload = most }).serve()
	nc := h.connect()
	const n, part = 8, 20_000
	for i := range n {
		ok(t, nc, "lake.v1.write.(users", `"`+strings.Repeat("a", part)+`"`, "Lake-Path", fmt.Sprintf("/n%d", i))
	}
	p := problem(t, nc, "lake.v1.read.(users", "")
	if p.Status != 413 || p.Code != "too_large" || !strings.Contains(p.Detail, "Lake-Pointer") || !strings.Contains(p.Detail, "49152") {
		t.Errorf("got %+v, want 413 with the limit and what to do", p)
	}
	if got := ok(t, nc, "lake.v1.read.(users", "", "Lake-Pointer", "/n3").Data; len(got) != part+2 {
		t.Errorf("a part has %d bytes, want %d", len(got), part+2)
	}
	// Just over max_payload less the room for headers is too large, just under is not.
	ok(t, nc, "lake.v1.write.(edge", `"`+strings.Repeat("a", most-16<<10-2)+`"`)
	if got := ok(t, nc, "lake.v1.read.(edge", "").Data; len(got) != most-16<<10 {
		t.Errorf("got %d bytes, want %d", len(got), most-16<<10)
	}
	ok(t, nc, "lake.v1.write.(edge", `"`+strings.Repeat("a", most-16<<10-1)+`"`)
	if p := problem(t, nc, "lake.v1.read.(edge", ""); p.Status != 413 {
		t.Errorf("got %+v, want 413", p)
	}
	if p := problem(t, nc, "lake.v1.log.(edge", ""); p.Status != 0 && p.Status != 413 {
		t.Errorf("got %+v, want 413", p)
	}

	c := h.client()
	var after engine.Version
	seen, pages := 0, 0
	for {
		page, err := c.Log(t.Context(), engine.LogRequest{Catalog: "users", After: after, Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		pages++
		for _, e := range page.Items {
			if len(e.Body) != part+2 || e.Path != fmt.Sprintf("/n%d", seen) {
				t.Errorf("entry %d: %s with %d bytes", seen, e.Path, len(e.Body))
			}
			seen++
		}
		if page.Next == nil {
			break
		}
		after = *page.Next
	}
	if seen != n || pages < 4 {
		t.Errorf("got %d entries in %d pages, want %d in 4 or more", seen, pages, n)
	}
}

func TestCatalogs(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{}, func(o *server.Options) { o.MaxPayload = 32 << 10 }).serve()
	nc := h.connect()
	var names []string
	for i := range 150 {
		// Names that grow when they are encoded: a page of 100 does not fit.
		names = append(names, fmt.Sprintf("%03d%s", i, strings.Repeat(`"`, 120)))
		if _, err := h.engine.Write(t.Context(), engine.WriteRequest{Catalog: names[i], Body: []byte(`{}`)}); err != nil {
			t.Fatal(err)
		}
	}
	var page struct {
		Items []engine.CatalogInfo `json:"items"`
		Next  *string              `json:"next"`
	}
	if err := json.Unmarshal(ok(t, nc, "lake.v1.catalogs", "").Data, &page); err != nil {
		t.Fatal(err)
	}
	if n := len(page.Items); n == 0 || n >= 100 || page.Next == nil || *page.Next != names[n-1] {
		t.Errorf("got %d items, next %v", n, page.Next)
	}
	if i := page.Items[0]; i.Catalog != names[0] || i.Version.IsZero() || i.Deltas != 1 || i.Updated != i.Version.Sec {
		t.Errorf("got %+v", i)
	}
	c := h.client()
	for _, tc := range []struct {
		prefix, after string
		limit         int
		want          []string
	}{
		{"", "", 1000, names}, {"", "", 150, names}, {"", "", 149, names[:149]}, {"", "", 1, names[:1]},
		{"01", "", 1000, names[10:20]}, {"", names[140], 1000, names[141:]}, {"zz", "", 10, nil},
	} {
		got, err := c.Catalogs(t.Context(), tc.prefix, tc.after, tc.limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(tc.want) {
			t.Errorf("%q after %q, %d: got %d, want %d", tc.prefix, tc.after, tc.limit, len(got), len(tc.want))
			continue
		}
		for i := range got {
			if got[i].Catalog != tc.want[i] {
				t.Errorf("item %d: got %q, want %q", i, got[i].Catalog, tc.want[i])
			}
		}
	}
	// An exact page has no next.
	page.Next = nil
	if err := json.Unmarshal(ok(t, nc, "lake.v1.catalogs", `{"prefix":"01","limit":10}`).Data, &page); err != nil || page.Next != nil {
		t.Errorf("got next %v, %v, want none", page.Next, err)
	}
}

// Errors quote what was sent; they are cut to what a header and a reply hold.
func TestLongErrors(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{}).serve()
	nc := h.connect()
	name := strings.Repeat("ä", 20_000)
	m := request(t, nc, "lake.v1.write.(users", `{"`+name+`":{"`+name+`":{"a":1,"a":2}}}`)
	p := problemOf(t, m)
	if p.Code != "duplicate_name" || len(p.Pointer) > 2048 || len(p.Detail) > 2048 {
		t.Errorf("got %s with a detail of %d and a pointer of %d bytes", p.Code, len(p.Detail), len(p.Pointer))
	}
	if got := m.Header.Get(events.HeaderError); len(got) > 512 || !strings.HasSuffix(got, "…") || !utf8.ValidString(got) {
		t.Errorf("the header has %d bytes, want at most 512 and a cut: %q", len(got), got)
	}
}

// A read changes nothing: what it costs the bucket is told by the metrics.
func TestReadsPutNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{DocumentCache: -1, FrameCache: -1}).serve()
	nc := h.connect()
	for i := range 20 {
		ok(t, nc, "lake.v1.write.(users", `{"a":1}`, "Lake-Path", fmt.Sprintf("/n%d", i))
	}
	before, gets := h.trace(), h.metric("lake_objects_requests_total", "op=get_range")
	for range 50 {
		ok(t, nc, "lake.v1.read.(users", "")
		ok(t, nc, "lake.v1.log.(users", `{"limit":5}`)
		ok(t, nc, "lake.v1.catalogs", "")
	}
	if after := h.trace(); after != before {
		t.Errorf("got %+v, want %+v: reads put objects", after, before)
	}
	if h.metric("lake_objects_requests_total", "op=get_range") == gets {
		t.Error("the reads got no objects: this test shows nothing")
	}
}

// A batch is one run, in NATS's own words: a delta a line.
func TestBatch(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{}).serve()
	nc := h.connect()
	const lines = `{"path":"/a","merge":"replace","body":{"x":1}}` + "\n" + `{"body":{"b":2}}` + "\n" + `{"path":"/a/x","merge":"delete"}` + "\n"
	send := func(body string, headers ...string) engine.WriteResult {
		t.Helper()
		var res engine.WriteResult
		if err := json.Unmarshal(ok(t, nc, "lake.v1.write.(users", body, append([]string{"Lake-Batch", "ndjson"}, headers...)...).Data, &res); err != nil {
			t.Fatal(err)
		}
		return res
	}
	first := send(lines, "Nats-Msg-Id", "one", "Lake-Author", "alice", "Lake-If-Version", "0_0")
	if first.Count != 3 || first.Version != first.First.Add(2) || first.Duplicate {
		t.Errorf("got %+v, want three versions in a row", first)
	}
	if again := send(string(s2.Encode(nil, []byte(lines))), "Nats-Msg-Id", "one", "Lake-Author", "alice", "Lake-Encoding", "s2"); again.First != first.First || !again.Duplicate {
		t.Errorf("got %+v, want the duplicate of %+v", again, first)
	}
	if got := string(ok(t, nc, "lake.v1.read.(users", "").Data); got != `{"a":{},"b":2}` {
		t.Errorf("got %s", got)
	}
	before := h.trace()
	zeros := s2.Encode(nil, make([]byte, 64<<20))
	for _, c := range []struct {
		body    string
		headers []string
		code    string
		detail  string
	}{
		{"{\"body\":1}\n{\"body\":}", []string{"Lake-Batch", "ndjson"}, "invalid_json", "line 2 "},
		{``, []string{"Lake-Batch", "ndjson"}, "invalid_batch", "1 to 10000"},
		{lines, []string{"Lake-Batch", "json"}, "invalid_header", "ndjson"},
		{lines, []string{"Lake-Batch", "ndjson", "Lake-Path", "/a"}, "invalid_header", "Lake-Path"},
		{lines, []string{"Lake-Batch", "ndjson", "Lake-Encoding", "gzip"}, "invalid_header", "s2"},
		{lines, []string{"Lake-Batch", "ndjson", "Lake-Encoding", "s2"}, "invalid_encoding", "s2"},
		{string(zeros), []string{"Lake-Batch", "ndjson", "Lake-Encoding", "s2"}, "too_large", "decompresses to 67108864"},
		{`1`, []string{"Lake-Encoding", "s2"}, "invalid_header", "Lake-Batch"},
	} {
		if p := problem(t, nc, "lake.v1.write.(users", c.body, c.headers...); p.Code != c.code || !strings.Contains(p.Detail, c.detail) {
			t.Errorf("%v %.30q: got %+v, want %s with %q", c.headers, c.body, p, c.code, c.detail)
		}
	}
	if after := h.trace(); after != before {
		t.Errorf("refused batches left a trace: %v, before %v", after, before)
	}
	if p := problem(t, nc, "lake.v1.write.(users", lines, "Lake-Batch", "ndjson", "Lake-If-Version", "0_0"); p.Code != "version_mismatch" || *p.Current != first.Version {
		t.Errorf("got %+v, want version_mismatch with %s", p, first.Version)
	}
}
