package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/events"
)

// past is what an engine and a client tell of the past.
type past interface {
	Lake
	engine.Past
	Diff(ctx context.Context, req engine.DiffRequest) (engine.DiffResult, error)
	Revert(ctx context.Context, req engine.RevertRequest) (engine.WriteResult, error)
}

var (
	_ past = (*engine.Engine)(nil)
	_ past = (*client.Client)(nil)
)

// What is asked of the client about the past gives what the engine gives.
func TestSamePast(t *testing.T) {
	t.Parallel()
	s := testenv.NATS(t)
	e, _, _ := lake(t, s, events.Subjects{})
	c := connect(t, s)
	ctx := t.Context()
	var versions []engine.Version
	for i, w := range []engine.WriteRequest{
		{Body: []byte(`{"profile":{"name":"Alice <&>","tags":[1,2.50]}}`)},
		{Path: "/profile", Body: []byte(`{"age":31,"tags":[1,2.50,null]}`), Author: "Zoë"},
		{MergeType: engine.MergeTypeDelete},
		{Path: "/x", MergeType: engine.MergeTypeReplace, Body: []byte(`{"a/b~c":null}`)},
	} {
		w.Catalog = "users"
		r, err := c.Write(ctx, w)
		if err != nil {
			t.Fatal(err)
		}
		versions = append(versions, r.Version)
		if i == 1 {
			if _, err := c.Fold(ctx, "users"); err != nil {
				t.Fatal(err)
			}
		}
	}
	ask := func(what string, f func(l past) (any, error)) {
		t.Helper()
		same(t, what, e, c, func(l Lake) (any, error) { return f(l.(past)) })
	}
	moments := []*engine.At{nil, engine.AtTime(time.Unix(1, 0)), engine.AtTime(time.Now().Add(time.Hour)), engine.AtVersion(engine.Version{Sec: 9_999_999_999, Seq: 1}), {}}
	for _, v := range versions {
		moments = append(moments, engine.AtVersion(v))
	}
	for _, catalog := range []string{"users", "never", ""} {
		for i, at := range moments {
			for _, pointer := range []string{"", "/profile/tags/2", "/x/a~1b~0c", "bad"} {
				ask(fmt.Sprintf("read %s of %q at %v", pointer, catalog, at), func(l past) (any, error) {
					return l.Read(ctx, engine.ReadRequest{Catalog: catalog, Pointer: pointer, At: at})
				})
				ask(fmt.Sprintf("blame %s of %q at %v", pointer, catalog, at), func(l past) (any, error) {
					return l.Blame(ctx, engine.BlameRequest{Catalog: catalog, Pointer: pointer, At: at})
				})
			}
			ask("members", func(l past) (any, error) {
				return l.Blame(ctx, engine.BlameRequest{Catalog: catalog, Members: true, Limit: i % 2, At: at})
			})
			for _, from := range moments[1:] {
				for _, format := range []engine.MergeType{0, engine.MergeTypeMergePatch, engine.MergeTypeJSONPatch, engine.MergeTypeReplace} {
					ask(fmt.Sprintf("diff %v %v of %q", from, at, catalog), func(l past) (any, error) {
						return l.Diff(ctx, engine.DiffRequest{Catalog: catalog, From: *from, To: at, Format: format})
					})
				}
			}
		}
		for _, limit := range []int{1, 3, 1000} {
			ask("log from its end", func(l past) (any, error) {
				return l.Log(ctx, engine.LogRequest{Catalog: catalog, Limit: limit, Order: engine.Descending, After: versions[3]})
			})
		}
	}
	for _, r := range []engine.ReadRequest{{IfNoneMatch: versions[3]}, {IfNoneMatch: versions[2]}, {MinVersion: versions[3], Relaxed: true}, {At: engine.AtVersion(versions[1]), IfNoneMatch: versions[1]}} {
		r.Catalog = "users"
		ask(fmt.Sprintf("%+v", r), func(l past) (any, error) { return l.Read(ctx, r) })
	}

	if _, err := c.Revert(ctx, engine.RevertRequest{Catalog: "users"}); !errors.Is(err, engine.ErrVersionMismatch) {
		t.Errorf("undelete what is there: got %v", err)
	}
	if _, err := c.Revert(ctx, engine.RevertRequest{Catalog: "users", To: engine.AtVersion(versions[2])}); err != nil {
		t.Errorf("revert to where there was nothing: %v", err)
	}
	if _, err := c.Revert(ctx, engine.RevertRequest{Catalog: "users", Author: "Zoë"}); err != nil {
		t.Errorf("undelete: %v", err)
	}
	r, err := c.Read(ctx, engine.ReadRequest{Catalog: "users"})
	if err != nil || string(r.Body) != `{"x":{"a/b~c":null}}` {
		t.Errorf("undeleted: got %s, %v", r.Body, err)
	}
	if _, err := c.Revert(ctx, engine.RevertRequest{Catalog: "users", To: engine.AtVersion(versions[0])}); err != nil {
		t.Errorf("revert: %v", err)
	}
	m, err := engine.ReadMap(ctx, c.List(ctx, "users"))
	if b, _ := json.Marshal(m); err != nil || string(b) != `{"profile":{"name":"Alice \u003c\u0026\u003e","tags":[1,2.5]}}` {
		t.Errorf("reverted: got %s, %v", b, err)
	}
}
