package service

import (
	"context"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/merge"
	"github.com/jsonlake/lake/pkg/events"
)

// Writer is what Ingest asks of a lake.
type Writer interface {
	Write(ctx context.Context, req engine.WriteRequest) (engine.WriteResult, error)
	// WriteSoon may write without a goroutine that waits.
	WriteSoon(deadline time.Time, req engine.WriteRequest, answer func(res engine.WriteResult, err error)) bool
	WriteBatch(ctx context.Context, req engine.BatchRequest) (engine.WriteResult, error)
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
//	  Lake-Batch            ndjson: the body has a delta a line, {"path":"/a","merge":"merge-patch","body":…}, committed as one run
//	  Lake-Encoding         s2: the batch is a block of s2
//	→ {"version":"1700000000_1","first":"1700000000_1","count":1,"duplicate":false}
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
	def(&c.MaxWait, 100*time.Millisecond)
	s := &Ingest{door: newDoor(c, events.ServiceIngest, "Lake: writes to documents", lake.Ready), lake: lake}
	s.door.add(&endpoint{
		name: string(events.VerbWrite), subject: c.Subjects.Every(events.VerbWrite), request: schemaAny, response: schemaWrite, handle: s.write, soon: s.writeSoon, soonBody: soonWrite,
		headers: []string{
			events.HeaderPath, events.HeaderMerge, events.HeaderAutoParents, events.HeaderAuthor, events.HeaderIfVersion, events.HeaderIfAbsent, events.HeaderMsgID,
			events.HeaderBatch, events.HeaderEncoding,
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
	var res engine.WriteResult
	form, batch, err := r.value(events.HeaderBatch)
	switch {
	case err != nil:
	case batch:
		res, err = s.writeBatch(ctx, r, form)
	default:
		var req engine.WriteRequest
		if req, err = s.writeRequest(r); err == nil {
			res, err = s.lake.Write(ctx, req)
		}
	}
	if err != nil {
		return nil, err
	}
	return writeReply(res), nil
}

// soonWrite is the largest body that is looked through where requests come in.
const soonWrite = 4 << 10

// writeSoon hands a small write to the group commit, from which it is answered.
func (s *Ingest) writeSoon(r *request, answer func(rep *reply, err error, done bool)) bool {
	if r.header[events.HeaderBatch] != nil {
		return false
	}
	req, err := s.writeRequest(r)
	if err != nil {
		return false
	}
	return s.lake.WriteSoon(r.deadline, req, func(res engine.WriteResult, err error) {
		if err != nil {
			answer(nil, err, true)
		} else {
			answer(writeReply(res), nil, true)
		}
	})
}

// writeReply is the JSON of a result, laid out by hand, without any header: it is the
// answer that is given most, and all that it tells is in its body.
func writeReply(res engine.WriteResult) *reply {
	v := res.Version.String()
	b := append(make([]byte, 0, 128), `{"version":"`...)
	b = append(b, v...)
	b = append(b, `","first":"`...)
	if res.First == res.Version {
		b = append(b, v...)
	} else {
		b = append(b, res.First.String()...)
	}
	b = append(b, `","count":`...)
	b = strconv.AppendInt(b, int64(res.Count), 10)
	b = append(b, `,"duplicate":`...)
	b = strconv.AppendBool(b, res.Duplicate)
	return &reply{body: append(b, '}')}
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

// author is who asks.
func author(r *request) (string, error) {
	name, _, err := r.value(events.HeaderAuthor)
	if err == nil && !utf8.ValidString(name) {
		err = engine.Invalid("invalid_author", "author", "the author is not valid UTF-8")
	}
	return name, err
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
	if r.header[events.HeaderEncoding] != nil {
		return req, engine.Invalid("invalid_header", events.HeaderEncoding, "header %s is for a batch (%s)", events.HeaderEncoding, events.HeaderBatch)
	}
	req.Author, req.WriteOptions, err = s.whoAndHow(r)
	return req, err
}

// whoAndHow reads the headers that a write and a batch have in common, and
// bounds the body.
func (s *Ingest) whoAndHow(r *request) (who string, o engine.WriteOptions, err error) {
	if who, err = author(r); err != nil {
		return who, o, err
	}
	if o, err = writeOptions(r); err != nil {
		return who, o, err
	}
	if most := min(s.door.MaxBody, s.door.NATS.MaxPayload()); int64(len(r.body)) > most {
		return who, o, fmt.Errorf("%w: the body has %d bytes, at most %d are allowed over NATS", engine.ErrTooLarge, len(r.body), most)
	}
	return who, o, nil
}
