package engine_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/jsonlake/lake/pkg/engine"
)

func TestRevert(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(engine.Options{})
		if _, err := e.Revert(t.Context(), engine.RevertRequest{Catalog: "c", To: engine.AtVersion(engine.Version{Sec: 1, Seq: 1})}); !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("never written: got %v", err)
		}
		first := write(t, e, "c", "/", engine.MergeTypeReplace, `{"a":1,"n":null}`).Version
		second := write(t, e, "c", "/b", engine.MergeTypeReplace, `2`).Version
		gone := write(t, e, "c", "/", engine.MergeTypeDelete, ``).Version
		write(t, e, "c", "/nothing", engine.MergeTypeDelete, ``)

		back, err := e.Revert(t.Context(), engine.RevertRequest{Catalog: "c", Author: "alice", ID: "undo-1"})
		if err != nil || read(t, e, "c") != `{"a":1,"n":null,"b":2}` {
			t.Fatalf("undelete: %+v, %v, %s", back, err, read(t, e, "c"))
		}
		log := wholeLogBack(t, e, "c", 1)[0]
		if log.Version != back.Version || log.Author != "alice" || log.ID != "undo-1" || log.Merge != engine.MergeTypeReplace || log.Path != "/" {
			t.Errorf("got %+v, want an ordinary delta", log)
		}
		if _, err := e.Revert(t.Context(), engine.RevertRequest{Catalog: "c"}); !errors.Is(err, engine.ErrVersionMismatch) {
			t.Errorf("undelete what is there: got %v", err)
		}
		once, err := e.Revert(t.Context(), engine.RevertRequest{Catalog: "c", To: engine.AtVersion(first), ID: "undo-2"})
		if err != nil || read(t, e, "c") != `{"a":1,"n":null}` {
			t.Errorf("revert: %v, %s", err, read(t, e, "c"))
		}
		again, err := e.Revert(t.Context(), engine.RevertRequest{Catalog: "c", To: engine.AtVersion(first), ID: "undo-2"})
		if err != nil || !again.Duplicate || again.Version != once.Version {
			t.Errorf("the same again: %+v, %v", again, err)
		}
		if _, err := e.Revert(t.Context(), engine.RevertRequest{Catalog: "c", To: engine.AtVersion(second)}); err != nil || read(t, e, "c") != `{"a":1,"n":null,"b":2}` {
			t.Errorf("forth: %v, %s", err, read(t, e, "c"))
		}
		head := e.List(t.Context(), "c").Version
		if _, err := e.Revert(t.Context(), engine.RevertRequest{Catalog: "c", To: engine.AtVersion(head.Add(1))}); !errors.Is(err, engine.ErrNotFound) || e.List(t.Context(), "c").Version != head {
			t.Errorf("to a version ahead: got %v, version %s", err, e.List(t.Context(), "c").Version)
		}
		if _, err := e.Revert(t.Context(), engine.RevertRequest{Catalog: "c", To: engine.AtVersion(gone)}); err != nil || read(t, e, "c") != "" {
			t.Errorf("to where there was nothing: %v, %s", err, read(t, e, "c"))
		}

		// Somebody writes between the look and the write, once, then each time.
		for _, tc := range []struct {
			times int
			want  error
		}{{1, nil}, {100, engine.ErrContended}} {
			busy := &busyPast{Engine: e, t: t, left: tc.times}
			if _, err := engine.Revert(t.Context(), busy, engine.RevertRequest{Catalog: "c", To: engine.AtVersion(first)}); !errors.Is(err, tc.want) {
				t.Errorf("%d writes between: got %v, want %v", tc.times, err, tc.want)
			}
			if tc.want == nil && read(t, e, "c") != `{"a":1,"n":null}` {
				t.Errorf("%d writes between: got %s", tc.times, read(t, e, "c"))
			}
		}
	})
}

// busyPast writes something before each conditional write.
type busyPast struct {
	*engine.Engine
	t    *testing.T
	left int
}

func (b *busyPast) Write(ctx context.Context, req engine.WriteRequest) (engine.WriteResult, error) {
	if b.left--; b.left >= 0 {
		write(b.t, b.Engine, req.Catalog, "/busy", engine.MergeTypeReplace, fmt.Sprint(b.left))
	}
	return b.Engine.Write(ctx, req)
}
