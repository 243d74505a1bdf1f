package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jsonlake/lake/pkg/engine"
)

// readDirChunk is how many entries are read from a directory at once.
const readDirChunk = 1024

var errStopped = errors.New("listing stopped by its reader")

// List yields the objects by key. Of a directory it holds the names that are
// asked for, never those of a whole bucket. Objects that come or go
// meanwhile may be in it or not.
func (o *Objects) List(ctx context.Context, prefix, after string) iter.Seq2[engine.ObjectInfo, error] {
	return func(yield func(engine.ObjectInfo, error) bool) {
		l := listing{ctx: ctx, prefix: prefix, after: after, yield: yield}
		// Everything with the prefix stands in one directory or below it.
		dir, _ := splitPrefix(prefix)
		if dir != "" && checkKey(strings.TrimSuffix(dir, "/")) != nil {
			return // no key is like that
		}
		err := ctx.Err()
		if err == nil {
			err = l.walk(o.path(dir), dir)
		}
		if err != nil && !errors.Is(err, errStopped) {
			yield(engine.ObjectInfo{}, fmt.Errorf("list objects %s: %w", prefix, err))
		}
	}
}

// splitPrefix cuts a prefix behind its last slash.
func splitPrefix(prefix string) (dir, rest string) {
	i := strings.LastIndexByte(prefix, '/') + 1
	return prefix[:i], prefix[i:]
}

type listing struct {
	ctx           context.Context //nolint:containedctx // lives as long as the call that it is the context of
	prefix, after string
	yield         func(engine.ObjectInfo, error) bool
}

// walk yields what is in a directory whose keys begin with dir, which is empty
// or ends with a slash.
//
// Keys are not ordered like names: "a-b" sorts before "a/b", for '-' sorts before
// '/'. A directory is sorted as its name with the slash, which all its keys
// begin with.
func (l *listing) walk(path, dir string) error {
	keys, err := l.read(path, dir)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := l.ctx.Err(); err != nil {
			return err
		}
		name := filepath.Join(path, key[len(dir):])
		if strings.HasSuffix(key, "/") {
			if err := l.walk(name, key); err != nil {
				return err
			}
			continue
		}
		info, err := os.Lstat(name)
		if isAbsent(err) {
			continue // deleted meanwhile
		}
		if err != nil {
			return err
		}
		if !l.yield(engine.ObjectInfo{Key: key, Size: info.Size()}, nil) {
			return errStopped
		}
	}
	return nil
}

// read gives the keys of the files in a directory, and of its directories with
// a slash, sorted, as far as the listing asks for them.
func (l *listing) read(path, dir string) ([]string, error) {
	f, err := os.Open(path)
	if isAbsent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var keys []string
	for {
		entries, err := f.ReadDir(readDirChunk)
		for _, e := range entries {
			if key, ok := l.wants(dir, e); ok {
				keys = append(keys, key)
			}
		}
		switch {
		case errors.Is(err, io.EOF) || isAbsent(err):
			slices.Sort(keys)
			return keys, nil
		case err != nil:
			return nil, err
		case l.ctx.Err() != nil:
			return nil, l.ctx.Err()
		}
	}
}

func (l *listing) wants(dir string, e fs.DirEntry) (key string, ok bool) {
	if checkName(e.Name()) != nil {
		return "", false // ours, or a stranger
	}
	key = dir + e.Name()
	if e.IsDir() {
		key += "/"
		return key, (strings.HasPrefix(key, l.prefix) || strings.HasPrefix(l.prefix, key)) &&
			(key > l.after || strings.HasPrefix(l.after, key))
	}
	return key, e.Type().IsRegular() && strings.HasPrefix(key, l.prefix) && key > l.after
}
