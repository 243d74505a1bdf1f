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
// Cost: O(len(base) + Σ len(bodies)), and what JSON Patches copy. Within one
// delta of Limits.MaxDocument each delta also costs a look at every member
// that was touched before in the objects on its way.
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
	r := runner{m: &machine{lim: lim, outcomes: outcomes}, lim: lim, outcomes: outcomes, bound: int64(len(base))}
	if base != nil {
		r.m.root = value{text: base}
	}
	for i := range deltas {
		if r.apply(i, &deltas[i]); r.m.corrupt {
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
// together. While that is within the limit nothing more is needed. Where it
// is not, the exact size is measured; and a delta that may cross the limit is
// measured after it ran, and taken back if it did.
type runner struct {
	m        *machine
	lim      Limits
	outcomes []Outcome
	bound    int64 // the document is not larger than this
}

// emit returns the document, nil if the base was corrupt.
func (r *runner) emit() []byte {
	base := len(r.m.root.text) // of the document, or of what a delta has put in its place
	if c := r.m.root.c; c != nil {
		base = len(c.base)
	}
	guess := base + int(min(max(r.bound-int64(base), 0), int64(base/4+4_096)))
	doc := r.m.emitAll(r.m.root, guess)
	if r.m.corrupt {
		return nil
	}
	return doc
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

// apply applies delta i.
func (r *runner) apply(i int, d *Delta) {
	m, grows, limit := r.m, growth(d), r.lim.MaxDocument
	if r.bound+grows > limit {
		r.bound = m.size(m.root)
	}
	if r.bound+grows <= limit {
		m.applyDelta(i, d, d.Type == JSONPatch)
		if r.bound+grows+m.copied <= limit {
			m.settle()
			r.bound += grows + m.copied
			return
		}
		// Only what a patch copied can have led here.
		m.undo()
		r.outcomes[i] = Outcome{}
		r.bound = m.size(m.root)
	}
	m.applyDelta(i, d, true)
	n := m.size(m.root)
	if n > limit && n > r.bound {
		m.undo()
		r.outcomes[i] = Outcome{Status: Noop, Reason: TooLarge, Op: -1}
		return
	}
	m.settle()
	r.bound = n
}
