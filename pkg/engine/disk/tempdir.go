package disk

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// tempDirs is where temporary files stand, in the same file system as the
// objects. Each process has a directory of its own there, which it locks, so
// that an open can tell a dead process's files from those of a put under way.
const tempDirs = ".tmp"

type tempDir struct {
	path string
	lock io.Closer
}

// openTempDir makes the process's own directory and removes those of the dead.
//
// A process that died may have linked objects whose names it never made
// durable. They are visible, and from now on they count; so everything is
// written out before anybody reads them.
func openTempDir(root string) (*tempDir, error) {
	all := filepath.Join(root, tempDirs)
	if err := os.MkdirAll(all, 0o755); err != nil {
		return nil, err
	}
	dead, err := removeDead(all)
	if err != nil {
		return nil, fmt.Errorf("remove left-over temporary files: %w", err)
	}
	if dead {
		if err := syncFileSystem(root); err != nil {
			return nil, fmt.Errorf("write out what an interrupted process has left: %w", err)
		}
	}
	for {
		t := &tempDir{path: filepath.Join(all, rand.Text())}
		if err := os.Mkdir(t.path, 0o755); err != nil {
			return nil, err
		}
		// Another process may take the directory for a dead one until it is locked.
		name := filepath.Join(t.path, "LOCK")
		t.lock, err = lockFile(name)
		if err == nil {
			if _, err := os.Lstat(name); err == nil {
				return t, nil
			}
			_ = t.lock.Close()
		} else if !isAbsent(err) && !errors.Is(err, errHeld) {
			return nil, err
		}
	}
}

// removeDead removes the directories that nobody holds a lock on, and tells
// whether there was one.
func removeDead(all string) (dead bool, err error) {
	entries, err := os.ReadDir(all)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		path := filepath.Join(all, e.Name())
		lock, err := lockFile(filepath.Join(path, "LOCK"))
		switch {
		case errors.Is(err, errHeld):
			continue
		case err != nil && !isAbsent(err):
			return dead, err
		case err == nil:
			defer lock.Close() // after the removal
		}
		dead = true
		if err := os.RemoveAll(path); err != nil {
			return dead, err
		}
	}
	return dead, nil
}

func (t *tempDir) close() error {
	return errors.Join(os.RemoveAll(t.path), t.lock.Close())
}
