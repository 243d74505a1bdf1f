package engine_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jsonlake/lake/pkg/engine"
)

// A page of the log is bounded in bytes, in both directions, over packs and live
// log; one entry it has always.
func TestLogMaxBytes(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	e := h.open(engine.Options{})
	sizes := []int{400, 500, 3000, 300, 100, 100, 900, 50}
	for i, n := range sizes {
		write(t, e, "users", "/a", engine.MergeTypeReplace, fmt.Sprintf("%q", strings.Repeat("x", n-2)))
		if i == 3 {
			fold(t, e, "users")
		}
	}
	for order, want := range map[engine.Order][][]int{
		engine.Ascending:  {{400, 500}, {3000}, {300, 100, 100}, {900, 50}},
		engine.Descending: {{50, 900}, {100, 100, 300}, {3000}, {500, 400}},
	} {
		var got [][]int
		req := engine.LogRequest{Catalog: "users", Limit: 100, Order: order, MaxBytes: 1000}
		for {
			page, err := e.Log(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			var part []int
			for _, entry := range page.Items {
				part = append(part, len(entry.Body))
			}
			if got = append(got, part); page.Next == nil {
				break
			}
			req.After = *page.Next
		}
		if !slices.EqualFunc(got, want, slices.Equal) {
			t.Errorf("%s: got pages %v, want %v", order, got, want)
		}
	}
}
