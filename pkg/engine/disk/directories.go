package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// maxKnownDirs bounds the memory of directories: some 10 MB. When it is full
// everything is forgotten and found out again, for one fsync each.
const maxKnownDirs = 1 << 16

// directories makes directories and their entries durable.
//
// Entries that are linked while a directory is being synced wait together for
// the next sync of it: the disk's own pace decides how many share one, and one
// alone never waits for others.
type directories struct {
	root   string
	failed atomic.Pointer[error] // the first sync that failed

	mu    sync.Mutex
	known map[string]struct{} // directories whose own names are durable up to the root
	syncs map[string]*dirSync // directories that are being synced
}

// dirSync is the state of one directory while syncs of it are under way.
type dirSync struct {
	next *syncRound // entries that came too late for the running round; nil: none
}

// syncRound is one sync that several entries wait for.
type syncRound struct {
	done chan struct{}
	err  error // valid when done is closed
}

func newDirectories(root string) *directories {
	return &directories{root: root, known: map[string]struct{}{root: {}}, syncs: map[string]*dirSync{}}
}

// makeRoot makes the root itself and the directories above it.
func (d *directories) makeRoot() error {
	var missing []string
	for dir := d.root; ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.IsDir() || dir == filepath.Dir(dir) {
			break
		}
		missing = append(missing, dir)
	}
	if err := os.MkdirAll(d.root, 0o755); err != nil {
		return err
	}
	for _, dir := range missing {
		if err := syncDir(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	return nil
}

// make makes a directory below the root whose name survives a power cut.
func (d *directories) make(ctx context.Context, dir string) error {
	d.mu.Lock()
	_, known := d.known[dir]
	d.mu.Unlock()
	if known {
		return nil
	}
	parent := filepath.Dir(dir)
	if err := d.make(ctx, parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		d.forget(parent)
		return err
	}
	// One that was there need not be durable: who made it may have been
	// interrupted, or may not have synced it yet.
	if err := d.sync(ctx, parent); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.known) >= maxKnownDirs {
		clear(d.known)
		d.known[d.root] = struct{}{}
	}
	d.known[dir] = struct{}{}
	return nil
}

// forget makes the next put look whether the directory is there.
func (d *directories) forget(dir string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for ; len(dir) > len(d.root); dir = filepath.Dir(dir) {
		delete(d.known, dir)
	}
}

// sync makes all entries durable that the directory has now.
func (d *directories) sync(ctx context.Context, dir string) error {
	d.mu.Lock()
	s, running := d.syncs[dir]
	if !running {
		s = &dirSync{}
		d.syncs[dir] = s
		d.mu.Unlock()
		err := d.syncNow(dir)
		d.finish(dir, s)
		return err
	}
	if s.next == nil {
		s.next = &syncRound{done: make(chan struct{})}
	}
	round := s.next
	d.mu.Unlock()
	select {
	case <-round.done:
		return round.err
	case <-ctx.Done():
		return fmt.Errorf("wait for the disk: %w", ctx.Err())
	}
}

// finish ends a round and begins the next one if somebody waits for it. The
// goroutine lives until nobody waits.
func (d *directories) finish(dir string, s *dirSync) {
	round := d.take(dir, s)
	if round == nil {
		return
	}
	go func() {
		for ; round != nil; round = d.take(dir, s) {
			round.err = d.syncNow(dir)
			close(round.done)
		}
	}()
}

// take is the round that waits, which is not joined any more from here on. When
// there is none the directory is at rest.
func (d *directories) take(dir string, s *dirSync) *syncRound {
	d.mu.Lock()
	defer d.mu.Unlock()
	round := s.next
	s.next = nil
	if round == nil {
		delete(d.syncs, dir)
	}
	return round
}

func (d *directories) syncNow(dir string) error {
	if err := d.refused(); err != nil {
		return err
	}
	err := syncDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.failed.CompareAndSwap(nil, &err)
	}
	return err
}

// refused is an error once a sync has failed. A second fsync would succeed
// without having written what the first one lost.
func (d *directories) refused() error {
	if err := d.failed.Load(); err != nil {
		return fmt.Errorf("the disk has refused to make a directory durable (%w); check the disk, then restart", *err)
	}
	return nil
}

func syncDir(dir string) error {
	f, err := vfs.Default.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
