package disk

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
)

func (x *Index) pebbleOptions(o Options) *pebble.Options {
	p := &pebble.Options{
		FS:                          o.fs,
		FormatMajorVersion:          pebble.FormatValueSeparation,
		CacheSize:                   o.CacheBytes,
		MemTableSize:                16 << 20,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
		MaxOpenFiles:                512,
		Logger:                      logger{x: x, trouble: o.Trouble},
		EventListener: &pebble.EventListener{BackgroundError: func(err error) {
			if o.Trouble != nil {
				o.Trouble(fmt.Errorf("index %s: %w", x.dir, err))
			}
		}},
	}
	for i := range p.Levels {
		p.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		p.Levels[i].BlockSize = 8 << 10
	}
	return p
}

// logger passes on what Pebble calls errors, and turns what it calls fatal into
// a panic, which apply catches where a caller waits. Fatal in Pebble's own
// goroutines, a manifest that cannot be written, ends the process: an unclean
// stop, which the next epoch repairs.
type logger struct {
	x       *Index
	trouble func(error)
}

func (logger) Infof(string, ...any) {}

func (l logger) Errorf(format string, args ...any) {
	if l.trouble != nil {
		l.trouble(fmt.Errorf("index %s: "+format, append([]any{l.x.dir}, args...)...))
	}
}

func (l logger) Fatalf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	l.x.stopped.CompareAndSwap(nil, &err)
	panic(fmt.Sprintf("index %s: %v", l.x.dir, err))
}

// apply commits a batch, all of it or nothing. Whatever goes wrong leaves Pebble
// unable to go on, and the index with it.
func (x *Index) apply(b *pebble.Batch, sync bool) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("commit to the index: %v", r)
		}
		if err != nil {
			x.stopped.CompareAndSwap(nil, &err)
			err = x.failure()
		}
	}()
	if err := x.failure(); err != nil {
		return err
	}
	o := pebble.NoSync
	if sync {
		o = pebble.Sync
	}
	if err := b.Commit(o); err != nil {
		return err
	}
	return b.Close()
}

// get reads a value; nil when there is none.
func (x *Index) get(key []byte) ([]byte, error) {
	v, closer, err := x.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the index: %w", err)
	}
	defer closer.Close()
	return append(make([]byte, 0, len(v)+1), v...), nil // never nil
}

// read decodes a value where it stands.
func (x *Index) read(key []byte, decode func([]byte) error) (found bool, err error) {
	v, closer, err := x.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the index: %w", err)
	}
	defer closer.Close()
	if err := decode(v); err != nil {
		return false, fmt.Errorf("read the index at %q: %w", key, err)
	}
	return true, nil
}

// scan yields keys and values from one key up to before another, until f says
// that it has enough. It sees one moment.
func (x *Index) scan(from, to []byte, f func(key, value []byte) (more bool, err error)) error {
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return fmt.Errorf("read the index: %w", err)
	}
	return scanIter(it, f)
}

func scanIter(it *pebble.Iterator, f func(key, value []byte) (more bool, err error)) (err error) {
	more := true
	for ok := it.First(); ok && more && err == nil; ok = it.Next() {
		var v []byte
		if v, err = it.ValueAndErr(); err != nil {
			break
		}
		if more, err = f(it.Key(), v); err != nil {
			err = fmt.Errorf("read the index at %q: %w", it.Key(), err)
		}
	}
	if err := errors.Join(err, it.Close()); err != nil {
		return fmt.Errorf("read the index: %w", err)
	}
	return nil
}

// set writes one value, durably.
func (x *Index) set(key, value []byte) error {
	b := x.db.NewBatch()
	_ = b.Set(key, value, nil) // fails on indexed batches only
	return x.apply(b, true)
}
