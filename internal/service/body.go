package service

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/merge"
	"github.com/jsonlake/lake/pkg/events"
)

// maxQuery is the longest body of a request that is not a write, bytes.
const maxQuery = 64 << 10

// empty demands that the request has no body.
func (r *request) empty() error {
	if len(bytes.TrimSpace(r.body)) > 0 {
		return engine.Invalid("unexpected_body", "body", "a %s has no body", r.endpoint.name)
	}
	return nil
}

// decode reads the request's JSON object into fields, by name; no body is an
// empty object. It is strict: nothing unknown, nothing twice, no null, names
// exactly as they are.
func (r *request) decode(fields map[string]any) error {
	if len(bytes.TrimSpace(r.body)) == 0 {
		return nil
	}
	if len(r.body) > maxQuery {
		return fmt.Errorf("%w: the request has %d bytes, at most %d are allowed", engine.ErrTooLarge, len(r.body), maxQuery)
	}
	body, err := merge.Check(merge.Replace, r.body, merge.Limits{})
	if err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(fields))
	var given map[string]json.RawMessage
	if body[0] != '{' || json.Unmarshal(body, &given) != nil {
		return engine.Invalid("invalid_request", "body", "the request must be a JSON object with any of the fields %s", strings.Join(names, ", "))
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		to, known := fields[name]
		if !known {
			return engine.Invalid("unknown_field", "body", "field %.100q is unknown (known: %s)", name, strings.Join(names, ", "))
		}
		if err := decodeField(given[name], to); err != nil {
			var inv *engine.InvalidError
			if errors.As(err, &inv) {
				return engine.Invalid(inv.Code, name, "field %s: %s", name, inv.Detail)
			}
			return engine.Invalid("invalid_field", name, "field %s cannot be %.100s", name, given[name])
		}
	}
	return nil
}

func decodeField(raw json.RawMessage, to any) error {
	if string(raw) == "null" {
		return errors.New("null")
	}
	return json.Unmarshal(raw, to)
}

// encode is JSON without the escapes for HTML, which would change the text of
// bodies that are passed on.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode the answer: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// jsonReply answers with a JSON value. Every answer is JSON, but for what has nothing to
// tell; only errors have a media type, since theirs is another.
func jsonReply(v any) (*reply, error) {
	b, err := encode(v)
	if err != nil {
		return nil, err
	}
	return &reply{body: b}, nil
}

// replyRoom is kept free in every message for headers and the subject.
const replyRoom = 16 << 10

// maxReply is the longest body of a reply, bytes.
func (d *door) maxReply() int {
	most := int(d.NATS.MaxPayload())
	return max(most-replyRoom, most/2)
}

// page is a page of a listing: an object with items and next.
type page struct {
	Items []json.RawMessage `json:"items"`
	Next  any               `json:"next,omitempty"`
}

// fit encodes as many of the items as a reply holds. An item that no reply
// holds is an error.
func fit[T any](items []T, limit int) ([]json.RawMessage, error) {
	fitting := make([]json.RawMessage, 0, len(items))
	size := len(`{"items":[],"next":""}`) + 1024 // of a catalog's name, escaped
	for _, item := range items {
		b, err := encode(item)
		if err != nil {
			return nil, err
		}
		if size += len(b) + 1; size > limit {
			if len(fitting) == 0 {
				return nil, fmt.Errorf("%w: an item has %d bytes and a reply holds at most %d", engine.ErrTooLarge, len(b), limit)
			}
			return fitting, nil
		}
		fitting = append(fitting, b)
	}
	return fitting, nil
}

// Limits of what an error tells: it may quote what was sent, and has to fit
// into a reply and its header.
const (
	maxSentence = 512
	maxDetail   = 2048
	maxPointer  = 2048
	maxTiming   = 4096
)

// problem is the error as the outside is told.
func problem(err error, catalog string) *engine.Problem {
	p := *engine.ProblemOf(err, catalog)
	p.Detail, p.Pointer = cut(p.Detail, maxDetail), cut(p.Pointer, maxPointer)
	return &p
}

// problemReply answers with an error; what else the answer tells by header
// (the version at which nothing was found) is kept.
func problemReply(rep *reply, p *engine.Problem) *reply {
	h := nats.Header{}
	if rep != nil {
		maps.Copy(h, rep.header)
	}
	h[events.HeaderError] = []string{cut(p.Detail, maxSentence)}
	h[events.HeaderErrorCode] = []string{fmt.Sprint(p.Status)}
	h[events.HeaderContentType] = []string{"application/problem+json"}
	return &reply{header: h, body: p.JSON()}
}

// cut shortens a text to at most n bytes, between characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	n -= len("…")
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
