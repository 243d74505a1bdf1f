package bench

import (
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
)

// About is what a report says of its run.
type About struct {
	Command string
	Commit  string
	Machine string
	Date    string
	Took    string
}

// Machine describes this machine in a line.
func Machine() string {
	return fmt.Sprintf("%s, %s/%s, %d cores", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
}

// Table prints the rows for people, and the latencies as text.
func Table(out io.Writer, rows []Row) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "ROW\tWHAT\tTARGET\tMEASURED\tRATIO\tVERDICT")
	for i := range rows {
		r := &rows[i]
		switch {
		case r.Error != "" || r.Missing != "":
			fmt.Fprintf(w, "%s\t%s\t%s\t\t\t%s\n", r.Row, short(r.What), r.Target, r.Verdict())
		default:
			fmt.Fprintf(w, "%s\t%s\t%s\t%s %s\t%s\t%s\n", r.Row, short(r.What), r.Target, number(r.Measured), r.Unit, r.ratio(), r.verdict())
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for i := range rows {
		r := &rows[i]
		if r.Error != "" {
			fmt.Fprintf(out, "\n%s: %s\n", r.Row, r.Error)
		}
		if r.Missing != "" {
			fmt.Fprintf(out, "\n%s was not run: %s\n", r.Row, r.Missing)
		}
		if r.Latency != nil {
			fmt.Fprintf(out, "\n%s, %s (%s)\n%s", r.Row, r.What, r.Form, r.Latency.plot())
		}
	}
	return nil
}

func short(s string) string {
	if r := []rune(s); len(r) > 60 {
		return string(r[:59]) + "…"
	}
	return s
}

func (r *Row) ratio() string {
	if r.Limit > 0 {
		return number(r.Ratio) + " × " + r.LimitIs
	}
	return ""
}

func (r *Row) verdict() string {
	v := r.Verdict()
	if r.Bound == 0 && v == "pass" {
		v = "reported"
	}
	if r.Disturbed() {
		v += fmt.Sprintf(" (others used %s cores)", number(r.Others))
	}
	return v
}

// plot draws the latency by percentile, on a logarithmic scale.
func (l *Latency) plot() string {
	points := []struct {
		name string
		v    float64
	}{{"50 %", l.P50}, {"90 %", l.P90}, {"99 %", l.P99}, {"99.9 %", l.P999}, {"max", l.Max}}
	lo, hi := math.Log(max(l.P50/4, 1e-3)), math.Log(max(l.Max, 1e-3))
	var s strings.Builder
	if l.PerSecond > 0 {
		fmt.Fprintf(&s, "  by a schedule of %s/s, %d refused\n", number(l.PerSecond), l.Refused)
	}
	for _, p := range points {
		width := 1
		if hi > lo {
			width = max(1, int(50*(math.Log(max(p.v, 1e-3))-lo)/(hi-lo)))
		}
		fmt.Fprintf(&s, "  %7s %10s ms  %s\n", p.name, number(p.v), strings.Repeat("▇", width))
	}
	return s.String()
}

// Markdown prints the rows as a section for docs/benchmarks.md.
func Markdown(out io.Writer, about About, rows []Row) error {
	fmt.Fprintf(out, "`%s`, commit %s, %s, %s; the run took %s.\n\n", about.Command, about.Commit, about.Machine, about.Date, about.Took)
	fmt.Fprintln(out, "| row | what | target | measured | compared with, same run | ratio | |")
	fmt.Fprintln(out, "|---|---|---|---|---|---|---|")
	var lost, disturbed, not []string
	for i := range rows {
		r := &rows[i]
		if r.Error != "" || r.Missing != "" {
			not = append(not, fmt.Sprintf("%s (%s)", r.Row, cell(r.Error+r.Missing)))
			continue
		}
		limit, ratio := "", ""
		if r.Limit > 0 {
			limit, ratio = fmt.Sprintf("%s: %s %s", r.LimitIs, number(r.Limit), r.Unit), number(r.Ratio)
		}
		if _, err := fmt.Fprintf(out, "| %s | %s%s | %s | %s %s | %s | %s | %s |\n", r.Row, cell(r.What), form(r.Form), cell(r.Target), number(r.Measured), r.Unit, cell(limit), ratio, r.verdictWord()); err != nil {
			return err
		}
		if !r.Pass {
			lost = append(lost, r.Row)
		}
		if r.Disturbed() {
			disturbed = append(disturbed, fmt.Sprintf("%s (%s)", r.Row, number(r.Others)))
		}
	}
	list := func(title string, of []string) {
		if len(of) > 0 {
			fmt.Fprintf(out, "\n%s: %s.\n", title, strings.Join(of, ", "))
		}
	}
	list("Misses its target", lost)
	list("Not measured", not)
	list("Disturbed, other work on the machine used more than a quarter of a core (cores)", disturbed)
	fmt.Fprintln(out, "\nWhat else the rows measured:")
	fmt.Fprintln(out)
	for i := range rows {
		r := &rows[i]
		if line := r.details(); line != "" {
			fmt.Fprintf(out, "- **%s**: %s\n", r.Row, line)
		}
	}
	return nil
}

func (r *Row) verdictWord() string {
	if r.Bound == 0 {
		return ""
	}
	return r.Verdict()
}

func (r *Row) details() string {
	var parts []string
	if l := r.Latency; l != nil {
		how := "one after the other"
		if l.PerSecond > 0 {
			how = fmt.Sprintf("by a schedule of %s/s, %d refused", number(l.PerSecond), l.Refused)
		}
		parts = append(parts, fmt.Sprintf("%s p50 %s, p99 %s, p99.9 %s, max %s ms", how, number(l.P50), number(l.P99), number(l.P999), number(l.Max)))
	}
	names := make([]string, 0, len(r.Values))
	for k := range r.Values {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		parts = append(parts, k+" "+number(r.Values[k]))
	}
	if r.Short != "" {
		parts = append(parts, r.Short)
	}
	if r.Checked != "" {
		parts = append(parts, "checked: "+r.Checked)
	}
	return strings.Join(parts, "; ")
}

func form(f string) string {
	if f == "" {
		return ""
	}
	return " (" + f + ")"
}

func cell(s string) string { return strings.ReplaceAll(strings.ReplaceAll(s, "|", "\\|"), "\n", " ") }
