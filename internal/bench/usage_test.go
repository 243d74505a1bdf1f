package bench

import (
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/jsonlake/lake/internal/telemetry"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

// What is read of an operations port is what the process has counted.
func TestUsageOf(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	m, err := telemetry.NewMetrics(reg, "test")
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	o := telemetry.Objects(memory.NewObjects(), m)
	e, err := engine.New(ctx, memory.NewIndex(memory.Options{Exclusive: true}), o, engine.Options{Hooks: m.EngineHooks()})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(ctx)
	for range 4 {
		if _, err := e.Write(ctx, engine.WriteRequest{Catalog: "users", Body: []byte(`{"a":1}`)}); err != nil {
			t.Fatal(err)
		}
	}
	m.Endpoint("reader", "read").Done(200, true, 0, 0, 10)
	m.RelayRound(4, 3, 1, time.Time{}, 0)
	srv := httptest.NewServer(promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	defer srv.Close()
	u, err := UsageOf(ctx, []string{srv.URL}, "")
	if err != nil {
		t.Fatal(err)
	}
	if u.Processes != 1 || u.Writes != 4 || u.Reads != 1 || u.Messages != 4 || u.Puts < 4 || u.BytesPut == 0 || u.Lists == 0 {
		t.Errorf("got %+v, want 4 writes with their puts, a read and 4 messages", u)
	}
	l := &lab{ops: map[string]string{"lake": strings.TrimPrefix(srv.URL, "http://")}}
	c, err := l.count(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if v := c.per(counts{}, 4); v["puts_per_1000"] < 1000 || v["put_ms"] <= 0 {
		t.Errorf("got %v, want a put a write at least, and what they took", v)
	}
	empty := httptest.NewServer(http.NotFoundHandler())
	defer empty.Close()
	if _, err := UsageOf(ctx, []string{empty.URL}, ""); err == nil || !strings.Contains(err.Error(), "--ops-listen") {
		t.Errorf("got %v, want that nobody has metrics there", err)
	}
}

func TestBill(t *testing.T) {
	t.Parallel()
	u := Usage{Processes: 3, Writes: 1000, Reads: 500, Puts: 12, ReadGets: 250, WriteGets: 5, Lists: 7, BytesPut: 200_000, Messages: 1000, RedisBytes: 2e9, RedisCommands: 3000}
	p := Prices{MillionPuts: 5, MillionGets: 0.4, GBMonth: 0.023, RedisGB: 10}
	want := map[string]BillLine{
		"PUT, a write":                       {Amount: 12_000, Per: 12, Cost: 0.06},
		"GET, a write (folding)":             {Amount: 5000, Per: 5, Cost: 0.002},
		"GET, a read":                        {Amount: 5_000_000, Per: 500, Cost: 2},
		"LIST, as counted":                   {Amount: 7, Cost: 0.000035},
		"GET, lease checks of 3 processes":   {Amount: 7_776_000, Cost: 3.1104},
		"stored, a write, kept for 2 months": {Amount: 0.2, Per: 0.0002, Cost: 0.0092},
		"JetStream messages, a write":        {Amount: 1_000_000, Per: 1000},
		"Redis commands, a write":            {Amount: 3_000_000, Per: 3000},
		"Redis memory, as it is now":         {Amount: 2, Cost: 20},
	}
	bill := Bill(u, p, 1e6, 1e7, 2)
	if len(bill) != len(want) {
		t.Errorf("got %d lines, want %d", len(bill), len(want))
	}
	near := func(a, b float64) bool { return math.Abs(a-b) <= 1e-9*math.Max(1, math.Abs(b)) }
	for _, got := range bill {
		w, ok := want[got.What]
		if !ok || !near(got.Amount, w.Amount) || !near(got.Per, w.Per) || !near(got.Cost, w.Cost) {
			t.Errorf("got %+v, want %+v", got, w)
		}
	}
	// Without a workload it is what was counted; without writes nothing is divided by.
	if got := Bill(u, p, 0, 0, 1)[0]; got.Amount != 12 {
		t.Errorf("got %v PUTs, want the 12 that were counted", got.Amount)
	}
	for _, l := range Bill(Usage{Processes: 1}, p, 1e6, 0, 1) {
		if math.IsNaN(l.Cost) || math.IsInf(l.Cost, 0) {
			t.Errorf("got %+v of a lake without writes", l)
		}
	}
}

func TestParseInfo(t *testing.T) {
	t.Parallel()
	v := ParseInfo("# Commandstats\r\ncmdstat_get:calls=10,usec=5,usec_per_call=0.5\r\ncmdstat_evalsha:calls=4,usec=200,usec_per_call=50.00,rejected_calls=0\r\ncmdstat_eval:calls=1,usec=2\r\n\r\n# Memory\r\nused_memory:1234\r\nused_memory_human:1.2K\r\nbroken\r\ncmdstat_x:calls=nan?\r\n")
	for k, want := range map[string]float64{"commands": 15, "script_calls": 5, "script_usec": 202, "used_memory": 1234} {
		if v[k] != want {
			t.Errorf("%s: got %v, want %v", k, v[k], want)
		}
	}
}

func TestEmpty(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "bucket", "wal", "segment")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("some bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty(dir)
	if i, err := os.Stat(file); err != nil || i.Size() != 0 {
		t.Errorf("got %v, %v, want a file of no bytes", i, err)
	}
	empty(filepath.Join(dir, "missing")) // nothing to do is no error
}
