package service

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/merge"
	"github.com/jsonlake/lake/pkg/events"
)

// Source is what Reader asks of a lake.
type Source interface {
	Read(ctx context.Context, req engine.ReadRequest) (engine.ReadResult, error)
	// ReadSoon may answer without a goroutine that waits.
	ReadSoon(req engine.ReadRequest, answer func(res engine.ReadResult, done bool)) bool
	Log(ctx context.Context, req engine.LogRequest) (engine.LogPage, error)
	Diff(ctx context.Context, req engine.DiffRequest) (engine.DiffResult, error)
	Blame(ctx context.Context, req engine.BlameRequest) (engine.BlameResult, error)
	Catalogs(ctx context.Context, prefix, after string, limit int) ([]engine.CatalogInfo, error)
	// Ready is nil when a read would be answered now.
	Ready() error
}

// Reader is the service lake-reader: it answers with documents and their
// history, and changes nothing.
//
//	lake.v1.read.<token>   no body; Lake-Pointer: JSON Pointer of a part, / is the whole; Lake-At: version or time;
//	                       Lake-Min-Version: wait for this version; Lake-Consistency: strict | relaxed
//	                       (perhaps engine.RelaxedAge old); Lake-If-None-Match: version that the asker has
//	→ the document; Lake-Version, Lake-Pending: 1 while a write is being committed;
//	  no body at all when the version is that of Lake-If-None-Match
//
//	lake.v1.log.<token>    {"after":"0_0","limit":100,"order":"asc"}; "desc": versions below after, 0_0 from the newest
//	→ {"items":[{"version",…}],"next":"1700000000_7"}
//
//	lake.v1.diff.<token>   {"from":"1700000000_1","to":"2023-11-14T22:13:20Z","format":"merge-patch"}; to: now, format: either
//	→ {"from":"1700000000_1","to":"1700000000_7","merge":"merge-patch","patch":{…}}
//
//	lake.v1.blame.<token>  {"pointer":"/a/b","members":false,"at":"1700000000_7"}; of members, after and limit
//	→ {"version":"1700000000_7","items":[{"pointer":"/a/b","version",…}],"next":"name"}
//
//	lake.v1.catalogs       {"prefix":"","after":"","limit":100}
//	→ {"items":[{"catalog",…}],"next":"users"}
//
// A page may have fewer items than its limit: as many as a reply holds. There
// are more exactly when it has a next.
type Reader struct {
	door *door
	lake Source
}

// Limits of a page.
const (
	defaultPage = 100
	maxPage     = 1000
)

// NewReader makes the service; Run runs it.
func NewReader(c Config, lake Source) (*Reader, error) {
	if err := c.setDefaults(64); err != nil {
		return nil, err
	}
	s := &Reader{door: newDoor(c, events.ServiceReader, "Lake: documents and their history", lake.Ready), lake: lake}
	s.door.add(&endpoint{
		name: string(events.VerbRead), subject: c.Subjects.Every(events.VerbRead), pure: true, response: schemaAny, handle: s.read, soon: s.readSoon,
		headers: []string{events.HeaderPointer, events.HeaderAt, events.HeaderMinVersion, events.HeaderConsistency, events.HeaderIfNoneMatch},
	})
	s.door.add(&endpoint{
		name: string(events.VerbLog), subject: c.Subjects.Every(events.VerbLog), pure: true, request: schemaLogRequest, response: schemaLog, handle: s.log,
	})
	s.door.add(&endpoint{
		name: string(events.VerbDiff), subject: c.Subjects.Every(events.VerbDiff), pure: true, request: schemaDiffRequest, response: schemaDiff, handle: s.diff,
	})
	s.door.add(&endpoint{
		name: string(events.VerbBlame), subject: c.Subjects.Every(events.VerbBlame), pure: true, request: schemaBlameRequest, response: schemaBlame, handle: s.blame,
	})
	s.door.add(&endpoint{
		name: string(events.VerbCatalogs), subject: c.Subjects.Catalogs(), pure: true, request: schemaCatalogsRequest, response: schemaCatalogs, handle: s.catalogs,
	})
	return s, nil
}

// Run serves until ctx ends, answers what it has admitted and returns nil; an
// error when the connection was closed under it.
func (s *Reader) Run(ctx context.Context) error { return s.door.run(ctx) }

// Listening is closed when the server sends requests here.
func (s *Reader) Listening() <-chan struct{} { return s.door.listening }

func (s *Reader) read(ctx context.Context, r *request) (*reply, error) {
	if err := r.empty(); err != nil {
		return nil, err
	}
	req, err := readRequest(r)
	if err != nil {
		return nil, err
	}
	res, err := s.lake.Read(ctx, req)
	rep := documentReply(res)
	if err != nil || res.NotModified {
		return rep, err
	}
	if most := s.door.maxReply(); len(rep.body) > most {
		return nil, fmt.Errorf("%w: the document has %d bytes and a reply over NATS holds at most %d: read parts of it with %s, or raise the server's max_payload",
			engine.ErrTooLarge, len(rep.body), most, events.HeaderPointer)
	}
	return rep, nil
}

// documentReply tells of a read. Every header costs each read something, here, on the way
// and in the client: none says what is always so, or what another one says.
func documentReply(res engine.ReadResult) *reply {
	k := documentHeader{res.Version, res.Pending}
	last := &documentHeaders[uint(res.Version.Sec+int64(res.Version.Seq))%uint(len(documentHeaders))]
	made := last.Load()
	if made == nil || made.documentHeader != k {
		made = &madeHeader{k, k.make()}
		last.Store(made)
	}
	return &reply{header: made.header, body: res.Body}
}

// documentHeader is all that the header of an answer to a read depends on.
type documentHeader struct {
	version engine.Version
	pending bool
}

type madeHeader struct {
	documentHeader
	header nats.Header // nobody changes it any more
}

// documentHeaders are the headers that were made last, by their versions: what is
// read is read again.
var documentHeaders [1024]atomic.Pointer[madeHeader]

func (k documentHeader) make() nats.Header {
	h := nats.Header{}
	if !k.version.IsZero() {
		h[events.HeaderVersion] = []string{k.version.String()}
	}
	if k.pending {
		h[events.HeaderPending] = []string{"1"}
	}
	return h
}

// readSoon answers what the document cache and one look at the head can.
func (s *Reader) readSoon(r *request, answer func(rep *reply, err error, done bool)) bool {
	req, err := readRequest(r)
	if err != nil {
		return false
	}
	return s.lake.ReadSoon(req, func(res engine.ReadResult, done bool) {
		if done && len(res.Body) <= s.door.maxReply() {
			answer(documentReply(res), nil, true)
		} else {
			answer(nil, nil, false)
		}
	})
}

// readRequest takes a read from its headers.
func readRequest(r *request) (engine.ReadRequest, error) {
	req := engine.ReadRequest{Catalog: r.catalog}
	for name := range r.header {
		if err := readHeader(r, &req, name); err != nil {
			var inv *engine.InvalidError
			if errors.As(err, &inv) && inv.Code != "invalid_header" {
				err = engine.Invalid(inv.Code, name, "header %s: %s", name, inv.Detail)
			}
			return req, err
		}
	}
	return req, nil
}

func readHeader(r *request, req *engine.ReadRequest, name string) error {
	v, _, err := r.value(name)
	switch name {
	case events.HeaderPointer:
		req.Pointer = v
	case events.HeaderAt:
		var at engine.At
		if err == nil {
			at, err = engine.ParseAt(v)
		}
		req.At = &at
	case events.HeaderMinVersion:
		if err == nil {
			err = req.MinVersion.UnmarshalText([]byte(v))
		}
	case events.HeaderIfNoneMatch:
		if err == nil {
			err = req.IfNoneMatch.UnmarshalText([]byte(v))
		}
	case events.HeaderConsistency:
		if err == nil && v != "strict" && v != "relaxed" {
			err = engine.Invalid("invalid_header", events.HeaderConsistency, "consistency is strict or relaxed, not %.50q", v)
		}
		req.Relaxed = v == "relaxed"
	default:
		return nil // of another part of the service, or of nobody
	}
	return err
}

func (s *Reader) log(ctx context.Context, r *request) (*reply, error) {
	req := engine.LogRequest{Catalog: r.catalog, Limit: defaultPage}
	if err := r.decode(map[string]any{"after": &req.After, "limit": &req.Limit, "order": &req.Order}); err != nil {
		return nil, err
	}
	log, err := s.lake.Log(ctx, req)
	if err != nil {
		return nil, err
	}
	items, err := fit(log.Items, s.door.maxReply())
	if err != nil {
		return nil, fmt.Errorf("the delta after version %s: %w", req.After, err)
	}
	p := page{Items: items}
	switch {
	case len(items) < len(log.Items):
		p.Next = log.Items[len(items)-1].Version
	case log.Next != nil:
		p.Next = *log.Next
	}
	return jsonReply(p)
}

func (s *Reader) diff(ctx context.Context, r *request) (*reply, error) {
	req := engine.DiffRequest{Catalog: r.catalog}
	if err := r.decode(map[string]any{"from": &req.From, "to": &req.To, "format": &req.Format}); err != nil {
		return nil, err
	}
	diff, err := s.lake.Diff(ctx, req)
	if err != nil {
		return nil, err
	}
	rep, err := jsonReply(diff)
	if most := s.door.maxReply(); err == nil && len(rep.body) > most {
		return nil, fmt.Errorf("%w: the answer has %d bytes and a reply over NATS holds at most %d: compare versions that lie nearer to each other, or raise the server's max_payload",
			engine.ErrTooLarge, len(rep.body), most)
	}
	return rep, err
}

// blamePage is an engine.BlameResult of as many items as a reply holds.
type blamePage struct {
	Version engine.Version `json:"version"`
	page
}

func (s *Reader) blame(ctx context.Context, r *request) (*reply, error) {
	req := engine.BlameRequest{Catalog: r.catalog}
	if err := r.decode(map[string]any{"pointer": &req.Pointer, "members": &req.Members, "after": &req.After, "limit": &req.Limit, "at": &req.At}); err != nil {
		return nil, err
	}
	blame, err := s.lake.Blame(ctx, req)
	if err != nil {
		return nil, err
	}
	items, err := fit(blame.Items, s.door.maxReply()-maxQuery) // next is a name of the document
	if err != nil {
		return nil, err
	}
	p := blamePage{Version: blame.Version, page: page{Items: items}}
	switch {
	case len(items) < len(blame.Items):
		names, err := merge.Tokens(blame.Items[len(items)-1].Pointer)
		if err != nil {
			return nil, err
		}
		p.Next = names[len(names)-1]
	case blame.Next != nil:
		p.Next = *blame.Next
	}
	return jsonReply(p)
}

func (s *Reader) catalogs(ctx context.Context, r *request) (*reply, error) {
	var prefix, after string
	limit := defaultPage
	if err := r.decode(map[string]any{"prefix": &prefix, "after": &after, "limit": &limit}); err != nil {
		return nil, err
	}
	if limit < 1 || limit > maxPage {
		return nil, engine.Invalid("invalid_limit", "limit", "limit is 1 to %d, not %d", maxPage, limit)
	}
	// One more than asked for tells whether there are more.
	list, err := s.lake.Catalogs(ctx, prefix, after, min(limit+1, maxPage))
	if err != nil {
		return nil, err
	}
	items, err := fit(list[:min(limit, len(list))], s.door.maxReply())
	if err != nil {
		return nil, err
	}
	p := page{Items: items}
	if n := len(items); n > 0 && (n < len(list) || n == maxPage) {
		p.Next = list[n-1].Catalog
	}
	return jsonReply(p)
}
