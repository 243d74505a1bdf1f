//go:build unix && !linux

package disk

import "golang.org/x/sys/unix"

// syncFileSystem writes out all file systems.
func syncFileSystem(string) error { return unix.Sync() }
