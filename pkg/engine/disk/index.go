package disk

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/jsonlake/lake/pkg/engine"
)

// indexFormat is the format of keys and records. An index of another format is
// made anew from the bucket.
const indexFormat = 1

// Options of an Index. The zero value is useful.
type Options struct {
	// Clock is the index's clock, read in milliseconds; default time.Now. It may
	// step in any direction.
	Clock func() time.Time
	// CacheBytes is the size of the cache for blocks of the index's files, in
	// bytes; default 64 MiB.
	CacheBytes int64
	// MinFreeBytes is how much of the disk must be free for new reservations;
	// default 64 MiB, negative: do not look. What is reserved can be committed
	// below it, so that a disk that fills up refuses writes and does not stop
	// the index.
	MinFreeBytes int64
	// Trouble is told of errors of background work, which will be tried again. It
	// may be nil, and must be safe for concurrent use.
	Trouble func(error)

	fs vfs.FS // under the store; default: the operating system's
}

// Index is an engine.Index in a directory, and everything that belongs to one.
type Index struct {
	db      *pebble.DB
	dir     string
	home    *home
	clock   func() time.Time
	clean   bool
	free    freeSpace
	events  atomic.Bool
	stopped atomic.Pointer[error] // the store has failed: nothing is done any more

	life   sync.RWMutex // held for reading by every operation, for writing by Close
	closed bool
	shards [engine.Shards]*shard
}

var (
	_ engine.Index       = (*Index)(nil)
	_ engine.Maintenance = (*Index)(nil)
	_ engine.Outbox      = (*Index)(nil)
	_ engine.Leases      = (*Index)(nil)
)

// OpenIndex opens the index in a directory, and makes it when there is none.
// Nobody else can open it until it is closed: a *LockedError says who has it.
//
// After an unclean stop its shards are not the ones that were fenced: like a
// replica that was promoted the index may lack its last operations, and refuses
// work until it has been fenced at a later epoch.
func OpenIndex(dir string, o Options) (*Index, error) {
	x, err := openIndex(dir, o)
	if err != nil {
		return nil, fmt.Errorf("open index directory %s: %w", dir, err)
	}
	return x, nil
}

func openIndex(dir string, o Options) (*Index, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 64 << 20
	}
	if o.MinFreeBytes == 0 {
		o.MinFreeBytes = 64 << 20
	}
	if o.fs == nil {
		o.fs = vfs.Default // without Pebble's own watch over the disk, whose goroutines survive a failed open
	}
	h, err := openHome(dir)
	if err != nil {
		return nil, err
	}
	x := &Index{dir: dir, home: h, clock: o.Clock, clean: h.clean, free: freeSpace{dir: h.dir, min: o.MinFreeBytes}}
	if x.db, err = pebble.Open(h.store(), x.pebbleOptions(o)); err != nil {
		err = fmt.Errorf("%w; if it is damaged, move %s away: the index is rebuilt from the bucket", err, h.store())
		return nil, errors.Join(err, h.unlock())
	}
	if err := x.load(); err != nil {
		return nil, errors.Join(err, x.db.Close(), h.unlock())
	}
	return x, nil
}

// load reads what of the index lives in memory: a bounded part a shard, and
// the undecided segments.
func (x *Index) load() error {
	format, err := x.get(keyFormat())
	if err != nil {
		return err
	}
	switch {
	case format == nil:
		if err := x.set(keyFormat(), []byte{indexFormat}); err != nil {
			return err
		}
	case len(format) != 1 || format[0] != indexFormat:
		return fmt.Errorf("the index has format %x, this program reads %d; use the program that wrote it, or move %s away: the index is rebuilt from the bucket", format, indexFormat, x.home.store())
	}
	on, err := x.get(keyEvents())
	if err != nil {
		return err
	}
	x.events.Store(len(on) == 1 && on[0] == 1)
	for i := range x.shards {
		if x.shards[i], err = x.loadShard(i); err != nil {
			return fmt.Errorf("shard %d: %w", i, err)
		}
	}
	return nil
}

// Clean tells whether the index is whole: its last process closed it, or there
// was none. After an unclean stop the end of its work may be missing; a new
// epoch has to be opened.
func (x *Index) Clean() bool { return x.clean }

// SetAddress tells processes that find the index locked where this one serves
// it: they read it with Address. "" takes it back.
func (x *Index) SetAddress(addr string) error {
	_, end, err := x.enter(context.Background())
	if err != nil {
		return err
	}
	defer end()
	if err := x.home.setAddress(addr); err != nil {
		return fmt.Errorf("index %s: set address: %w", x.dir, err)
	}
	return nil
}

// Close waits for operations under way, makes everything durable and unlocks
// the directory. It may be repeated.
func (x *Index) Close() error {
	x.life.Lock()
	defer x.life.Unlock()
	if x.closed {
		return nil
	}
	x.closed = true
	err := x.failure()
	if err == nil {
		err = x.close()
	}
	if x.failure() == nil {
		err = errors.Join(err, x.home.unlock())
	} // else the store still has its files: they are locked until the process ends
	if err != nil {
		return fmt.Errorf("close index %s: %w", x.dir, err)
	}
	return nil
}

func (x *Index) close() error {
	whole := true
	b := x.db.NewBatch()
	for _, s := range x.shards {
		whole = whole && (s.same || s.n == 0)
		_ = b.Set(keyShard(s.number), s.append(nil), nil)
	}
	if err := x.apply(b, true); err != nil {
		return err // the store is left as after a crash
	}
	if err := x.db.Close(); err != nil {
		return err
	}
	if !whole {
		return nil // opened after an unclean stop, and no new epoch since
	}
	return x.home.setClean()
}

// enter begins an operation, which ends with end. Time is told once an
// operation, in milliseconds.
func (x *Index) enter(ctx context.Context) (now int64, end func(), err error) {
	if err := ctx.Err(); err != nil {
		return 0, nil, err
	}
	x.life.RLock()
	if err := x.failure(); err != nil || x.closed {
		x.life.RUnlock()
		if err == nil {
			err = fmt.Errorf("index %s: %w", x.dir, engine.ErrClosed)
		}
		return 0, nil, err
	}
	return max(0, x.clock().UnixMilli()), x.life.RUnlock, nil
}

func (x *Index) failure() error {
	if err := x.stopped.Load(); err != nil {
		return fmt.Errorf("%w: the index %s has stopped (%w); see to the disk, then restart", engine.ErrUnavailable, x.dir, *err)
	}
	return nil
}
