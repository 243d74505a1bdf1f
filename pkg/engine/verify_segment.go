package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jsonlake/lake/pkg/engine/codec"
)

// segments looks at every segment that counts.
func (v *verification) segments(ctx context.Context) error {
	total := 0
	for _, err := range v.e.objects.List(ctx, walPrefix, "") {
		if err != nil {
			return fmt.Errorf("list %s: %w", walPrefix, err)
		}
		total++
	}
	v.begin("segments", total)
	err := workers(ctx, v.req.Workers, func(yield func(SegmentID) error) error {
		sealedOf, sealed := uint64(0), map[string]bool(nil)
		for o, err := range v.e.objects.List(ctx, walPrefix, "") {
			if err != nil {
				return fmt.Errorf("list %s: %w", walPrefix, err)
			}
			id, err := ParseSegmentKey(o.Key)
			if err != nil {
				v.report(Finding{Kind: FindingStray, Key: o.Key, Detail: o.Key + " is no key of a segment: somebody else put it there; it counts nowhere"})
				continue
			}
			if id.Epoch != sealedOf {
				sealedOf = id.Epoch
				if sealed, err = v.sealed(ctx, id.Epoch); err != nil {
					return err
				}
			}
			if sealed != nil && !sealed[o.Key] {
				v.report(Finding{Kind: FindingStray, Key: o.Key, Detail: o.Key + " came after its epoch was sealed: it counts nowhere, its writer was never answered, and the collector deletes it"})
				v.progress("segments", 1)
				continue
			}
			if err := yield(id); err != nil {
				return err
			}
		}
		return nil
	}, func(ctx context.Context, id SegmentID) error {
		expected := v.expectedIn(id)
		var doubtful []expectation
		fs, err := certain(ctx, func() (fs []Finding, err error) {
			fs, doubtful, err = v.segment(ctx, id, expected)
			return fs, err
		})
		if err == nil {
			v.count(func(d *Verified) { d.Segments++ })
			v.report(fs...)
			err = v.lookAt(ctx, doubtful)
		}
		if err != nil {
			return fmt.Errorf("verify segment %s: %w", id.Key(), err)
		}
		v.progress("segments", 1)
		return nil
	})
	if err != nil {
		return err
	}
	// What is left should stand in segments that are not there, or do not count.
	for id, left := range v.expects {
		if err := v.lookAt(ctx, left); err != nil {
			return fmt.Errorf("verify the runs in %s: %w", id.Key(), err)
		}
	}
	return nil
}

// expectation is a live run that should stand in a segment.
type expectation struct {
	catalog string
	run     Run
}

// maxExpected bounds the live runs that are kept in memory until their segments are
// read, some 150 bytes each.
const maxExpected = 1 << 20

// expect keeps the live runs of a catalog until their segments are read. Those for
// which there is no room are looked at now.
func (v *verification) expect(ctx context.Context, catalog string, live []Run) error {
	v.mu.Lock()
	room := v.expected+len(live) <= maxExpected
	if room {
		v.expected += len(live)
		for _, r := range live {
			v.expects[r.Segment] = append(v.expects[r.Segment], expectation{catalog, r})
		}
	}
	v.mu.Unlock()
	if room {
		return nil
	}
	all := make([]expectation, len(live))
	for i, r := range live {
		all[i] = expectation{catalog, r}
	}
	return v.lookAt(ctx, all)
}

// expectedIn takes the live runs that should stand in a segment.
func (v *verification) expectedIn(id SegmentID) []expectation {
	v.mu.Lock()
	defer v.mu.Unlock()
	list := v.expects[id]
	delete(v.expects, id)
	v.expected -= len(list)
	return list
}

// lookAt looks at runs that were live: those that still are, by a new view, are read
// from where the index says that they stand.
func (v *verification) lookAt(ctx context.Context, doubtful []expectation) error {
	of := map[string]map[Version]bool{}
	for _, x := range doubtful {
		if of[x.catalog] == nil {
			of[x.catalog] = map[Version]bool{}
		}
		of[x.catalog][x.run.First] = true
	}
	fs, err := certain(ctx, func() (fs []Finding, err error) {
		for _, name := range slices.Sorted(maps.Keys(of)) {
			c := catalogCheck{v: v, name: name}
			view, err := c.view(ctx)
			if err == nil {
				err = c.runs(ctx, slices.DeleteFunc(view.Runs, func(r Run) bool { return !of[name][r.First] }))
			}
			if err != nil {
				return nil, fmt.Errorf("catalog %q: %w", name, err)
			}
			fs = append(fs, c.found...)
		}
		return fs, nil
	})
	v.report(fs...)
	return err
}

// sealed is what the seal of an epoch names; nil when it has none that can be read:
// then all segments count.
func (v *verification) sealed(ctx context.Context, epoch uint64) (map[string]bool, error) {
	s, err := v.e.seal(ctx, epoch, epoch+1, true)
	if errors.Is(err, ErrNotExist) || errors.Is(err, ErrDamaged) { // which control has told, if it should have one
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the seal of epoch %d: %w", epoch, err)
	}
	keys := make(map[string]bool, len(s.Segments))
	for _, key := range s.Segments {
		keys[key] = true
	}
	return keys, nil
}

// segment reads one segment whole, compares it with the live runs that should stand
// in it, and asks the index for every other run of it. It gives those that do not
// stand there as they should.
func (v *verification) segment(ctx context.Context, id SegmentID, expected []expectation) (fs []Finding, doubtful []expectation, err error) {
	key := id.Key()
	at := make(map[int64]*expectation, len(expected)) // by where it should stand
	for i := range expected {
		at[expected[i].run.Off] = &expected[i]
	}
	sound := map[*expectation]bool{}
	defer func() {
		for i := range expected {
			if !sound[&expected[i]] {
				doubtful = append(doubtful, expected[i])
			}
		}
	}()
	damaged := func(err error) ([]Finding, []expectation, error) {
		return []Finding{{Kind: FindingSegmentDamaged, Key: key, Detail: fmt.Sprintf("%s is damaged: %v; a new epoch that needs it cannot be opened: %s", key, err, lossHint(key))}}, nil, nil
	}
	b, err := v.get(ctx, key, 0, -1)
	if errors.Is(err, ErrNotExist) {
		return nil, nil, nil // collected since it was listed
	}
	if err != nil {
		return nil, nil, err
	}
	lost := v.lost.get(key)
	if len(b) == 0 && lost == nil {
		return damaged(errors.New("it is empty"))
	}
	var ask []Relocation
	for f, err := range framesOf(b, lost) {
		if err == nil && f.Kind == codec.KindTombstone && f.Len == int64(len(b)) {
			return nil, nil, nil // it never was
		}
		if err == nil && f.Kind != codec.KindRun {
			err = fmt.Errorf("frame at byte %d is a %s", f.Off, f.Kind)
		}
		if x := at[f.Off]; err == nil && x != nil && f.Len == x.run.Len && sameRun(x.catalog, &x.run, &f.Frame) == nil {
			sound[x] = true
			continue
		}
		if err == nil {
			_, err = decodeRun(nil, &f.Frame)
		}
		if err != nil {
			return damaged(err)
		}
		if strings.HasPrefix(f.Catalog, v.req.Prefix) {
			ask = append(ask, Relocation{Catalog: f.Catalog, First: versionOf(f.First), From: id})
		}
	}
	if len(ask) == 0 {
		return nil, nil, nil
	}
	var live []bool
	err = v.ask(ctx, func(ctx context.Context, n uint64) (err error) {
		live, err = v.e.index.Relocate(ctx, Relocate{Epoch: n, Runs: ask})
		return err
	})
	if errors.Is(err, ErrDamaged) {
		live, err = make([]bool, len(ask)), nil // the views tell
	}
	if err != nil {
		return nil, nil, fmt.Errorf("ask the index for its runs: %w", err)
	}
	for i, r := range ask {
		if live[i] {
			continue
		}
		known, err := v.knows(ctx, r)
		if err != nil {
			return nil, nil, err
		}
		if !known {
			fs = append(fs, Finding{Kind: FindingRunUnknown, Key: key, Catalog: r.Catalog, Version: &r.First,
				Detail: fmt.Sprintf("%s holds run %s of catalog %q, which the index neither has in its live log nor below a snapshot; run `lake rebuild`", key, r.First, r.Catalog)})
		}
	}
	return fs, nil, nil
}

// undecided is how long a segment may wait to be committed or given up (I6), and a
// little more.
const undecided = 20 * time.Second

// knows tells whether the index has a run that does not stand in the live log at
// its segment: folded, standing in another segment, or on its way, which is
// waited for.
func (v *verification) knows(ctx context.Context, r Relocation) (bool, error) {
	for end := time.Now().Add(undecided); ; {
		var view View
		err := v.ask(ctx, func(ctx context.Context, n uint64) (err error) {
			view, err = v.e.index.View(ctx, n, r.Catalog, Version{})
			return err
		})
		if errors.Is(err, ErrDamaged) {
			return true, nil // nothing can be told; the catalog's own check has
		}
		if err != nil {
			return false, fmt.Errorf("view of catalog %q: %w", r.Catalog, err)
		}
		_, there := slices.BinarySearchFunc(view.Runs, r.First, func(run Run, first Version) int { return run.First.Compare(first) })
		if there || !view.Snapshot.Stop.Less(r.First) {
			return true, nil
		}
		if !view.Pending || time.Now().After(end) {
			return false, nil
		}
		if err := sleep(ctx, lookAgain); err != nil {
			return false, err
		}
	}
}
