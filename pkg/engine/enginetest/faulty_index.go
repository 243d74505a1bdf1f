package enginetest

import (
	"context"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// FaultyIndex lets faults happen to the calls of an index, and counts them.
// Exclusive and Close have none.
type FaultyIndex struct {
	injector
	index IndexUnderTest
}

var _ IndexUnderTest = (*FaultyIndex)(nil)

// NewFaultyIndex wraps an index.
func NewFaultyIndex(x IndexUnderTest, f Faults) *FaultyIndex {
	return &FaultyIndex{index: x, injector: injector{faults: f}}
}

// PreCommit implements engine.Index.
func (x *FaultyIndex) PreCommit(ctx context.Context, p engine.PreCommit) (engine.Reservation, error) {
	return ask(&x.injector, ctx, "PreCommit", p.Segment.String(), func() (engine.Reservation, error) { return x.index.PreCommit(ctx, p) })
}

// Commit implements engine.Index.
func (x *FaultyIndex) Commit(ctx context.Context, c engine.Commit) ([]engine.Committed, error) {
	return ask(&x.injector, ctx, "Commit", c.Segment.String(), func() ([]engine.Committed, error) { return x.index.Commit(ctx, c) })
}

// Rollback implements engine.Index.
func (x *FaultyIndex) Rollback(ctx context.Context, r engine.Rollback) error {
	return x.do(ctx, "Rollback", r.Segment.String(), func() error { return x.index.Rollback(ctx, r) })
}

// View implements engine.Index.
func (x *FaultyIndex) View(ctx context.Context, epoch uint64, catalog string, after engine.Version) (engine.View, error) {
	return ask(&x.injector, ctx, "View", catalog, func() (engine.View, error) { return x.index.View(ctx, epoch, catalog, after) })
}

// Snapshots implements engine.Index.
func (x *FaultyIndex) Snapshots(ctx context.Context, epoch uint64, catalog string, after engine.Version, limit int) ([]engine.Snapshot, error) {
	return ask(&x.injector, ctx, "Snapshots", catalog, func() ([]engine.Snapshot, error) { return x.index.Snapshots(ctx, epoch, catalog, after, limit) })
}

// Fold implements engine.Index.
func (x *FaultyIndex) Fold(ctx context.Context, f engine.Fold) error {
	return x.do(ctx, "Fold", f.Catalog, func() error { return x.index.Fold(ctx, f) })
}

// Catalogs implements engine.Index.
func (x *FaultyIndex) Catalogs(ctx context.Context, epoch uint64, prefix, after string, limit int) ([]engine.CatalogInfo, error) {
	return ask(&x.injector, ctx, "Catalogs", prefix, func() ([]engine.CatalogInfo, error) { return x.index.Catalogs(ctx, epoch, prefix, after, limit) })
}

// Close implements engine.Index.
func (x *FaultyIndex) Close() error { return x.index.Close() }

// Heartbeat implements engine.Maintenance.
func (x *FaultyIndex) Heartbeat(ctx context.Context, epoch uint64, writer string) (time.Time, error) {
	return ask(&x.injector, ctx, "Heartbeat", writer, func() (time.Time, error) { return x.index.Heartbeat(ctx, epoch, writer) })
}

// Stuck implements engine.Maintenance.
func (x *FaultyIndex) Stuck(ctx context.Context, epoch uint64) ([]engine.Stuck, error) {
	return ask(&x.injector, ctx, "Stuck", "", func() ([]engine.Stuck, error) { return x.index.Stuck(ctx, epoch) })
}

// Plan implements engine.Maintenance.
func (x *FaultyIndex) Plan(ctx context.Context, epoch uint64, shard int, segment engine.SegmentID) ([]engine.Planned, error) {
	return ask(&x.injector, ctx, "Plan", segment.String(), func() ([]engine.Planned, error) { return x.index.Plan(ctx, epoch, shard, segment) })
}

// Garbage implements engine.Maintenance.
func (x *FaultyIndex) Garbage(ctx context.Context, epoch uint64, shard, limit int) ([]engine.Garbage, error) {
	return ask(&x.injector, ctx, "Garbage", "", func() ([]engine.Garbage, error) { return x.index.Garbage(ctx, epoch, shard, limit) })
}

// Epochs implements engine.Maintenance.
func (x *FaultyIndex) Epochs(ctx context.Context) ([]engine.ShardEpoch, error) {
	return ask(&x.injector, ctx, "Epochs", "", func() ([]engine.ShardEpoch, error) { return x.index.Epochs(ctx) })
}

// Exclusive implements engine.Maintenance.
func (x *FaultyIndex) Exclusive() bool { return x.index.Exclusive() }

// Fence implements engine.Maintenance.
func (x *FaultyIndex) Fence(ctx context.Context, shard int, n uint64) error {
	return x.do(ctx, "Fence", "", func() error { return x.index.Fence(ctx, shard, n) })
}

// Restore implements engine.Maintenance.
func (x *FaultyIndex) Restore(ctx context.Context, shard int, n uint64, r engine.Restore) error {
	return x.do(ctx, "Restore", "", func() error { return x.index.Restore(ctx, shard, n, r) })
}

// Reservations implements engine.Maintenance.
func (x *FaultyIndex) Reservations(ctx context.Context, shard int, n uint64) ([]engine.SegmentID, error) {
	return ask(&x.injector, ctx, "Reservations", "", func() ([]engine.SegmentID, error) { return x.index.Reservations(ctx, shard, n) })
}

// Resolve implements engine.Maintenance.
func (x *FaultyIndex) Resolve(ctx context.Context, shard int, n uint64, segment engine.SegmentID, committed []engine.RunKey) error {
	return x.do(ctx, "Resolve", segment.String(), func() error { return x.index.Resolve(ctx, shard, n, segment, committed) })
}

// Unused implements engine.Maintenance.
func (x *FaultyIndex) Unused(ctx context.Context, epoch uint64, segments []engine.SegmentID) ([]engine.Usage, error) {
	return ask(&x.injector, ctx, "Unused", "", func() ([]engine.Usage, error) { return x.index.Unused(ctx, epoch, segments) })
}

// Abandon implements engine.Maintenance.
func (x *FaultyIndex) Abandon(ctx context.Context, epoch uint64, shard int, segments []engine.SegmentID) error {
	return x.do(ctx, "Abandon", "", func() error { return x.index.Abandon(ctx, epoch, shard, segments) })
}

// Forget implements engine.Maintenance.
func (x *FaultyIndex) Forget(ctx context.Context, epoch uint64, shard int, list []engine.Garbage) error {
	return x.do(ctx, "Forget", "", func() error { return x.index.Forget(ctx, epoch, shard, list) })
}

// Live implements engine.Maintenance.
func (x *FaultyIndex) Live(ctx context.Context, epoch uint64, shard int, older int64, limit int) ([]engine.SegmentID, error) {
	return ask(&x.injector, ctx, "Live", "", func() ([]engine.SegmentID, error) { return x.index.Live(ctx, epoch, shard, older, limit) })
}

// Relocate implements engine.Maintenance.
func (x *FaultyIndex) Relocate(ctx context.Context, r engine.Relocate) ([]bool, error) {
	return ask(&x.injector, ctx, "Relocate", r.To.String(), func() ([]bool, error) { return x.index.Relocate(ctx, r) })
}

// Condemn implements engine.Maintenance.
func (x *FaultyIndex) Condemn(ctx context.Context, epoch uint64, shard int) error {
	return x.do(ctx, "Condemn", "", func() error { return x.index.Condemn(ctx, epoch, shard) })
}

// Empty implements engine.Maintenance.
func (x *FaultyIndex) Empty(ctx context.Context, shard int, n uint64) error {
	return x.do(ctx, "Empty", "", func() error { return x.index.Empty(ctx, shard, n) })
}

// Drop implements engine.Index.
func (x *FaultyIndex) Drop(ctx context.Context, d engine.Drop) (int, error) {
	return ask(&x.injector, ctx, "Drop", d.Catalog, func() (int, error) { return x.index.Drop(ctx, d) })
}

// Outcome implements engine.Index.
func (x *FaultyIndex) Outcome(ctx context.Context, epoch uint64, catalog, id string) (engine.IDState, error) {
	return ask(&x.injector, ctx, "Outcome", catalog, func() (engine.IDState, error) { return x.index.Outcome(ctx, epoch, catalog, id) })
}

// Open implements engine.Maintenance.
func (x *FaultyIndex) Open(ctx context.Context, shard int, n uint64, floor int64) error {
	return x.do(ctx, "Open", "", func() error { return x.index.Open(ctx, shard, n, floor) })
}

// SetEvents implements engine.Outbox.
func (x *FaultyIndex) SetEvents(ctx context.Context, on bool) error {
	return x.do(ctx, "SetEvents", "", func() error { return x.index.SetEvents(ctx, on) })
}

// Next implements engine.Outbox.
func (x *FaultyIndex) Next(ctx context.Context, epoch uint64, shards []int, limit int) ([]engine.OutboxBatch, error) {
	return ask(&x.injector, ctx, "Next", "", func() ([]engine.OutboxBatch, error) { return x.index.Next(ctx, epoch, shards, limit) })
}

// Trim implements engine.Outbox.
func (x *FaultyIndex) Trim(ctx context.Context, epoch uint64, shard int, upTo string) error {
	return x.do(ctx, "Trim", upTo, func() error { return x.index.Trim(ctx, epoch, shard, upTo) })
}

// Acquire implements engine.Leases.
func (x *FaultyIndex) Acquire(ctx context.Context, shard int, name, token string, ttl time.Duration) (bool, error) {
	return ask(&x.injector, ctx, "Acquire", name, func() (bool, error) { return x.index.Acquire(ctx, shard, name, token, ttl) })
}

// Release implements engine.Leases.
func (x *FaultyIndex) Release(ctx context.Context, shard int, name, token string) error {
	return x.do(ctx, "Release", name, func() error { return x.index.Release(ctx, shard, name, token) })
}
