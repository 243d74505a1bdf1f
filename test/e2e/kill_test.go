package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
)

// `lake serve` is killed ten times under eight writers: every acknowledged
// write is readable after the restart, once, in each writer's order.
func TestKillNine(t *testing.T) {
	const rounds, writers = 10, 8
	s := serve(t, t.TempDir())
	acked := make([][]int, writers) // numbers of acknowledged writes, by writer
	next := make([]int, writers)
	for round := range rounds {
		c, err := client.New(connect(t, s.url))
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for ctx.Err() == nil {
					n := next[w]
					next[w]++
					wctx, cancel := context.WithTimeout(ctx, time.Second)
					_, err := c.Write(wctx, engine.WriteRequest{Catalog: "k", Path: "/last", Body: fmt.Append(nil, n), Author: fmt.Sprint(w), MergeType: engine.MergeTypeReplace})
					cancel()
					if err == nil {
						acked[w] = append(acked[w], n)
					}
				}
			})
		}
		time.Sleep(200*time.Millisecond + rand.N(400*time.Millisecond)) // the load runs for a while, then the power goes
		s.Kill()
		stop()
		wg.Wait()
		s.Start()
		checkLog(t, s, round, acked)
	}
	total := 0
	for _, a := range acked {
		total += len(a)
	}
	t.Logf("%d kills, %d acknowledged writes, lost 0, doubled 0, out of order 0", rounds, total)
}

// checkLog holds the catalog's log to what was acknowledged.
func checkLog(t *testing.T, s *server, round int, acked [][]int) {
	t.Helper()
	var out []engine.LogEntry
	d := json.NewDecoder(strings.NewReader(lake(t, "log", "k", "--lake", s.url, "--limit", "0", "--json", "--timeout", "30s")))
	for d.More() {
		var e engine.LogEntry
		if err := d.Decode(&e); err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	seen := make([][]int, len(acked))
	for _, e := range out {
		var w, n int
		if _, err := fmt.Sscan(e.Author, &w); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscan(string(e.Body), &n); err != nil {
			t.Fatal(err)
		}
		if k := len(seen[w]); k > 0 && seen[w][k-1] >= n {
			t.Fatalf("kill %d: writer %d: %d stands after %d in the log", round+1, w, n, seen[w][k-1])
		}
		seen[w] = append(seen[w], n)
	}
	for w := range acked {
		i := 0
		for _, n := range acked[w] {
			for i < len(seen[w]) && seen[w][i] < n {
				i++
			}
			if i == len(seen[w]) || seen[w][i] != n {
				t.Fatalf("kill %d: writer %d: acknowledged write %d is lost", round+1, w, n)
			}
		}
	}
}
