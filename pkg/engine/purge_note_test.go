package engine_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// A collector that has listed purges and found none does so again when there is one,
// until it is done: at once when it was noted in the index, within the hour when its
// writer died before that. Between them it asks the bucket nothing.
func TestPurgeIsNoticed(t *testing.T) {
	t.Parallel()
	for _, noted := range []bool{true, false} {
		t.Run(fmt.Sprintf("noted %v", noted), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t)
				bucket := &asked{Objects: h.objects}
				lists := func() (n int) {
					for _, k := range bucket.take() {
						if k == "list _lake/purge/" {
							n++
						}
					}
					return n
				}
				e := h.open(engine.Options{})
				collector, err := engine.New(t.Context(), h.index, bucket, engine.Options{Collect: true})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { h.close(collector) })
				h.fill(e, "users", "orders")
				time.Sleep(30 * time.Minute)
				if n := lists(); n != 1 {
					t.Errorf("got %d listings of purges after the start, want one", n)
				}
				if r := purge(t, e, "users"); r.Complete {
					t.Fatalf("got %+v, want something to wait", r)
				}
				limit := 10 * time.Minute
				if !noted {
					if err := h.index.Release(t.Context(), 0, "purges", "noted"); err != nil {
						t.Fatal(err)
					}
					limit = 45 * time.Minute
					synctest.Wait()
					if lists() > 0 { // it woke before the note was taken away: the next listing is an hour from now
						limit += 30 * time.Minute
					}
				}
				begin := time.Now()
				for len(h.keys("_lake/purge/")) > 0 {
					if time.Since(begin) > limit {
						t.Fatalf("the purge is not done after %s", limit)
					}
					time.Sleep(time.Minute)
				}
				if !noted && time.Since(begin) < 20*time.Minute {
					t.Errorf("the purge was done after %s, although nobody could know of it", time.Since(begin))
				}
				if got := h.marked(); len(got) != 0 {
					t.Errorf("the marker is left in %v", got)
				}
				time.Sleep(5 * time.Minute) // whoever was at work looks once more
				lists()
				time.Sleep(30 * time.Minute)
				if n := lists(); n != 0 {
					t.Errorf("got %d listings of purges after the purge, want none", n)
				}
			})
		})
	}
}
