package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/codec"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

// scripted is a bucket whose puts and gets a test can take over. A function
// that returns done decides the answer itself.
type scripted struct {
	engine.Objects
	mu  sync.Mutex
	put func(ctx context.Context, key string, data []byte) (done bool, err error)
	get func(key string) (done bool, err error)
}

func (s *scripted) script(put func(ctx context.Context, key string, data []byte) (bool, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put = put
}

func (s *scripted) failGets(get func(key string) (bool, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.get = get
}

func (s *scripted) Put(ctx context.Context, key string, data []byte) error {
	s.mu.Lock()
	put := s.put
	s.mu.Unlock()
	if put != nil {
		if done, err := put(ctx, key, data); done {
			return err
		}
	}
	return s.Objects.Put(ctx, key, data)
}

func (s *scripted) Get(ctx context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	get := s.get
	s.mu.Unlock()
	if get != nil {
		if done, err := get(key); done {
			return nil, err
		}
	}
	return s.Objects.Get(ctx, key)
}

func (s *scripted) GetRange(ctx context.Context, key string, off, length int64) ([]byte, error) {
	s.mu.Lock()
	get := s.get
	s.mu.Unlock()
	if get != nil {
		if done, err := get(key); done {
			return nil, err
		}
	}
	return s.Objects.GetRange(ctx, key, off, length)
}

// house is an index and a bucket that engines move into.
type house struct {
	t       *testing.T
	index   *memory.Index
	objects *scripted

	saved *memory.Index  // a state of the index to go back to
	last  *engine.Engine // the one that has the house now
}

func newHouse(t *testing.T) *house {
	return &house{t: t, index: memory.NewIndex(memory.Options{}), objects: &scripted{Objects: memory.NewObjects()}}
}

// open starts an engine and closes it with the test.
func (h *house) open(o engine.Options) *engine.Engine {
	h.t.Helper()
	e, err := engine.New(h.t.Context(), h.index, h.objects, o)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { h.close(e) })
	return e
}

func (h *house) close(e *engine.Engine) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := e.Close(ctx); err != nil {
		h.t.Errorf("close: %v", err)
	}
}

func write(t *testing.T, e *engine.Engine, catalog, path string, typ engine.MergeType, body string) engine.WriteResult {
	t.Helper()
	r, err := e.Write(t.Context(), engine.WriteRequest{Catalog: catalog, Path: path, MergeType: typ, Body: []byte(body)})
	if err != nil {
		t.Fatalf("write %s %s %s: %v", catalog, path, body, err)
	}
	return r
}

func read(t *testing.T, e *engine.Engine, catalog string) string {
	t.Helper()
	r, err := e.Read(t.Context(), engine.ReadRequest{Catalog: catalog})
	if errors.Is(err, engine.ErrNotFound) {
		return ""
	}
	if err != nil {
		t.Fatalf("read %s: %v", catalog, err)
	}
	return string(r.Body)
}

func wholeLog(t *testing.T, e *engine.Engine, catalog string, page int) []engine.LogEntry {
	t.Helper()
	var all []engine.LogEntry
	var after engine.Version
	for {
		p, err := e.Log(t.Context(), engine.LogRequest{Catalog: catalog, After: after, Limit: page})
		if err != nil {
			t.Fatalf("log %s after %s: %v", catalog, after, err)
		}
		all = append(all, p.Items...)
		if p.Next == nil {
			return all
		}
		after = *p.Next
	}
}

// The three merge examples of Lake v2's manual.
func TestMergeExamples(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		writes []engine.WriteRequest
		want   string
	}{
		{"replace", []engine.WriteRequest{
			{Path: "/profile", MergeType: engine.MergeTypeReplace, Body: []byte(`{"name":"Alice","age":30}`)},
			{Path: "/profile", MergeType: engine.MergeTypeReplace, Body: []byte(`{"name":"Bob"}`)},
		}, `{"profile":{"name":"Bob"}}`},
		{"RFC 7396", []engine.WriteRequest{
			{Path: "/profile", MergeType: engine.MergeTypeReplace, Body: []byte(`{"name":"Alice","age":30}`)},
			{Path: "/profile", MergeType: engine.MergeTypeMergePatch, Body: []byte(`{"age":31,"city":"NYC","name":null}`)},
		}, `{"profile":{"age":31,"city":"NYC"}}`},
		{"RFC 6902", []engine.WriteRequest{
			{Path: "/", MergeType: engine.MergeTypeJSONPatch, Body: []byte(`[{"op":"add","path":"/a/b/c","value":42},{"op":"move","from":"/a/b/c","path":"/x/y/z"}]`)},
		}, `{"a":{"b":{}},"x":{"y":{"z":42}}}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			e := newHouse(t).open(engine.Options{})
			for _, w := range tc.writes {
				write(t, e, "users", w.Path, w.MergeType, string(w.Body))
			}
			if got := read(t, e, "users"); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

// A patch that cannot apply is committed as a no-op, and reading goes on.
func TestUselessPatchIsANoop(t *testing.T) {
	t.Parallel()
	e := newHouse(t).open(engine.Options{})
	write(t, e, "users", "/", engine.MergeTypeReplace, `{"a":1}`)
	write(t, e, "users", "/", engine.MergeTypeJSONPatch, `[{"op":"test","path":"/a","value":2},{"op":"remove","path":"/a"}]`)
	write(t, e, "users", "/b", engine.MergeTypeReplace, `2`)
	if got, want := read(t, e, "users"), `{"a":1,"b":2}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	log := wholeLog(t, e, "users", 100)
	if len(log) != 3 || log[1].Outcome.Status.String() != "noop" || log[1].Outcome.Reason.String() != "test_failed" || log[1].Outcome.Op != 0 {
		t.Errorf("got %+v, want the second delta a no-op: test_failed at operation 0", log)
	}
}

func TestBadInputLeavesNoTrace(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	e := h.open(engine.Options{MaxBody: 1000})
	for _, tc := range []struct {
		name string
		req  engine.WriteRequest
		code string
		http int
	}{
		{"catalog empty", engine.WriteRequest{Body: []byte(`1`)}, "invalid_catalog", 400},
		{"catalog control", engine.WriteRequest{Catalog: "a\nb", Body: []byte(`1`)}, "invalid_catalog", 400},
		{"path", engine.WriteRequest{Catalog: "users", Path: "/user-name", Body: []byte(`1`)}, "invalid_path", 400},
		{"merge type", engine.WriteRequest{Catalog: "users", MergeType: 9, Body: []byte(`1`)}, "invalid_merge", 400},
		{"empty body", engine.WriteRequest{Catalog: "users"}, "empty_body", 400},
		{"not JSON", engine.WriteRequest{Catalog: "users", Body: []byte(`{"a":}`)}, "invalid_json", 400},
		{"UTF-8", engine.WriteRequest{Catalog: "users", Body: []byte("\"\xff\"")}, "invalid_utf8", 400},
		{"duplicate", engine.WriteRequest{Catalog: "users", Body: []byte(`{"a":1,"\u0061":2}`)}, "duplicate_name", 400},
		{"deep", engine.WriteRequest{Catalog: "users", Body: []byte(strings.Repeat("[", 200) + strings.Repeat("]", 200))}, "too_deep", 400},
		{"patch", engine.WriteRequest{Catalog: "users", MergeType: engine.MergeTypeJSONPatch, Body: []byte(`[{"op":"jump","path":"/a"}]`)}, "invalid_patch", 400},
		{"delete with body", engine.WriteRequest{Catalog: "users", MergeType: engine.MergeTypeDelete, Body: []byte(`1`)}, "unexpected_body", 400},
		{"large", engine.WriteRequest{Catalog: "users", Body: []byte(`"` + strings.Repeat("x", 1000) + `"`)}, "too_large", 413},
		{"author", engine.WriteRequest{Catalog: "users", Body: []byte(`1`), Author: strings.Repeat("a", 257)}, "invalid_author", 400},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := e.Write(t.Context(), tc.req)
			if st := engine.Code(err); st.Code != tc.code || st.HTTP != tc.http {
				t.Errorf("got %d %s (%v), want %d %s", st.HTTP, st.Code, err, tc.http, tc.code)
			}
		})
	}
	for o, err := range h.objects.List(t.Context(), "wal/", "") {
		t.Errorf("bad input left %v %v", o, err)
	}
	if l := e.List(t.Context(), "users"); l.HasPending || !l.Version.IsZero() || l.Err != nil {
		t.Errorf("got %+v, want an empty list", l)
	}
	if _, err := e.Read(t.Context(), engine.ReadRequest{Catalog: "users"}); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("got %v, want not found", err)
	}
}

// Many writers of one catalog share segments; every write is in the log once,
// each writer's in its order.
func TestGroupCommit(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	segments := 0
	h.objects.script(func(_ context.Context, key string, _ []byte) (bool, error) {
		if strings.HasPrefix(key, "wal/") {
			h.objects.mu.Lock()
			segments++
			h.objects.mu.Unlock()
			time.Sleep(2 * time.Millisecond) // a bucket takes time: that is when a group forms
		}
		return false, nil
	})
	e := h.open(engine.Options{})
	const writers, each = 64, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				_, err := e.Write(t.Context(), engine.WriteRequest{Catalog: "c", Path: fmt.Sprintf("/w%d", w), Body: fmt.Append(nil, i), Author: fmt.Sprint(w)})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	log := wholeLog(t, e, "c", 100)
	if len(log) != writers*each {
		t.Fatalf("got %d log entries, want %d", len(log), writers*each)
	}
	next := map[string]int{}
	var prev engine.Version
	for _, l := range log {
		if l.Prev != prev || !prev.Less(l.Version) {
			t.Fatalf("version %s follows %s, but says %s", l.Version, prev, l.Prev)
		}
		prev = l.Version
		if got, want := string(l.Body), fmt.Sprint(next[l.Author]); got != want {
			t.Fatalf("writer %s: got %s, want %s", l.Author, got, want)
		}
		next[l.Author]++
	}
	if segments*2 > writers*each {
		t.Errorf("%d segments for %d writes: they do not share", segments, writers*each)
	}
}

func TestBatchIsOneRun(t *testing.T) {
	t.Parallel()
	e := newHouse(t).open(engine.Options{})
	var ds []engine.WriteRequest
	for i := range 1000 {
		ds = append(ds, engine.WriteRequest{Path: fmt.Sprintf("/m%d", i%10), Body: fmt.Append(nil, i)})
	}
	r, err := e.WriteBatch(t.Context(), engine.BatchRequest{Catalog: "c", Deltas: ds})
	if err != nil {
		t.Fatal(err)
	}
	if r.Count != 1000 || r.Version.Sub(r.First) != 999 {
		t.Errorf("got %+v, want 1,000 contiguous versions", r)
	}
	l := e.List(t.Context(), "c")
	if len(l.Runs) != 1 || l.Version != r.Version {
		t.Errorf("got %+v, want one run", l)
	}
	ds[500].Body = []byte(`{`)
	if _, err := e.WriteBatch(t.Context(), engine.BatchRequest{Catalog: "c", Deltas: ds}); !strings.Contains(fmt.Sprint(err), "delta 501") {
		t.Errorf("got %v, want the place of the bad delta", err)
	}
	if l := e.List(t.Context(), "c"); l.Version != r.Version {
		t.Errorf("a bad batch was stored: %s", l.Version)
	}
}

// Folding changes nothing of what is read, and nothing of the log.
func TestFold(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	e := h.open(engine.Options{DocumentCache: -1, FrameCache: -1, FoldMaxDeltas: 7})
	for i := range 20 {
		typ, body := engine.MergeTypeMergePatch, fmt.Sprintf(`{"m%d":%d}`, i%5, i)
		if i%4 == 3 {
			typ, body = engine.MergeTypeJSONPatch, fmt.Sprintf(`[{"op":"test","path":"/m%d","value":%d}]`, i%5, i%3)
		}
		write(t, e, "c", "/", typ, body)
	}
	doc, log := read(t, e, "c"), wholeLog(t, e, "c", 3)
	for n := 1; ; n++ {
		r, err := e.Fold(t.Context(), "c")
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, e, "c"); got != doc {
			t.Fatalf("after fold %d: got %s, want %s", n, got, doc)
		}
		if !r.More {
			if n != 3 {
				t.Errorf("got %d folds of at most 7 deltas for 20", n)
			}
			break
		}
	}
	if l := e.List(t.Context(), "c"); len(l.Runs) != 0 || l.Snapshot.Stop != l.Version {
		t.Errorf("got %+v, want everything folded", l)
	}
	if got := wholeLog(t, e, "c", 3); fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", log) {
		t.Errorf("folded log:\n%+v\nlive log:\n%+v", got, log)
	}
	if r, err := e.Fold(t.Context(), "c"); err != nil || r.Deltas != 0 {
		t.Errorf("got %+v %v, want nothing to fold", r, err)
	}
	write(t, e, "c", "/", engine.MergeTypeDelete, "")
	if got := read(t, e, "c"); got != "" {
		t.Errorf("got %s after delete", got)
	}
	if _, err := e.Fold(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if got := read(t, e, "c"); got != "" {
		t.Errorf("got %s from a snapshot of nothing", got)
	}
}

// A fold that was put but not registered is found again by the next one; other
// bytes under its name are damage.
func TestFoldFindsItsOwnObjects(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	e := h.open(engine.Options{})
	write(t, e, "c", "/a", engine.MergeTypeReplace, `1`)
	h.objects.script(func(ctx context.Context, key string, data []byte) (bool, error) {
		if strings.HasSuffix(key, ".snap") {
			return true, errors.New("no answer")
		}
		return false, nil
	})
	if _, err := e.Fold(t.Context(), "c"); err == nil {
		t.Fatal("fold without a snapshot")
	}
	h.objects.script(nil)
	if _, err := e.Fold(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	v := write(t, e, "c", "/a", engine.MergeTypeReplace, `2`)
	other := newHouse(t)
	e2 := other.open(engine.Options{})
	write(t, e2, "c", "/a", engine.MergeTypeReplace, `3`)
	l := e.List(t.Context(), "c")
	forged, _ := codec.Append(nil, &codec.Frame{Header: codec.Header{Kind: codec.KindPack, Catalog: "c"}}, codec.Options{})
	if err := h.objects.Put(t.Context(), engine.PackKey("c", l.Snapshot.Stop, v.Version), forged); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Fold(t.Context(), "c"); !errors.Is(err, engine.ErrDamaged) || !strings.Contains(err.Error(), ".pack") {
		t.Errorf("got %v, want damage that names the pack", err)
	}
}

func TestBackPressure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(engine.Options{MaxPendingWrites: 10, MaxInflight: 1})
		release := make(chan struct{})
		h.objects.script(func(_ context.Context, key string, _ []byte) (bool, error) {
			if strings.HasPrefix(key, "wal/") {
				<-release
			}
			return false, nil
		})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { write(t, e, "c", "/a", engine.MergeTypeReplace, `1`) })
		}
		synctest.Wait()
		if _, err := e.Write(t.Context(), engine.WriteRequest{Catalog: "c", Body: []byte(`{}`)}); !errors.Is(err, engine.ErrBusy) {
			t.Errorf("got %v, want busy", err)
		}
		close(release)
		wg.Wait()
		write(t, e, "c", "/a", engine.MergeTypeReplace, `2`)
	})
}

// A write whose deadline comes before its turn is taken back; one that is on
// its way is unknown.
func TestDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(engine.Options{MaxInflight: 1})
		h.objects.script(func(_ context.Context, key string, _ []byte) (bool, error) {
			if strings.HasPrefix(key, "wal/") {
				time.Sleep(2 * time.Second)
			}
			return false, nil
		})
		var wg sync.WaitGroup
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wg.Go(func() {
			_, err := e.Write(ctx, engine.WriteRequest{Catalog: "c", Body: []byte(`{"first":1}`)})
			var unknown *engine.UnknownError
			if !errors.As(err, &unknown) || unknown.ID == "" {
				t.Errorf("on its way: got %v, want unknown with an id", err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if _, err := e.Write(ctx, engine.WriteRequest{Catalog: "c", Body: []byte(`{"second":1}`)}); !errors.Is(err, engine.ErrUnavailable) {
				t.Errorf("queued: got %v, want unavailable", err)
			}
		})
		wg.Wait()
		time.Sleep(3 * time.Second)
		if got, want := read(t, e, "c"), `{"first":1}`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// Without a snapshotter, an engine with FoldWorkers folds what it wrote.
func TestFoldsInTheProcess(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	folded := make(chan struct{}, 100)
	e := h.open(engine.Options{FoldWorkers: 1, Policy: engine.Policy{MinDeltas: 100}, Hooks: engine.Hooks{
		Folded: func(string, int64, int64, time.Duration) { folded <- struct{}{} },
	}})
	for i := range 300 {
		write(t, e, "c", "/a", engine.MergeTypeReplace, fmt.Sprint(i))
	}
	select {
	case <-folded:
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was folded")
	}
	if got := read(t, e, "c"); got != `{"a":299}` {
		t.Errorf("got %s", got)
	}
}
