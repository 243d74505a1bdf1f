package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

var errHeld = errors.New("locked")

// ErrLocked is what errors.Is finds in a *LockedError.
var ErrLocked = errors.New("index directory is in use")

// LockedError says that a process has the index open.
type LockedError struct {
	Dir     string
	Address string // where it serves the lake; "" when it has not said so
}

func (e *LockedError) Error() string {
	if e.Address == "" {
		return fmt.Sprintf("%s is in use by another process: stop it, or use the lake through it", e.Dir)
	}
	return fmt.Sprintf("%s is in use by the process that serves the lake at %s: use that address, or stop it", e.Dir, e.Address)
}

// Is makes errors.Is(err, ErrLocked) hold.
func (e *LockedError) Is(target error) bool { return target == ErrLocked }

// Address is where the process that has the index of a directory open serves
// it; "" when it has not said so, or when nobody has it open.
func Address(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, addressName))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the address of the process that has %s: %w", dir, err)
	}
	return strings.TrimSpace(string(b)), nil
}
