package disk

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// syncFileSystem writes out all of the file system that a path stands on.
func syncFileSystem(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close()) //nolint:gosec // descriptors are small
}
