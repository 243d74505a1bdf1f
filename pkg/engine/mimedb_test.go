package engine_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/jsonlake/lake/internal/testenv/mimedb"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/merge"
)

// The 233 revisions of a real document, which have the listed checksums, over
// 30 s of the index's clock: each version and each second is found, outcomes are
// right, every diff leads to the next document, blame names the revision; half
// folded, and folded after the index was rebuilt. (test/e2e does it with a
// running lake.)
func TestMimeDBPast(t *testing.T) {
	t.Parallel()
	h, clock := clocked(t)
	o := engine.Options{Name: "mime", DocumentCache: -1, FrameCache: -1}
	e := h.open(o)
	revs := mimedb.History(t, "../..")
	var all []told
	for i, rev := range revs {
		clock.Store(1_700_000_000 + int64(i)*30/int64(len(revs)))
		d := merge.Delta{Path: "/", Body: rev.Body}
		if err := d.Type.UnmarshalText([]byte(rev.Merge)); err != nil {
			t.Fatal(err)
		}
		all = writeTold(t, e, all, d, strconv.Itoa(rev.N))
		if got := mimedb.Checksum(t, all[i].doc); got != rev.SHA256 {
			t.Fatalf("revision %d: checksum %s, want %s", rev.N, got, rev.SHA256)
		}
	}
	if span := all[len(all)-1].version.Sec - all[0].version.Sec; span < 20 {
		t.Fatalf("the versions span %d s, want 20", span)
	}
	r := rand.New(rand.NewPCG(1, 5)) //nolint:gosec // a seed makes it repeatable
	var tree any
	if err := json.Unmarshal(all[len(all)-1].doc, &tree); err != nil {
		t.Fatal(err)
	}
	sample := pointers(tree, "")
	slices.Sort(sample)
	r.Shuffle(len(sample), func(i, j int) { sample[i], sample[j] = sample[j], sample[i] })
	sample = sample[:50]
	blamed := make([]told, len(sample))
	revisions := map[string]bool{}
	for i, p := range sample {
		blamed[i], _ = toBlame(t, all, p)
		revisions[blamed[i].author] = true
	}
	t.Logf("50 pointers are to be blamed on %d revisions", len(revisions))
	check := func() {
		t.Helper()
		checkPast(t, e, all)
		for i := 1; i < len(all); i++ {
			format := []engine.MergeType{engine.MergeTypeMergePatch, engine.MergeTypeJSONPatch}[i%2]
			d, err := e.Diff(t.Context(), engine.DiffRequest{Catalog: "c", From: engine.At{Version: all[i-1].version}, To: engine.AtVersion(all[i].version), Format: format})
			if engine.Code(err).Code == "not_expressible" && format == engine.MergeTypeMergePatch {
				d, err = e.Diff(t.Context(), engine.DiffRequest{Catalog: "c", From: engine.At{Version: all[i-1].version}, To: engine.AtVersion(all[i].version)})
			}
			if err != nil {
				t.Fatal(err)
			}
			got, _, err := merge.Merge(all[i-1].doc, []merge.Delta{{Type: d.Merge, Path: "/", Body: d.Patch}}, merge.Limits{})
			if err != nil || !bytes.Equal(got, all[i].doc) {
				t.Fatalf("the %s to revision %d leads elsewhere", d.Merge, i+1)
			}
		}
		for i, p := range sample {
			res, err := e.Blame(t.Context(), engine.BlameRequest{Catalog: "c", Pointer: p})
			if err != nil {
				t.Fatalf("blame %s: %v", p, err)
			}
			sameBlame(t, res.Items[0], blamed[i], p, true)
		}
	}
	fold := func(n int) {
		t.Helper()
		for range n {
			if _, err := e.Fold(t.Context(), "c"); err != nil {
				t.Fatal(err)
			}
		}
	}
	h.close(e)
	o.FoldMaxDeltas = 20
	e = h.open(o)
	fold(6)
	check() // half of it
	fold(6)
	if l := e.List(t.Context(), "c"); l.Err != nil || len(l.Runs) != 0 {
		t.Fatalf("not folded: %d runs, %v", len(l.Runs), l.Err)
	}
	e = h.rebuild(e, o)
	check()
}
