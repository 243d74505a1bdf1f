//go:build unix

package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// lockFile takes an exclusive lock on a file, made if need be; errHeld when
// anybody has it, in this process or another. Closing it, and the end of the
// process, release it.
//
// flock(2), not fcntl(2): the latter's locks do not exclude within a process and
// go when any descriptor of the file is closed.
func lockFile(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) //nolint:gosec // descriptors are small
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		return flock{f}, nil
	}
	_ = f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errHeld
	}
	return nil, &os.PathError{Op: "lock", Path: name, Err: err}
}

type flock struct{ f *os.File }

// Close unlocks before it closes: a child process that is being started has a
// copy of the descriptor until it executes, and the lock with it.
func (l flock) Close() error {
	return errors.Join(unix.Flock(int(l.f.Fd()), unix.LOCK_UN), l.f.Close()) //nolint:gosec // descriptors are small
}

func isNotDir(err error) bool { return errors.Is(err, unix.ENOTDIR) }

// fileID tells a file from a copy of it.
func fileID(info os.FileInfo) string {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprintf("device %d inode %d", s.Dev, s.Ino)
	}
	return ""
}
