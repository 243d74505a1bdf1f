// Package trace tells where the time of one request went.
//
//	ctx = trace.WithTrace(ctx, "Write")
//	t := trace.FromContext(ctx)
//	begin := t.Now()
//	…
//	t.Step("Init", begin).Str("catalog", "users")
//	fmt.Print(t.Dump())
//
// prints
//
//	=== Trace [Write]: Total 248ms ===
//	1. Init: 31µs {catalog=users, deltas=1}
//	2. PreCommit: 1.2ms {runs=3, tries=1}
//	3. StoragePut: 245ms {segment=wal/…, runs=3, bytes=812}
//	4. Commit: 1.1ms {version=1700000000_1}
//
// The engine records the steps: of a write Init, PreCommit, StoragePut, Commit
// (again from PreCommit, where a segment could not be put), of a read Init, View,
// Load, Merge, without Load and Merge where nothing changed. Without
// WithTrace every method works on a nil *Trace and does nothing: no clock is asked,
// nothing is allocated.
package trace

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Trace is the steps of one request. A nil *Trace is off. It is safe for
// concurrent use.
type Trace struct {
	name  string
	start time.Time

	mu    sync.Mutex
	steps []*Step   // at most maxSteps
	end   time.Time // of the last step
}

// maxSteps bounds what a trace keeps: a request that is tried for minutes has the
// beginning of its story told.
const maxSteps = 256

// Step is one step of a Trace. A nil *Step is of a trace that is off.
type Step struct {
	t       *Trace
	name    string
	took    time.Duration
	details []detail
}

type detail struct{ name, value string }

func (d detail) String() string {
	if d.name == "" {
		return d.value
	}
	return d.name + "=" + d.value
}

type key struct{}

// WithTrace begins a trace; the name stands in its heading.
func WithTrace(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, key{}, &Trace{name: name, start: time.Now()})
}

// FromContext gives the trace of a context, nil when there is none.
func FromContext(ctx context.Context) *Trace {
	t, _ := ctx.Value(key{}).(*Trace)
	return t
}

// Continue gives ctx the trace t, which another context began. nil changes
// nothing.
func Continue(ctx context.Context, t *Trace) context.Context {
	if t == nil {
		return ctx
	}
	return context.WithValue(ctx, key{}, t)
}

// Now is the time at which a step begins; zero when the trace is off.
func (t *Trace) Now() time.Time {
	if t == nil {
		return time.Time{}
	}
	return time.Now()
}

// Step adds a step that began at begin and ends now. Details may follow:
//
//	t.Step("Load", begin).Int("objects", n)
func (t *Trace) Step(name string, begin time.Time) *Step {
	if t == nil {
		return nil
	}
	now := time.Now()
	return t.add(name, now.Sub(begin), now)
}

// Add adds a step that ends now and took as long, somewhere else.
func (t *Trace) Add(name string, took time.Duration) *Step {
	if t == nil {
		return nil
	}
	return t.add(name, took, time.Now())
}

func (t *Trace) add(name string, took time.Duration, now time.Time) *Step {
	s := &Step{t: t, name: name, took: took}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.steps) < maxSteps {
		t.steps = append(t.steps, s)
	}
	t.end = now
	return s
}

// Int adds a detail.
func (s *Step) Int(name string, v int64) *Step {
	if s == nil {
		return nil
	}
	return s.Str(name, strconv.FormatInt(v, 10))
}

// Str adds a detail. Make its value only when the trace is on, if making it
// costs anything.
func (s *Step) Str(name, value string) *Step {
	if s == nil {
		return nil
	}
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	s.details = append(s.details, detail{name, value})
	return s
}

// text adds details that are text already.
func (s *Step) text(d string) {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	s.details = append(s.details, detail{value: d})
}

// Dump is the trace as text: a heading with the time from the beginning to the
// end of the last step, and a numbered line a step. "" when the trace is off.
func (t *Trace) Dump() string {
	if t == nil {
		return ""
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var total time.Duration
	if !t.end.IsZero() {
		total = t.end.Sub(t.start)
	}
	var b strings.Builder
	b.WriteString("=== Trace [" + t.name + "]: Total " + round(total).String() + " ===\n")
	for i, s := range t.steps {
		b.WriteString(strconv.Itoa(i+1) + ". " + s.name + ": " + round(s.took).String())
		for j, d := range s.details {
			if j == 0 {
				b.WriteString(" {")
			} else {
				b.WriteString(", ")
			}
			b.WriteString(d.String())
		}
		if len(s.details) > 0 {
			b.WriteByte('}')
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// ServerTiming is the trace as the value of a Server-Timing header
// (https://www.w3.org/TR/server-timing/), milliseconds, details as description:
//
//	Init;dur=0.031;desc="catalog=users, deltas=1", PreCommit;dur=1.2
//
// "" when the trace is off or has no step.
func (t *Trace) ServerTiming() string {
	if t == nil {
		return ""
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var b []byte
	for i, s := range t.steps {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, s.name...)
		b = append(b, ";dur="...)
		b = strconv.AppendFloat(b, float64(s.took.Microseconds())/1000, 'f', -1, 64)
		for j, d := range s.details {
			if j == 0 {
				b = append(b, `;desc="`...)
			} else {
				b = append(b, ", "...)
			}
			b = append(b, escape.Replace(d.String())...)
		}
		if len(s.details) > 0 {
			b = append(b, '"')
		}
	}
	return string(b)
}

var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\r", " ", "\n", " ")

// AddServerTiming adds the steps of another process's trace, as its
// ServerTiming gave them, and tells how long they took together. What it does
// not understand it leaves out.
func (t *Trace) AddServerTiming(value string) (total time.Duration) {
	if t == nil {
		return 0
	}
	for value != "" {
		var name string
		params := map[string]string{}
		name, value = token(value)
		for strings.HasPrefix(value, ";") {
			var p, v string
			p, value = token(value[1:])
			if strings.HasPrefix(value, "=") {
				v, value = token(value[1:])
			}
			params[strings.TrimSpace(p)] = v
		}
		ms, err := strconv.ParseFloat(params["dur"], 64)
		if name = strings.TrimSpace(name); name != "" && err == nil && ms >= 0 && ms < float64(maxStep/time.Millisecond) {
			took := time.Duration(ms * float64(time.Millisecond))
			total += took
			s := t.Add(name, took)
			if d := params["desc"]; d != "" {
				s.text(d)
			}
		}
		i := strings.IndexByte(value, ',')
		if i < 0 {
			return total
		}
		value = value[i+1:]
	}
	return total
}

// maxStep is longer than any step of a request.
const maxStep = 24 * time.Hour

// token cuts a token or a quoted string off the beginning of s.
func token(s string) (tok, rest string) {
	if !strings.HasPrefix(s, `"`) {
		if i := strings.IndexAny(s, ";=,"); i >= 0 {
			return s[:i], s[i:]
		}
		return s, ""
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:]
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), ""
}

// round keeps three digits or so: 248ms, 1.23ms, 31µs.
func round(d time.Duration) time.Duration {
	switch {
	case d >= 100*time.Millisecond:
		return d.Round(time.Millisecond)
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond)
	default:
		return d.Round(time.Microsecond)
	}
}
