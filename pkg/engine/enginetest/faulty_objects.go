package enginetest

import (
	"context"
	"iter"

	"github.com/jsonlake/lake/pkg/engine"
)

// FaultyObjects lets faults happen to the calls of a store, and counts them.
type FaultyObjects struct {
	injector
	objects engine.Objects
}

var _ engine.Objects = (*FaultyObjects)(nil)

// NewFaultyObjects wraps a store. A fault of List comes before or after the
// whole sequence.
func NewFaultyObjects(o engine.Objects, f Faults) *FaultyObjects {
	return &FaultyObjects{objects: o, injector: injector{faults: f}}
}

// CountingObjects counts the calls of a store.
func CountingObjects(o engine.Objects) *FaultyObjects { return NewFaultyObjects(o, nil) }

// Put implements engine.Objects.
func (o *FaultyObjects) Put(ctx context.Context, key string, data []byte) error {
	return o.do(ctx, "Put", key, func() error { return o.objects.Put(ctx, key, data) })
}

// Get implements engine.Objects.
func (o *FaultyObjects) Get(ctx context.Context, key string) ([]byte, error) {
	return ask(&o.injector, ctx, "Get", key, func() ([]byte, error) { return o.objects.Get(ctx, key) })
}

// GetRange implements engine.Objects.
func (o *FaultyObjects) GetRange(ctx context.Context, key string, off, length int64) ([]byte, error) {
	return ask(&o.injector, ctx, "GetRange", key, func() ([]byte, error) { return o.objects.GetRange(ctx, key, off, length) })
}

// Delete implements engine.Objects.
func (o *FaultyObjects) Delete(ctx context.Context, key string) error {
	return o.do(ctx, "Delete", key, func() error { return o.objects.Delete(ctx, key) })
}

// List implements engine.Objects.
func (o *FaultyObjects) List(ctx context.Context, prefix, after string) iter.Seq2[engine.ObjectInfo, error] {
	return func(yield func(engine.ObjectInfo, error) bool) {
		stopped := false
		err := o.do(ctx, "List", prefix, func() error {
			for info, err := range o.objects.List(ctx, prefix, after) {
				if err != nil {
					return err
				}
				if stopped = !yield(info, nil); stopped {
					return nil
				}
			}
			return nil
		})
		if err != nil && !stopped {
			yield(engine.ObjectInfo{}, err)
		}
	}
}
