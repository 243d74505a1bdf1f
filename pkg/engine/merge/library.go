package merge

import (
	"bytes"
	"errors"
	"fmt"

	jsonpatch "github.com/evanphx/json-patch/v5"
)

// This file is the only one that knows github.com/evanphx/json-patch/v5
// (v5.9.11). The library has two roles and is never on the read path:
//
//   - DecodePatch is a second opinion on JSON Patches at ingest, after our
//     own, stricter rules;
//   - Reference is an independent implementation to compare ours with, in
//     tests and in offline verification.
//
// It is called with SupportNegativeIndices, EnsurePathExistsOnAdd,
// AllowMissingPathOnRemove and EscapeHTML off, AccumulatedCopySizeLimit set,
// and behind recover.
//
// Known divergences from the RFCs. The differential test holds each of them
// by name and fails for any other:
//
//	nested-null        comparing [null] with [1] in test panics
//	null-is-missing    test of null succeeds on a member that is missing
//	test-number        1 and 1.0 are different (RFC 6902, section 4.6: numerically equal)
//	empty-token        "/" reads the container, not the member "" (RFC 6901, section 5)
//	root-target        operations on "" fail or lose the document (RFC 6902, section 4)
//	move-into-child    move /0 → /0/z corrupts the next element (section 4.4: from must not be a proper prefix)
//	index-grammar      01, +1 and -1 are taken for indices (RFC 6901, section 4)
//	scalar-document    a document that is no container cannot be patched
//	array-nulls        MergePatch removes nulls inside arrays (RFC 7396, section 2: arrays are replaced whole)
//	member-order       MergePatch appends new members in random order (order is ours to promise)
//	html-escapes       < > & and U+2028 are rewritten
//	auto-parents       EnsurePathExistsOnAdd pads arrays, in time and memory quadratic in the index; it stays off
var libraryOptions = jsonpatch.ApplyOptions{
	SupportNegativeIndices:   false,
	AccumulatedCopySizeLimit: DefaultMaxDocument,
	AllowMissingPathOnRemove: false,
	EnsurePathExistsOnAdd:    false,
	EscapeHTML:               false,
}

// decodePatch lets the library decode a JSON Patch.
func decodePatch(body []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("decode JSON Patch: %v", p)
		}
	}()
	_, err = jsonpatch.DecodePatch(body)
	return err
}

// ErrReference says that the reference implementation could not do it, which
// may be its own fault: see the known divergences at libraryOptions.
var ErrReference = errors.New("reference implementation")

// Reference applies one delta at the root with json-patch instead of the
// merge engine: an independent second opinion for tests and for offline
// verification, with the divergences listed in library.go. It is strict (no
// auto-parents), and knows only MergePatch and JSONPatch. It never panics;
// every failure is ErrReference.
func Reference(doc []byte, t Type, body []byte) (out []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			out, err = nil, fmt.Errorf("%w: panic: %v", ErrReference, p)
		}
	}()
	switch t {
	case MergePatch:
		out, err = jsonpatch.MergePatch(bytes.Clone(doc), bytes.Clone(body))
	case JSONPatch:
		var p jsonpatch.Patch
		if p, err = jsonpatch.DecodePatch(bytes.Clone(body)); err == nil {
			opts := libraryOptions
			out, err = p.ApplyWithOptions(bytes.Clone(doc), &opts)
		}
	default:
		return nil, fmt.Errorf("%w: no %s", ErrReference, t)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrReference, err)
	}
	return out, nil
}
