package engine

import (
	"context"
	"iter"
)

// Objects is the bucket: the truth. An adapter must keep this contract, which
// enginetest.TestObjects holds it to; nothing else is asked of a store.
//
//   - Put is create-only and atomic: of any number of racers on one key exactly
//     one succeeds, the others get ErrExists; a reader sees the whole object or
//     none. When Put returns nil the object survives the loss of the process
//     and, on files, of power.
//   - Read-after-write: Get, GetRange and List see what a returned Put wrote.
//   - Any other error of Put means "unknown": the object may exist, now or
//     later. Put may be called again with the same bytes.
//   - An SDK's own retry can meet its own success and get ErrExists; callers
//     compare what is there with what they meant to put.
//
// Bytes handed in are not kept after the call; bytes handed out belong to the
// caller. Errors are ErrNotExist, ErrExists, or wrapped causes.
type Objects interface {
	// Put creates the object. ErrExists when there is one under this key.
	Put(ctx context.Context, key string, data []byte) error
	// Get reads a whole object. ErrNotExist when there is none.
	Get(ctx context.Context, key string) ([]byte, error)
	// GetRange reads length bytes from off. ErrNotExist when there is no
	// object; an object that is too short for the range is an error that wraps
	// ErrDamaged.
	GetRange(ctx context.Context, key string, off, length int64) ([]byte, error)
	// Delete removes an object; one that does not exist is not an error.
	Delete(ctx context.Context, key string) error
	// List yields the objects whose key has the prefix and is greater than
	// after, in ascending byte order of the keys. An error ends the sequence.
	List(ctx context.Context, prefix, after string) iter.Seq2[ObjectInfo, error]
}

// ObjectInfo is what a listing tells of an object.
type ObjectInfo struct {
	Key  string
	Size int64 // bytes
}
