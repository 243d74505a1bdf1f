package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/codec"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

// together writes a catalog each, all in one segment, in no order.
func together(t *testing.T, e *engine.Engine, body string, catalogs ...string) {
	t.Helper()
	done := make(chan error, len(catalogs))
	for _, c := range catalogs {
		go func() {
			_, err := e.Write(t.Context(), engine.WriteRequest{Catalog: c, MergeType: engine.MergeTypeMergePatch, Body: []byte(body)})
			done <- err
		}()
	}
	for range catalogs {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

const text = "some text that is so long that half of a frame is in the middle of it, not in the middle of its header, and no longer"

// state is what catalogs say of themselves, but for the catalogs that were never written.
func state(t *testing.T, e *engine.Engine, catalogs []string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, c := range catalogs {
		if _, err := e.Log(t.Context(), engine.LogRequest{Catalog: c, Limit: 1}); errors.Is(err, engine.ErrNotFound) {
			continue
		}
		all[c] = fmt.Sprintf("%s %+v", read(t, e, c), wholeLog(t, e, c, 10))
	}
	return all
}

// catalogsIn lists the catalogs whose runs stand in a segment, in their order.
func (h *house) catalogsIn(b []byte) (names []string, at []int64) {
	h.t.Helper()
	for f, err := range codec.Frames(b, codec.Options{}) {
		if err != nil {
			h.t.Fatal(err)
		}
		names, at = append(names, f.Catalog), append(at, f.Off+f.Len/2)
	}
	return names, at
}

// lostLake is a lake of one epoch: "folded" and a, b, c were written together in three
// segments, of which "folded" is in a snapshot up to the second. The second segment
// is hurt: hit are the catalogs that lose their run of it.
func lostLake(t *testing.T, hurt func(h *house, b []byte) (damaged []byte, hit []string)) (h *house, catalogs []string, key string, whole []byte, hit []string, docs map[string]string) {
	t.Helper()
	h = newHouse(t)
	catalogs = []string{"a", "b", "c", "folded"}
	e := h.open(engine.Options{Linger: 5 * time.Millisecond})
	for i := range 3 {
		together(t, e, fmt.Sprintf(`{"n%d":"%s"}`, i, text), catalogs...)
		if i == 1 {
			fold(t, e, "folded")
		}
	}
	keys := h.keys("wal/")
	if len(keys) != 3 {
		t.Fatalf("got segments %v, want 3", keys)
	}
	key = keys[1]
	docs = state(t, e, catalogs)
	h.close(e)
	h.hurt(key, func(b []byte) []byte {
		whole = bytes.Clone(b)
		b, hit = hurt(h, bytes.Clone(b))
		return b
	})
	return h, catalogs, key, whole, hit, docs
}

// accept opens the lake on an empty index and accepts a loss.
func (h *house) accept(what ...string) (*engine.Engine, []engine.Loss) {
	h.t.Helper()
	h.index = memory.NewIndex(memory.Options{})
	var got []engine.Loss
	e := h.open(engine.Options{AcceptLoss: what, AcceptedBy: "the officer", Hooks: engine.Hooks{LossAccepted: func(l engine.Loss) { got = append(got, l) }}})
	return e, got
}

// A damaged segment keeps every new epoch shut until its loss is accepted. Then whoever
// opens one comes to the same: what can be read of the segment, what snapshots have, and
// all of the other segments.
func TestAcceptLoss(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		what    string // "": the key
		unknown bool   // the damage hides whose it was
		cut     bool
		hurt    func(h *house, b []byte) ([]byte, []string)
	}{
		{"flipped in the second run", "", false, false, func(h *house, b []byte) ([]byte, []string) {
			names, at := h.catalogsIn(b)
			b[at[1]] ^= 0x10
			return b, names[1:2]
		}},
		{"first byte", engine.AcceptAll, true, false, func(h *house, b []byte) ([]byte, []string) {
			names, _ := h.catalogsIn(b)
			b[0] ^= 1
			return b, names[:1]
		}},
		{"cut in the third run", engine.AcceptAll, false, true, func(h *house, b []byte) ([]byte, []string) {
			names, at := h.catalogsIn(b)
			return b[:at[2]], names[2:]
		}},
		{"cut between runs", "", true, true, func(h *house, b []byte) ([]byte, []string) {
			names, _ := h.catalogsIn(b)
			_, n, err := codec.Decode(b, codec.Options{})
			if err != nil {
				h.t.Fatal(err)
			}
			return b[:n], names[1:]
		}},
		{"empty", "", true, true, func(h *house, b []byte) ([]byte, []string) {
			names, _ := h.catalogsIn(b)
			return nil, names
		}},
		{"garbage", "", true, true, func(h *house, b []byte) ([]byte, []string) {
			names, _ := h.catalogsIn(b)
			return bytes.Repeat([]byte{7}, len(b)), names
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h, catalogs, key, whole, hit, docs := lostLake(t, tc.hurt)
				h.index = memory.NewIndex(memory.Options{})
				_, err := engine.New(t.Context(), h.index, h.objects, engine.Options{})
				if !errors.Is(err, engine.ErrDamaged) || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), "--accept-loss "+key) {
					t.Fatalf("got %v, want damage that names %s and what to do", err, key)
				}
				what := tc.what
				if what == "" {
					what = key
				}
				e, accepted := h.accept(what)
				if len(accepted) != 1 || accepted[0].Object != key || accepted[0].By != "the officer" || accepted[0].Epoch != e.Epoch() || accepted[0].SHA256 == "" || accepted[0].Time == "" {
					t.Fatalf("got %+v, want the loss of %s", accepted, key)
				}
				for _, r := range accepted[0].Lost {
					if !slices.Contains(hit, r.Catalog) || (r.In == "snapshot") != (r.Catalog == "folded") || r.In == "segment" || r.First != r.Last || r.First.IsZero() {
						t.Errorf("got %+v as lost, want runs of %v", r, hit)
					}
				}
				if l := &accepted[0]; (len(l.Lost) == 0) != tc.unknown || l.Cut != tc.cut || (l.Unknown > 0 || l.Cut) != (tc.unknown || tc.cut) {
					t.Errorf("got %+v, want whose runs are lost told: %v, cut: %v", l, !tc.unknown, tc.cut)
				}
				got := state(t, e, catalogs)
				for _, c := range catalogs {
					lost := slices.Contains(hit, c) && c != "folded"
					if (got[c] == docs[c]) == lost {
						t.Errorf("catalog %s: got %s, had %s, lost: %v", c, got[c], docs[c], lost)
					}
					if doc := read(t, e, c); lost && doc != `{"n0":"`+text+`","n2":"`+text+`"}` {
						t.Errorf("catalog %s: got %s, want all but the lost run", c, doc)
					}
				}
				check := func(when string, e *engine.Engine) {
					t.Helper()
					if now := state(t, e, catalogs); fmt.Sprint(now) != fmt.Sprint(got) {
						t.Errorf("%s: got\n%v\nwant\n%v", when, now, got)
					}
					if did := wantClean(t, when, e); did.Accepted != 1 {
						t.Errorf("%s: got %+v, want one accepted loss", when, did)
					}
				}
				check("accepted", e)
				write(t, e, "a", "/later", engine.MergeTypeReplace, `1`)
				got = state(t, e, catalogs)
				check("written", e)
				h.close(e)

				h.index = memory.NewIndex(memory.Options{})
				e = h.open(engine.Options{})
				check("next epoch, index lost", e)
				h.close(e)
				h.hurt(key, func([]byte) []byte { return whole })
				h.index = memory.NewIndex(memory.Options{})
				e = h.open(engine.Options{})
				check("the object put back", e)
				h.close(e)
			})
		})
	}
}

// What is not damaged is not given up, nor what only one reading has damaged.
func TestAcceptLossRefuses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, catalogs, key, whole, _, docs := lostLake(t, func(_ *house, b []byte) ([]byte, []string) { return flip(b), nil })
		keys := h.keys("")
		for _, what := range []string{h.keys("wal/")[0], "wal/000001/0000000001-aaaaaaaa-00000001.seg", "_lake/format.json", "nothing"} {
			_, err := engine.New(t.Context(), memory.NewIndex(memory.Options{}), h.objects, engine.Options{AcceptLoss: []string{what}})
			if !errors.Is(err, engine.ErrInvalid) {
				t.Errorf("%s: got %v, want it refused", what, err)
			}
		}
		if now := h.keys(""); !slices.Equal(now, keys) {
			t.Errorf("got objects %v, want nothing done", now)
		}
		// The damage was on the way: the second reading is whole.
		reads := 0
		h.objects.failGets(func(k string) (bool, error) {
			if k == key {
				if reads++; reads == 4 { // by the check, ahead, by the recovery, again
					h.objects.failGets(nil)
					h.hurt(key, func([]byte) []byte { return whole })
				}
			}
			return false, nil
		})
		if _, err := engine.New(t.Context(), memory.NewIndex(memory.Options{}), h.objects, engine.Options{AcceptLoss: []string{key}}); !errors.Is(err, engine.ErrDamaged) {
			t.Errorf("got %v, want damage", err)
		}
		h.index = memory.NewIndex(memory.Options{})
		e := h.open(engine.Options{})
		if got := state(t, e, catalogs); fmt.Sprint(got) != fmt.Sprint(docs) {
			t.Errorf("got\n%v\nwant\n%v", got, docs)
		}
	})
}

// A segment that is damaged once more needs to be accepted once more; what was lost
// before stays lost.
func TestAcceptLossAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var names []string
		var at []int64
		h, catalogs, key, _, _, _ := lostLake(t, func(h *house, b []byte) ([]byte, []string) {
			names, at = h.catalogsIn(b)
			b[at[1]] ^= 1
			return b, nil
		})
		e, _ := h.accept(engine.AcceptAll)
		h.close(e)
		h.hurt(key, func(b []byte) []byte {
			b = bytes.Clone(b)
			b[at[1]] ^= 1 // the first damage is mended: it does not count
			b[at[2]] ^= 1
			return b
		})
		h.index = memory.NewIndex(memory.Options{})
		if _, err := engine.New(t.Context(), h.index, h.objects, engine.Options{}); !errors.Is(err, engine.ErrDamaged) {
			t.Fatalf("got %v, want damage", err)
		}
		e, accepted := h.accept(key)
		if len(accepted) != 1 || len(accepted[0].Lost) != 2 {
			t.Fatalf("got %+v, want two lost runs", accepted)
		}
		for _, c := range catalogs {
			lost := c != "folded" && (c == names[1] || c == names[2])
			if got := len(wholeLog(t, e, c, 10)); (got == 2) != lost {
				t.Errorf("catalog %s: got %d entries, lost: %v", c, got, lost)
			}
		}
		if did := wantClean(t, "accepted twice", e); did.Accepted != 2 {
			t.Errorf("got %+v, want two accepted losses", did)
		}
	})
}

// Damage of a young pack keeps an epoch shut as well: its ids would be lost. What was
// accepted says so, and the log there stays an error.
func TestAcceptLossOfPack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(engine.Options{})
		for i := range 4 {
			write(t, e, "users", "/", engine.MergeTypeMergePatch, fmt.Sprintf(`{"n%d":%d}`, i, i))
			if i%2 == 1 {
				fold(t, e, "users")
			}
		}
		want := read(t, e, "users")
		h.close(e)
		key := h.keys(engine.CatalogDir("users") + "/delta/")[0]
		h.hurt(key, flip)
		h.index = memory.NewIndex(memory.Options{})
		if _, err := engine.New(t.Context(), h.index, h.objects, engine.Options{}); !errors.Is(err, engine.ErrDamaged) || !strings.Contains(err.Error(), "--accept-loss "+key) {
			t.Fatalf("got %v, want damage that names %s", err, key)
		}
		e, accepted := h.accept(key)
		if len(accepted) != 1 || accepted[0].Object != key || len(accepted[0].Lost) != 1 || accepted[0].Lost[0].Catalog != "users" || accepted[0].Lost[0].In != "snapshot" {
			t.Fatalf("got %+v, want the loss of %s", accepted, key)
		}
		if got := read(t, e, "users"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if _, err := e.Log(t.Context(), engine.LogRequest{Catalog: "users", Limit: 10}); !errors.Is(err, engine.ErrDamaged) || !strings.Contains(err.Error(), key) {
			t.Errorf("log: got %v, want damage that names %s", err, key)
		}
		if did := wantClean(t, "accepted", e); did.Accepted != 1 {
			t.Errorf("got %+v, want one accepted loss", did)
		}
		h.close(e)
		h.index = memory.NewIndex(memory.Options{})
		if got := read(t, h.open(engine.Options{}), "users"); got != want {
			t.Errorf("next epoch: got %s, want %s", got, want)
		}
	})
}

// The collector and a purge deal with a segment whose loss was accepted as with any:
// live runs of it move elsewhere, and then it goes.
func TestAcceptedSegmentIsCollected(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"folded", "compacted", "purged"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h, catalogs, key, _, hit, _ := lostLake(t, func(h *house, b []byte) ([]byte, []string) {
					names, at := h.catalogsIn(b)
					b[at[1]] ^= 1
					return b, names[1:2]
				})
				e, _ := h.accept(key)
				h.close(e)
				o := engine.Options{Grace: 5 * time.Second, CompactAfter: time.Hour}
				if how == "compacted" {
					o.CompactAfter = 5 * time.Second
				}
				e = h.open(o)
				docs := map[string]string{}
				for _, c := range catalogs {
					docs[c] = read(t, e, c)
				}
				time.Sleep(10 * time.Second)
				switch how {
				case "folded":
					for _, c := range catalogs {
						fold(t, e, c)
					}
				case "purged":
					purge(t, e, hit[0])
					docs[hit[0]] = ""
					time.Sleep(10 * time.Minute)
				}
				for range 2 {
					if _, err := e.Collect(t.Context(), false); err != nil {
						t.Fatal(err)
					}
					time.Sleep(10 * time.Second)
				}
				if _, err := e.Collect(t.Context(), false); err != nil {
					t.Fatal(err)
				}
				if got := h.keys(key); len(got) != 0 {
					t.Errorf("%s is still there", key)
				}
				if how == "purged" && len(h.keys("_lake/purge/")) != 0 {
					t.Error("the purge is not complete")
				}
				h.close(e)
				h.index = memory.NewIndex(memory.Options{})
				e = h.open(engine.Options{})
				for _, c := range catalogs {
					if got := read(t, e, c); got != docs[c] {
						t.Errorf("catalog %s: got %s, want %s", c, got, docs[c])
					}
				}
				wantClean(t, "rebuilt", e)
			})
		})
	}
}

// An engine that waits for a damaged lake comes back by itself when somebody has
// accepted the loss; meanwhile it does not make an epoch a second.
func TestAcceptLossBesideOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(engine.Options{})
		write(t, e, "users", "/a", engine.MergeTypeReplace, `"some text"`)
		write(t, e, "users", "/b", engine.MergeTypeReplace, `"some text"`)
		key := h.keys("wal/")[0]
		h.hurt(key, flip)
		if err := h.index.Condemn(t.Context(), 1, engine.Shard("users")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		epochs := 0
		for _, k := range h.keys("_lake/epoch/") {
			if !strings.HasSuffix(k, ".seal.json") {
				epochs++
			}
		}
		if epochs < 3 || epochs > 2+120/15 {
			t.Errorf("got %d epochs in two minutes, want one in 15 to 20 s", epochs)
		}
		if err := e.Ready(); !errors.Is(err, engine.ErrRecovering) {
			t.Errorf("got %v, want %v", err, engine.ErrRecovering)
		}
		h.open(engine.Options{AcceptLoss: []string{key}})
		time.Sleep(20 * time.Second)
		if got := read(t, e, "users"); got != `{"b":"some text"}` {
			t.Errorf("got %s, want what is left", got)
		}
	})
}
