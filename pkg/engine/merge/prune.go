package merge

import "strings"

// Prune finds the deltas whose bodies need not be fetched, because a later
// Replace hides everything they wrote. It reads only Type and Path. kept has
// the length of deltas: where pruned is true a Replace of null at the hiding
// path stands in for the delta, elsewhere the delta itself. Merging kept
// gives the document that merging deltas gives, byte for byte, and the same
// outcomes but for the pruned deltas, whose true outcome is unknown: see
// MarkPruned.
//
// This holds for bodies that Check let through, and while no size limit
// interferes: prune only where base and bodies together (their lengths are
// known before they are fetched) stay below Limits.MaxDocument, and merge
// unpruned if a JSON Patch is reported too_large.
//
//	K = {}                                  paths of later Replaces
//	for e from newest to oldest:
//	  JSON Patch at s:     drop from K what is comparable with s: it may read it
//	  Merge patch or Replace, some q in K equal to or above e.path:
//	                       e becomes Replace(q, null)
//	  Replace:             add e.path to K
//	  Merge patch:         drop from K what is below e.path: what stands there decides
//	                       whether the patch is flagged as coercing
//
// The delta is rewritten, not dropped, because it may be the one that creates
// q or coerces a value above it: order of members and flags stay exact. A
// Delete has no body, so there is nothing to save, and it creates nothing, so
// it must stay as it is.
func Prune(deltas []Delta) (kept []Delta, pruned []bool) {
	kept = make([]Delta, len(deltas))
	pruned = make([]bool, len(deltas))
	later := map[string]struct{}{}
	for i := len(deltas) - 1; i >= 0; i-- {
		d := deltas[i]
		kept[i] = d
		switch d.Type {
		case JSONPatch:
			for q := range later {
				if isAtOrBelow(q, d.Path) || isAtOrBelow(d.Path, q) {
					delete(later, q)
				}
			}
		case Replace, MergePatch:
			if q, ok := hider(later, d.Path); ok {
				kept[i] = Delta{Type: Replace, Path: q, Body: []byte("null")}
				pruned[i] = true
			} else if d.Type == Replace {
				later[d.Path] = struct{}{}
			} else {
				for q := range later {
					if isAtOrBelow(q, d.Path) {
						delete(later, q)
					}
				}
			}
		}
	}
	return kept, pruned
}

// MarkPruned sets the outcomes of the pruned deltas.
func MarkPruned(outcomes []Outcome, pruned []bool) {
	for i, p := range pruned {
		if p && i < len(outcomes) {
			outcomes[i] = Outcome{Status: Pruned, Op: -1}
		}
	}
}

// hider finds the path itself or the nearest path above it in the set.
func hider(set map[string]struct{}, path string) (string, bool) {
	if len(set) == 0 {
		return "", false
	}
	for p := path; ; {
		if _, ok := set[p]; ok {
			return p, true
		}
		if p == "/" || p == "" {
			return "", false
		}
		if p = p[:strings.LastIndexByte(p, '/')]; p == "" {
			p = "/"
		}
	}
}

// isAtOrBelow reports whether path equals top or lies below it.
func isAtOrBelow(path, top string) bool {
	return path == top || top == "/" || strings.HasPrefix(path, top) && path[len(top)] == '/'
}
