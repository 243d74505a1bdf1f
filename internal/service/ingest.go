package service

import (
	"context"
	"fmt"
	"unicode/utf8"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/merge"
	"github.com/jsonlake/lake/pkg/events"
)

// Writer is what Ingest asks of a lake.
type Writer interface {
	Write(ctx context.Context, req engine.WriteRequest) (engine.WriteResult, error)
	Outcome(ctx context.Context, req engine.OutcomeRequest) (engine.OutcomeResult, error)
	// Ready is nil when a write would be taken now.
	Ready() error
}

// Ingest is the service lake-ingest: it commits writes.
//
//	lake.v1.write.<token>   body: the JSON of the delta, none for a delete
//	  Lake-Path             default /
//	  Lake-Merge            replace | merge-patch (default) | json-patch | delete
//	  Lake-Auto-Parents     off
//	  Lake-Author           who asks
//	  Lake-If-Version       the version that must be current; 0_0: never written
//	  Lake-If-Absent        1: there must be no document
//	  Nats-Msg-Id           idempotency id: the same id has one effect in 24 h
//	→ {"version":"1700000000_1","first":"1700000000_1","count":1,"duplicate":false}, Lake-Version
//
//	lake.v1.outcome.<token> {"id":"…"}: what became of the write with this id
//	→ {"state":"committed","version":"1700000000_1","first":"1700000000_1","count":1,"duplicate":false} or {"state":"pending",…}
//
// A write without a reply subject is applied like any other.
type Ingest struct {
	door *door
	lake Writer
}

// NewIngest makes the service; Run runs it.
func NewIngest(c Config, lake Writer) (*Ingest, error) {
	if err := c.setDefaults(1024); err != nil {
		return nil, err
	}
	s := &Ingest{door: newDoor(c, events.ServiceIngest, "Lake: writes to documents", lake.Ready), lake: lake}
	s.door.add(&endpoint{
		name: string(events.VerbWrite), subject: c.Subjects.Every(events.VerbWrite), request: schemaAny, response: schemaWrite, handle: s.write,
		headers: []string{
			events.HeaderPath, events.HeaderMerge, events.HeaderAutoParents, events.HeaderAuthor, events.HeaderIfVersion, events.HeaderIfAbsent, events.HeaderMsgID,
		},
	})
	s.door.add(&endpoint{
		name: string(events.VerbOutcome), subject: c.Subjects.Every(events.VerbOutcome), pure: true, request: schemaOutcomeRequest, response: schemaOutcome, handle: s.outcome,
	})
	return s, nil
}

// Run serves until ctx ends, answers what it has admitted and returns nil; an
// error when the connection was closed under it.
func (s *Ingest) Run(ctx context.Context) error { return s.door.run(ctx) }

// Listening is closed when the server sends requests here.
func (s *Ingest) Listening() <-chan struct{} { return s.door.listening }

func (s *Ingest) write(ctx context.Context, r *request) (*reply, error) {
	req, err := s.writeRequest(r)
	if err != nil {
		return nil, err
	}
	res, err := s.lake.Write(ctx, req)
	if err != nil {
		return nil, err
	}
	rep, err := jsonReply(res)
	if err != nil {
		return nil, err
	}
	rep.header[events.HeaderVersion] = []string{res.Version.String()}
	return rep, nil
}

func (s *Ingest) outcome(ctx context.Context, r *request) (*reply, error) {
	req := engine.OutcomeRequest{Catalog: r.catalog}
	if err := r.decode(map[string]any{"id": &req.ID}); err != nil {
		return nil, err
	}
	res, err := s.lake.Outcome(ctx, req)
	if err != nil {
		return nil, err
	}
	return jsonReply(res)
}

// writeOptions reads the headers that make a write conditional or safe to
// repeat.
func writeOptions(r *request) (o engine.WriteOptions, err error) {
	expect, given, err := r.value(events.HeaderIfVersion)
	if err != nil {
		return o, err
	}
	if given {
		v, err := engine.ParseVersion(expect)
		if err != nil {
			return o, err
		}
		o.IfVersion = &v
	}
	absent, given, err := r.value(events.HeaderIfAbsent)
	if err != nil {
		return o, err
	}
	if given && absent != "1" {
		return o, engine.Invalid("invalid_header", events.HeaderIfAbsent, "header %s is 1 or left out, not %.50q", events.HeaderIfAbsent, absent)
	}
	o.IfAbsent = given
	if o.ID, given, err = r.value(events.HeaderMsgID); given && o.ID == "" {
		err = engine.Invalid("invalid_id", events.HeaderMsgID, "header %s is empty: leave it out, or give an id of 1 to %d bytes", events.HeaderMsgID, engine.MaxID)
	}
	return o, err
}

// writeRequest reads the headers. What they and the body say is the engine's to
// judge.
func (s *Ingest) writeRequest(r *request) (engine.WriteRequest, error) {
	req := engine.WriteRequest{Catalog: r.catalog, Body: r.body}
	path, given, err := r.value(events.HeaderPath)
	if err != nil {
		return req, err
	}
	if given {
		if err := engine.ValidatePath(path); err != nil { // the engine takes "" for "/"
			return req, err
		}
		req.Path = path
	}
	name, given, err := r.value(events.HeaderMerge)
	if err != nil {
		return req, err
	}
	if given {
		if req.MergeType, err = merge.ParseType(name); err != nil {
			return req, engine.Invalid("invalid_merge", "merge", "merge type %.50q is none of replace, merge-patch, json-patch, delete", name)
		}
	}
	auto, given, err := r.value(events.HeaderAutoParents)
	if err != nil {
		return req, err
	}
	if given {
		if auto != "off" {
			return req, engine.Invalid("invalid_header", events.HeaderAutoParents, "header %s is \"off\" or left out, not %.50q", events.HeaderAutoParents, auto)
		}
		req.NoAutoParents = true
	}
	if req.Author, _, err = r.value(events.HeaderAuthor); err != nil {
		return req, err
	}
	if !utf8.ValidString(req.Author) {
		return req, engine.Invalid("invalid_author", "author", "the author is not valid UTF-8")
	}
	if req.WriteOptions, err = writeOptions(r); err != nil {
		return req, err
	}
	if most := min(s.door.MaxBody, s.door.NATS.MaxPayload()); int64(len(r.body)) > most {
		return req, fmt.Errorf("%w: the body has %d bytes, at most %d are allowed over NATS", engine.ErrTooLarge, len(r.body), most)
	}
	return req, nil
}
