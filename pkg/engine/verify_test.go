package engine_test

import (
	"bytes"
	"context"
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

// verify gives the faults, and apart from them the keys of strays; accepted losses
// are only counted.
func verify(t *testing.T, e *engine.Engine, prefix string) (did engine.Verified, faults []engine.Finding, strays []string) {
	t.Helper()
	did, err := e.Verify(t.Context(), engine.VerifyRequest{Prefix: prefix, Found: func(f engine.Finding) {
		switch f.Kind {
		case engine.FindingStray:
			strays = append(strays, f.Key)
			return
		case engine.FindingAcceptedLoss:
			return
		}
		faults = append(faults, f)
	}})
	if err != nil {
		t.Fatalf("verify: %v", err)
	}
	if did.Faults != len(faults) || did.Strays != len(strays) {
		t.Errorf("got counts %+v, and %d faults, %d strays", did, len(faults), len(strays))
	}
	return did, faults, strays
}

func wantClean(t *testing.T, when string, e *engine.Engine) engine.Verified {
	t.Helper()
	did, faults, _ := verify(t, e, "")
	if len(faults) != 0 {
		t.Errorf("%s: got findings %+v, want none", when, faults)
	}
	return did
}

// A lake that nothing happened to has no findings, whatever work it did on itself.
func TestVerifyCleanLake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(engine.Options{})
		if did := wantClean(t, "empty", e); did.Catalogs != 0 {
			t.Errorf("empty: got %+v", did)
		}
		for i := range 40 {
			c := fmt.Sprintf("c%d", i%8)
			write(t, e, c, "/", engine.MergeTypeMergePatch, fmt.Sprintf(`{"n%d":%d}`, i, i))
			switch {
			case i%5 == 0:
				write(t, e, c, "/", engine.MergeTypeJSONPatch, `[{"op":"test","path":"/nothing","value":1}]`) // a no-op
			case i%7 == 0:
				write(t, e, c, "/", engine.MergeTypeDelete, ``)
			case i%6 == 0:
				fold(t, e, c)
			}
			if i == 20 {
				if _, err := e.WriteBatch(t.Context(), engine.BatchRequest{Catalog: c, Deltas: []engine.WriteRequest{
					{Path: "/x", MergeType: engine.MergeTypeReplace, Body: []byte(`1`)}, {Path: "/y", MergeType: engine.MergeTypeReplace, Body: []byte(`2`)},
				}}); err != nil {
					t.Fatal(err)
				}
			}
		}
		did := wantClean(t, "written and folded", e)
		if did.Catalogs != 8 || did.Snapshots == 0 || did.Replayed != did.Snapshots || did.Runs == 0 || did.Segments == 0 || did.Bytes == 0 {
			t.Errorf("got %+v, want all of it looked at", did)
		}
		h.close(e)

		o := engine.Options{Grace: 5 * time.Second, CompactAfter: 8 * time.Second, NewEpoch: true, Retention: []engine.Retention{{OlderThan: 24 * time.Hour}}}
		e = h.open(o)
		wantClean(t, "new epoch", e)
		collect(t, e)
		wantClean(t, "compacted", e)
		collect(t, e)
		wantClean(t, "collected", e)
		for day := range 3 {
			time.Sleep(24 * time.Hour)
			write(t, e, "c1", "/day", engine.MergeTypeReplace, fmt.Sprint(day))
			fold(t, e, "c1")
		}
		if got := collect(t, e); got.Dropped == 0 {
			t.Fatalf("got %+v, want snapshots given up", got)
		}
		wantClean(t, "given up", e)
		h.close(e)

		o.Rebuild = true
		e = h.open(o)
		wantClean(t, "rebuilt", e)
		h.close(e)
		h.index = memory.NewIndex(memory.Options{})
		wantClean(t, "index lost", h.open(engine.Options{}))
	})
}

// Of a sound lake each segment, snapshot and pack is read once.
func TestVerifyReadsOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		bucket := &noted{Objects: h.objects}
		e, err := engine.New(t.Context(), h.index, bucket, engine.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.close(e) })
		for i := range 40 {
			c := fmt.Sprintf("c%d", i%8)
			write(t, e, c, "/", engine.MergeTypeMergePatch, fmt.Sprintf(`{"n%d":%d}`, i, i))
			if i%3 == 0 {
				fold(t, e, c)
			}
		}
		bucket.on.Store(true)
		did := wantClean(t, "written and folded", e)
		bucket.on.Store(false)
		asked, objects := map[string]int{}, 0
		for _, key := range bucket.gets {
			asked[key]++
		}
		for _, key := range h.keys("") {
			if strings.HasPrefix(key, "_lake/") {
				continue
			}
			if objects++; asked[key] != 1 {
				t.Errorf("%s was read %d times", key, asked[key])
			}
		}
		if did.Runs == 0 || did.Snapshots == 0 || objects != did.Segments+2*did.Snapshots {
			t.Errorf("got %+v and %d objects, want runs, and each segment, snapshot and pack", did, objects)
		}
	})
}

// hurt replaces an object; nil deletes it.
func (h *house) hurt(key string, change func([]byte) []byte) {
	h.t.Helper()
	b, err := h.objects.Objects.Get(context.Background(), key)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.objects.Delete(context.Background(), key); err != nil {
		h.t.Fatal(err)
	}
	if change == nil {
		return
	}
	if err := h.objects.Objects.Put(context.Background(), key, change(b)); err != nil {
		h.t.Fatal(err)
	}
}

func flip(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)/2] ^= 0x10
	return b
}

// reencode writes every frame anew with other payloads: its checksum is right.
func reencode(change func(payload []byte) []byte) func([]byte) []byte {
	return func(b []byte) []byte {
		var out []byte
		for f, err := range codec.Frames(b, codec.Options{}) {
			if err == nil {
				f.Payload = change(bytes.Clone(f.Payload))
				out, err = codec.Append(out, &f.Frame, codec.Options{Compression: codec.Zstd})
			}
			if err != nil {
				panic(err)
			}
		}
		return out
	}
}

// Each kind of damage is found, named, and nothing else is.
func TestVerifyFindsDamage(t *testing.T) {
	t.Parallel()
	// The lake: users was folded twice and has a live run; other has live runs only,
	// one in a segment of epoch 1.
	snap := func(h *house, i int) string { return h.keys(engine.CatalogDir("users") + "/snap/")[i] }
	pack := func(h *house, i int) string { return h.keys(engine.CatalogDir("users") + "/delta/")[i] }
	segment := func(h *house, i int) string { return h.keys("wal/")[i] }
	for _, tc := range []struct {
		name string
		hurt func(h *house) (key string)
		want []engine.FindingKind // in any order
	}{
		{"snapshot deleted", func(h *house) string { k := snap(h, 1); h.hurt(k, nil); return k }, []engine.FindingKind{engine.FindingSnapshotMissing}},
		{"snapshot flipped", func(h *house) string { k := snap(h, 0); h.hurt(k, flip); return k }, []engine.FindingKind{engine.FindingSnapshotDamaged}},
		{"snapshot of another", func(h *house) string {
			k := snap(h, 0)
			other, err := h.objects.Objects.Get(context.Background(), snap(h, 1))
			if err != nil {
				h.t.Fatal(err)
			}
			h.hurt(k, func([]byte) []byte { return other })
			return k
		}, []engine.FindingKind{engine.FindingSnapshotDamaged}},
		{"pack deleted", func(h *house) string { k := pack(h, 0); h.hurt(k, nil); return k }, []engine.FindingKind{engine.FindingPackMissing}},
		{"pack flipped", func(h *house) string { k := pack(h, 1); h.hurt(k, flip); return k }, []engine.FindingKind{engine.FindingPackDamaged}},
		{"pack cut between frames", func(h *house) string {
			k := pack(h, 0)
			h.hurt(k, func(b []byte) []byte {
				_, n, err := codec.Decode(b, codec.Options{})
				if err != nil {
					h.t.Fatal(err)
				}
				return b[:n]
			})
			return k
		}, []engine.FindingKind{engine.FindingPackDamaged}},
		{"pack with another body", func(h *house) string {
			h.hurt(pack(h, 1), reencode(func(p []byte) []byte { return bytes.ReplaceAll(p, []byte(`"b":2`), []byte(`"b":3`)) }))
			return snap(h, 1)
		}, []engine.FindingKind{engine.FindingReplay}},
		{"pack with another outcome", func(h *house) string {
			k := pack(h, 1)
			h.hurt(k, reencode(func(p []byte) []byte {
				p[len(p)-2] ^= 1 // coerced
				return p
			}))
			return k
		}, []engine.FindingKind{engine.FindingReplay}},
		{"segment deleted", func(h *house) string { k := segment(h, 0); h.hurt(k, nil); return k }, []engine.FindingKind{engine.FindingRunMissing}},
		{"segment flipped", func(h *house) string { k := segment(h, 1); h.hurt(k, flip); return k }, []engine.FindingKind{engine.FindingRunDamaged, engine.FindingSegmentDamaged}},
		{"segment empty", func(h *house) string {
			k := segment(h, 1)
			h.hurt(k, func([]byte) []byte { return nil })
			return k
		}, []engine.FindingKind{engine.FindingRunDamaged, engine.FindingSegmentDamaged}},
		{"run of another catalog", func(h *house) string {
			k := segment(h, 0)
			h.hurt(k, func(b []byte) []byte {
				f, _, err := codec.Decode(b, codec.Options{})
				if err != nil {
					h.t.Fatal(err)
				}
				f.Catalog = "ohter"
				if b, err = codec.Append(nil, &f, codec.Options{}); err != nil {
					h.t.Fatal(err)
				}
				return b
			})
			return k
		}, []engine.FindingKind{engine.FindingRunDamaged, engine.FindingRunUnknown}},
		{"seal deleted", func(h *house) string { k := "_lake/epoch/000001.seal.json"; h.hurt(k, nil); return k }, []engine.FindingKind{engine.FindingControl}},
		{"seal flipped", func(h *house) string { k := "_lake/epoch/000001.seal.json"; h.hurt(k, flip); return k }, []engine.FindingKind{engine.FindingControl}},
		{"epoch deleted", func(h *house) string { k := "_lake/epoch/000001.json"; h.hurt(k, nil); return k }, []engine.FindingKind{engine.FindingControl}},
		{"epoch flipped", func(h *house) string { k := "_lake/epoch/000002.json"; h.hurt(k, flip); return k }, []engine.FindingKind{engine.FindingControl}},
		{"format damaged", func(h *house) string {
			k := "_lake/format.json"
			h.hurt(k, func(b []byte) []byte { return b[1:] })
			return k
		}, []engine.FindingKind{engine.FindingControl}},
		{"a run that the index lacks", func(h *house) string {
			s := engine.SegmentID{Epoch: h.last.Epoch(), Unix: time.Now().Unix(), Writer: "deadbeef", N: 1}
			h.putRun(s, "other", engine.Version{Sec: time.Now().Unix() + 60, Seq: 1}, `{"late":1}`)
			return s.Key()
		}, []engine.FindingKind{engine.FindingRunUnknown}},
		{"a fold lost from the index", func(h *house) string {
			write(h.t, h.last, "other", "/", engine.MergeTypeMergePatch, `{"late":1}`)
			fold(h.t, h.last, "other")
			keys := h.keys("wal/")
			h.hurt(keys[len(keys)-1], nil)
			h.reopen(h.saved)
			return h.keys(engine.CatalogDir("other") + "/snap/")[0]
		}, []engine.FindingKind{engine.FindingIndexBehind}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t)
				e := h.open(engine.Options{})
				write(t, e, "other", "/", engine.MergeTypeMergePatch, `{"o":1}`)
				h.close(e)
				e = h.open(engine.Options{NewEpoch: true, Grace: 5 * time.Second})
				write(t, e, "users", "/", engine.MergeTypeMergePatch, `{"a":1}`)
				write(t, e, "users", "/", engine.MergeTypeMergePatch, `{"c":1}`)
				fold(t, e, "users")
				write(t, e, "users", "/", engine.MergeTypeMergePatch, `{"b":2}`)
				fold(t, e, "users")
				collect(t, e)
				write(t, e, "users", "/", engine.MergeTypeMergePatch, `{"live":1}`)
				wantClean(t, "before", e)
				h.saved, h.last = h.index.Clone(), e
				key := tc.hurt(h)
				_, faults, _ := verify(t, h.last, "")
				var kinds []engine.FindingKind
				for _, f := range faults {
					kinds = append(kinds, f.Kind)
					if f.Key != key || !strings.Contains(f.Detail, ";") && !strings.Contains(f.Detail, "run `lake rebuild`") && !strings.Contains(f.Detail, "put the object back") {
						t.Errorf("got %+v, want the key %s and what to do", f, key)
					}
				}
				slices.Sort(kinds)
				if !slices.Equal(kinds, tc.want) {
					t.Errorf("got %v, want %v: %+v", kinds, tc.want, faults)
				}
			})
		})
	}
}

// reopen puts an engine on another index.
func (h *house) reopen(x *memory.Index) {
	h.t.Helper()
	h.close(h.last)
	h.index = x
	h.last = h.open(engine.Options{})
}

// With a prefix only the catalogs that have it are looked at, and what is nobody's is
// named without being called a fault.
func TestVerifyPrefixAndStrays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(engine.Options{})
		for _, c := range []string{"users-1", "users-2", "other"} {
			write(t, e, c, "/", engine.MergeTypeMergePatch, `{"a":1}`)
			fold(t, e, c)
		}
		h.hurt(h.keys(engine.CatalogDir("other") + "/snap/")[0], nil)
		stray := engine.PackKey("users-1", engine.Version{Sec: 1, Seq: 1}, engine.Version{Sec: 2, Seq: 1})
		for _, key := range []string{stray, "readme.txt", "wal/notes"} {
			if err := h.objects.Put(t.Context(), key, []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		did, faults, strays := verify(t, e, "users-")
		if did.Catalogs != 2 || len(faults) != 0 || !slices.Equal(strays, []string{"wal/notes", stray}) {
			t.Errorf("users-: got %+v, %+v, strays %v", did, faults, strays)
		}
		did, faults, strays = verify(t, e, "")
		slices.Sort(strays)
		if did.Catalogs != 3 || len(faults) != 1 || !slices.Equal(strays, []string{stray, "readme.txt", "wal/notes"}) {
			t.Errorf("all: got %+v, %+v, strays %v", did, faults, strays)
		}
	})
}

// A lake that is written, folded and collected while it is verified has no findings.
func TestVerifyWhileWriting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(engine.Options{Sweep: true, Grace: time.Second})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 3)
		for w := range 3 {
			go func() {
				for i := 0; ctx.Err() == nil; i++ {
					c := fmt.Sprintf("c%d", (w+i)%7)
					if _, err := e.Write(context.WithoutCancel(ctx), engine.WriteRequest{Catalog: c, MergeType: engine.MergeTypeMergePatch, Body: fmt.Appendf(nil, `{"n%d":%d}`, w, i)}); err != nil {
						done <- err
						return
					}
					if i%9 == 0 {
						_, _ = e.Fold(context.WithoutCancel(ctx), c) // another may have been faster
					}
					if i%31 == 0 {
						_, _ = e.Collect(context.WithoutCancel(ctx), false)
					}
					time.Sleep(time.Millisecond)
				}
				done <- nil
			}()
		}
		for range 10 {
			time.Sleep(50 * time.Millisecond)
			wantClean(t, "under load", e)
		}
		stop()
		for range 3 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		wantClean(t, "after", e)
	})
}

// A new epoch that is opened meanwhile is waited for.
func TestVerifyThroughNewEpoch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		e := h.open(engine.Options{})
		for i := range 20 {
			write(t, e, fmt.Sprintf("c%d", i), "/", engine.MergeTypeMergePatch, `{"a":1}`)
		}
		reopened := false
		var faults []engine.Finding
		did, err := e.Verify(t.Context(), engine.VerifyRequest{Workers: 1, Found: func(f engine.Finding) { faults = append(faults, f) },
			Progress: func(step string, done, _ int) {
				if step == "catalogs" && done == 5 && !reopened {
					reopened = true
					h.open(engine.Options{Rebuild: true})
				}
			}})
		if err != nil || len(faults) != 0 || did.Catalogs != 20 || !reopened || e.Epoch() != 2 {
			t.Errorf("got %+v, %+v, %v in epoch %d, want 20 catalogs and no findings in epoch 2", did, faults, err, e.Epoch())
		}
	})
}
