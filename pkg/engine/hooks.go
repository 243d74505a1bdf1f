package engine

import "time"

// Hooks are functions that the engine calls as things happen, for metrics and
// to wake others. Any may be nil. They are called from hot paths: they must
// return at once and be safe for concurrent use.
type Hooks struct {
	// Committed: a run of n deltas was committed at version by this process.
	Committed func(catalog string, version Version, n int)
	// SegmentPut: a segment of bytes and runs was put, after d.
	SegmentPut func(runs, bytes int, d time.Duration)
	// Merged: a read merged n deltas into a document of bytes, in d.
	Merged func(deltas int, bytes int, d time.Duration)
	// CacheLookup: the tier ("document", "frame", "shared") had what was asked for, or not.
	CacheLookup func(tier string, hit bool)
	// Folded: a snapshot of deltas and document bytes was registered, in d.
	Folded func(catalog string, deltas int64, bytes int64, d time.Duration)
	// Waited: a commit waited d for an older segment.
	Waited func(d time.Duration)
	// Decided: a stuck segment was decided: "tombstone" (it never was),
	// "rolled_back" (another's tombstone) or "rolled_forward".
	Decided func(segment SegmentID, how string)
	// Collected: a collection of garbage ended.
	Collected func(Collected)
	// Purged: a pass of erasing what a purge gave up has ended.
	Purged func(PurgeReceipt)
	// Epoch: this process works in epoch n from now on.
	Epoch func(n uint64)
	// Recovering: a step of opening a new epoch.
	Recovering func(n uint64, step string)
	// RecoverProgress: how much of a long step of it is done, of "snapshots" that
	// are adopted (total 0: not known), "segments" that are read and "runs" that are restored.
	RecoverProgress func(step string, done, total int)
	// LossAccepted: the loss of what a damaged object held was recorded for good.
	LossAccepted func(Loss)
	// Trouble: something failed in the background and will be tried again.
	Trouble func(what string, err error)
}

func (h *Hooks) committed(catalog string, v Version, n int) {
	if h.Committed != nil {
		h.Committed(catalog, v, n)
	}
}

func (h *Hooks) segmentPut(runs, bytes int, d time.Duration) {
	if h.SegmentPut != nil {
		h.SegmentPut(runs, bytes, d)
	}
}

func (h *Hooks) merged(deltas, bytes int, d time.Duration) {
	if h.Merged != nil {
		h.Merged(deltas, bytes, d)
	}
}

func (h *Hooks) cacheLookup(tier string, hit bool) {
	if h.CacheLookup != nil {
		h.CacheLookup(tier, hit)
	}
}

func (h *Hooks) folded(catalog string, deltas, bytes int64, d time.Duration) {
	if h.Folded != nil {
		h.Folded(catalog, deltas, bytes, d)
	}
}

func (h *Hooks) waited(d time.Duration) {
	if h.Waited != nil {
		h.Waited(d)
	}
}

func (h *Hooks) decided(s SegmentID, how string) {
	if h.Decided != nil {
		h.Decided(s, how)
	}
}

func (h *Hooks) collected(c Collected) {
	if h.Collected != nil {
		h.Collected(c)
	}
}

func (h *Hooks) purged(r PurgeReceipt) {
	if h.Purged != nil {
		h.Purged(r)
	}
}

func (h *Hooks) epoch(n uint64) {
	if h.Epoch != nil {
		h.Epoch(n)
	}
}

func (h *Hooks) recovering(n uint64, step string) {
	if h.Recovering != nil {
		h.Recovering(n, step)
	}
}

func (h *Hooks) recoverProgress(step string, done, total int) {
	if h.RecoverProgress != nil {
		h.RecoverProgress(step, done, total)
	}
}

func (h *Hooks) lossAccepted(l Loss) {
	if h.LossAccepted != nil {
		h.LossAccepted(l)
	}
}

func (h *Hooks) trouble(what string, err error) {
	if h.Trouble != nil && err != nil {
		h.Trouble(what, err)
	}
}
