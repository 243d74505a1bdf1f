package disk

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/jsonlake/lake/pkg/engine"
)

// WorkOnBrokenDisk lets an index work on a disk that stops writing, and holds it
// to what it owes then: errors that tell, no panic, no hang. It runs in a process of
// its own: what is left of the store is not closed.
func WorkOnBrokenDisk(dir string, sync bool) error {
	ctx := context.Background()
	broken := &errorfs.Toggle{Injector: errorfs.InjectorFunc(func(op errorfs.Op) error {
		if (op.Kind == errorfs.OpFileWrite || op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) && strings.HasSuffix(op.Path, ".log") {
			return errors.New("no space left on device")
		}
		return nil
	})}
	x, err := OpenIndex(dir, Options{fs: errorfs.Wrap(vfs.Default, broken)})
	if err != nil {
		return err
	}
	for shard := range engine.Shards {
		if err := errors.Join(x.Fence(ctx, shard, 1), x.Open(ctx, shard, 1, 0)); err != nil {
			return err
		}
	}
	broken.On()
	if sync {
		err = x.SetEvents(ctx, true)
	} else {
		for n := uint64(1); err == nil && n < 100_000; n++ {
			var r engine.Reservation
			r, err = x.PreCommit(ctx, engine.PreCommit{Epoch: 1, Segment: engine.SegmentID{Epoch: 1, Writer: "aaaaaaaa", N: n}, Runs: []engine.Reserve{{Catalog: "users", N: 1}}})
			if err == nil {
				err = r.Runs[0].Err
			}
		}
	}
	_, viewErr := x.View(ctx, 1, "users", engine.Version{})
	for what, err := range map[string]error{"write": err, "view": viewErr, "close": x.Close()} {
		if !errors.Is(err, engine.ErrUnavailable) || !strings.Contains(err.Error(), "no space left") {
			return fmt.Errorf("%s: got %w, want %w that tells the cause", what, err, engine.ErrUnavailable)
		}
	}
	if _, err := OpenIndex(dir, Options{}); !errors.Is(err, ErrLocked) {
		return fmt.Errorf("open beside the remains of the store: got %w, want %w", err, ErrLocked)
	}
	return nil
}
