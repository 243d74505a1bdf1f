package engine_test

import (
	"errors"
	"testing"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

func TestParseAt(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]engine.At{
		"1700000000_7":              {Version: engine.Version{Sec: 1700000000, Seq: 7}},
		"0_0":                       {},
		"1700000000":                {Time: time.Unix(1700000000, 0)},
		"2023-11-14T22:13:20Z":      {Time: time.Unix(1700000000, 0)},
		"2023-11-14T23:13:20+01:00": {Time: time.Unix(1700000000, 0)},
		"2023-11-14T22:13:20.9Z":    {Time: time.Unix(1700000000, 900_000_000)},
	} {
		got, err := engine.ParseAt(s)
		if err != nil || got.Version != want.Version || !got.Time.Equal(want.Time) {
			t.Errorf("%s: got %+v, %v, want %+v", s, got, err, want)
		}
		if again, err := engine.ParseAt(got.String()); err != nil || again.Version != got.Version || again.Time.Unix() != got.Time.Unix() {
			t.Errorf("%s: %s reads as %+v, %v", s, got, again, err)
		}
	}
	for _, s := range []string{"", "now", "1700000000_0", "17_", "-1", "1.5", "2023-11-14", "1969-12-31T23:59:59Z", "99999999999"} {
		if got, err := engine.ParseAt(s); !errors.Is(err, engine.ErrInvalid) {
			t.Errorf("%q: got %+v, %v, want an error", s, got, err)
		}
	}
}

func TestPastRefuses(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	e := h.open(engine.Options{})
	write(t, e, "c", "/a", engine.MergeTypeReplace, `[1]`)
	bad := engine.At{Version: engine.Version{Sec: 5}}
	empty := ""
	for name, f := range map[string]func() error{
		"at":     func() error { _, err := e.Read(t.Context(), engine.ReadRequest{Catalog: "c", At: &bad}); return err },
		"from":   func() error { _, err := e.Diff(t.Context(), engine.DiffRequest{Catalog: "c", From: bad}); return err },
		"to":     func() error { _, err := e.Diff(t.Context(), engine.DiffRequest{Catalog: "c", To: &bad}); return err },
		"format": func() error { _, err := e.Diff(t.Context(), engine.DiffRequest{Catalog: "c", Format: 1}); return err },
		"order": func() error {
			_, err := e.Log(t.Context(), engine.LogRequest{Catalog: "c", Limit: 1, Order: "up"})
			return err
		},
		"pointer": func() error {
			_, err := e.Blame(t.Context(), engine.BlameRequest{Catalog: "c", Pointer: "a"})
			return err
		},
		"members": func() error {
			_, err := e.Blame(t.Context(), engine.BlameRequest{Catalog: "c", Pointer: "/a", Members: true})
			return err
		},
		"after": func() error {
			_, err := e.Blame(t.Context(), engine.BlameRequest{Catalog: "c", Pointer: "/a", After: &empty})
			return err
		},
		"limit": func() error {
			_, err := e.Blame(t.Context(), engine.BlameRequest{Catalog: "c", Members: true, Limit: 1001})
			return err
		},
		"catalog":  func() error { _, err := e.Blame(t.Context(), engine.BlameRequest{Catalog: "\n"}); return err },
		"catalog2": func() error { _, err := e.Diff(t.Context(), engine.DiffRequest{}); return err },
	} {
		if err := f(); !errors.Is(err, engine.ErrInvalid) {
			t.Errorf("%s: got %v, want invalid", name, err)
		}
	}
	if _, err := e.Diff(t.Context(), engine.DiffRequest{Catalog: "never"}); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("diff of what was never written: got %v", err)
	}
	d, err := e.Diff(t.Context(), engine.DiffRequest{Catalog: "c"})
	if err != nil || string(d.Patch) != `{"a":[1]}` || !d.From.IsZero() {
		t.Errorf("diff from before everything: got %+v, %v", d, err)
	}
}
