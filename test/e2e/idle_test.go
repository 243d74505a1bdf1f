package e2e

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
)

// idleFor is how long a lake is watched that nobody uses, and settle how long it
// has before to finish what it was asked.
const (
	settle  = 3 * time.Second
	idleFor = 6 * time.Second
)

// use writes, folds and reads a little.
func use(t *testing.T, url string) {
	t.Helper()
	c, err := client.New(connect(t, url))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		catalog := fmt.Sprintf("idle-%d", i)
		if _, err := c.Write(t.Context(), engine.WriteRequest{Catalog: catalog, Body: []byte(`{"a":1}`)}); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			if _, err := c.Fold(t.Context(), catalog); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.Read(t.Context(), engine.ReadRequest{Catalog: catalog}); err != nil {
			t.Fatal(err)
		}
	}
}

// An idle distributed lake makes no request to the bucket but one lease check a
// second a process, as the bucket itself sees it. (The listing of purges, once an
// hour, is a GET, too.)
func TestIdleDistributed(t *testing.T) {
	d := distributed(t, 0)
	use(t, d.nats.URL)
	time.Sleep(settle)
	d.s3.Reset()
	time.Sleep(idleFor)
	total, gets := d.s3.Count(""), d.s3.Count("GET")
	t.Logf("%d requests of %d processes in %v, %d of them GET", total, len(d.services), idleFor, gets)
	if total != gets {
		t.Errorf("got %d requests that are no GET, want none", total-gets)
	}
	// A busy machine may catch up on a check that was due before.
	if most := len(d.services) * (int(idleFor.Seconds()) + 2); gets > most {
		t.Errorf("got %d GETs of %d processes in %v, want at most %d: one a second each", gets, len(d.services), idleFor, most)
	}
}

// The same of `lake serve`, by its own counters; and `lake cost` tells them apart.
func TestIdleServe(t *testing.T) {
	s := serve(t, t.TempDir())
	use(t, s.url)
	time.Sleep(settle)
	const requests = "lake_objects_requests_total"
	total, checks := metric(t, s.ops, requests), metric(t, s.ops, requests, `op="get"`, `result="not_exist"`)
	time.Sleep(idleFor)
	total, checks = metric(t, s.ops, requests)-total, metric(t, s.ops, requests, `op="get"`, `result="not_exist"`)-checks
	t.Logf("%.0f requests in %v, %.0f of them lease checks", total, idleFor, checks)
	// On a slow machine the first collection, which lists purges, may fall into it.
	if total-checks > 1 {
		t.Errorf("got %.0f requests that are no lease checks, want none", total-checks)
	}
	if most := idleFor.Seconds() + 2; checks > most {
		t.Errorf("got %.0f lease checks in %v, want at most %.0f: one a second", checks, idleFor, most)
	}
	var cost struct {
		Counted struct {
			Writes, Reads, Puts float64
			LeaseChecks         float64 `json:"lease_checks"`
		}
		Bill  []struct{ Amount, Cost float64 }
		Total float64
	}
	out := lake(t, "cost", "--ops", s.ops, "--writes", "1e6", "--reads", "1e7", "--json")
	if err := json.Unmarshal([]byte(out), &cost); err != nil {
		t.Fatal(err)
	}
	if c := cost.Counted; c.Writes != 20 || c.Reads != 20 || c.Puts < 20 || c.LeaseChecks < checks || cost.Total <= 0 {
		t.Errorf("got %s, want 20 writes and reads, what they put, and what a million and ten million of them cost", out)
	}
}
