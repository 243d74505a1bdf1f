package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
)

// A client has at most 32 MiB of bodies under way, so that a nats-server as it comes
// does not cut who reads them. What is over that waits its turn, or its time ends and
// it was never sent.
func TestBodiesUnderWay(t *testing.T) {
	t.Parallel()
	s := testenv.NATS(t)
	nc := s.Connect(t)
	var mu sync.Mutex
	var held []*nats.Msg // requests that are not answered yet
	bytes, most, release := 0, 0, false
	respond := func(m *nats.Msg) {
		bytes -= len(m.Data)
		if err := m.Respond([]byte(`{"version":"1700000000_1","first":"1700000000_1","count":1}`)); err != nil {
			t.Error(err)
		}
	}
	if _, err := nc.Subscribe("lake.v1.write.*", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		bytes += len(m.Data)
		most = max(most, bytes)
		if held = append(held, m); release {
			respond(m)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	c := connect(t, s, client.WithTimeout(patience))
	const writes, size = 200, 512 << 10
	body := []byte(`"` + strings.Repeat("x", size-2) + `"`)
	var wg sync.WaitGroup
	for i := range writes {
		wg.Go(func() {
			if _, err := c.Write(t.Context(), engine.WriteRequest{Catalog: fmt.Sprintf("c%d", i), MergeType: engine.MergeTypeReplace, Body: body}); err != nil {
				t.Errorf("write %d: %v", i, err)
			}
		})
	}
	testenv.WaitFor(t, patience, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return bytes == 32<<20
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Write(ctx, engine.WriteRequest{Catalog: "late", MergeType: engine.MergeTypeReplace, Body: body}); !errors.Is(err, engine.ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want busy and the deadline", err)
	}
	mu.Lock()
	release = true
	for _, m := range held {
		respond(m)
	}
	mu.Unlock()
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	if len(held) != writes || most > 32<<20 {
		t.Errorf("%d requests came, at most %d bytes at once; want %d, and %d bytes", len(held), most, writes, 32<<20)
	}
}
