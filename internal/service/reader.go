package service

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/events"
)

// Source is what Reader asks of a lake.
type Source interface {
	Read(ctx context.Context, req engine.ReadRequest) (engine.ReadResult, error)
	Log(ctx context.Context, req engine.LogRequest) (engine.LogPage, error)
	Catalogs(ctx context.Context, prefix, after string, limit int) ([]engine.CatalogInfo, error)
	// Ready is nil when a read would be answered now.
	Ready() error
}

// Reader is the service lake-reader: it answers with documents and their
// history, and changes nothing.
//
//	lake.v1.read.<token>   no body; Lake-Pointer: JSON Pointer of a part, / is the whole
//	→ the document; Lake-Version, ETag, Lake-Pending: 1 while a write is being committed
//
//	lake.v1.log.<token>    {"after":"0_0","limit":100,"order":"asc"}
//	→ {"items":[{"version",…}],"next":"1700000000_7"}
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
		name: string(events.VerbRead), subject: c.Subjects.Every(events.VerbRead), pure: true, response: schemaAny, handle: s.read,
		headers: []string{events.HeaderPointer},
	})
	s.door.add(&endpoint{
		name: string(events.VerbLog), subject: c.Subjects.Every(events.VerbLog), pure: true, request: schemaLogRequest, response: schemaLog, handle: s.log,
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
	pointer, _, err := r.value(events.HeaderPointer)
	if err != nil {
		return nil, err
	}
	res, err := s.lake.Read(ctx, engine.ReadRequest{Catalog: r.catalog, Pointer: pointer})
	rep := &reply{header: nats.Header{}, body: res.Body}
	if !res.Version.IsZero() {
		v := res.Version.String()
		rep.header[events.HeaderVersion] = []string{v}
		rep.header[events.HeaderETag] = []string{`"` + v + `"`}
	}
	if res.Pending {
		rep.header[events.HeaderPending] = []string{"1"}
	}
	if err != nil {
		return rep, err
	}
	rep.header[events.HeaderContentType] = []string{"application/json"}
	if most := s.door.maxReply(); len(rep.body) > most {
		return nil, fmt.Errorf("%w: the document has %d bytes and a reply over NATS holds at most %d: read parts of it with %s, or raise the server's max_payload",
			engine.ErrTooLarge, len(rep.body), most, events.HeaderPointer)
	}
	return rep, nil
}

func (s *Reader) log(ctx context.Context, r *request) (*reply, error) {
	req := engine.LogRequest{Catalog: r.catalog, Limit: defaultPage}
	order := "asc"
	if err := r.decode(map[string]any{"after": &req.After, "limit": &req.Limit, "order": &order}); err != nil {
		return nil, err
	}
	if order != "asc" {
		return nil, engine.Invalid("invalid_order", "order", "order is \"asc\" in this version of Lake, not %.50q", order)
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
