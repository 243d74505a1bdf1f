package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

// troubles collects what Hooks.Trouble tells.
type troubles struct {
	mu   sync.Mutex
	list []string
}

func (x *troubles) hook(what string, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.list = append(x.list, what+": "+err.Error())
}

func (x *troubles) take() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := strings.Join(x.list, "\n")
	x.list = nil
	return s
}

// folded is a lake on a clock whose catalog c was written n times, a second apart,
// and folded after each ten but the last.
func folded(t *testing.T, o engine.Options, n int) (h *house, e *engine.Engine, all []told) {
	t.Helper()
	h, clock := clocked(t)
	e = h.open(o)
	for i := range n {
		clock.Add(1)
		all = writeTold(t, e, all, merge.Delta{Type: merge.MergePatch, Path: "/", Body: fmt.Appendf(nil, `{"n":%d,"m%d":1}`, i, i)}, "")
		if i%10 == 9 && i < n-1 {
			fold(t, e, "c")
		}
	}
	return h, e, all
}

// remove takes objects out of the bucket.
func (h *house) remove(keys ...string) {
	h.t.Helper()
	for _, key := range keys {
		if err := h.objects.Delete(h.t.Context(), key); err != nil {
			h.t.Fatal(err)
		}
	}
}

// A lost or damaged snapshot costs nothing but work, whichever it is, also when
// all of them are; it is told of by name. With its pack gone, too, the error
// names the object.
func TestLostSnapshots(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(7, 7)) //nolint:gosec // a seed makes it repeatable
	h, clock := clocked(t)
	var troubles troubles
	o := engine.Options{Name: "lost", DocumentCache: -1, FrameCache: -1, Hooks: engine.Hooks{Trouble: troubles.hook}}
	e := h.open(o)
	var all []told
	for i := range 50 {
		clock.Add(int64(i % 2))
		all = writeTold(t, e, all, randomDelta(r), "")
		if i%10 == 9 && i < 45 {
			fold(t, e, "c")
		}
	}
	last := all[len(all)-1]
	now := func() string {
		res, err := e.Read(t.Context(), engine.ReadRequest{Catalog: "c"})
		if err != nil && !errors.Is(err, engine.ErrNotFound) {
			t.Fatal(err)
		}
		return string(res.Body)
	}
	snaps := h.keys(engine.CatalogDir("c") + "/snap/")
	if len(snaps) != 4 {
		t.Fatalf("got snapshots %q, want 4", snaps)
	}
	whole := map[string][]byte{}
	harm := func(key string, flip int) {
		b, err := h.objects.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		whole[key] = bytes.Clone(b)
		h.remove(key)
		if flip >= 0 {
			b[flip%len(b)] ^= 4
			if err := h.objects.Objects.Put(t.Context(), key, b); err != nil {
				t.Fatal(err)
			}
		}
	}
	heal := func() {
		for key, b := range whole {
			_ = h.objects.Delete(t.Context(), key)
			if err := h.objects.Objects.Put(t.Context(), key, b); err != nil {
				t.Fatal(err)
			}
		}
		clear(whole)
	}
	for k, key := range snaps {
		for _, flip := range []int{-1, 0, 40, r.IntN(1000)} {
			harm(key, flip)
			if got := now(); got != string(last.doc) {
				t.Fatalf("snapshot %d, byte %d: got %s, want %s", k, flip, got, last.doc)
			}
			checkPast(t, e, all)
			if got := troubles.take(); !strings.Contains(got, key) {
				t.Errorf("snapshot %d, byte %d: told %q, which does not name %s", k, flip, got, key)
			}
			heal()
		}
	}
	for k, key := range snaps { // all of them, some lost, some damaged
		harm(key, 30*(k%2)-1)
	}
	if got := now(); got != string(last.doc) {
		t.Fatalf("without snapshots: got %s, want %s", got, last.doc)
	}
	checkPast(t, e, all)
	told := troubles.take()
	for _, key := range snaps {
		if !strings.Contains(told, key) {
			t.Errorf("nobody told of %s", key)
		}
	}
	heal()

	// A rebuild does not know a lost snapshot; its pack is found.
	for _, key := range snaps[:3] {
		harm(key, -1)
	}
	e = h.rebuild(e, o)
	if got := now(); got != string(last.doc) {
		t.Fatalf("after a rebuild without snapshots: got %s, want %s", got, last.doc)
	}
	checkPast(t, e, all)
	heal()

	// With the pack the way back is gone.
	pack := strings.Replace(strings.Replace(snaps[3], "/snap/", "/delta/", 1), ".snap", ".pack", 1)
	harm(snaps[3], -1)
	harm(pack, -1)
	_, err := e.Read(t.Context(), engine.ReadRequest{Catalog: "c"})
	if !errors.Is(err, engine.ErrDamaged) || !strings.Contains(err.Error(), snaps[3]) || !strings.Contains(err.Error(), pack) {
		t.Errorf("got %v, want damage that names %s and %s", err, snaps[3], pack)
	}
	_, err = e.Fold(t.Context(), "c")
	if engine.Code(err).Code != "damaged" {
		t.Errorf("fold: got %v, want damage", err)
	}
}

// What retention has taken is gone: it is said so, and what is kept is whole.
func TestHistoryGone(t *testing.T) {
	t.Parallel()
	o := engine.Options{Name: "gone", DocumentCache: -1, FrameCache: -1}
	h, e, all := folded(t, o, 40)
	// The first two snapshots and their packs go, the third stands on nothing.
	for _, dir := range []string{"/snap/", "/delta/"} {
		h.remove(h.keys(engine.CatalogDir("c") + dir)[:2]...)
	}
	e = h.rebuild(e, o)
	for i, w := range all {
		r, err := e.Read(t.Context(), engine.ReadRequest{Catalog: "c", At: engine.AtVersion(w.version)})
		if i < 29 {
			var he *engine.HistoryError
			if !errors.As(err, &he) || he.Oldest != all[29].version || !errors.Is(err, engine.ErrHistoryGone) || !errors.Is(err, engine.ErrNotFound) || engine.Code(err).Code != "history_gone" {
				t.Fatalf("at version %d: got %v, want that history before %s is gone", i, err, all[29].version)
			}
			continue
		}
		if err != nil || !bytes.Equal(r.Body, w.doc) {
			t.Fatalf("at version %d: got %s, %v, want %s", i, r.Body, err, w.doc)
		}
	}
	if log := wholeLog(t, e, "c", 3); len(log) != 20 || log[0].Version != all[20].version || log[0].Prev != all[19].version {
		t.Errorf("the log has %d entries from %+v on, want 20", len(log), log[0])
	}
	if log := wholeLogBack(t, e, "c", 3); len(log) != 20 || log[19].Version != all[20].version {
		t.Errorf("backwards the log has %d entries, want 20", len(log))
	}
	if log := wholeLogBack(t, e, "c", 20); len(log) != 20 {
		t.Errorf("backwards in one page the log has %d entries, want 20", len(log))
	}
	if _, err := e.Log(t.Context(), engine.LogRequest{Catalog: "c", After: all[4].version, Limit: 3}); !errors.Is(err, engine.ErrHistoryGone) {
		t.Errorf("the log after a version that is gone: got %v", err)
	}
	if _, err := e.Log(t.Context(), engine.LogRequest{Catalog: "c", After: all[4].version, Limit: 3, Order: engine.Descending}); !errors.Is(err, engine.ErrHistoryGone) {
		t.Errorf("the log before a version that is gone: got %v", err)
	}
	for p, want := range map[string]engine.BlameEntry{
		"/n":   {Pointer: "/n", Present: true, Version: all[39].version},
		"/m35": {Pointer: "/m35", Present: true, Version: all[35].version},
		"/m5":  {Pointer: "/m5", Present: true, Version: all[29].version, Gone: true},
	} {
		res, err := e.Blame(t.Context(), engine.BlameRequest{Catalog: "c", Pointer: p})
		if err != nil || res.Items[0].Version != want.Version || res.Items[0].Gone != want.Gone || !res.Items[0].Present {
			t.Errorf("blame %s: got %+v, %v, want %+v", p, res, err, want)
		}
	}
	if _, err := e.Blame(t.Context(), engine.BlameRequest{Catalog: "c", Pointer: "/never"}); !errors.Is(err, engine.ErrHistoryGone) {
		t.Errorf("blame of what is not there: got %v", err)
	}
}

// A collector died while it removed what the retention had taken, and the index is
// lost: it knows snapshots again whose packs are gone. The history begins after
// them; a pack that is missing between others is damage as ever.
func TestHistoryHalfGone(t *testing.T) {
	t.Parallel()
	o := engine.Options{Name: "half", DocumentCache: -1, FrameCache: -1}
	h, e, all := folded(t, o, 50)
	packs := h.keys(engine.CatalogDir("c") + "/delta/")
	snaps := h.keys(engine.CatalogDir("c") + "/snap/")
	check := func(what string, kept int) {
		t.Helper()
		if log := wholeLog(t, e, "c", 3); len(log) != 50-kept || log[0].Version != all[kept].version || log[0].Prev != all[kept-1].version {
			t.Errorf("%s: the log has %d entries, want %d", what, len(log), 50-kept)
		}
		if log := wholeLogBack(t, e, "c", 3); len(log) != 50-kept || log[len(log)-1].Version != all[kept].version {
			t.Errorf("%s: backwards the log has %d entries, want %d", what, len(log), 50-kept)
		}
		for i, w := range all {
			r, err := e.Read(t.Context(), engine.ReadRequest{Catalog: "c", At: engine.AtVersion(w.version)})
			if gone := i < kept+9 && err != nil; gone && !errors.Is(err, engine.ErrHistoryGone) || !gone && !bytes.Equal(r.Body, w.doc) {
				t.Errorf("%s: at version %d: got %s, %v, want %s", what, i, r.Body, err, w.doc)
			}
		}
		if _, err := e.Log(t.Context(), engine.LogRequest{Catalog: "c", After: all[2].version, Limit: 3}); !errors.Is(err, engine.ErrHistoryGone) {
			t.Errorf("%s: the log after a version that is gone: got %v", what, err)
		}
	}
	h.remove(packs[0])
	e = h.rebuild(e, o)
	check("the oldest pack is gone", 10)
	h.remove(snaps[0], packs[1], snaps[1]) // by a collector that was stopped
	check("the second goes while the index knows it", 20)

	h.remove(packs[3]) // of the newest snapshot
	if _, err := e.Log(t.Context(), engine.LogRequest{Catalog: "c", Limit: 50}); !errors.Is(err, engine.ErrDamaged) || !strings.Contains(err.Error(), packs[3]) {
		t.Errorf("the newest pack is missing: got %v, want damage that names %s", err, packs[3])
	}
}

// The retention gave up what follows a purge, and stopped when the first pack was gone
// and its snapshot was not; another pack stands there without its snapshot, of a fold that
// ended between the two. An index that is made anew begins after all of it.
func TestHistoryHalfGoneAfterPurge(t *testing.T) {
	t.Parallel()
	for _, purged := range []bool{false, true} {
		h, clock := clocked(t)
		o := engine.Options{Name: "half", DocumentCache: -1, FrameCache: -1}
		e := h.open(o)
		if purged {
			write(t, e, "c", "/", engine.MergeTypeReplace, `{"old":1}`)
			if _, err := e.Purge(t.Context(), engine.PurgeRequest{Catalog: "c"}); err != nil {
				t.Fatal(err)
			}
		}
		had := len(h.keys(engine.CatalogDir("c") + "/delta/"))
		var all []told
		for i := range 40 {
			clock.Add(1)
			all = writeTold(t, e, all, merge.Delta{Type: merge.MergePatch, Path: "/", Body: fmt.Appendf(nil, `{"n":%d}`, i)}, "")
			if i%10 == 9 {
				fold(t, e, "c")
			}
		}
		first := h.keys(engine.CatalogDir("c") + "/delta/")[had]
		if !purged {
			h.rename(first, engine.PackKey("c", engine.Version{}, all[4].version))
		} else {
			h.remove(first)
		}
		e = h.rebuild(e, o)
		for _, page := range []int{1, 3, 50} {
			if log := wholeLog(t, e, "c", page); len(log) != 30 || log[0].Version != all[10].version || log[0].Prev != all[9].version {
				t.Errorf("purged %v: by %d the log has %d entries from %s on, want 30 from %s on", purged, page, len(log), log[0].Version, all[10].version)
			}
		}
		if log := wholeLogBack(t, e, "c", 7); len(log) != 30 {
			t.Errorf("purged %v: backwards the log has %d entries, want 30", purged, len(log))
		}
	}
}

// rename puts an object elsewhere.
func (h *house) rename(from, to string) {
	h.t.Helper()
	b, err := h.objects.Get(h.t.Context(), from)
	if err == nil {
		err = h.objects.Put(h.t.Context(), to, b)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.remove(from)
}
