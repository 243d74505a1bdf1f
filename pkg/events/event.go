package events

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/jsonlake/lake/pkg/engine"
)

// SchemaVersion is the "v" of the events that this package writes and reads.
// Fields may be added under the same version; readers ignore what they do not
// know.
const SchemaVersion = 1

// MaxEventBytes bounds an event on the wire; the streams refuse longer messages.
const MaxEventBytes = 64 << 10

// Encode is the wire form of an event, a JSON object:
//
//	{"v":1,"catalog":"users","kind":"committed","first":"1700000000_1","version":"1700000000_7","prev":"0_0",
//	 "count":7,"bytes":812,"author":"alice","writer":"abcdefgh","time":1700000000123}
//
// An event that would pass MaxEventBytes, which only an absurd author can
// cause, loses its author: the outbox must never be stuck behind it.
func Encode(ev engine.Event) ([]byte, error) {
	b, err := appendEvent(make([]byte, 0, 320), &ev)
	if err == nil && len(b) > MaxEventBytes {
		ev.Author = ""
		b, err = appendEvent(nil, &ev)
	}
	if err != nil {
		return nil, fmt.Errorf("encode an event of catalog %q: %w", ev.Catalog, err)
	}
	return b, nil
}

// appendEvent is what json.Marshal makes of an event, without looking at its type
// each time: the relay does this more often than anything else.
func appendEvent(b []byte, ev *engine.Event) (_ []byte, err error) {
	str := func(name, s string) {
		b = append(append(append(b, ",\""...), name...), "\":"...)
		for i := range len(s) {
			if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
				text, failed := json.Marshal(s)
				b, err = append(b, text...), errors.Join(err, failed)
				return
			}
		}
		b = append(append(append(b, '"'), s...), '"')
	}
	num := func(name string, n int64) {
		b = append(append(append(b, ",\""...), name...), "\":"...)
		b = strconv.AppendInt(b, n, 10)
	}
	b = strconv.AppendInt(append(b, `{"v":`...), SchemaVersion, 10)
	str("catalog", ev.Catalog)
	str("kind", string(ev.Kind))
	str("first", ev.First.String())
	str("version", ev.Version.String())
	str("prev", ev.Prev.String())
	num("count", ev.Count)
	num("bytes", ev.Bytes)
	if ev.Author != "" {
		str("author", ev.Author)
	}
	if ev.Writer != "" {
		str("writer", ev.Writer)
	}
	num("time", ev.Time)
	return append(b, '}'), err
}

// Decode is the inverse of Encode. It checks what a listener relies on: the
// schema, the catalog's name, and a range (prev, version] that is not empty.
// Unknown kinds and fields are let through. The error is an
// *engine.InvalidError with code "invalid_event".
func Decode(b []byte) (engine.Event, error) {
	var ev engine.Event
	if err := json.Unmarshal(b, &ev); err != nil {
		return engine.Event{}, invalidEvent("it is not a JSON object of the schema: %v", err)
	}
	if ev.V != SchemaVersion {
		return engine.Event{}, invalidEvent("its schema is %d and this program knows %d only: update it", ev.V, SchemaVersion)
	}
	if err := engine.ValidateCatalog(ev.Catalog); err != nil {
		return engine.Event{}, invalidEvent("its catalog: %v", err)
	}
	if ev.Kind == "" {
		return engine.Event{}, invalidEvent("it has no kind")
	}
	if !ev.Prev.Less(ev.Version) {
		return engine.Event{}, invalidEvent("its range (%s, %s] is empty", ev.Prev, ev.Version)
	}
	return ev, nil
}

func invalidEvent(format string, args ...any) error {
	return engine.Invalid("invalid_event", "event", "not an event: "+format, args...)
}

// MsgID is the Nats-Msg-Id of an event: <token>:<kind>:<version>. A stream
// deduplicates over all its subjects, so the catalog is part of the id.
func MsgID(ev engine.Event) string {
	return engine.EncodeCatalog(ev.Catalog) + ":" + string(ev.Kind) + ":" + ev.Version.String()
}
