// Package bench measures a lake beside the limits of what it stands on.
//
// A profile (p1 … p15, see profiles) starts a lake, or uses one that is there,
// measures the bare limits of NATS, Redis, the bucket and the disk with the same
// concurrency in the same run, then the lake, and tells the ratio. Figures are
// medians of the rounds. Latencies under load are measured from when a request
// was due, not from when it was sent, so that a stall counts for everybody who
// would have asked meanwhile; throughput by a fixed number of requests in flight.
//
// Every profile that writes looks at what can be read afterwards: a fast row
// whose documents are wrong is an error, not a row.
//
// It starts processes of its own (this program, redis-server, nats-server,
// versitygw) on free loopback ports, in a temporary directory, and ends them.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Forms of a lake.
const (
	Embedded    = "embedded"
	Distributed = "distributed"
)

// Options of a run.
type Options struct {
	// Profiles to run, in the order of the table; none: all.
	Profiles []string
	// Form limits the run to one form of the lake; "": each profile's own.
	Form string
	// Target is the NATS URL of a lake that is there. Profiles that have to start a
	// lake of their own say so and are not measured.
	Target        string
	SubjectPrefix string
	// PutLatency is added to every PUT of the bucket, in the profiles that do not
	// set one of their own; distributed form.
	PutLatency time.Duration
	// Duration of one measurement; default 5 s. P5 takes six times as long at once.
	Duration time.Duration
	// Rounds of which the median counts; default 3.
	Rounds int
	// Program is the lake program that is started; default: this one.
	Program string
	// CPUProfile is a directory for profiles of the processes under the loads of P1,
	// P2, P3, P5, P6 and overload; "": none are taken.
	CPUProfile string
	// Dir is where temporary data goes; default the system's.
	Dir string
	// Require makes a server that is not installed an error.
	Require bool
	// Progress is told what happens; nil: nobody.
	Progress io.Writer
	// Emit is called with each row as it is measured.
	Emit func(Row)
}

// profile is one line of the table of targets.
type profile struct {
	name, what string
	run        func(b *bench, ctx context.Context) error // a method of bench
}

// profiles in the order of the table.
var profiles = []profile{
	{"p1", "one message a write, 1,024 in flight, 1,000 catalogs", (*bench).p1},
	{"p2", "the same over a store with 50 ms a PUT", (*bench).p2},
	{"p3", "a lone write, distributed", (*bench).p3},
	{"p4", "a lone durable write, embedded", (*bench).p4},
	{"p5", "one catalog, batches: 990,000 deltas a second", (*bench).p5},
	{"p6", "hot reads", (*bench).p6},
	{"p7", "the first read after a thousand patches", (*bench).p7},
	{"p8", "reads beside writers over a slow store", (*bench).p8},
	{"p10", "folding", (*bench).p10},
	{"p11", "bytes stored for small writes", (*bench).p11},
	{"p12", "index memory", (*bench).p12},
	{"p13", "growth: catalogs and versions", (*bench).p13},
	{"p14", "rebuild of a lost index", (*bench).p14},
	{"p15", "tracing and encryption", (*bench).p15},
	{"overload", "writes at twice the rate that saturates", (*bench).overloaded},
	{"memory", "resident memory of each service", (*bench).resident},
}

// Names lists the profiles with what they measure.
func Names() (names, what []string) {
	for _, p := range profiles {
		names, what = append(names, p.name), append(what, p.what)
	}
	return names, what
}

// bench is one run.
type bench struct {
	Options
	dir     string
	profile string
	rows    []Row
	begin   time.Time
}

// Run measures the profiles and returns every row. The error is that of what
// went wrong, all profiles together; a target that is missed is none.
func Run(ctx context.Context, o Options) ([]Row, error) {
	if o.Duration <= 0 {
		o.Duration = 5 * time.Second
	}
	if o.Rounds <= 0 {
		o.Rounds = 3
	}
	if o.Form != "" && o.Form != Embedded && o.Form != Distributed {
		return nil, fmt.Errorf("form %q is none of embedded, distributed", o.Form)
	}
	if o.Program == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find this program: %w", err)
		}
		o.Program = self
	}
	todo, err := choose(o.Profiles)
	if err != nil {
		return nil, err
	}
	if o.CPUProfile != "" {
		if err := os.MkdirAll(o.CPUProfile, 0o700); err != nil {
			return nil, fmt.Errorf("make a directory for profiles: %w", err)
		}
	}
	dir, err := os.MkdirTemp(o.Dir, "lake-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the run: %w", err)
	}
	defer os.RemoveAll(dir)
	b := &bench{Options: o, dir: dir, begin: time.Now()}
	var errs []error
	for _, p := range todo {
		b.profile = strings.ToUpper(p.name)
		b.say("%s", p.what)
		if err := p.run(b, ctx); err != nil {
			if ctx.Err() != nil {
				return b.rows, ctx.Err()
			}
			err = b.gaveUp(p, err)
			errs = append(errs, err)
		}
	}
	return b.rows, errors.Join(errs...)
}

// gaveUp turns the error of a profile into its row: what is missing on this
// machine is told, everything else is an error.
func (b *bench) gaveUp(p profile, err error) error {
	var missing *MissingError
	row := Row{What: p.what}
	if errors.As(err, &missing) {
		row.Missing = missing.What
		if !missing.Server || !b.Require {
			err = nil
		}
	} else {
		row.Error = err.Error()
	}
	b.emit(row)
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

func choose(names []string) ([]profile, error) {
	if len(names) == 0 || slices.Contains(names, "all") {
		return profiles, nil
	}
	var todo []profile
	for _, p := range profiles {
		if slices.Contains(names, p.name) {
			todo = append(todo, p)
		}
	}
	for _, n := range names {
		if !slices.ContainsFunc(profiles, func(p profile) bool { return p.name == n }) {
			all, _ := Names()
			return nil, fmt.Errorf("there is no profile %q; there are %s", n, strings.Join(all, ", "))
		}
	}
	return todo, nil
}

// MissingError says that a row cannot be measured here, and why.
type MissingError struct {
	What   string
	Server bool // a server that can be installed
}

func (e *MissingError) Error() string { return e.What }

func missing(format string, args ...any) error {
	return &MissingError{What: fmt.Sprintf(format, args...)}
}

// ownLake is the error of a profile that cannot use a lake that is there.
func (b *bench) ownLake() error {
	if b.Target != "" {
		return missing("it starts a lake of its own: leave --target out")
	}
	return nil
}

// wants says whether a form is asked for.
func (b *bench) wants(form string) bool { return b.Form == "" || b.Form == form }

// forms are those of some that are asked for, in their order. A lake that is there
// counts as distributed.
func (b *bench) forms(of ...string) []string {
	return slices.DeleteFunc(of, func(form string) bool { return !b.wants(form) || b.Target != "" && form == Embedded })
}

// only is the error of a profile that has another form.
func (b *bench) only(form string) error {
	if err := b.ownLake(); err != nil {
		return err
	}
	if !b.wants(form) {
		return missing("it is a row of the %s form", form)
	}
	return nil
}

// say tells whoever watches.
func (b *bench) say(format string, args ...any) {
	if b.Progress != nil {
		fmt.Fprintf(b.Progress, "%6.1f s  %-4s %s\n", time.Since(b.begin).Seconds(), b.profile, fmt.Sprintf(format, args...))
	}
}

// emit completes a row and hands it out.
func (b *bench) emit(r Row) {
	r.Profile = b.profile
	if r.Row == "" {
		r.Row = b.profile
	}
	r.judge()
	b.rows = append(b.rows, r)
	b.say("%s", r.line())
	if b.Emit != nil {
		b.Emit(r)
	}
}

// warmup is how long a measurement runs before it counts.
func (b *bench) warmup() time.Duration { return min(b.Duration/4, time.Second) }

// bare is how long a bare limit is measured: long enough for a stable figure,
// shorter than what is compared with it.
func (b *bench) bare() time.Duration { return max(b.Duration*2/5, 200*time.Millisecond) }

// brief is how long something is measured that is the same at any time: hot reads, traces, and
// lone writes into files.
func (b *bench) brief() time.Duration { return max(b.Duration*3/5, 200*time.Millisecond) }

// temp is a new directory of the run, which is removed when the run ends. Who has
// done with it empties it.
func (b *bench) temp(name string) (string, error) {
	dir, err := os.MkdirTemp(b.dir, name+"-")
	if err != nil {
		return "", fmt.Errorf("make a directory: %w", err)
	}
	return filepath.Abs(dir)
}

// empty gives back the room that the files of a directory take. The files themselves
// stay until the run ends: ext4 does not use a deleted file's inode again for one to
// five minutes (recently_deleted in Linux's fs/ext4/ialloc.c), and whoever makes a file
// meanwhile looks at each of them, so that a store would pay for what the profile before
// it has deleted.
func empty(dir string) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			_ = os.Truncate(path, 0) // the run ends with removing all
		}
		return nil
	})
}
