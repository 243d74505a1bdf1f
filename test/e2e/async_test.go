package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
)

// Writers hand over far more than they wait for, while the ingest is killed and
// started again. Every write gets its answer; what was committed is there once, at
// its version, what was refused is not, of what is unknown the outcome tells by its
// id, and each writer's numbers stand in the order in which it handed them over.
func TestWriteAsync(t *testing.T) {
	d := distributed(t, 20*time.Millisecond)
	c, err := client.New(connect(t, d.nats.URL), client.WithTimeout(10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	const writers, each, catalogs = 8, 600, 3
	type write struct {
		future  *client.Future
		catalog string
		n       int
	}
	before := d.s3.CountBy("ingest", "PUT")
	all := make([][]write, writers)
	var handed atomic.Int64
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				catalog, n := fmt.Sprint("async-", i%catalogs), w*each+i
				f, err := c.WriteAsync(t.Context(), engine.WriteRequest{Catalog: catalog, MergeType: engine.MergeTypeJSONPatch, Body: fmt.Appendf(nil, `[{"op":"add","path":"/list/-","value":%d}]`, n)})
				if err != nil {
					t.Errorf("hand over %d: %v", n, err)
					return
				}
				all[w] = append(all[w], write{f, catalog, n})
				handed.Add(1)
				if i%50 == 49 { // they last longer than the ingest's life
					time.Sleep(50 * time.Millisecond)
				}
			}
		})
	}
	for handed.Load() < writers*each/4 && !t.Failed() {
		time.Sleep(time.Millisecond)
	}
	d.services["ingest"].Kill()
	d.services["ingest"].Start()
	wg.Wait()

	want := map[string]map[int]engine.Version{}
	refused := map[string]map[int]bool{}
	for i := range catalogs {
		want[fmt.Sprint("async-", i)], refused[fmt.Sprint("async-", i)] = map[int]engine.Version{}, map[int]bool{}
	}
	committed, no, unknown := 0, 0, 0
	asked := map[engine.OutcomeRequest][]int{} // numbers of each batch that is unknown
	for _, of := range all {
		for _, w := range of {
			res, err := w.future.Wait(t.Context())
			var open *engine.UnknownError
			switch {
			case err == nil:
				committed++
				want[w.catalog][w.n] = res.Version
			case errors.As(err, &open):
				unknown++
				batch := engine.OutcomeRequest{Catalog: w.catalog, ID: open.ID}
				asked[batch] = append(asked[batch], w.n)
			default:
				no++
				refused[w.catalog][w.n] = true
			}
		}
	}
	puts := d.s3.CountBy("ingest", "PUT") - before
	t.Logf("%d committed, %d refused, %d unknown, %d PUTs", committed, no, unknown, puts)
	if committed < writers*each/2 || puts > committed/4 {
		t.Errorf("%d of %d were committed, with %d PUTs: they should be most, and share", committed, writers*each, puts)
	}
	happened := map[engine.OutcomeRequest]bool{}
	for batch, numbers := range asked {
		testenv.WaitFor(t, 30*time.Second, func() bool { // until the sweeper has decided it
			res, err := c.Outcome(t.Context(), batch)
			switch {
			case errors.Is(err, engine.ErrNotFound):
				return true
			case err != nil || res.State != "committed":
				return false
			}
			if happened[batch] = true; res.Count != len(numbers) {
				t.Errorf("batch %+v has %d deltas, want the %d that are unknown", batch, res.Count, len(numbers))
			}
			return true
		})
	}
	for catalog := range want {
		r, err := c.Read(t.Context(), engine.ReadRequest{Catalog: catalog, Pointer: "/list"})
		if err != nil {
			t.Fatal(err)
		}
		var list []int
		if err := json.Unmarshal(r.Body, &list); err != nil {
			t.Fatal(err)
		}
		seen, last := map[int]bool{}, map[int]int{}
		for _, n := range list {
			if seen[n] || refused[catalog][n] {
				t.Errorf("%s: %d is there twice (%v), or was refused", catalog, n, seen[n])
			}
			if at, ok := last[n/each]; ok && n < at {
				t.Errorf("%s: %d stands after %d, which was handed over later", catalog, n, at)
			}
			seen[n], last[n/each] = true, n
		}
		for batch, numbers := range asked {
			for _, n := range numbers {
				if batch.Catalog == catalog && seen[n] != happened[batch] {
					t.Errorf("%s: of %d the outcome says %v, it is there: %v", catalog, n, happened[batch], seen[n])
				}
			}
		}
		versions := map[engine.Version]string{}
		var after engine.Version
		for {
			page, err := c.Log(t.Context(), engine.LogRequest{Catalog: catalog, After: after, Limit: 500})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range page.Items {
				versions[e.Version] = string(e.Body)
			}
			if page.Next == nil {
				break
			}
			after = *page.Next
		}
		if len(versions) != len(list) {
			t.Errorf("%s: %d deltas, %d numbers", catalog, len(versions), len(list))
		}
		for n, v := range want[catalog] {
			if !seen[n] {
				t.Errorf("%s: %d was acknowledged at %s and is not there", catalog, n, v)
			}
			var ops []struct{ Value int }
			if err := json.Unmarshal([]byte(versions[v]), &ops); err != nil || len(ops) != 1 || ops[0].Value != n {
				t.Errorf("%s: version %s was told to the write of %d and holds %s", catalog, v, n, versions[v])
			}
		}
	}
}
