// Package merge turns a base document and an ordered list of deltas into the
// document that results, and says what became of each delta. It is the heart
// of the lake and a pure leaf: no I/O, no clock, no randomness, no goroutines.
//
// Deltas are of four kinds (Type): Replace sets a value, MergePatch is RFC
// 7396, JSONPatch is RFC 6902, Delete removes a member, Purge the document and its past. docs/merge.md tells
// users what they mean; the test table "semantics" holds every awkward case.
//
// # Promises
//
//   - Total. A delta never causes an error. What cannot apply changes nothing
//     and gets an Outcome with a Reason out of a closed set.
//   - Deterministic, byte for byte, wherever a snapshot was cut: merging a
//     prefix and then the rest gives the same bytes and outcomes as merging
//     all at once.
//   - Literal. Names, numbers and strings that nobody changed keep their
//     text: 1.10 stays 1.10, big integers keep every digit, nothing is
//     escaped or unescaped, members keep their order.
//   - Linear. O(document + Σ deltas): the document is read at most once to
//     find what the deltas touch and once to write the result, not once a
//     delta.
//   - Safe. It does not panic, whatever base and bodies are, and recursion,
//     memory and time have bounds (Limits).
//
// # How
//
//	base text ───────────────────────────────────────────────▶ result
//	             copied verbatim but where a name was touched
//	                              ▲
//	             overlay: object ─┼─ "users" ─ object ─┬─ "u1" ─ text of a body
//	                              └─ "meta"  ─ gone    └─ "u2" ─ object …
//
// Replace, merge patch and delete are blind writes: they put names and the
// text of bodies into the overlay and never read the base. An object that
// they lead through stays unresolved until it is known what the base has
// there, at the latest when the result is written. JSON Patches must read:
// the overlay first, then the base, by one scan or, from the second long scan
// of an object on, by an index of its names. They run in place under an undo
// log. At the end one pass over the base text of each touched object writes
// the result.
//
// Files: types, merge (the door), machine (blind writes), apply and patch
// (JSON Patch), overlay (objects), array, emit, size, equal and number (the
// test operation), scan and text (reading trusted text), valid and check (reading
// what is not trusted), prune, diff, get, library (json-patch).
package merge
