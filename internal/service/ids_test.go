package service_test

import (
	"encoding/json"
	"testing"

	"github.com/jsonlake/lake/pkg/engine"
)

// The id and the conditions of a write, as headers; and its outcome by id.
func TestIDsAndConditions(t *testing.T) {
	t.Parallel()
	h := newHouse(t, engine.Options{}).serve()
	nc := h.connect()
	var first, again engine.WriteResult
	decode := func(b []byte, v any) {
		t.Helper()
		if err := json.Unmarshal(b, v); err != nil {
			t.Fatal(err)
		}
	}
	decode(ok(t, nc, "lake.v1.write.(users", `{"a":1}`, "Nats-Msg-Id", "w1", "Lake-If-Version", "0_0").Data, &first)
	decode(ok(t, nc, "lake.v1.write.(users", `{"a":1}`, "Nats-Msg-Id", "w1", "Lake-If-Version", "0_0").Data, &again)
	if !again.Duplicate || again.Version != first.Version {
		t.Errorf("got %+v, want the duplicate of %+v", again, first)
	}
	var out engine.OutcomeResult
	decode(ok(t, nc, "lake.v1.outcome.(users", `{"id":"w1"}`).Data, &out)
	if out.State != "committed" || out.Version != first.Version {
		t.Errorf("got %+v, want committed at %s", out, first.Version)
	}
	for _, tc := range []struct {
		subject, body string
		headers       []string
		status        int
		code          string
	}{
		{"lake.v1.write.(users", `{"a":2}`, []string{"Nats-Msg-Id", "w1"}, 422, "id_reused"},
		{"lake.v1.write.(users", `{"a":2}`, []string{"Nats-Msg-Id", ""}, 400, "invalid_id"},
		{"lake.v1.write.(users", `{"a":2}`, []string{"Lake-If-Version", "0_0"}, 412, "version_mismatch"},
		{"lake.v1.write.(users", `{"a":2}`, []string{"Lake-If-Version", "now"}, 400, "invalid_version"},
		{"lake.v1.write.(users", `{"a":2}`, []string{"Lake-If-Absent", "1"}, 412, "version_mismatch"},
		{"lake.v1.write.(users", `{"a":2}`, []string{"Lake-If-Absent", "yes"}, 400, "invalid_header"},
		{"lake.v1.write.(users", `{"a":2}`, []string{"Lake-If-Absent", "1", "Lake-If-Version", "0_0"}, 400, "invalid_condition"},
		{"lake.v1.outcome.(users", `{"id":"w2"}`, nil, 404, "not_found"},
		{"lake.v1.outcome.(users", `{"id":""}`, nil, 400, "invalid_id"},
		{"lake.v1.outcome.(users", `{"nr":"w2"}`, nil, 400, ""},
	} {
		p := problem(t, nc, tc.subject, tc.body, tc.headers...)
		if p.Status != tc.status || tc.code != "" && p.Code != tc.code {
			t.Errorf("%s %s %v: got %+v, want %d %s", tc.subject, tc.body, tc.headers, p, tc.status, tc.code)
		}
		if tc.status == 412 && (p.Current == nil || *p.Current != first.Version) {
			t.Errorf("%v: got current %v, want %s", tc.headers, p.Current, first.Version)
		}
	}
}
