package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/jsonlake/lake/pkg/engine"
)

// maxNameBytes is the longest part of a key between slashes: what common file
// systems allow for a name.
const maxNameBytes = 255

// Objects is a bucket in a directory of a local file system: the object under
// key "a/b" is the file a/b. It needs hard links, fsync of directories
// and a lock that sees all processes: ext4, XFS, Btrfs, ZFS, APFS and NTFS do,
// network file systems do not promise it.
//
// A put costs two trips to the disk, one for the object and one for the name;
// the second is shared by all puts into a directory that are under way
// together.
//
// On a file system that folds case, keys that differ only in case are one
// file. The layout's keys come in one case each; "(users" and ")USERS" begin
// with different characters.
type Objects struct {
	root string
	tmp  *tempDir
	dirs *directories
	temp atomic.Uint64 // names of temporary files

	closed atomic.Bool
}

var _ engine.Objects = (*Objects)(nil)

// OpenObjects opens the bucket in a directory, and makes it when there is
// none. What an interrupted put has left is removed. Several processes may
// have a bucket open.
func OpenObjects(dir string) (*Objects, error) {
	root, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open object directory %s: %w", dir, err)
	}
	dirs := newDirectories(root)
	if err := dirs.makeRoot(); err != nil {
		return nil, fmt.Errorf("open object directory %s: %w", dir, err)
	}
	tmp, err := openTempDir(root)
	if err != nil {
		return nil, fmt.Errorf("open object directory %s: %w", dir, err)
	}
	return &Objects{root: root, tmp: tmp, dirs: dirs}, nil
}

// Close gives up the directory of temporary files; a put after it, or under way,
// fails. It may be repeated. Objects that are not closed are cleaned up after by the
// next OpenObjects.
func (o *Objects) Close() error {
	if o.closed.Swap(true) {
		return nil
	}
	if err := o.tmp.close(); err != nil {
		return fmt.Errorf("close object directory %s: %w", o.root, err)
	}
	return nil
}

// Put creates the object: temporary file, fsync, link to its name, fsync of the
// directory. An object has its name only when its bytes are on the disk, and
// ErrExists too is answered only when what exists is there for good.
//
// The context is looked at between the steps; from the link on the put is
// finished, and a context that ends while it waits for the disk leaves it
// unknown. After the disk has refused to make a directory durable every further
// put is refused: what the operating system then believes to be
// on the disk need not be there.
func (o *Objects) Put(ctx context.Context, key string, data []byte) error {
	if err := o.put(ctx, key, data); err != nil {
		return fmt.Errorf("put object %s: %w", key, err)
	}
	return nil
}

func (o *Objects) put(ctx context.Context, key string, data []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if err := errors.Join(ctx.Err(), o.dirs.refused()); err != nil {
		return err
	}
	if o.closed.Load() {
		return engine.ErrClosed
	}
	name := o.path(key)
	dir := filepath.Dir(name)
	if _, err := os.Lstat(name); err == nil {
		return o.exists(ctx, name)
	}
	temp := filepath.Join(o.tmp.path, strconv.FormatUint(o.temp.Add(1), 10))
	if err := writeFile(temp, data); err != nil {
		_ = os.Remove(temp) // the next open removes it otherwise
		return err
	}
	err := o.dirs.make(ctx, dir)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = os.Link(temp, name)
	}
	_ = os.Remove(temp)
	switch {
	case errors.Is(err, fs.ErrExist):
		return o.exists(ctx, name)
	case err != nil:
		o.dirs.forget(dir) // somebody may have removed it
		return err
	}
	return o.dirs.sync(ctx, dir)
}

// exists is the answer to a put that found a file: ErrExists, once the name is
// durable. Whoever created it may not have come so far, and what ErrExists says
// must hold after a power cut.
func (o *Objects) exists(ctx context.Context, name string) error {
	info, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return engine.ErrExists // deleted meanwhile: it existed
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file: a key that other keys continue with \"/\" cannot hold an object on files", name)
	}
	if err := o.dirs.sync(ctx, filepath.Dir(name)); err != nil {
		return err
	}
	return engine.ErrExists
}

// writeFile creates a file whose bytes are on the disk when it returns. Its
// name need not be.
func writeFile(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Get reads a whole object.
func (o *Objects) Get(ctx context.Context, key string) ([]byte, error) {
	data, err := o.read(ctx, key, 0, -1)
	if err != nil {
		return nil, fmt.Errorf("get object %s: %w", key, err)
	}
	return data, nil
}

// GetRange reads a part of an object.
func (o *Objects) GetRange(ctx context.Context, key string, off, length int64) ([]byte, error) {
	if off < 0 || length < 0 {
		return nil, fmt.Errorf("get %d bytes at %d of object %s: %w", length, off, key, engine.ErrInvalid)
	}
	data, err := o.read(ctx, key, off, length)
	if err != nil {
		return nil, fmt.Errorf("get %d bytes at %d of object %s: %w", length, off, key, err)
	}
	return data, nil
}

// read reads length bytes from off; the rest of the object when length is
// negative.
func (o *Objects) read(ctx context.Context, key string, off, length int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkKey(key); err != nil {
		return nil, fmt.Errorf("%w: %w", engine.ErrNotExist, err) // no object has it
	}
	f, err := os.Open(o.path(key))
	if isAbsent(err) {
		return nil, engine.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, engine.ErrNotExist
	}
	size := info.Size()
	if length < 0 {
		length = size - off
	}
	if off > size || length > size-off { // before anything is allocated for it
		return nil, fmt.Errorf("%w: it has %d bytes", engine.ErrDamaged, size)
	}
	data := make([]byte, length)
	if length == 0 {
		return data, nil // at the very end ReadAt would say EOF
	}
	if n, err := f.ReadAt(data, off); int64(n) < length {
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%w: it ended after %d bytes", engine.ErrDamaged, off+int64(n))
		}
		return nil, err
	}
	return data, nil
}

// Delete removes an object. Directories stay. A deletion may be undone by a
// power cut; what is garbage then is garbage again.
func (o *Objects) Delete(ctx context.Context, key string) error {
	err := checkKey(key)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		name := o.path(key)
		if info, serr := os.Lstat(name); isAbsent(serr) || serr == nil && info.IsDir() {
			return nil
		}
		err = os.Remove(name)
	}
	if err != nil && !isAbsent(err) {
		return fmt.Errorf("delete object %s: %w", key, err)
	}
	return nil
}

func (o *Objects) path(key string) string { return filepath.Join(o.root, filepath.FromSlash(key)) }

// checkKey refuses keys that are no path below the directory. The layout makes
// none of them.
func checkKey(key string) error {
	if key == "" {
		return fmt.Errorf("%w: an empty key", engine.ErrInvalid)
	}
	for part := range strings.SplitSeq(key, "/") {
		if err := checkName(part); err != nil {
			return err
		}
	}
	return nil
}

func checkName(part string) error {
	switch {
	case part == "":
		return fmt.Errorf("%w: the key has an empty part", engine.ErrInvalid)
	case part[0] == '.': // "..", "." and our own .tmp
		return fmt.Errorf("%w: a part of the key begins with a dot", engine.ErrInvalid)
	case len(part) > maxNameBytes:
		return fmt.Errorf("%w: a part of the key has %d bytes, at most %d are allowed", engine.ErrInvalid, len(part), maxNameBytes)
	case strings.ContainsAny(part, "\x00\\") || filepath.VolumeName(part) != "":
		return fmt.Errorf("%w: the key has a character that no key has", engine.ErrInvalid)
	}
	return nil
}

// isAbsent tells of an error that there is no file, also when what should be
// its directory is one.
func isAbsent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || isNotDir(err)
}
