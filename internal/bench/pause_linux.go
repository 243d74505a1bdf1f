package bench

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// pause waits for d, to some 50 µs: a timer of the kernel's. Those of the runtime end up
// to a millisecond late where a process waits for nothing else, since they round the time
// that epoll may wait.
func pause(ctx context.Context, d time.Duration) error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("timerfd_create", err)
	}
	timer := os.NewFile(uintptr(fd), "timer")
	defer timer.Close()
	if err := unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}, nil); err != nil {
		return os.NewSyscallError("timerfd_settime", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = timer.SetReadDeadline(time.Now()) })
	defer stop()
	var expired [8]byte
	if _, err = timer.Read(expired[:]); ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
