package bench

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// syncData makes what was written durable, without the file's times.
func syncData(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }

// ownCPU is the CPU time of this program so far.
func ownCPU() (time.Duration, bool) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, false
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), true
}
