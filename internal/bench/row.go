package bench

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Row is one target and what was measured.
type Row struct {
	Profile string `json:"profile"` // P1
	Row     string `json:"row"`     // its name: "P1 events off"
	What    string `json:"what"`
	Form    string `json:"form,omitempty"`

	Target   string  `json:"target,omitempty"` // in words
	Measured float64 `json:"measured"`         // in Unit
	Unit     string  `json:"unit,omitempty"`
	Limit    float64 `json:"limit,omitempty"`    // the bare limit of the same run, in the same unit
	LimitIs  string  `json:"limit_is,omitempty"` // what it is
	// Ratio is Measured ÷ Limit, or the median of that of each round, where the two were
	// measured beside each other; where no limit is measured, Measured ÷ Bound.
	Ratio float64 `json:"ratio"`
	// Bound is what Ratio is held to, or Measured where there is no Limit; 0: the
	// row is only reported.
	Bound   float64 `json:"bound,omitempty"`
	AtLeast bool    `json:"at_least"` // else at most
	Pass    bool    `json:"pass"`

	// Missing says why the row was not measured, Error what went wrong.
	Missing string `json:"missing,omitempty"`
	Error   string `json:"error,omitempty"`
	// Short says why a figure that was measured does not count as a pass.
	Short string `json:"short,omitempty"`
	// Checked says what was verified of what was written and read.
	Checked string   `json:"checked,omitempty"`
	Latency *Latency `json:"latency,omitempty"`
	Values  Values   `json:"values,omitempty"` // what else was measured, each name with its unit
	Rounds  int      `json:"rounds,omitempty"`
	// Others is how many cores other work of the machine used meanwhile, and so
	// how far to trust the row: -1 where it is not known.
	Others float64 `json:"others_cores"`
}

// Values are figures by name.
type Values map[string]float64

// judge fills in ratio and pass.
func (r *Row) judge() {
	if r.Missing != "" || r.Error != "" {
		r.Pass = false
		return
	}
	judged := r.Measured
	if r.Limit > 0 {
		if r.Ratio == 0 {
			r.Ratio = r.Measured / r.Limit
		}
		judged = r.Ratio
	} else if r.Bound > 0 {
		r.Ratio = r.Measured / r.Bound
	}
	switch {
	case r.Bound == 0:
		r.Pass = true // only reported
	case r.AtLeast:
		r.Pass = judged >= r.Bound
	default:
		r.Pass = judged <= r.Bound
	}
	r.Pass = r.Pass && r.Short == ""
	r.Ratio = round(r.Ratio)
	r.Measured, r.Limit = round(r.Measured), round(r.Limit)
}

// Verdict is the row in a word.
func (r *Row) Verdict() string {
	switch {
	case r.Error != "":
		return "error"
	case r.Missing != "":
		return "not run"
	case r.Pass:
		return "pass"
	default:
		return "miss"
	}
}

// Disturbed says that other work used more of the machine than a fair figure
// allows.
func (r *Row) Disturbed() bool { return r.Others > 0.25 }

func (r *Row) line() string {
	switch {
	case r.Error != "":
		return "error: " + r.Error
	case r.Missing != "":
		return "not run: " + r.Missing
	}
	s := fmt.Sprintf("%s: %s %s", r.Row, number(r.Measured), r.Unit)
	if r.Limit > 0 {
		s += fmt.Sprintf(" = %s × %s", number(r.Ratio), r.LimitIs)
	}
	if r.Short != "" {
		s += " (" + r.Short + ")"
	}
	return fmt.Sprintf("%s, target %s: %s", s, r.Target, r.Verdict())
}

// round keeps four digits: more would be noise.
func round(x float64) float64 {
	if x == 0 || math.IsNaN(x) || math.IsInf(x, 0) {
		return x
	}
	m := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(x))))
	return math.Round(x*m) / m
}

// number writes a figure for people.
func number(x float64) string {
	switch a := math.Abs(x); {
	case a >= 100:
		return thousands(int64(math.Round(x)))
	case a >= 10:
		return fmt.Sprintf("%.1f", x)
	case a >= 1:
		return fmt.Sprintf("%.2f", x)
	case a == 0:
		return "0"
	default:
		return strings.TrimRight(fmt.Sprintf("%.4f", round(x)), "0")
	}
}

func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// median of figures, one set a round, name by name.
func median(rounds []Values) Values {
	by := map[string][]float64{}
	for _, v := range rounds {
		for k, x := range v {
			by[k] = append(by[k], x)
		}
	}
	out := Values{}
	for k, xs := range by {
		slices.Sort(xs)
		out[k] = (xs[(len(xs)-1)/2] + xs[len(xs)/2]) / 2
	}
	return out
}

// pick takes some of the figures.
func (v Values) pick(names ...string) Values {
	out := Values{}
	for _, n := range names {
		if x, ok := v[n]; ok {
			out[n] = round(x)
		}
	}
	return out
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
