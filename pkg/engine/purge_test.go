package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/codec"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

// marker stands in every body that a test purges, and in nothing else.
const marker = "MARKER-7f3a"

// marked tells which objects hold the marker in what they decode to.
func (h *house) marked() []string {
	h.t.Helper()
	var found []string
	for _, key := range h.keys("") {
		b, err := h.objects.Objects.Get(h.t.Context(), key)
		if err != nil {
			h.t.Fatal(err)
		}
		holds := bytes.Contains(b, []byte(marker))
		for f, err := range codec.Frames(b, codec.Options{}) {
			if err != nil {
				break // no object of frames
			}
			holds = holds || bytes.Contains(f.Payload, []byte(marker))
		}
		if holds {
			found = append(found, key)
		}
	}
	return found
}

// fill writes a catalog whose bodies are marked beside others in the same segments, some
// of it folded.
func (h *house) fill(e *engine.Engine, catalog string, others ...string) (last engine.Version) {
	h.t.Helper()
	for i := range 6 {
		var wait []func()
		for _, c := range append([]string{catalog}, others...) {
			body := fmt.Sprintf(`{"n%d":"other"}`, i)
			if c == catalog {
				body = fmt.Sprintf(`{"n%d":%q}`, i, marker)
			}
			done := make(chan engine.WriteResult, 1)
			go func() {
				r, err := e.Write(h.t.Context(), engine.WriteRequest{Catalog: c, Body: []byte(body)})
				if err != nil {
					h.t.Errorf("write %s: %v", c, err)
				}
				done <- r
			}()
			wait = append(wait, func() {
				if r := <-done; c == catalog {
					last = r.Version
				}
			})
		}
		for _, w := range wait {
			w()
		}
		if i == 1 || i == 3 {
			fold(h.t, e, catalog)
		}
	}
	return last
}

func purge(t *testing.T, e *engine.Engine, catalog string) engine.PurgeReceipt {
	t.Helper()
	r, err := e.Purge(t.Context(), engine.PurgeRequest{Catalog: catalog, Author: "the officer"})
	if err != nil {
		t.Fatalf("purge %s: %v", catalog, err)
	}
	return r
}

// wantPurged holds a catalog to what a purge promises.
func wantPurged(t *testing.T, e *engine.Engine, catalog string, old, at engine.Version) {
	t.Helper()
	if got := read(t, e, catalog); got != "" {
		t.Errorf("got document %s, want none", got)
	}
	for _, v := range []engine.Version{{Sec: 1, Seq: 1}, old} {
		_, err := e.Read(t.Context(), engine.ReadRequest{Catalog: catalog, At: engine.AtVersion(v)})
		if !errors.Is(err, engine.ErrHistoryGone) || !strings.Contains(err.Error(), "purged at version "+at.String()) {
			t.Errorf("at %s: got error %v, want that it was purged", v, err)
		}
	}
	for _, order := range []engine.Order{engine.Ascending, engine.Descending} {
		page, err := e.Log(t.Context(), engine.LogRequest{Catalog: catalog, Limit: 10, Order: order})
		if err != nil || len(page.Items) != 1 || page.Next != nil {
			t.Fatalf("log %s: got %+v, %v, want one entry", order, page, err)
		}
		if got := page.Items[0]; got.Version != at || got.Merge != engine.MergeTypePurge || got.Author != "the officer" || !got.Prev.IsZero() || got.Path != "/" || len(got.Body) != 0 {
			t.Errorf("log %s: got %+v, want the purge at %s", order, got, at)
		}
	}
	if _, err := e.Log(t.Context(), engine.LogRequest{Catalog: catalog, After: old, Limit: 10}); !errors.Is(err, engine.ErrHistoryGone) {
		t.Errorf("log after %s: got error %v, want history gone", old, err)
	}
	if _, err := e.Diff(t.Context(), engine.DiffRequest{Catalog: catalog, From: *engine.AtVersion(old)}); !errors.Is(err, engine.ErrHistoryGone) {
		t.Errorf("diff from %s: got error %v, want history gone", old, err)
	}
	if _, err := e.Revert(t.Context(), engine.RevertRequest{Catalog: catalog}); !errors.Is(err, engine.ErrHistoryGone) {
		t.Errorf("undelete: got error %v, want history gone", err)
	}
}

// Nothing of a purged catalog is left in the bucket, nobody reads it, a rebuild does not
// bring it back, and its neighbours in the same segments lose nothing.
func TestPurge(t *testing.T) {
	t.Parallel()
	for _, exclusive := range []bool{true, false} {
		t.Run(fmt.Sprintf("exclusive %v", exclusive), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t)
				h.index = memory.NewIndex(memory.Options{Exclusive: exclusive})
				e := h.open(engine.Options{Collect: true})
				others := []string{"orders", "items"}
				old := h.fill(e, "users", others...)
				want := map[string]string{}
				logs := map[string]string{}
				for _, c := range others {
					want[c], logs[c] = read(t, e, c), fmt.Sprint(wholeLog(t, e, c, 100))
				}
				if len(h.marked()) == 0 {
					t.Fatal("the marker is not in the bucket before")
				}
				r := purge(t, e, "users")
				wantPurged(t, e, "users", old, r.Version)
				if r.Complete != exclusive || r.Snapshots != 2 || r.Packs != 2 || r.Rewritten == 0 || (r.Waiting == 0) != exclusive || (r.Until == nil) != exclusive {
					t.Errorf("got receipt %+v", r)
				}
				if c := r.Verified; c.Read != "not_found" || c.Past != "history_gone" || c.Log != 1 || c.Objects != 0 || c.Segments != r.Waiting {
					t.Errorf("got verified %+v", c)
				}
				if !exclusive { // the collector ends it, but not before a late writer is done for
					time.Sleep(4 * time.Minute)
					if len(h.marked()) == 0 {
						t.Error("segments went before a late writer could have seen them")
					}
					if until := time.Until(*r.Until); until < time.Minute || until > 3*time.Minute {
						t.Errorf("got until in %v, want 6 min from the purge", until)
					}
					time.Sleep(6 * time.Minute)
				}
				if left := h.marked(); len(left) > 0 {
					t.Errorf("the marker is still in %v", left)
				}
				if left := h.keys("_lake/purge/"); len(left) > 0 {
					t.Errorf("got records %v, want none", left)
				}
				check := func(e *engine.Engine) {
					t.Helper()
					wantPurged(t, e, "users", old, r.Version)
					for _, c := range others {
						if got := read(t, e, c); got != want[c] {
							t.Errorf("%s: got %s, want %s", c, got, want[c])
						}
						if got := fmt.Sprint(wholeLog(t, e, c, 100)); got != logs[c] {
							t.Errorf("%s: got log %s, want %s", c, got, logs[c])
						}
					}
				}
				check(e)
				e = h.rebuild(e, engine.Options{})
				check(e)
				again := purge(t, e, "users")
				if again.Version != r.Version || !again.Complete || again.Snapshots+again.Packs+again.Segments+again.Rewritten != 0 {
					t.Errorf("purged again: got %+v, want that nothing was left to do", again)
				}
				after := write(t, e, "users", "/", engine.MergeTypeMergePatch, `{"new":1}`)
				if !r.Version.Less(after.Version) {
					t.Errorf("got version %s after the purge at %s", after.Version, r.Version)
				}
				fold(t, e, "users")
				if got := read(t, e, "users"); got != `{"new":1}` {
					t.Errorf("written anew: got %s", got)
				}
				if got := wholeLog(t, h.rebuild(e, engine.Options{}), "users", 1); len(got) != 2 || got[1].Prev != r.Version {
					t.Errorf("got log %+v, want the purge and the write", got)
				}
			})
		})
	}
}

// Who purges twice, with writes between, keeps nothing of both.
func TestPurgeTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.index = memory.NewIndex(memory.Options{Exclusive: true})
		e := h.open(engine.Options{})
		if _, err := e.Purge(t.Context(), engine.PurgeRequest{Catalog: "users"}); !errors.Is(err, engine.ErrNotFound) || errors.Is(err, engine.ErrHistoryGone) {
			t.Errorf("never written: got error %v, want not found", err)
		}
		h.fill(e, "users")
		first := purge(t, e, "users")
		old := h.fill(e, "users")
		ten := engine.Version{Sec: 10, Seq: 1}
		var changed *engine.VersionError
		if _, err := e.Purge(t.Context(), engine.PurgeRequest{Catalog: "users", IfVersion: &ten}); !errors.As(err, &changed) || changed.Current != old {
			t.Errorf("conditional: got error %v, want a mismatch at %s", err, old)
		}
		second := purge(t, e, "users")
		if !first.Version.Less(second.Version) || !second.Complete {
			t.Errorf("got %+v after %+v", second, first)
		}
		wantPurged(t, e, "users", old, second.Version)
		if got := h.keys(engine.CatalogDir("users")); len(got) != 2 {
			t.Errorf("got %v, want the second purge's snapshot and pack", got)
		}
		// By its id a purge is asked for again without touching what came after it.
		req := engine.PurgeRequest{Catalog: "users", ID: "one"}
		h.fill(e, "users")
		third, err := e.Purge(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		write(t, e, "users", "/", engine.MergeTypeReplace, `"kept"`)
		again, err := e.Purge(t.Context(), req)
		if err != nil || again.Version != third.Version || again.Verified.Read != "written" || !again.Complete {
			t.Errorf("again by id: got %+v, %v, want version %s", again, err, third.Version)
		}
		if got := read(t, e, "users"); got != `"kept"` {
			t.Errorf("got %s", got)
		}
		if _, err := e.Write(t.Context(), engine.WriteRequest{Catalog: "users", MergeType: engine.MergeTypePurge}); !errors.Is(err, engine.ErrInvalid) {
			t.Errorf("a purge as a delta: got error %v, want invalid", err)
		}
	})
}

// A fold that was read before the purge and put after the erasure leaves nothing.
func TestPurgeOvertakesFold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.index = memory.NewIndex(memory.Options{Exclusive: true})
		e := h.open(engine.Options{})
		old := h.fill(e, "users")
		purged := make(chan struct{})
		h.objects.script(func(_ context.Context, key string, _ []byte) (bool, error) {
			if strings.HasSuffix(key, ".pack") && !strings.Contains(key, "~"+old.String()) {
				return false, nil // the purge's own
			}
			if strings.HasSuffix(key, ".pack") {
				<-purged
			}
			return false, nil
		})
		folded := make(chan error, 1)
		go func() {
			_, err := e.Fold(t.Context(), "users")
			folded <- err
		}()
		synctest.Wait()
		r := purge(t, e, "users")
		if !r.Complete || len(h.marked()) > 0 {
			t.Fatalf("got %+v, and the marker in %v", r, h.marked())
		}
		close(purged)
		if err := <-folded; !errors.Is(err, engine.ErrStale) {
			t.Errorf("got error %v, want stale", err)
		}
		if left := h.marked(); len(left) > 0 {
			t.Errorf("the late fold left the marker in %v", left)
		}
		wantPurged(t, e, "users", old, r.Version)
	})
}

// Writes that come while a catalog is purged are either before the purge, and gone, or
// after it, and stay.
func TestPurgeWhileWriting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.index = memory.NewIndex(memory.Options{Exclusive: true})
		e := h.open(engine.Options{Collect: true, FoldWorkers: 2, Policy: engine.Policy{MinDeltas: 20}})
		versions := make([]map[engine.Version]bool, 6)
		var done atomic.Bool
		var g sync.WaitGroup
		for w := range versions {
			versions[w] = map[engine.Version]bool{}
			g.Go(func() {
				for i, more := 0, 5; more > 0; i++ {
					if done.Load() {
						more-- // after the last purge
					}
					r, err := e.Write(t.Context(), engine.WriteRequest{Catalog: "users", Path: fmt.Sprintf("/w%d", w), MergeType: engine.MergeTypeReplace, Body: fmt.Appendf(nil, `"%s %d"`, marker, i)})
					if err != nil {
						t.Error(err)
						return
					}
					versions[w][r.Version] = true
					time.Sleep(3 * time.Millisecond)
				}
			})
		}
		var last engine.Version
		for range 4 {
			time.Sleep(40 * time.Millisecond)
			r := purge(t, e, "users")
			if !last.Less(r.Version) {
				t.Errorf("got purge %s after %s", r.Version, last)
			}
			last = r.Version
		}
		done.Store(true)
		g.Wait()
		check := func(e *engine.Engine) {
			t.Helper()
			log := wholeLog(t, e, "users", 50)
			if len(log) < 2 || log[0].Version != last || log[0].Merge != engine.MergeTypePurge {
				t.Fatalf("got a log of %d entries, %+v first, want the purge at %s", len(log), log[0], last)
			}
			kept := map[engine.Version]bool{}
			for _, entry := range log[1:] {
				kept[entry.Version] = true
			}
			for _, all := range versions {
				for v := range all {
					if kept[v] != last.Less(v) {
						t.Errorf("version %s: in the log %v, and the purge is at %s", v, kept[v], last)
					}
				}
			}
		}
		check(e)
		if _, err := e.Purge(t.Context(), engine.PurgeRequest{Catalog: "users"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		if left := h.marked(); len(left) > 0 {
			t.Errorf("the marker is still in %v", left)
		}
	})
}
