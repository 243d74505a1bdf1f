package disk

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// home is the directory of an index.
//
//	LOCK     locked by the process that has the index open
//	ADDRESS  where it serves it
//	CLEAN    there while the index is closed, if it is whole
//	store/   Pebble's files
type home struct {
	dir   string
	clean bool
	lock  io.Closer
}

const (
	lockName    = "LOCK"
	addressName = "ADDRESS"
	cleanName   = "CLEAN"
	storeName   = "store"
)

func (h *home) store() string { return filepath.Join(h.dir, storeName) }

func openHome(dir string) (*home, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := newDirectories(dir).makeRoot(); err != nil {
		return nil, err
	}
	h := &home{dir: dir}
	if h.lock, err = lockFile(filepath.Join(dir, lockName)); err != nil {
		if errors.Is(err, errHeld) {
			addr, _ := Address(dir)
			return nil, &LockedError{Dir: dir, Address: addr}
		}
		return nil, err
	}
	if err := h.begin(); err != nil {
		return nil, errors.Join(err, h.unlock())
	}
	return h, nil
}

// begin takes away what the last process has left, before any work is done: a
// process that dies from here on has stopped uncleanly.
func (h *home) begin() error {
	_, err := os.Lstat(h.store())
	fresh := errors.Is(err, fs.ErrNotExist)
	if err != nil && !fresh {
		return err
	}
	name := filepath.Join(h.dir, cleanName)
	said, err := os.ReadFile(name)
	if err == nil {
		h.clean = string(said) == h.cleanText(name)
		err = os.Remove(name)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	h.clean = h.clean || fresh
	if err := h.setAddress(""); err != nil {
		return err
	}
	if err := os.MkdirAll(h.store(), 0o755); err != nil {
		return err
	}
	return syncDir(h.dir)
}

// setClean says that the index is whole.
func (h *home) setClean() error {
	name := filepath.Join(h.dir, cleanName)
	err := writeFile(name, nil)
	if err == nil {
		err = os.WriteFile(name, []byte(h.cleanText(name)), 0o644)
	}
	if err == nil {
		err = syncFile(name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return syncDir(h.dir)
}

// cleanText is what the marker holds: it names itself, so that a copy of the
// directory, which may be older than the bucket beside it, has none.
func (h *home) cleanText(name string) string {
	text := "The index was closed and is whole.\n"
	for _, path := range []string{h.dir, name} {
		if info, err := os.Stat(path); err == nil {
			text += fileID(info) + "\n"
		}
	}
	return text
}

func syncFile(name string) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (h *home) setAddress(addr string) error {
	name := filepath.Join(h.dir, addressName)
	if addr == "" {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	next := name + ".new"
	if err := os.WriteFile(next, []byte(addr+"\n"), 0o644); err != nil {
		return err
	}
	return os.Rename(next, name)
}

func (h *home) unlock() error { return errors.Join(h.setAddress(""), h.lock.Close()) }
