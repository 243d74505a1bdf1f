package memory

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/jsonlake/lake/pkg/engine"
)

// Objects is an engine.Objects.
type Objects struct {
	mu      sync.Mutex
	objects map[string][]byte
}

var _ engine.Objects = (*Objects)(nil)

// NewObjects makes an empty bucket.
func NewObjects() *Objects { return &Objects{objects: make(map[string][]byte)} }

// Clone copies the bucket as it stands.
func (o *Objects) Clone() *Objects {
	o.mu.Lock()
	defer o.mu.Unlock()
	return &Objects{objects: maps.Clone(o.objects)} // contents are never changed
}

// Put creates the object, ErrExists when there is one.
func (o *Objects) Put(ctx context.Context, key string, data []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if key == "" {
		return fmt.Errorf("put an object without a key: %w", engine.ErrInvalid)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, there := o.objects[key]; there {
		return fmt.Errorf("put %s: %w", key, engine.ErrExists)
	}
	o.objects[key] = bytes.Clone(data)
	return nil
}

// Get reads a whole object.
func (o *Objects) Get(ctx context.Context, key string) ([]byte, error) {
	data, err := o.get(ctx, key)
	return bytes.Clone(data), err
}

func (o *Objects) get(ctx context.Context, key string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	data, there := o.objects[key]
	if !there {
		return nil, fmt.Errorf("get %s: %w", key, engine.ErrNotExist)
	}
	return data, nil
}

// GetRange reads a part of an object.
func (o *Objects) GetRange(ctx context.Context, key string, off, length int64) ([]byte, error) {
	if off < 0 || length < 0 {
		return nil, fmt.Errorf("get %d bytes from %d of %s: %w", length, off, key, engine.ErrInvalid)
	}
	data, err := o.get(ctx, key)
	if err != nil {
		return nil, err
	}
	if size := int64(len(data)); off > size || length > size-off {
		return nil, fmt.Errorf("get %d bytes from %d of %s, which has %d: %w", length, off, key, size, engine.ErrDamaged)
	}
	return bytes.Clone(data[off : off+length]), nil
}

// Delete removes an object if it is there.
func (o *Objects) Delete(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.objects, key)
	return nil
}

// List yields the objects by key, as they stood when the iteration began.
func (o *Objects) List(ctx context.Context, prefix, after string) iter.Seq2[engine.ObjectInfo, error] {
	return func(yield func(engine.ObjectInfo, error) bool) {
		for _, info := range o.list(prefix, after) {
			if err := ctx.Err(); err != nil {
				yield(engine.ObjectInfo{}, err)
				return
			}
			if !yield(info, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(engine.ObjectInfo{}, err)
		}
	}
}

func (o *Objects) list(prefix, after string) []engine.ObjectInfo {
	o.mu.Lock()
	defer o.mu.Unlock()
	var list []engine.ObjectInfo
	for key, data := range o.objects {
		if strings.HasPrefix(key, prefix) && key > after {
			list = append(list, engine.ObjectInfo{Key: key, Size: int64(len(data))})
		}
	}
	slices.SortFunc(list, func(a, b engine.ObjectInfo) int { return strings.Compare(a.Key, b.Key) })
	return list
}
