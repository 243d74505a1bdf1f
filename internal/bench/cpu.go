package bench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// userHZ is the unit of /proc's times: a hundredth of a second on every Linux.
const userHZ = 100

// cpuOf is the CPU time of a process so far, its threads together. It is known
// on Linux only.
func cpuOf(pid int) (time.Duration, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	at := bytes.LastIndexByte(b, ')') // the name before it may hold anything
	if at < 0 {
		return 0, false
	}
	f := strings.Fields(string(b[at+1:]))
	if len(f) < 13 {
		return 0, false
	}
	user, err1 := strconv.ParseInt(f[11], 10, 64)
	system, err2 := strconv.ParseInt(f[12], 10, 64)
	if err1 != nil || err2 != nil {
		return 0, false
	}
	return time.Duration(user+system) * time.Second / userHZ, true
}

// peakOf is the most memory a process has had resident, bytes.
func peakOf(pid int) (int64, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kb << 10, err == nil
		}
	}
	return 0, false
}

// machineCPU is the time that all cores together have worked so far.
func machineCPU() (time.Duration, bool) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, false
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return 0, false
	}
	var ticks int64
	for i, s := range f[1:9] {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, false
		}
		if i != 3 && i != 4 { // idle, waiting for the disk
			ticks += n
		}
	}
	return time.Duration(ticks) * time.Second / userHZ, true
}

// cpuMark is a moment of the machine's, this program's and its children's CPU.
type cpuMark struct {
	at           time.Time
	machine, own time.Duration
	children     map[string]time.Duration
	known        bool
}

// mark takes the CPU times of now. Those of a lake that is not ours are not
// known, and would count as others' work.
func (l *lab) mark() cpuMark { return mark(l.children, l.form != target) }

func mark(children []*child, ours bool) cpuMark {
	m := cpuMark{at: time.Now(), children: map[string]time.Duration{}}
	var ok1, ok2 bool
	m.machine, ok1 = machineCPU()
	m.own, ok2 = cpuOf(os.Getpid())
	m.known = ok1 && ok2 && ours
	for _, c := range children {
		t, ok := cpuOf(c.cmd.Process.Pid)
		m.known = m.known && ok
		m.children[c.name] = t
	}
	return m
}

// since gives the CPU seconds of each child and of this program from an
// earlier mark on, and how many cores others used.
func (m cpuMark) since(before cpuMark) (children map[string]float64, own, others float64) {
	children = map[string]float64{}
	if !m.known || !before.known {
		return children, 0, -1
	}
	own = (m.own - before.own).Seconds()
	rest := (m.machine - before.machine).Seconds() - own
	for name, t := range m.children {
		children[name] = (t - before.children[name]).Seconds()
		rest -= children[name]
	}
	return children, own, max(rest, 0) / m.at.Sub(before.at).Seconds()
}

// cores are how many cores each process of a lab and this one ("client") had between two
// moments, as values of a row.
func (m cpuMark) cores(before cpuMark) Values {
	v := Values{}
	children, own, others := m.since(before)
	v["others_cores"] = others
	if others < 0 {
		return v
	}
	seconds := m.at.Sub(before.at).Seconds()
	v["cores_client"] = own / seconds
	for name, s := range children {
		v["cores_"+name] = s / seconds
	}
	return v
}
