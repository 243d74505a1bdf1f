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
	var res engine.OutcomeResult
	err := c.query(ctx, c.subjects.Outcome(req.Catalog), req, &res)
	return res, err
}

// Read reads the current document, one of the past, or a part of it; see
// engine.Engine.Read. MinVersion is waited for until the deadline of ctx, or the
// client's timeout. Where ctx has 20 s or more, a service works on the read for its own
// default, 10 s, and once more with what is left if that was not enough.
func (c *Client) Read(ctx context.Context, req engine.ReadRequest) (engine.ReadResult, error) {
	h, err := readHeaders(&req)
	if err != nil {
		return engine.ReadResult{}, err
	}
	msg, err := c.ask(ctx, c.subjects.Read(req.Catalog), h, nil, read)
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
	switch {
	case err != nil:
		return res, err
	case len(msg.Data) == 0: // no document is empty text
		res.NotModified = true
	default:
		res.Body = msg.Data // of this message alone
	}
	return res, nil
}

func readHeaders(req *engine.ReadRequest) (nats.Header, error) {
	if err := engine.ValidateCatalog(req.Catalog); err != nil {
		return nil, err
	}
	if err := engine.ValidatePointer(req.Pointer); err != nil {
		return nil, err
	}
	var h nats.Header // most reads have none
	set := func(name, value string) {
		if h == nil {
			h = nats.Header{}
		}
		h[name] = []string{value}
	}
	if req.Pointer != "" && req.Pointer != "/" {
		if err := checkValue("pointer", req.Pointer); err != nil {
			return nil, err
		}
		set(events.HeaderPointer, req.Pointer)
	}
	if req.At != nil {
		set(events.HeaderAt, req.At.String())
	}
	if !req.MinVersion.IsZero() {
		set(events.HeaderMinVersion, req.MinVersion.String())
	}
	if !req.IfNoneMatch.IsZero() {
		set(events.HeaderIfNoneMatch, req.IfNoneMatch.String())
	}
	if req.Relaxed {
		set(events.HeaderConsistency, "relaxed")
	}
	return h, nil
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

// Diff compares two versions of a catalog; see engine.Engine.Diff.
func (c *Client) Diff(ctx context.Context, req engine.DiffRequest) (engine.DiffResult, error) {
	if err := engine.ValidateCatalog(req.Catalog); err != nil {
		return engine.DiffResult{}, err
	}
	var res engine.DiffResult
	err := c.query(ctx, c.subjects.Diff(req.Catalog), req, &res)
	return res, err
}

// Blame tells who wrote what stands at a JSON Pointer; see engine.Engine.Blame.
// A page of members may have fewer than its limit; there are more exactly when
// it has a Next.
func (c *Client) Blame(ctx context.Context, req engine.BlameRequest) (engine.BlameResult, error) {
	if err := engine.ValidateCatalog(req.Catalog); err != nil {
		return engine.BlameResult{}, err
	}
	var res engine.BlameResult
	err := c.query(ctx, c.subjects.Blame(req.Catalog), req, &res)
	return res, err
}

// Revert makes a document of the past the current one; see
// engine.Engine.Revert. The document travels through this client, so it has to
// fit into a message.
func (c *Client) Revert(ctx context.Context, req engine.RevertRequest) (engine.WriteResult, error) {
	return engine.Revert(ctx, c, req)
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
	msg, err := c.ask(ctx, c.subjects.Snapshot(catalog), nil, nil, query)
	if err != nil {
		return engine.FoldResult{}, err
	}
	var res engine.FoldResult
	return res, decode(msg, &res)
}

// Purge erases a catalog for good; see engine.Engine.Purge. What waits longer than
// the request does is erased later, which the receipt tells. Where no answer came the
// error is engine.ErrUnknown, as of a Write.
func (c *Client) Purge(ctx context.Context, req engine.PurgeRequest) (engine.PurgeReceipt, error) {
	if err := engine.ValidateCatalog(req.Catalog); err != nil {
		return engine.PurgeReceipt{}, err
	}
	var receipt engine.PurgeReceipt
	err := c.change(ctx, c.subjects.Purge(req.Catalog), nats.Header{}, nil, req.Author, engine.WriteOptions{ID: req.ID, IfVersion: req.IfVersion}, &receipt)
	return receipt, err
}

// Watch yields what happens to catalogs; see events.Watch. The watches of a
// client share their readers of the stream. Close ends them with an error, if
// the connection is the client's own; end their contexts first.
func (c *Client) Watch(ctx context.Context, o events.WatchOptions) iter.Seq2[events.Item, error] {
	return c.feed.Watch(ctx, o)
}

// query asks with a JSON object for one.
func (c *Client) query(ctx context.Context, subject string, req, res any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	msg, err := c.ask(ctx, subject, nil, body, query)
	if err != nil {
		return err
	}
	return decode(msg, res)
}

func decode(msg *nats.Msg, to any) error {
	if res, ok := to.(*engine.WriteResult); ok && decodeWritten(msg.Data, res) {
		return nil
	}
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
