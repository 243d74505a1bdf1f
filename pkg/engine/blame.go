package engine

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jsonlake/lake/pkg/engine/merge"
)

// BlameRequest asks who wrote what stands at a JSON Pointer.
type BlameRequest struct {
	Catalog string `json:"-"`
	Pointer string `json:"pointer"` // RFC 6901; "" and "/" are the whole document
	// Members asks for each member of the object at the pointer instead of the
	// object, in the order of the document.
	Members bool    `json:"members,omitempty"`
	After   *string `json:"after,omitempty"` // with Members: only those after the one of this name
	Limit   int     `json:"limit,omitempty"` // with Members: 1 to 1,000; 0 is 1,000
	At      *At     `json:"at,omitempty"`    // of which document; nil: now
}

// BlameResult tells who wrote what.
type BlameResult struct {
	Version Version      `json:"version"` // of the document
	Items   []BlameEntry `json:"items"`
	// Next is the After of the next page of members; nil when this was the last.
	Next *string `json:"next,omitempty"`
}

// BlameEntry is the delta that made a value what it is.
type BlameEntry struct {
	Pointer string `json:"pointer"`
	Present bool   `json:"present"` // false: there is no value, and this is who removed it
	// Gone says that the history of the change is not kept: it was made at Version
	// or before, and the rest is not known.
	Gone    bool      `json:"gone,omitempty"`
	Version Version   `json:"version"`
	Prev    Version   `json:"prev"` // the version before the change
	Time    int64     `json:"time,omitempty"`
	Author  string    `json:"author,omitempty"`
	Merge   MergeType `json:"merge,omitempty"`
	Path    string    `json:"path,omitempty"` // of the delta
	ID      string    `json:"id,omitempty"`
}

// Blame names the delta that made the value at a JSON Pointer what it is: the
// newest one whose application changed the text of the value there, anything
// inside of it included, or made or removed it. A delta that was a no-op, or
// that set what was there already, does not count; one that moved an element
// of an array to the pointer's index does. ErrNotFound when nothing ever stood
// there; what was removed is blamed on its removal.
//
// The walk goes back from the document's version and ends with the answer: it
// reads the live log, then pack by pack, and merges only within one in which a
// delta overlaps the pointer, from that pack's own base. It holds one of them in
// memory at a time. What has not changed for long takes long to explain; ctx
// bounds it.
func (e *Engine) Blame(ctx context.Context, req BlameRequest) (BlameResult, error) {
	if err := checkBlame(&req); err != nil {
		return BlameResult{}, err
	}
	tokens, err := merge.Tokens(req.Pointer)
	if err != nil {
		return BlameResult{}, err
	}
	var res BlameResult
	err = e.past(ctx, req.Catalog, func(n uint64, v View) error {
		b := &blamer{req: &req, at: tokens, open: map[string]int{}, lim: e.opts.Limits}
		if b.bound, err = req.At.boundIn(req.Catalog, v.Head); err != nil {
			return err
		}
		var doc []byte
		if b.res.Version, doc, err = e.documentAt(ctx, n, req.Catalog, v, b.bound); err != nil {
			return err
		}
		if err := b.begin(doc); err != nil {
			return err
		}
		if len(b.open) > 0 {
			if err := e.back(ctx, n, req.Catalog, v, b.bound, func(s *stretch) (bool, error) { return b.search(ctx, s) }); err != nil {
				if err = b.gone(err); err != nil {
					return err
				}
			}
		}
		res = b.res
		return b.end()
	})
	if err != nil {
		return BlameResult{}, err
	}
	return res, nil
}

func checkBlame(req *BlameRequest) error {
	if err := cmp.Or(ValidateCatalog(req.Catalog), ValidatePointer(req.Pointer), req.At.check("at")); err != nil {
		return err
	}
	if req.Pointer == "/" {
		req.Pointer = ""
	}
	switch {
	case !req.Members && (req.After != nil || req.Limit != 0):
		return invalid("invalid_request", "members", "after and limit are for the members of an object")
	case req.Limit < 0 || req.Limit > maxPage:
		return invalid("invalid_limit", "limit", "limit is 1 to %d, not %d", maxPage, req.Limit)
	case req.Limit == 0:
		req.Limit = maxPage
	}
	return nil
}

// blamer looks for the changes of values.
type blamer struct {
	req   *BlameRequest
	at    []string // reference tokens of the pointer
	bound Version
	lim   merge.Limits
	res   BlameResult
	// open is the values that are not explained yet, by the name of the member, ""
	// when it is the value at the pointer itself: their place in res.Items.
	open map[string]int
	last string // member listed
}

// begin lists what is to be explained in a document.
func (b *blamer) begin(doc []byte) error {
	b.res.Items = []BlameEntry{}
	val, found, err := merge.Get(doc, b.req.Pointer)
	switch {
	case err != nil:
		return fmt.Errorf("blame %s of %s: %w", b.req.Pointer, b.req.Catalog, err)
	case !b.req.Members:
		b.add("", b.req.Pointer, found)
		return nil
	case !found:
		return fmt.Errorf("%w: catalog %q has nothing at %q at version %s", ErrNotFound, b.req.Catalog, b.req.Pointer, b.res.Version)
	case val[0] != '{':
		return invalid("not_an_object", "members", "the value at %q is no object, it has no members", b.req.Pointer)
	}
	skip := b.req.After != nil
	for name := range merge.Members(val) {
		switch {
		case skip:
			skip = name != *b.req.After
		case len(b.res.Items) == b.req.Limit:
			last := b.last
			b.res.Next = &last
			return nil
		default:
			b.add(name, merge.AppendToken(b.req.Pointer, name), true)
			b.last = name
		}
	}
	if skip {
		return fmt.Errorf("%w: the object at %q has no member %.100q to go on after", ErrNotFound, b.req.Pointer, *b.req.After)
	}
	return nil
}

func (b *blamer) add(name, pointer string, present bool) {
	b.open[name] = len(b.res.Items)
	b.res.Items = append(b.res.Items, BlameEntry{Pointer: pointer, Present: present})
}

// values gives the text of the open values in a document; what is absent is
// not among them.
func (b *blamer) values(doc []byte) (map[string][]byte, error) {
	vals := make(map[string][]byte, len(b.open))
	val, found, err := merge.Get(doc, b.req.Pointer)
	if err != nil || !found {
		return vals, err
	}
	if !b.req.Members {
		vals[""] = val
		return vals, nil
	}
	if val[0] == '[' { // a name may have been an index, once
		for name := range b.open {
			if elem, found, err := merge.Get(val, merge.AppendToken("", name)); err == nil && found {
				vals[name] = elem
			}
		}
	}
	for name, val := range merge.Members(val) {
		if _, open := b.open[name]; open {
			vals[name] = val
		}
	}
	return vals, nil
}

// search looks for the changes of the open values in a stretch, newest first.
// The deltas that may have changed one are tried in blocks that grow: the
// newest alone is most often it.
func (b *blamer) search(ctx context.Context, s *stretch) (more bool, err error) {
	var may []int
	for i := range s.upTo(b.bound) {
		if (s.outcomes == nil || s.outcomes[i].Status != merge.Noop) && b.overlaps(&s.deltas[i]) {
			may = append(may, i)
		}
	}
	if len(may) == 0 {
		return true, nil
	}
	base, err := s.base(ctx)
	if err != nil {
		return false, err
	}
	for size := 1; len(may) > 0 && len(b.open) > 0; size *= 4 {
		cut := max(0, len(may)-size)
		if err := b.block(ctx, s, base, may[cut:]); err != nil {
			return false, err
		}
		may = may[:cut]
	}
	return len(b.open) > 0, nil
}

// block explains what the newest changes among some deltas explain.
func (b *blamer) block(ctx context.Context, s *stretch, base []byte, may []int) error {
	doc, _, err := merge.Merge(base, s.deltas[:may[0]], b.lim)
	if err != nil {
		return err
	}
	before, err := b.values(doc)
	if err != nil {
		return err
	}
	changed := map[string]int{}
	next := may[0]
	for _, i := range may {
		if err := ctx.Err(); err != nil {
			return err
		}
		// The deltas between are of no concern to the values.
		if doc, _, err = merge.Merge(doc, s.deltas[next:i+1], b.lim); err != nil {
			return err
		}
		after, err := b.values(doc)
		if err != nil {
			return err
		}
		for name := range b.open {
			if !bytes.Equal(before[name], after[name]) { // no value is empty text
				changed[name] = i
			}
		}
		before, next = after, i+1
	}
	for name, i := range changed {
		d := s.entry(i)
		item := &b.res.Items[b.open[name]]
		item.Version, item.Prev, item.Time, item.Author, item.Merge, item.Path, item.ID = d.Version, d.Prev, d.Time, d.Author, d.Merge, d.Path, d.ID
		delete(b.open, name)
	}
	return nil
}

// gone marks what the history that is kept does not explain.
func (b *blamer) gone(err error) error {
	var h *HistoryError
	if !errors.As(err, &h) || h.Oldest.IsZero() {
		return err
	}
	for name, i := range b.open {
		if !b.res.Items[i].Present {
			return err
		}
		b.res.Items[i].Gone, b.res.Items[i].Version = true, h.Oldest
		delete(b.open, name)
	}
	return nil
}

// end says what it means that values are still open at the beginning of
// history.
func (b *blamer) end() error {
	for _, i := range b.open {
		item := &b.res.Items[i]
		if item.Present {
			return fmt.Errorf("%w: no delta in the history of catalog %q explains the value at %q", ErrDamaged, b.req.Catalog, item.Pointer)
		}
		return fmt.Errorf("%w: catalog %q never had anything at %q up to version %s", ErrNotFound, b.req.Catalog, item.Pointer, b.res.Version)
	}
	return nil
}

// overlaps tells whether a delta may change an open value. It errs to the side
// of yes: merging tells what really happened.
func (b *blamer) overlaps(d *merge.Delta) bool {
	path := splitPath(d.Path)
	switch d.Type {
	case merge.MergePatch:
		return b.overlapsMergePatch(path, d.Body)
	case merge.JSONPatch:
		return b.overlapsJSONPatch(path, d.Body)
	default:
		return b.meets(path)
	}
}

// Touches tells whether the delta may have changed the value at a JSON Pointer
// (RFC 6901; "" and "/" are the whole document): it wrote the value, something
// inside of it, or something that holds it, or moved the elements of an array
// on the way to it. A no-op never has. It errs to the side of yes: a delta that
// wrote what was there already touches it, too.
func (e *LogEntry) Touches(pointer string) (bool, error) {
	if err := ValidatePointer(pointer); err != nil {
		return false, err
	}
	if pointer == "/" {
		pointer = ""
	}
	tokens, err := merge.Tokens(pointer)
	if err != nil {
		return false, err
	}
	if e.Outcome.Status == merge.Noop {
		return false, nil
	}
	b := &blamer{req: &BlameRequest{}, at: tokens}
	return b.overlaps(&merge.Delta{Type: e.Merge, Path: e.Path, Body: e.Body, Strict: e.NoAutoParents}), nil
}

// meets tells whether a change of the value at a path may change an open value.
func (b *blamer) meets(path []string) bool {
	for i, tok := range path {
		if i == len(b.at) { // inside of the value at the pointer
			if !b.req.Members {
				return true
			}
			_, open := b.open[tok]
			return open
		}
		if tok != b.at[i] {
			// Beside it: only an array on the way there can have been turned into an
			// object.
			return isIndex(b.at[i])
		}
	}
	return true
}

func (b *blamer) overlapsMergePatch(path []string, body []byte) bool {
	if len(path) > len(b.at) || !slices.Equal(path, b.at[:len(path)]) {
		return b.meets(path)
	}
	for _, tok := range b.at[len(path):] {
		if body = bytes.TrimSpace(body); len(body) == 0 || body[0] != '{' {
			return true
		}
		val, found, err := merge.Get(body, merge.AppendToken("", tok))
		if err != nil || !found {
			return err != nil || isIndex(tok)
		}
		body = val
	}
	if body = bytes.TrimSpace(body); !b.req.Members || len(body) == 0 || body[0] != '{' {
		return true
	}
	for name := range merge.Members(body) {
		if _, open := b.open[name]; open {
			return true
		}
	}
	return false
}

func (b *blamer) overlapsJSONPatch(path []string, body []byte) bool {
	var ops []map[string]any // a struct would take "PATH" for "path"
	if json.Unmarshal(body, &ops) != nil {
		return true
	}
	for _, op := range ops {
		to, _ := op["path"].(string)
		from, _ := op["from"].(string)
		switch {
		case op["op"] == "test":
		case b.meetsPointer(path, to), op["op"] == "move" && b.meetsPointer(path, from):
			return true
		}
	}
	return false
}

// meetsPointer is meets for a pointer of a JSON Patch at a path. An element that
// comes or goes moves its neighbours: it is a change of the whole array.
func (b *blamer) meetsPointer(path []string, pointer string) bool {
	toks, err := merge.Tokens(pointer)
	if err != nil {
		return true
	}
	all := append(path[:len(path):len(path)], toks...)
	if k := len(toks); k > 0 && (toks[k-1] == "-" || isIndex(toks[k-1])) {
		all = all[:len(all)-1]
	}
	return b.meets(all)
}

// isIndex tells whether a reference token can be an index of an array.
func isIndex(tok string) bool { return tok != "" && strings.Trim(tok, "0123456789") == "" }

// splitPath gives the names of a delta's path.
func splitPath(path string) []string {
	if path == "/" {
		return nil
	}
	return strings.Split(path[1:], "/")
}
