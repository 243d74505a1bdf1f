package disk

import (
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/jsonlake/lake/pkg/engine"
)

// freeSpace looks after the disk once a second. Pebble cannot go on when its
// log cannot be written, so that reservations stop before.
type freeSpace struct {
	dir string
	min int64

	mu   sync.Mutex
	at   time.Time
	free uint64
}

// check is an error when too little is free. A file system that does not tell
// is believed to have room.
func (f *freeSpace) check() error {
	if f.min < 0 {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at.IsZero() || time.Since(f.at) > time.Second {
		u, err := vfs.Default.GetDiskUsage(f.dir)
		if err != nil {
			u.AvailBytes = uint64(f.min)
		}
		f.at, f.free = time.Now(), u.AvailBytes
	}
	if f.free >= uint64(f.min) {
		return nil
	}
	return fmt.Errorf("%w: the disk of %s has %d MiB left, no writes are taken below %d MiB; make room", engine.ErrUnavailable, f.dir, f.free>>20, f.min>>20)
}

// FreeSpace is how many bytes the file system of a path has left for this user.
func FreeSpace(path string) (uint64, error) {
	u, err := vfs.Default.GetDiskUsage(path)
	return u.AvailBytes, err
}
