package bench

import (
	"strings"
	"testing"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		row   Row
		ratio float64
		pass  bool
	}{
		{"at least, by a limit", Row{Measured: 20, Limit: 100, AtLeast: true, Bound: 0.2}, 0.2, true},
		{"too little", Row{Measured: 19, Limit: 100, AtLeast: true, Bound: 0.2}, 0.19, false},
		{"at least, by the rounds' own ratios", Row{Measured: 19, Limit: 100, Ratio: 0.21, AtLeast: true, Bound: 0.2}, 0.21, true},
		{"too little by the rounds' own ratios", Row{Measured: 21, Limit: 100, Ratio: 0.19, AtLeast: true, Bound: 0.2}, 0.19, false},
		{"at most, by a limit", Row{Measured: 1.2, Limit: 1, Bound: 1.25}, 1.2, true},
		{"too much", Row{Measured: 1.3, Limit: 1, Bound: 1.25}, 1.3, false},
		{"at most, absolute", Row{Measured: 50, Bound: 100}, 0.5, true},
		{"at least, absolute", Row{Measured: 50, AtLeast: true, Bound: 100}, 0.5, false},
		{"only reported", Row{Measured: 5, Limit: 10}, 0.5, true},
		{"not run", Row{Missing: "no server"}, 0, false},
		{"an error", Row{Error: "broken", Measured: 1, Bound: 2}, 0, false},
		{"measured short of the target", Row{Measured: 1, Bound: 2, Short: "half of the catalogs"}, 0.5, false},
		{"none is at most none", Row{Measured: 0, Bound: 0.5}, 0, true},
	} {
		c.row.judge()
		if c.row.Ratio != c.ratio || c.row.Pass != c.pass {
			t.Errorf("%s: got ratio %v, pass %v, want %v, %v", c.name, c.row.Ratio, c.row.Pass, c.ratio, c.pass)
		}
	}
}

func TestMedian(t *testing.T) {
	t.Parallel()
	got := median([]Values{{"a": 3, "b": 1}, {"a": 1}, {"a": 2, "b": 2}})
	if got["a"] != 2 || got["b"] != 1.5 {
		t.Errorf("got %v, want a 2, b 1.5", got)
	}
}

func TestNumber(t *testing.T) {
	t.Parallel()
	for x, want := range map[float64]string{0: "0", 0.03456: "0.0346", 0.5: "0.5", 1.234: "1.23", 12.34: "12.3", 999.6: "1,000", 1234567: "1,234,567", -1: "-1.00"} {
		if got := number(x); got != want {
			t.Errorf("%v: got %q, want %q", x, got, want)
		}
	}
}

// A report tells what was lost, what was not run, and what was disturbed.
func TestReports(t *testing.T) {
	t.Parallel()
	rows := []Row{
		{Row: "P1", What: "writes", Form: Distributed, Target: "≥ 0.20 × bare NATS", Measured: 10, Unit: "writes/s", Limit: 100, LimitIs: "bare NATS", AtLeast: true, Bound: 0.2, Others: 0.5, Checked: "all",
			Latency: &Latency{Count: 1, P50: 1, P90: 2, P99: 3, P999: 4, Max: 5, PerSecond: 50}, Values: Values{"cpu_us": 7}},
		{Row: "P12", What: "memory | index", Target: "≤ 120 B", Measured: 100, Unit: "B", Bound: 120, Others: -1},
		{Row: "P15", Missing: "nothing to turn on"},
	}
	for i := range rows {
		rows[i].judge()
	}
	var table, md strings.Builder
	if err := Table(&table, rows); err != nil {
		t.Fatal(err)
	}
	if err := Markdown(&md, About{Command: "lake bench", Commit: "abc"}, rows); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"miss (others used 0.5 cores)", "0.1 × bare NATS", "P15 was not run: nothing to turn on", "99.9 %", "schedule of 50.0/s"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, table.String())
		}
	}
	for _, want := range []string{"| P1 | writes (distributed) | ≥ 0.20 × bare NATS | 10.0 writes/s | bare NATS: 100 writes/s | 0.1 | miss |", `memory \| index`,
		"Misses its target: P1.", "Not measured: P15 (nothing to turn on).", "P1 (0.5)", "cpu_us 7.00", "checked: all"} {
		if !strings.Contains(md.String(), want) {
			t.Errorf("the section lacks %q:\n%s", want, md.String())
		}
	}
}
