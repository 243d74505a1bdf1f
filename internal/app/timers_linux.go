package app

import (
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// kernelSlack is how late Linux may wake a thread that sleeps, unless it is told
	// otherwise, ns (PR_SET_TIMERSLACK, prctl(2)).
	kernelSlack = 50_000
	// slack is the same for a process of Lake, ns. The Go runtime has a thread that looks
	// after the others, every 20 µs while requests come and go one at a time: a service
	// that answers a lone read then wakes it up to four times, on cores that others need.
	slack = 200_000
)

// CoarseTimers lets the threads of this process sleep up to 0.2 ms longer than asked for,
// so that they wake less often. A thread has this from the one that began it, and the
// runtime's own begin before any of this program's code: so the program is executed again,
// in the same process, with the same arguments. It must be called before anything is
// opened. It does nothing where somebody has chosen a slack already (TimerSlackNSec= of
// systemd), as this function has when it is called for the second time, nor with
// LAKE_TIMER_SLACK=0: a debugger loses its place in a program that is executed again.
func CoarseTimers() {
	if os.Getenv("LAKE_TIMER_SLACK") == "0" {
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if now, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || now != kernelSlack {
		return
	}
	program, err := os.Executable()
	if err != nil || unix.Prctl(unix.PR_SET_TIMERSLACK, slack, 0, 0, 0) != nil {
		return
	}
	_ = syscall.Exec(program, os.Args, os.Environ())   // which does not return
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) // the program's file is gone: as it was
}
