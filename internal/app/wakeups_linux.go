package app

import (
	"os"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// kernelSlack is how late Linux may wake a thread that sleeps, unless it is told
	// otherwise, ns (PR_SET_TIMERSLACK, prctl(2)).
	kernelSlack = 50_000
	// slack is the same for a process of Lake, ns. The Go runtime has a thread that looks
	// after the others, its monitor, every 20 µs while requests come and go one at a time.
	slack = 200_000
	// monitor (package runtime, GODEBUG) has the Go runtime report on its scheduler every
	// so many ms, 24.8 days, the most that it takes. It is not for the report, one line on
	// standard error: while one is due the monitor sleeps for 10 ms when there is nothing to
	// do, in place of until it is woken. It would be woken twice a lone request, by the thread
	// that has the request in hand, and then run on a core that another process of that
	// request needs.
	monitor = "schedtrace=2147483647"
)

// FewWakeUps has threads of this process woken less often, for the sake of the processes
// that it shares cores with. With timers they may sleep up to 0.2 ms longer than asked for.
// With monitored the runtime's monitor looks after them every 10 ms only while all goes well:
// not for a process that waits for a disk, as it would notice that much later a thread that
// the disk holds up.
//
// A thread has its slack from the one that began it, and the runtime reads GODEBUG before
// any of this program's code: so the program is executed again, in the same process, with the
// same arguments. It must be called before anything is opened. What somebody has chosen stays: a
// slack (TimerSlackNSec= of systemd), schedtrace in GODEBUG. With LAKE_EXEC_AGAIN=0 nothing is
// changed: a debugger loses its place in a program that is executed again.
func FewWakeUps(timers, monitored bool) {
	if os.Getenv("LAKE_EXEC_AGAIN") == "0" {
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	chosen, isSet := os.LookupEnv("GODEBUG")
	told := monitored && !strings.Contains(chosen, "schedtrace=")
	now, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	coarse := timers && err == nil && now == kernelSlack && unix.Prctl(unix.PR_SET_TIMERSLACK, slack, 0, 0, 0) == nil
	if !told && !coarse {
		return
	}
	if told {
		_ = os.Setenv("GODEBUG", strings.TrimPrefix(chosen+","+monitor, ","))
	}
	if program, err := os.Executable(); err == nil {
		_ = syscall.Exec(program, os.Args, os.Environ()) // which does not return
	}
	// The program's file is gone: as it was.
	if coarse {
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0)
	}
	if told && !isSet {
		_ = os.Unsetenv("GODEBUG")
	} else if told {
		_ = os.Setenv("GODEBUG", chosen)
	}
}
