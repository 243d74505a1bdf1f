package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/events"
)

// Write commits one delta; see engine.Engine.Write. Where no answer came the
// error is engine.ErrUnknown; with an id of the caller's own the write can be
// repeated or asked for (Outcome), without one it cannot.
func (c *Client) Write(ctx context.Context, req engine.WriteRequest) (engine.WriteResult, error) {
	if err := engine.ValidateCatalog(req.Catalog); err != nil {
		return engine.WriteResult{}, err
	}
	h := nats.Header{}
	// Only what is not the default: fewer bytes on the way.
	if req.Path != "" && req.Path != "/" {
		if err := engine.ValidatePath(req.Path); err != nil {
			return engine.WriteResult{}, err
		}
		h[events.HeaderPath] = []string{req.Path}
	}
	if req.MergeType != 0 {
		if !req.MergeType.Valid() {
			return engine.WriteResult{}, engine.Invalid("invalid_merge", "merge", "merge type %d is none of replace, merge-patch, json-patch, delete", req.MergeType)
		}
		h[events.HeaderMerge] = []string{req.MergeType.String()}
	}
	if req.NoAutoParents {
		h[events.HeaderAutoParents] = []string{"off"}
	}
	if req.Author != "" {
		if err := checkValue("author", req.Author); err != nil {
			return engine.WriteResult{}, err
		}
		h[events.HeaderAuthor] = []string{req.Author}
	}
	if err := setWriteOptions(h, req.WriteOptions); err != nil {
		return engine.WriteResult{}, err
	}
	msg, err := c.ask(ctx, c.subjects.Write(req.Catalog), h, req.Body, true)
	if err != nil && req.ID != "" && errors.Is(err, engine.ErrUnknown) {
		return engine.WriteResult{}, &engine.UnknownError{ID: req.ID, Err: err}
	}
	if err != nil {
		return engine.WriteResult{}, err
	}
	var res engine.WriteResult
	if err := decode(msg, &res); err != nil {
		return engine.WriteResult{}, fmt.Errorf("%w: %w", engine.ErrUnknown, err)
	}
	return res, nil
}

func setWriteOptions(h nats.Header, o engine.WriteOptions) error {
	if o.IfVersion != nil {
		h[events.HeaderIfVersion] = []string{o.IfVersion.String()}
	}
	if o.IfAbsent {
		h[events.HeaderIfAbsent] = []string{"1"}
	}
	if o.ID != "" {
		if err := checkValue("id", o.ID); err != nil {
			return err
		}
		h[events.HeaderMsgID] = []string{o.ID}
	}
	return nil
}

// Outcome tells what became of a write by its id; see engine.Engine.Outcome.
func (c *Client) Outcome(ctx context.Context, req engine.OutcomeRequest) (engine.OutcomeResult, error) {
	if err := engine.ValidateCatalog(req.Catalog); err != nil {
		return engine.OutcomeResult{}, err
	}
	body, err := json.Marshal(req)
	if err != nil {
		return engine.OutcomeResult{}, err
	}
	msg, err := c.ask(ctx, c.subjects.Outcome(req.Catalog), nil, body, false)
	if err != nil {
		return engine.OutcomeResult{}, err
	}
	var res engine.OutcomeResult
	return res, decode(msg, &res)
}

// Read reads the current document, or a part of it; see engine.Engine.Read.
func (c *Client) Read(ctx context.Context, req engine.ReadRequest) (engine.ReadResult, error) {
	if err := engine.ValidatePointer(req.Pointer); err != nil {
		return engine.ReadResult{}, err
	}
	if err := engine.ValidateCatalog(req.Catalog); err != nil {
		return engine.ReadResult{}, err
	}
	var h nats.Header
	if req.Pointer != "" && req.Pointer != "/" {
		if err := checkValue("pointer", req.Pointer); err != nil {
			return engine.ReadResult{}, err
		}
		h = nats.Header{events.HeaderPointer: {req.Pointer}}
	}
	msg, err := c.ask(ctx, c.subjects.Read(req.Catalog), h, nil, false)
	if msg == nil {
		return engine.ReadResult{}, err
	}
	// The version comes with a "not found" too, when there was a document once.
	res := engine.ReadResult{Pending: msg.Header.Get(events.HeaderPending) != ""}
	if v := msg.Header.Get(events.HeaderVersion); v != "" {
		version, verr := engine.ParseVersion(v)
		if verr != nil {
			return engine.ReadResult{}, fmt.Errorf("the answer's %s: %w", events.HeaderVersion, verr)
		}
		res.Version = version
	}
	if err != nil {
		return res, err
	}
	res.Body = msg.Data // of this message alone
	return res, nil
}

// List takes a consistent view of a catalog. The document comes with it, so
// that reading the list needs no further request and always gives the same.
func (c *Client) List(ctx context.Context, catalog string) *engine.List {
	res, err := c.Read(ctx, engine.ReadRequest{Catalog: catalog})
	l := engine.List{Catalog: catalog, Version: res.Version, HasPending: res.Pending}
	f := &fetched{body: res.Body}
	switch {
	case errors.Is(err, engine.ErrNotFound):
		f.err = err // a view of nothing is a view
	case err != nil:
		l.Err = err
	}
	return engine.NewList(f, l)
}

// fetched is the document of a list.
type fetched struct {
	body []byte
	err  error
}

func (f *fetched) ReadList(context.Context, *engine.List) ([]byte, error) {
	return bytes.Clone(f.body), f.err
}

// Log gives a page of a catalog's history; see engine.Engine.Log. A page may
// have fewer entries than its limit; there are more exactly when it has a Next.
func (c *Client) Log(ctx context.Context, req engine.LogRequest) (engine.LogPage, error) {
	if err := engine.ValidateCatalog(req.Catalog); err != nil {
		return engine.LogPage{}, err
	}
	var page engine.LogPage
	err := c.query(ctx, c.subjects.Log(req.Catalog), req, &page)
	return page, err
}

// catalogsPage is a page of the list of catalogs.
type catalogsPage struct {
	Items []engine.CatalogInfo `json:"items"`
	Next  *string              `json:"next"`
}

// Catalogs lists catalogs by name: those that begin with prefix and come after
// the name after, at most limit (1 to 1,000). Fewer mean that there are no more.
func (c *Client) Catalogs(ctx context.Context, prefix, after string, limit int) ([]engine.CatalogInfo, error) {
	if !utf8.ValidString(prefix) || !utf8.ValidString(after) {
		return nil, engine.Invalid("invalid_catalog", "prefix", "prefix or after is not valid UTF-8")
	}
	var all []engine.CatalogInfo
	for {
		var page catalogsPage
		req := struct {
			Prefix string `json:"prefix"`
			After  string `json:"after"`
			Limit  int    `json:"limit"`
		}{prefix, after, limit - len(all)}
		if err := c.query(ctx, c.subjects.Catalogs(), req, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		// A page may be shorter than asked for: as much as a reply holds.
		if page.Next == nil || len(all) >= limit || len(page.Items) == 0 {
			return all, nil
		}
		after = *page.Next
	}
}

// Fold merges a catalog's live log into a snapshot; see engine.Engine.Fold.
func (c *Client) Fold(ctx context.Context, catalog string) (engine.FoldResult, error) {
	if err := engine.ValidateCatalog(catalog); err != nil {
		return engine.FoldResult{}, err
	}
	msg, err := c.ask(ctx, c.subjects.Snapshot(catalog), nil, nil, false)
	if err != nil {
		return engine.FoldResult{}, err
	}
	var res engine.FoldResult
	return res, decode(msg, &res)
}

// Watch yields the events of the lake, each version of a catalog once and in
// order; see events.Watch. The subjects are the client's.
func (c *Client) Watch(ctx context.Context, o events.WatchOptions) iter.Seq2[engine.Event, error] {
	o.Subjects = c.subjects
	return events.Watch(ctx, c.js, o)
}

// query asks with a JSON object for one.
func (c *Client) query(ctx context.Context, subject string, req, res any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	msg, err := c.ask(ctx, subject, nil, body, false)
	if err != nil {
		return err
	}
	return decode(msg, res)
}

func decode(msg *nats.Msg, to any) error {
	if err := json.Unmarshal(msg.Data, to); err != nil {
		return fmt.Errorf("the answer on %s is not what this client knows; are both of one version? %w", msg.Subject, err)
	}
	return nil
}

// checkValue refuses what a header cannot carry unchanged.
func checkValue(field, s string) error {
	if strings.ContainsAny(s, "\r\n") || strings.TrimSpace(s) != s {
		return engine.Invalid("invalid_"+field, field, "the %s cannot travel over NATS: no line breaks, no spaces around it", field)
	}
	return nil
}
