package disk

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/windows"
)

// lockFile takes an exclusive lock on a file, made if need be; errHeld when
// anybody has it, in this process or another. Closing it, and the end of the
// process, release it.
func lockFile(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	err = windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &windows.Overlapped{})
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return nil, errHeld
	}
	return nil, &os.PathError{Op: "lock", Path: name, Err: err}
}

func isNotDir(err error) bool { return errors.Is(err, windows.ERROR_DIRECTORY) }

// syncFileSystem: directories are journalled by the file system itself.
func syncFileSystem(string) error { return nil }

// fileID would tell a file from a copy of it; os.FileInfo does not.
func fileID(os.FileInfo) string { return "" }
