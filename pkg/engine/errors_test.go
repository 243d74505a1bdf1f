package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/codec"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

// foreseen is every error that a door may have to tell, with its one meaning.
// sentinel is what a client finds in it on the other side; nil: nothing.
var foreseen = []struct {
	name     string
	err      error
	want     engine.Status
	sentinel error
}{
	{"invalid", engine.ErrInvalid, engine.Status{HTTP: 400, Code: "invalid", Exit: 2}, engine.ErrInvalid},
	{"invalid by a rule", engine.Invalid("unknown_header", "header", "the header %q is not known", "Lake-X"), engine.Status{HTTP: 400, Code: "unknown_header", Exit: 2}, engine.ErrInvalid},
	{"invalid path", engine.ValidatePath("/a-b"), engine.Status{HTTP: 400, Code: "invalid_path", Exit: 2}, engine.ErrInvalid},
	{"invalid body", &merge.BodyError{Code: "invalid_json", Rule: "r", Offset: 3}, engine.Status{HTTP: 400, Code: "invalid_json", Exit: 2}, engine.ErrInvalid},
	{"body too large", &merge.BodyError{Code: "too_large", Rule: "r", Offset: -1}, engine.Status{HTTP: 413, Code: "too_large", Exit: 2}, engine.ErrTooLarge},
	{"too large", engine.ErrTooLarge, engine.Status{HTTP: 413, Code: "too_large", Exit: 2}, engine.ErrTooLarge},
	{"document too large", merge.ErrTooLarge, engine.Status{HTTP: 413, Code: "too_large", Exit: 2}, engine.ErrTooLarge},
	{"not found", engine.ErrNotFound, engine.Status{HTTP: 404, Code: "not_found", Exit: 3}, engine.ErrNotFound},
	{"history gone", &engine.HistoryError{Catalog: "c", Oldest: engine.Version{Sec: 1, Seq: 1}}, engine.Status{HTTP: 404, Code: "history_gone", Exit: 3}, engine.ErrNotFound},
	{"version ahead", &engine.HistoryError{Catalog: "c", Head: engine.Version{Sec: 1, Seq: 1}}, engine.Status{HTTP: 404, Code: "not_found", Exit: 3}, engine.ErrNotFound},
	{"pending writes", engine.ErrPendingWrites, engine.Status{HTTP: 409, Code: "pending_writes", Exit: 4}, engine.ErrPendingWrites},
	{"busy", engine.ErrBusy, engine.Status{HTTP: 429, Code: "busy", Exit: 5}, engine.ErrBusy},
	{"unavailable", engine.ErrUnavailable, engine.Status{HTTP: 503, Code: "unavailable", Exit: 6}, engine.ErrUnavailable},
	{"closed", engine.ErrClosed, engine.Status{HTTP: 503, Code: "unavailable", Exit: 6}, engine.ErrUnavailable},
	{"recovering", engine.ErrRecovering, engine.Status{HTTP: 503, Code: "recovering", Exit: 6}, engine.ErrRecovering},
	{"another epoch", engine.ErrEpoch, engine.Status{HTTP: 503, Code: "recovering", Exit: 6}, engine.ErrRecovering},
	{"cancelled", context.Canceled, engine.Status{HTTP: 503, Code: "cancelled", Exit: 6}, nil},
	{"unknown", engine.ErrUnknown, engine.Status{HTTP: 504, Code: "unknown", Exit: 7}, engine.ErrUnknown},
	{"unknown, with an id", &engine.UnknownError{ID: "id-1", Err: errors.New("cut")}, engine.Status{HTTP: 504, Code: "unknown", Exit: 7}, engine.ErrUnknown},
	{"unknown for lack of time", &engine.UnknownError{ID: "id-1", Err: context.DeadlineExceeded}, engine.Status{HTTP: 504, Code: "unknown", Exit: 7}, engine.ErrUnknown},
	{"not reached", engine.ErrNotReached, engine.Status{HTTP: 504, Code: "not_reached", Exit: 7}, engine.ErrNotReached},
	{"deadline", context.DeadlineExceeded, engine.Status{HTTP: 504, Code: "deadline", Exit: 7}, nil},
	{"damaged", engine.ErrDamaged, engine.Status{HTTP: 500, Code: "damaged", Exit: 8}, engine.ErrDamaged},
	{"damaged frame", codec.ErrDamaged, engine.Status{HTTP: 500, Code: "damaged", Exit: 8}, engine.ErrDamaged},
	{"corrupt base", merge.ErrCorruptBase, engine.Status{HTTP: 500, Code: "damaged", Exit: 8}, engine.ErrDamaged},
	{"stale", engine.ErrStale, engine.Status{HTTP: 500, Code: "internal", Exit: 1}, nil}, // adapters' answers reach no door
	{"exists", engine.ErrExists, engine.Status{HTTP: 500, Code: "internal", Exit: 1}, nil},
	{"does not exist", engine.ErrNotExist, engine.Status{HTTP: 500, Code: "internal", Exit: 1}, nil},
	{"anything else", errors.New("dial tcp 10.0.0.7:6379: refused"), engine.Status{HTTP: 500, Code: "internal", Exit: 1}, nil},
}

var sentinels = []error{
	engine.ErrInvalid, engine.ErrTooLarge, engine.ErrNotFound, engine.ErrPendingWrites, engine.ErrBusy, engine.ErrUnavailable, engine.ErrRecovering, engine.ErrUnknown, engine.ErrNotReached, engine.ErrDamaged,
	engine.ErrClosed, engine.ErrEpoch, engine.ErrStale, engine.ErrExists, engine.ErrNotExist,
}

func TestCode(t *testing.T) {
	t.Parallel()
	if got, want := engine.Code(nil), (engine.Status{HTTP: 200, Code: "ok"}); got != want {
		t.Errorf("nil: got %+v, want %+v", got, want)
	}
	for _, c := range foreseen {
		for _, err := range []error{c.err, fmt.Errorf("write %q: %w", "users", c.err), errors.Join(errors.New("x"), c.err)} {
			if got := engine.Code(err); got != c.want {
				t.Errorf("%s, as %q: got %+v, want %+v", c.name, err, got, c.want)
			}
		}
	}
}

// A problem crosses the wire: the client's errors.Is and Code tell what the
// server's did.
func TestProblemRoundTrip(t *testing.T) {
	t.Parallel()
	for _, c := range foreseen {
		var p engine.Problem
		b := engine.ProblemOf(fmt.Errorf("read: %w", c.err), "users").JSON()
		if err := json.Unmarshal(b, &p); err != nil {
			t.Fatalf("%s: %s: %v", c.name, b, err)
		}
		var remote error = fmt.Errorf("ask the server: %w", &p)
		if got := engine.Code(remote); got.HTTP != c.want.HTTP || got.Code != c.want.Code {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
		for _, s := range sentinels {
			if got, want := errors.Is(remote, s), s == c.sentinel; got != want {
				t.Errorf("%s: got %v for errors.Is %q, want %v", c.name, got, s, want)
			}
		}
		if p.Type != "about:blank" || p.Title == "" || p.Status != c.want.HTTP || p.Catalog != "users" || p.Detail == "" {
			t.Errorf("%s: got %s, want a whole problem", c.name, b)
		}
		if again := engine.ProblemOf(remote, "orders"); *again != p { // passed on as it is
			t.Errorf("%s: got %+v, want %+v", c.name, again, p)
		}
	}
}

func TestProblemGolden(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err     error
		catalog string
		want    string
	}{
		{engine.ErrNotFound, "users", `{"type":"about:blank","title":"Not found","status":404,"detail":"not found","code":"not_found","catalog":"users"}`},
		{engine.ValidatePath("user"), "", `{"type":"about:blank","title":"Invalid request","status":400,"detail":"the path \"user\" must begin with \"/\"","code":"invalid_path","field":"path","offset":0}`},
		{engine.Invalid("unknown_header", "header", "no %s", "x"), "", `{"type":"about:blank","title":"Invalid request","status":400,"detail":"no x","code":"unknown_header","field":"header"}`},
		{&engine.UnknownError{ID: "a1", Err: errors.New("cut")}, "users", `{"type":"about:blank","title":"Outcome unknown","status":504,"detail":"the outcome of write a1 is unknown (cut): it may have been committed or may yet be","code":"unknown","catalog":"users","id":"a1"}`},
	} {
		if got := string(engine.ProblemOf(c.err, c.catalog).JSON()); got != c.want {
			t.Errorf("%v:\n got %s\nwant %s", c.err, got, c.want)
		}
	}
	p := engine.ProblemOf(&merge.BodyError{Code: "invalid_json", Rule: "r", Offset: 3, Pointer: "/a"}, "")
	if p.Field != "body" || p.Pointer != "/a" || p.Offset == nil || *p.Offset != 3 {
		t.Errorf("got %+v, want the place in the body", p)
	}
}

// What nobody foresaw may name hosts and paths: it stays in the server's log.
func TestProblemKeepsInternalsToItself(t *testing.T) {
	t.Parallel()
	for _, err := range []error{errors.New("dial tcp 10.0.0.7:6379: refused"), fmt.Errorf("open /var/secret: %w", engine.ErrNotExist)} {
		if b := string(engine.ProblemOf(err, "").JSON()); strings.Contains(b, "10.0.0.7") || strings.Contains(b, "secret") {
			t.Errorf("got %s", b)
		}
	}
}

func TestExitOfAProblem(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]int{400: 2, 413: 2, 415: 2, 422: 2, 404: 3, 403: 4, 409: 4, 412: 4, 429: 5, 503: 6, 504: 7, 500: 1, 418: 1} {
		if got := engine.Code(&engine.Problem{Status: status, Code: "x"}); got != (engine.Status{HTTP: status, Code: "x", Exit: want}) {
			t.Errorf("status %d: got %+v, want exit status %d", status, got, want)
		}
	}
}

func TestUnknownErrorUnwraps(t *testing.T) {
	t.Parallel()
	cause := errors.New("cut")
	err := fmt.Errorf("write: %w", &engine.UnknownError{ID: "a1", Err: cause})
	var unknown *engine.UnknownError
	if !errors.Is(err, engine.ErrUnknown) || !errors.Is(err, cause) || !errors.As(err, &unknown) || unknown.ID != "a1" {
		t.Errorf("got %v, want an unknown outcome of a1 because of %v", err, cause)
	}
}
