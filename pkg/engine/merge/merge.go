package merge

import "slices"

// Merge applies deltas, oldest first, to base, the text of a JSON document
// (nil: absent), and returns the resulting document (nil: absent) and one
// outcome for each delta.
//
// Merge is pure and deterministic: merging a prefix of the deltas first and
// the rest into its result gives the same bytes and outcomes, wherever the
// cut is made. Base and bodies are not modified, and the result shares no
// memory with them; they must not change while Merge runs.
//
// The base is trusted to be JSON text that Merge or Check made. A delta never
// causes an error: what cannot apply is a no-op with a reason, bodies that
// Check would refuse included. The error is ErrCorruptBase where the base
// turns out not to be JSON (not every fault is noticed: checksums are the
// storage's), or ErrTooLarge for a base of more than 4 GiB.
//
// Cost: O(len(base) + Σ len(bodies)), except for documents within one
// delta of Limits.MaxDocument, where each delta may cost O(len(base)).
func Merge(base []byte, deltas []Delta, lim Limits) (doc []byte, outcomes []Outcome, err error) {
	lim = lim.withDefaults()
	if int64(len(base)) > hardMaxDocument {
		return nil, nil, ErrTooLarge
	}
	if base != nil {
		if base = trim(base); !looksLikeJSON(base) {
			return nil, nil, ErrCorruptBase
		}
	}
	outcomes = make([]Outcome, len(deltas))
	r := runner{lim: lim, outcomes: outcomes}
	r.restart(base)
	for i := range deltas {
		if !r.apply(i, &deltas[i]) {
			return nil, nil, ErrCorruptBase
		}
	}
	if r.m.root.absent() && !r.m.corrupt {
		return nil, outcomes, nil
	}
	if doc = r.emit(); doc == nil {
		return nil, nil, ErrCorruptBase
	}
	if cap(doc) > 2*len(doc)+4_096 {
		doc = slices.Clone(doc)
	}
	return doc, outcomes, nil
}

// looksLikeJSON is a first look at a base.
func looksLikeJSON(t []byte) bool {
	if len(t) == 0 {
		return false
	}
	switch t[0] {
	case '{':
		return len(t) > 1 && t[len(t)-1] == '}'
	case '[':
		return len(t) > 1 && t[len(t)-1] == ']'
	}
	i, f := validate(t, 0, 0)
	return f == faultNone && i == len(t)
}

// runner keeps the document within its limit. The overlay does not know how
// large the document is, only how large it can be at most: base and bodies
// together. While that is within the limit nothing more is needed. When it is
// not, the overlay is written out and the exact size is known again, which
// changes nothing else; and where a single delta may cross the limit, it is
// tried alone and taken back if it does.
type runner struct {
	m        *machine
	lim      Limits
	outcomes []Outcome
	base     int   // bytes of the document that m began with
	bound    int64 // the document is not larger than this
}

// restart begins a new overlay on a document (nil: absent).
func (r *runner) restart(doc []byte) {
	r.m = &machine{lim: r.lim, outcomes: r.outcomes}
	if doc != nil {
		r.m.root = value{text: doc}
	}
	r.base, r.bound = len(doc), int64(len(doc))
}

// emit returns the document, nil if the base was corrupt.
func (r *runner) emit() []byte {
	guess := r.base + int(min(r.bound-int64(r.base), int64(r.base/4+4_096)))
	doc := r.m.emitAll(r.m.root, guess)
	if r.m.corrupt {
		return nil
	}
	return doc
}

// flush writes the overlay out and begins a new one on the result.
func (r *runner) flush() bool {
	if r.m.root.absent() {
		r.restart(nil)
		return true
	}
	doc := r.emit()
	if doc == nil {
		return false
	}
	r.restart(doc)
	return true
}

// growth bounds what a delta adds to the document, copies aside: names of the
// path and of pointers come with quotes, a colon, braces and commas.
func growth(d *Delta) int64 {
	n := 8*int64(len(d.Path)) + 8
	if d.Type == JSONPatch {
		return n + 8*int64(len(d.Body))
	}
	return n + int64(len(d.Body))
}

// apply applies delta i; it is false if the base is corrupt.
func (r *runner) apply(i int, d *Delta) bool {
	grows := growth(d)
	if r.bound+grows <= r.lim.MaxDocument {
		r.m.applyDelta(i, d)
		if r.bound += grows + r.m.copied; r.bound <= r.lim.MaxDocument {
			return true
		}
		// Only what a patch copied can have led here.
		r.bound -= grows + r.m.copied
		r.m.undo()
		r.outcomes[i] = Outcome{}
	}
	if d.Type == Delete {
		r.m.applyDelta(i, d)
		return true
	}
	if !r.flush() {
		return false
	}
	before := r.m.root.text
	r.m.applyDelta(i, d)
	if r.bound += grows + r.m.copied; r.bound <= r.lim.MaxDocument {
		return true
	}
	if !r.flush() {
		return false
	}
	if n := int64(r.base); n > r.lim.MaxDocument && n > int64(len(before)) {
		r.restart(before)
		r.outcomes[i] = Outcome{Status: Noop, Reason: TooLarge, Op: -1}
	}
	return true
}
