package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jsonlake/lake/pkg/engine/codec"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

// catalogCheck looks at one catalog of the index.
type catalogCheck struct {
	v     *verification
	name  string
	did   Verified
	live  []Run // of the view
	found []Finding
}

func (c *catalogCheck) fault(kind FindingKind, key string, at Version, format string, args ...any) {
	f := Finding{Kind: kind, Key: key, Catalog: c.name, Detail: fmt.Sprintf(format, args...)}
	if !at.IsZero() {
		f.Version = &at
	}
	c.found = append(c.found, f)
}

// run collects the findings, but for those of the live runs; the error is of a check
// that could not be made.
func (c *catalogCheck) run(ctx context.Context) error {
	view, err := c.view(ctx)
	if err != nil || view.Head.IsZero() { // damaged, or listed and emptied since
		return err
	}
	c.live, c.did.Runs = view.Runs, len(view.Runs)
	c.counts(&view)
	return c.snapshots(ctx, &view)
}

// view is what the index says; none when it is damaged, which is a finding.
func (c *catalogCheck) view(ctx context.Context) (view View, err error) {
	err = c.v.ask(ctx, func(ctx context.Context, n uint64) (err error) {
		view, err = c.v.e.index.View(ctx, n, c.name, Version{})
		return err
	})
	if errors.Is(err, ErrDamaged) {
		c.fault(FindingIndexDamaged, "", Version{}, "%v; the next read makes the lake refill this shard from the bucket, or run `lake rebuild`", err)
		return View{}, nil
	}
	return view, err
}

// counts compares the head with the runs.
func (c *catalogCheck) counts(v *View) {
	at, deltas, size := v.Snapshot.Stop, int64(0), int64(0)
	for _, r := range v.Runs {
		if !at.Less(r.First) || r.Last != r.First.Add(r.N-1) {
			c.fault(FindingHead, "", r.First, "the live log of catalog %q has a run %s to %s of %d deltas after version %s; run `lake rebuild`", c.name, r.First, r.Last, r.N, at)
		}
		at = r.Last
		deltas += int64(r.N)
		size += r.Len
	}
	if at != v.Head {
		c.fault(FindingHead, "", v.Head, "catalog %q is at version %s, its snapshot and live log end at %s; run `lake rebuild`", c.name, v.Head, at)
	}
	if deltas != v.Deltas || size != v.Bytes {
		c.fault(FindingCounts, "", Version{}, "the index counts %d deltas and %d bytes in the live log of catalog %q, its runs have %d and %d; run `lake rebuild`", v.Deltas, v.Bytes, c.name, deltas, size)
	}
}

// replayed is a snapshot that was read.
type replayed struct {
	Snapshot
	body []byte // nil: absent
	ok   bool   // read and decoded
}

// snapshots walks the chain up to the view's latest.
func (c *catalogCheck) snapshots(ctx context.Context, view *View) error {
	const page = 100
	var oldest Version
	var last replayed
	for last.Stop.Less(view.Snapshot.Stop) {
		var snaps []Snapshot
		err := c.v.ask(ctx, func(ctx context.Context, n uint64) (err error) {
			snaps, err = c.v.e.index.Snapshots(ctx, n, c.name, last.Stop, page)
			return err
		})
		if err != nil {
			return fmt.Errorf("list snapshots: %w", err)
		}
		for _, s := range snaps {
			if view.Snapshot.Stop.Less(s.Stop) {
				break
			}
			if oldest.IsZero() {
				oldest = s.Stop
			}
			if last, err = c.snapshot(ctx, s, last, oldest); err != nil {
				return err
			}
		}
		if len(snaps) == 0 || view.Snapshot.Stop.Less(snaps[0].Stop) {
			break
		}
	}
	if last.Stop != view.Snapshot.Stop {
		c.fault(FindingChain, SnapshotKey(c.name, view.Snapshot.Start, view.Snapshot.Stop), view.Snapshot.Stop,
			"the head of catalog %q names the snapshot at %s, which is not among the registered ones; run `lake rebuild`", c.name, view.Snapshot.Stop)
	}
	return nil
}

// snapshot looks at one snapshot with its pack, and makes it again from the one
// before.
func (c *catalogCheck) snapshot(ctx context.Context, s Snapshot, last replayed, oldest Version) (replayed, error) {
	c.did.Snapshots++
	now, err := c.read(ctx, s)
	if err != nil {
		return now, err
	}
	deltas, outcomes, ok, err := c.pack(ctx, s)
	if err != nil {
		return now, err
	}
	if s.Start == s.Stop { // a purge: the history begins with it
		if now.ok && now.body != nil {
			c.fault(FindingReplay, SnapshotKey(c.name, s.Start, s.Stop), s.Stop, "the snapshot of a purge of catalog %q at %s holds a document; keep the object and report it", c.name, s.Stop)
		}
		return now, nil
	}
	base, err := c.before(ctx, s, last, oldest)
	if err != nil || !now.ok || !ok || !base.ok {
		return now, err
	}
	c.did.Replayed++
	body, got, err := merge.Merge(base.body, deltas, c.v.e.opts.Limits)
	switch {
	case err != nil:
		c.fault(FindingReplay, SnapshotKey(c.name, s.Start, s.Stop), s.Stop, "merging catalog %q from %s to %s: %v", c.name, s.Start, s.Stop, err)
	case !bytes.Equal(body, now.body) || (body == nil) != (now.body == nil):
		c.fault(FindingReplay, SnapshotKey(c.name, s.Start, s.Stop), s.Stop,
			"the document of catalog %q at %s is not what the one at %s and the pack %s give (were other limits in force when it was folded?); one of the three is not what was written: %s", c.name, s.Stop, s.Start, PackKey(c.name, s.Start, s.Stop), restoreHint)
	case !slices.Equal(got, outcomes):
		c.fault(FindingReplay, PackKey(c.name, s.Start, s.Stop), s.Stop,
			"the pack of catalog %q from %s to %s records other outcomes than merging it gives (were other limits in force when it was folded?); %s", c.name, s.Start, s.Stop, restoreHint)
	}
	return now, nil
}

func (c *catalogCheck) read(ctx context.Context, s Snapshot) (replayed, error) {
	r := replayed{Snapshot: s}
	key := SnapshotKey(c.name, s.Start, s.Stop)
	b, err := c.v.get(ctx, key, 0, -1)
	if errors.Is(err, ErrNotExist) {
		c.fault(FindingSnapshotMissing, key, s.Stop, "the snapshot of catalog %q at %s is not in the bucket; %s, or run `lake rebuild`, which goes back to the snapshot before as far as segments and packs allow", c.name, s.Stop, restoreHint)
		return r, nil
	}
	if err == nil {
		r.body, err = decodeSnapshot(key, c.name, s, b)
	}
	if errors.Is(err, ErrDamaged) {
		c.fault(FindingSnapshotDamaged, key, s.Stop, "%v; %s", err, restoreHint)
		return r, nil
	}
	r.ok = err == nil
	return r, err
}

// before is the snapshot at which s starts. It is not ok where that is not kept any
// more, or cannot be read, which was told when it was its turn.
func (c *catalogCheck) before(ctx context.Context, s Snapshot, last replayed, oldest Version) (replayed, error) {
	switch {
	case s.Start.IsZero():
		return replayed{ok: true}, nil
	case last.Stop == s.Start:
		return last, nil
	case s.Start.Less(oldest) || s.Stop == oldest:
		return replayed{}, nil // the history before it was given up
	}
	var snaps []Snapshot
	err := c.v.ask(ctx, func(ctx context.Context, n uint64) (err error) {
		snaps, err = c.v.e.index.Snapshots(ctx, n, c.name, before(s.Start), 1)
		return err
	})
	if err != nil {
		return replayed{}, fmt.Errorf("list snapshots: %w", err)
	}
	if len(snaps) == 0 || snaps[0].Stop != s.Start {
		c.fault(FindingChain, SnapshotKey(c.name, s.Start, s.Stop), s.Stop,
			"the snapshot of catalog %q at %s starts at %s, where no registered snapshot stops: the bucket had lost it when the index was rebuilt; %s and run `lake rebuild`", c.name, s.Stop, s.Start, restoreHint)
		return replayed{}, nil
	}
	found := len(c.found)
	r, err := c.read(ctx, snaps[0])
	c.found = c.found[:found]
	return r, err
}

// pack reads the deltas and outcomes (start, stop].
func (c *catalogCheck) pack(ctx context.Context, s Snapshot) (ds []merge.Delta, os []merge.Outcome, ok bool, err error) {
	key := PackKey(c.name, s.Start, s.Stop)
	b, err := c.v.get(ctx, key, 0, -1)
	if errors.Is(err, ErrNotExist) {
		c.fault(FindingPackMissing, key, s.Stop, "the deltas of catalog %q from %s to %s are not in the bucket: documents are whole, this part of the log is not; %s", c.name, s.Start, s.Stop, restoreHint)
		return nil, nil, false, nil
	}
	if err != nil && !errors.Is(err, ErrDamaged) {
		return nil, nil, false, err
	}
	at := s.Start
	if s.Start == s.Stop {
		at = before(s.Start)
	}
	if err == nil {
		err = func() error {
			for f, err := range codec.Frames(b, codec.Options{MaxPayload: maxFramePayload}) {
				if err != nil {
					return err
				}
				first := versionOf(f.First)
				if f.Kind != codec.KindPack || f.Catalog != c.name || f.N == 0 || !at.Less(first) {
					return fmt.Errorf("at byte %d stands %s %s of %q, after version %s", f.Off, f.Kind, first, f.Catalog, at)
				}
				d, o, err := decodePack(&f.Frame)
				if err != nil {
					return err
				}
				ds, os = append(ds, d...), append(os, o...)
				at = first.Add(int(f.N) - 1)
			}
			if at != s.Stop {
				return fmt.Errorf("its deltas end at version %s", at)
			}
			return nil
		}()
	}
	if err != nil && c.v.lost.get(key) != nil {
		return nil, nil, false, nil // which control has told
	}
	if err != nil {
		c.fault(FindingPackDamaged, key, s.Stop, "%s is damaged: %v; %s", key, err, restoreHint)
		return nil, nil, false, nil
	}
	return ds, os, true, nil
}

// runs reads live runs from where the index says that they stand.
func (c *catalogCheck) runs(ctx context.Context, runs []Run) error {
	all := make([]int, len(runs))
	for i := range all {
		all[i] = i
	}
	for _, f := range fetches(runs, all) {
		key := f.segment.Key()
		for len(f.runs) > 0 { // a ranged read of a few MiB at most, unless a run alone is larger
			n, to := 1, runs[f.runs[0]].Off+runs[f.runs[0]].Len
			off := runs[f.runs[0]].Off
			for n < len(f.runs) && runs[f.runs[n]].Off+runs[f.runs[n]].Len-off <= 4<<20 {
				to = max(to, runs[f.runs[n]].Off+runs[f.runs[n]].Len)
				n++
			}
			if err := c.runsAt(ctx, key, off, to, runs, f.runs[:n]); err != nil {
				return err
			}
			f.runs = f.runs[n:]
		}
	}
	return nil
}

func (c *catalogCheck) runsAt(ctx context.Context, key string, off, to int64, runs []Run, which []int) error {
	b, err := c.v.get(ctx, key, off, to-off)
	switch first := runs[which[0]].First; {
	case errors.Is(err, ErrNotExist):
		c.fault(FindingRunMissing, key, first, "%d acknowledged runs of catalog %q, from version %s on, stand in %s, which is not in the bucket; %s: a rebuild would lose them", len(which), c.name, first, key, restoreHint)
		return nil
	case errors.Is(err, ErrDamaged):
		c.fault(FindingRunDamaged, key, first, "%d runs of catalog %q, from version %s on, cannot be read: %v; %s", len(which), c.name, first, err, restoreHint)
		return nil
	case err != nil:
		return err
	}
	for _, i := range which {
		r := runs[i]
		f, n, err := codec.Decode(b[r.Off-off:r.Off-off+r.Len], codec.Options{MaxPayload: maxFramePayload})
		if err == nil && int64(n) != r.Len {
			err = fmt.Errorf("its frame has %d bytes, the index says %d", n, r.Len)
		}
		if err == nil {
			err = sameRun(c.name, &r, &f)
		}
		if err != nil {
			c.fault(FindingRunDamaged, key, r.First, "run %s of catalog %q is not what the index says at byte %d of %s: %v; %s", r.First, c.name, r.Off, key, err, restoreHint)
		}
	}
	return nil
}

// sameRun tells in what a frame is not the run that the index says, nil: in nothing.
func sameRun(catalog string, r *Run, f *codec.Frame) error {
	if f.Kind != codec.KindRun || f.Catalog != catalog || versionOf(f.First) != r.First || int(f.N) != r.N {
		return fmt.Errorf("there stands %s %s of %q", f.Kind, versionOf(f.First), f.Catalog)
	}
	ds, err := decodeRun(nil, f)
	if err == nil && r.N == 1 && r.Type != 0 && (ds[0].Type != r.Type || ds[0].Path != r.Path) {
		err = fmt.Errorf("its delta is of type %d at %s, the index says %d at %s", ds[0].Type, ds[0].Path, r.Type, r.Path)
	}
	return err
}
