package merge

import "encoding/json"

// Merge applies the deltas to base.
func Merge(base []byte, deltas []Delta, lim Limits) ([]byte, []Outcome, error) {
	if base != nil && !json.Valid(base) {
		return nil, nil, ErrCorruptBase
	}
	doc, out := modelMerge(base, deltas, lim)
	return doc, out, nil
}
