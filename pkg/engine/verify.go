package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Verifying a lake: does the index say what the bucket holds?
//
//	control    format, epochs without a gap, a seal below every newer one, records of collections and of accepted losses
//	catalogs   each of the index: chain of snapshots, packs, replay, counts
//	segments   each that counts: every byte decodes, every live run stands where the index says, every run is known to the index
//	objects    each snapshot and pack of the bucket: registered, or named as a stray
//
// It only reads, and works on a lake in use. What looks wrong is looked at once more,
// from a new view, before it is called a fault: a run may have been on its way, a
// segment folded and collected. It reads each segment, snapshot and pack once, unless
// something looks wrong or there are more live runs than it keeps (maxExpected). In
// memory it has these, one object or two a worker, and the registered snapshots of
// one catalog.

// FindingKind says what is wrong, for programs.
type FindingKind string

// The kinds of findings.
const (
	FindingControl         FindingKind = "control"          // an object under _lake/ is missing or damaged
	FindingIndexDamaged    FindingKind = "index_damaged"    // the index does not agree with itself
	FindingIndexBehind     FindingKind = "index_behind"     // the bucket has a snapshot of versions that the index does not know
	FindingChain           FindingKind = "chain"            // a registered snapshot does not follow any other
	FindingSnapshotMissing FindingKind = "snapshot_missing" // registered, not in the bucket
	FindingSnapshotDamaged FindingKind = "snapshot_damaged"
	FindingPackMissing     FindingKind = "pack_missing"
	FindingPackDamaged     FindingKind = "pack_damaged"
	FindingReplay          FindingKind = "replay"      // the snapshot before and the pack give another document, or other outcomes (I7)
	FindingRunMissing      FindingKind = "run_missing" // the segment of a live run is not in the bucket
	FindingRunDamaged      FindingKind = "run_damaged" // a live run's frame does not decode, or is another run
	FindingRunUnknown      FindingKind = "run_unknown" // a segment that counts has a run that the index lacks (I1, I8)
	FindingHead            FindingKind = "head"        // the live runs do not lead from the snapshot to the head
	FindingCounts          FindingKind = "counts"      // the head's counts are not those of its runs
	FindingSegmentDamaged  FindingKind = "segment_damaged"
	// FindingAcceptedLoss is no fault any more: what a damaged object had lost was
	// given up, by a rebuild that was told to.
	FindingAcceptedLoss FindingKind = "accepted_loss"
	// FindingStray is no fault: an object that nothing refers to. It may be being put
	// at this moment, or wait for its collection.
	FindingStray FindingKind = "stray"
)

// Finding is one thing that a verification found.
type Finding struct {
	Kind    FindingKind `json:"kind"`
	Key     string      `json:"key,omitempty"` // of the object
	Catalog string      `json:"catalog,omitempty"`
	Version *Version    `json:"version,omitempty"` // of the run or snapshot
	Detail  string      `json:"detail"`            // a sentence for a person, with what to do
}

// VerifyRequest says what to verify.
type VerifyRequest struct {
	Prefix  string // of catalogs; segments and control objects are looked at in any case
	Workers int    // objects and catalogs at once; 0: 4
	// Found is told of each finding, of strays and accepted losses too, one at a time; nil: nobody is.
	Found func(Finding)
	// Progress is told how far a step is: done of total, of "catalogs", "segments"
	// or "objects"; total is 0 where it is not known. One at a time; nil: nobody is.
	Progress func(step string, done, total int)
}

// Verified tells what was looked at and what was found.
type Verified struct {
	Catalogs  int   `json:"catalogs"`
	Snapshots int   `json:"snapshots"` // registered ones, read with their packs
	Replayed  int   `json:"replayed"`  // of these made again from the one before and the pack
	Runs      int   `json:"runs"`      // live ones
	Segments  int   `json:"segments"`
	Objects   int   `json:"objects"` // listed, all
	Bytes     int64 `json:"bytes"`   // read
	Strays    int   `json:"strays"`
	Accepted  int   `json:"accepted"` // losses, see FindingAcceptedLoss
	Faults    int   `json:"faults"`
}

// Verify compares index and bucket, object by object, and merges every snapshot
// again. Faults are findings, not errors: the error is of a verification that
// could not be made to its end. Documents that were folded under other Limits than
// Options.Limits may be called faults of the kind FindingReplay.
func (e *Engine) Verify(ctx context.Context, req VerifyRequest) (Verified, error) {
	if err := e.Ready(); err != nil {
		return Verified{}, err
	}
	if req.Workers <= 0 {
		req.Workers = 4
	}
	v := &verification{e: e, req: req, lost: &losses{of: map[string]*Loss{}}, expects: map[SegmentID][]expectation{}}
	for _, step := range []func(context.Context) error{v.control, v.catalogs, v.segments, v.strays} {
		if err := step(ctx); err != nil {
			return v.did, unavailable(err)
		}
	}
	return v.did, nil
}

type verification struct {
	e    *Engine
	req  VerifyRequest
	lost *losses // accepted; of those whose records are sound

	mu    sync.Mutex // guards what follows, and the request's functions
	did   Verified
	done  int
	total int
	// expects are the live runs that the index told of, until their segments are read.
	expects  map[SegmentID][]expectation
	expected int
}

func (v *verification) count(add func(*Verified)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	add(&v.did)
}

func (v *verification) report(fs ...Finding) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, f := range fs {
		switch f.Kind {
		case FindingStray:
			v.did.Strays++
		case FindingAcceptedLoss:
			v.did.Accepted++
		default:
			v.did.Faults++
		}
		if v.req.Found != nil {
			v.req.Found(f)
		}
	}
}

func (v *verification) begin(step string, total int) {
	v.mu.Lock()
	v.done, v.total = 0, total
	v.mu.Unlock()
	v.progress(step, 0)
}

func (v *verification) progress(step string, n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.done += n
	v.total = max(v.total, v.done*min(1, v.total)) // it grew since it was counted
	if v.req.Progress != nil {
		v.req.Progress(step, v.done, v.total)
	}
}

// workers gives n workers what produce yields.
func workers[T any](ctx context.Context, n int, produce func(yield func(T) error) error, work func(context.Context, T) error) error {
	g, ctx := errgroup.WithContext(ctx)
	ch := make(chan T)
	g.Go(func() error {
		defer close(ch)
		return produce(func(t T) error {
			select {
			case ch <- t:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	for range n {
		g.Go(func() error {
			for t := range ch {
				if err := work(ctx, t); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// lookAgain is how long a fault must stay to be one.
const lookAgain = 300 * time.Millisecond

// certain looks, and looks again if there are findings: those of the second look
// count.
func certain(ctx context.Context, look func() ([]Finding, error)) ([]Finding, error) {
	fs, err := look()
	if err != nil || len(fs) == 0 {
		return nil, err
	}
	if err := sleep(ctx, lookAgain); err != nil {
		return nil, err
	}
	return look()
}

// verifyPatience is how long a verification waits for a new epoch to be opened.
const verifyPatience = 2 * time.Minute

// ask asks the index in the epoch of the moment; a new one is waited for.
func (v *verification) ask(ctx context.Context, call func(ctx context.Context, n uint64) error) error {
	for end := time.Now().Add(verifyPatience); ; {
		err := v.e.Ready()
		if err == nil {
			n := v.e.lease.epoch()
			err = v.e.insist(ctx, func() error {
				ictx, cancel := context.WithTimeout(ctx, v.e.opts.IndexTimeout)
				defer cancel()
				return call(ictx, n)
			})
			if err == nil && !v.e.lease.valid(n) {
				err = errLeaseOut
			}
			if err == nil || errors.Is(err, ErrDamaged) {
				return err
			}
			v.e.sawEpoch(n, err)
		}
		if errors.Is(err, ErrClosed) || time.Now().After(end) {
			return err
		}
		if serr := sleep(ctx, 100*time.Millisecond); serr != nil {
			return errors.Join(err, serr)
		}
	}
}

// get reads a range of an object from the bucket, never from a cache; all of it when
// length is -1. ErrNotExist at once, other errors after insisting.
func (v *verification) get(ctx context.Context, key string, off, length int64) (b []byte, err error) {
	missing := false
	err = v.e.insist(ctx, func() (err error) {
		if length < 0 {
			b, err = v.e.objects.Get(ctx, key)
		} else {
			b, err = v.e.objects.GetRange(ctx, key, off, length)
		}
		if missing = errors.Is(err, ErrNotExist); missing {
			return nil
		}
		return err
	})
	switch {
	case missing:
		return nil, fmt.Errorf("get %s: %w", key, ErrNotExist)
	case err != nil:
		return nil, fmt.Errorf("get %s: %w", key, err)
	}
	v.count(func(d *Verified) { d.Bytes += int64(len(b)) })
	return b, nil
}

// restoreHint is what helps where the bucket has lost something.
const restoreHint = "put the object back from a copy or an older version of the bucket"

// control looks at the objects under _lake/.
func (v *verification) control(ctx context.Context) error {
	fs, err := certain(ctx, func() ([]Finding, error) { return v.lookAtControl(ctx) })
	v.report(fs...)
	return err
}

func (v *verification) lookAtControl(ctx context.Context) (fs []Finding, err error) {
	e := v.e
	found := func(key, format string, args ...any) {
		fs = append(fs, Finding{Kind: FindingControl, Key: key, Detail: fmt.Sprintf(format, args...)})
	}
	if err := e.checkFormat(ctx); errors.Is(err, ErrDamaged) {
		found(formatKey, "%v; %s", err, restoreHint)
	} else if err != nil {
		return nil, err
	}
	epoch := e.lease.epoch()
	seals := map[uint64]bool{}
	exists := map[uint64]bool{}
	for o, err := range e.objects.List(ctx, epochPrefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list epochs: %w", err)
		}
		m, seal, ok := parseEpochKey(o.Key)
		switch {
		case !ok:
			continue // a stray
		case seal:
			seals[m] = true
		default:
			exists[m] = true
			var ep epochObject
			if err := v.readControl(ctx, o.Key, &ep); err != nil {
				if !errors.Is(err, ErrDamaged) {
					return nil, err
				}
				found(o.Key, "%v; %s", err, restoreHint)
			} else if ep.Epoch != m {
				found(o.Key, "%s says that it is of epoch %d; %s", o.Key, ep.Epoch, restoreHint)
			}
		}
	}
	for m := uint64(1); m <= epoch; m++ {
		if !exists[m] {
			found(epochKey(m), "there is no %s, although epoch %d follows: a rebuild would not read the segments of epoch %d; %s", epochKey(m), epoch, m, restoreHint)
		}
		if m == epoch || !exists[m] && !seals[m] {
			continue
		}
		if !seals[m] {
			found(sealKey(m), "epoch %d has no seal, although epoch %d follows: segments that came too late would count in a rebuild; %s", m, epoch, restoreHint)
			continue
		}
		s, err := e.seal(ctx, m, epoch, true)
		switch {
		case errors.Is(err, ErrDamaged):
			found(sealKey(m), "%v: no new epoch can be opened without it; %s", err, restoreHint)
		case err != nil:
			return nil, fmt.Errorf("read the seal of epoch %d: %w", m, err)
		case s.Epoch != m:
			found(sealKey(m), "%s says that it is of epoch %d; %s", sealKey(m), s.Epoch, restoreHint)
		}
	}
	for o, err := range e.objects.List(ctx, collectedPrefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list the records of collections: %w", err)
		}
		ms, ok := parseCollectedKey(o.Key)
		if !ok {
			continue
		}
		var c collectedObject
		switch err := v.readControl(ctx, o.Key, &c); {
		case errors.Is(err, ErrNotExist): // a newer one took its place
		case errors.Is(err, ErrDamaged):
			found(o.Key, "%v; its name says what counts, nothing depends on the rest: delete it once a newer one is there", err)
		case err != nil:
			return nil, err
		case c.HorizonMillis != ms:
			found(o.Key, "%s says %d; %s", o.Key, c.HorizonMillis, restoreHint)
		}
	}
	return fs, v.lookAtLosses(ctx, found, func(f Finding) { fs = append(fs, f) })
}

// lookAtLosses reads the records of what was given up.
func (v *verification) lookAtLosses(ctx context.Context, fault func(key, format string, args ...any), tell func(Finding)) error {
	for o, err := range v.e.objects.List(ctx, lossPrefix, "") {
		if err != nil {
			return fmt.Errorf("list the records of accepted losses: %w", err)
		}
		if _, _, ok := parseLossKey(o.Key); !ok {
			continue // a stray
		}
		l, err := v.e.readLoss(ctx, o.Key)
		if errors.Is(err, ErrDamaged) {
			fault(o.Key, "%v: no new epoch that reads the segments can be opened without it; %s, or delete it and accept the loss anew", err, restoreHint)
			continue
		}
		if err != nil {
			return err
		}
		v.lost.put(l)
		tell(Finding{Kind: FindingAcceptedLoss, Key: l.Object, Detail: fmt.Sprintf("%s had lost something when epoch %d was opened; %s accepted it at %s: %d of its %d bytes count nowhere any more, that is %s",
			l.Object, l.Epoch, l.By, l.Time, l.bytes(), l.Size, l.What())})
	}
	return nil
}

func (v *verification) readControl(ctx context.Context, key string, into any) error {
	b, err := v.get(ctx, key, 0, -1)
	if err != nil {
		return err
	}
	return unmarshalControl(key, b, into)
}

// catalogs looks at every catalog of the index.
func (v *verification) catalogs(ctx context.Context) error {
	pages := func(pass func([]CatalogInfo) error) error {
		for after := ""; ; {
			var page []CatalogInfo
			err := v.ask(ctx, func(ctx context.Context, n uint64) (err error) {
				page, err = v.e.index.Catalogs(ctx, n, v.req.Prefix, after, maxPage)
				return err
			})
			if err != nil {
				return fmt.Errorf("list catalogs: %w", err)
			}
			if err := pass(page); err != nil {
				return err
			}
			if len(page) < maxPage {
				return nil
			}
			after = page[len(page)-1].Catalog
		}
	}
	total := 0
	err := pages(func(page []CatalogInfo) error {
		total += len(page)
		return nil
	})
	if err != nil {
		return err
	}
	v.begin("catalogs", total)
	return workers(ctx, v.req.Workers, func(yield func(string) error) error {
		return pages(func(page []CatalogInfo) error {
			for _, c := range page {
				if err := yield(c.Catalog); err != nil {
					return err
				}
			}
			return nil
		})
	}, func(ctx context.Context, name string) error {
		var did Verified
		var live []Run
		fs, err := certain(ctx, func() ([]Finding, error) {
			c := catalogCheck{v: v, name: name}
			err := c.run(ctx)
			did, live = c.did, c.live
			return c.found, err
		})
		if err != nil {
			return fmt.Errorf("verify catalog %q: %w", name, err)
		}
		v.count(func(d *Verified) {
			d.Catalogs++
			d.Snapshots += did.Snapshots
			d.Replayed += did.Replayed
			d.Runs += did.Runs
		})
		v.report(fs...)
		if err := v.expect(ctx, name, live); err != nil {
			return fmt.Errorf("verify catalog %q: %w", name, err)
		}
		v.progress("catalogs", 1)
		return nil
	})
}

// strays looks at all objects of the bucket that the index ought to know.
func (v *verification) strays(ctx context.Context) error {
	type group struct {
		catalog string
		keys    []string // of snapshots and packs
	}
	v.begin("objects", 0)
	return workers(ctx, v.req.Workers, func(yield func(group) error) error {
		var g group
		dir := ""
		flush := func() error {
			if len(g.keys) == 0 || !strings.HasPrefix(g.catalog, v.req.Prefix) {
				return nil
			}
			return yield(g)
		}
		n := 0
		for o, err := range v.e.objects.List(ctx, "", "") {
			if err != nil {
				return fmt.Errorf("list the bucket: %w", err)
			}
			if n++; n%maxPage == 0 {
				v.progress("objects", maxPage)
			}
			v.count(func(d *Verified) { d.Objects++ })
			if strings.HasPrefix(o.Key, walPrefix) || knownControl(o.Key) {
				continue
			}
			catalog, ok := catalogOfKey(o.Key)
			if !ok {
				if v.req.Prefix == "" {
					v.report(Finding{Kind: FindingStray, Key: o.Key, Detail: o.Key + " is no key of a lake: somebody else put it there; nothing reads or deletes it"})
				}
				continue
			}
			if d := CatalogDir(catalog); d != dir {
				if err := flush(); err != nil {
					return err
				}
				dir, g = d, group{catalog: catalog}
			}
			g.keys = append(g.keys, o.Key)
		}
		v.progress("objects", n%maxPage)
		return flush()
	}, func(ctx context.Context, g group) error {
		fs, err := certain(ctx, func() ([]Finding, error) { return v.unregistered(ctx, g.catalog, g.keys) })
		v.report(fs...)
		return err
	})
}

// knownControl tells objects under _lake/ that control has looked at, and those of
// a probe of the store.
func knownControl(key string) bool {
	_, _, epoch := parseEpochKey(key)
	_, collected := parseCollectedKey(key)
	_, _, purge := parsePurgeKey(key)
	_, _, loss := parseLossKey(key)
	return key == formatKey || epoch || collected || purge || loss || strings.HasPrefix(key, "_lake/probe/")
}

// catalogOfKey tells whose snapshot or pack stands under a key.
func catalogOfKey(key string) (string, bool) {
	if catalog, _, _, err := ParseSnapshotKey(key); err == nil {
		return catalog, true
	}
	// A pack's key is that of its snapshot but for directory and ending.
	as := strings.Replace(strings.TrimSuffix(key, ".pack")+".snap", "/delta/", "/snap/", 1)
	catalog, start, stop, err := ParseSnapshotKey(as)
	return catalog, err == nil && PackKey(catalog, start, stop) == key
}

// unregistered finds the snapshots and packs of a catalog that the index does not
// know. A snapshot above the head is a fault: only what was committed is folded.
func (v *verification) unregistered(ctx context.Context, catalog string, keys []string) (fs []Finding, err error) {
	known := map[string]bool{}
	for after := (Version{}); ; {
		var snaps []Snapshot
		err := v.ask(ctx, func(ctx context.Context, n uint64) (err error) {
			snaps, err = v.e.index.Snapshots(ctx, n, catalog, after, maxPage)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("list snapshots of %q: %w", catalog, err)
		}
		for _, s := range snaps {
			known[SnapshotKey(catalog, s.Start, s.Stop)], known[PackKey(catalog, s.Start, s.Stop)] = true, true
			after = s.Stop
		}
		if len(snaps) < maxPage {
			break
		}
	}
	var head Version
	for _, key := range keys {
		if known[key] {
			continue
		}
		if head.IsZero() {
			err := v.ask(ctx, func(ctx context.Context, n uint64) error {
				view, err := v.e.index.View(ctx, n, catalog, Version{})
				head = view.Head
				return err
			})
			if err != nil && !errors.Is(err, ErrDamaged) { // which the catalog's own check has told
				return nil, fmt.Errorf("view of catalog %q: %w", catalog, err)
			}
		}
		_, _, stop, err := ParseSnapshotKey(key)
		if err == nil && head.Less(stop) {
			if _, err := v.get(ctx, key, 0, -1); errors.Is(err, ErrNotExist) {
				continue // gone since it was listed
			}
			fs = append(fs, Finding{Kind: FindingIndexBehind, Key: key, Catalog: catalog, Version: &stop,
				Detail: fmt.Sprintf("the bucket has a snapshot of catalog %q at version %s, the index knows versions up to %s: it has lost something; run `lake rebuild`", catalog, stop, head)})
			continue
		}
		fs = append(fs, Finding{Kind: FindingStray, Key: key, Catalog: catalog, Detail: key + " is not registered: it is being put, waits for its collection, or lost a race; it does no harm"})
	}
	return fs, nil
}
