package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
)

// Redis, the bucket or NATS goes away: requests are refused quickly, what was
// acknowledged is there afterwards, and no process is restarted.
func TestServersAway(t *testing.T) {
	d := distributed(t, 0)
	c, err := client.Connect(d.nats.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	n := 0
	write := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := c.Write(ctx, engine.WriteRequest{Catalog: "c", Path: fmt.Sprintf("/w%d", n), Body: fmt.Append(nil, n)})
		return err
	}
	var acked []int
	if err := write(); err != nil {
		t.Fatal(err)
	}
	acked = append(acked, n)
	for _, tc := range []struct {
		name        string
		stop, start func()
	}{
		{"redis", d.redis.Kill, d.redis.Start},
		{"bucket", d.store.Kill, d.store.Start},
		{"nats", d.nats.Kill, d.nats.Start},
	} {
		tc.stop()
		refused := false
		testenv.WaitFor(t, 15*time.Second, func() bool { // the first ones may still be on their way when it happens
			n++
			start := time.Now()
			err := write()
			if err == nil {
				acked = append(acked, n)
			}
			refused = errors.Is(err, engine.ErrUnavailable) || errors.Is(err, engine.ErrRecovering)
			return refused && time.Since(start) < time.Second
		})
		tc.start()
		back := time.Now()
		testenv.WaitFor(t, 30*time.Second, func() bool {
			n++
			if err := write(); err != nil {
				return false
			}
			acked = append(acked, n)
			return true
		})
		t.Logf("%s away: refused quickly; writing again %s after it came back", tc.name, time.Since(back).Round(100*time.Millisecond))
	}
	var doc map[string]any
	testenv.WaitFor(t, 20*time.Second, func() bool { // the reader may be a moment behind
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		doc, err = engine.ReadMap(ctx, c.List(ctx, "c"))
		return err == nil
	})
	for _, i := range acked {
		if got := doc[fmt.Sprintf("w%d", i)]; got != float64(i) {
			t.Errorf("acknowledged write %d: got %v", i, got)
		}
	}
	for _, name := range []string{"ingest", "reader", "snapshotter-1"} {
		if !d.services[name].Running() {
			t.Errorf("%s has ended", name)
		}
	}
}
