package app

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"

	"github.com/rs/zerolog"
)

// instantDoor is a service that listens as soon as it is made.
type instantDoor chan struct{}

func (instantDoor) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (d instantDoor) Listening() <-chan struct{} { return d }

// A process is ready when all of it has started, not when the first of its
// services listens, and no more as soon as it stops.
func TestReady(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		p := &process{cfg: &Config{}, log: zerolog.Nop(), health: newHealth(), sup: newSupervisor(zerolog.Nop())}
		defer p.sup.stop()
		says := func(when string, status int, process string) {
			t.Helper()
			w := httptest.NewRecorder()
			p.health.ready(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
			if want := fmt.Sprintf("{%q:%q}\n", "process", process); w.Code != status || w.Body.String() != want {
				t.Errorf("%s: got %d %s, want %d %s", when, w.Code, w.Body, status, want)
			}
		}
		if err := p.startOps(ctx, "process"); err != nil {
			t.Fatal(err)
		}
		listening := make(instantDoor)
		close(listening)
		for _, name := range []string{"reader", "ingest"} {
			says("before the "+name, http.StatusServiceUnavailable, "starting")
			if err := p.startDoor(ctx, name, listening); err != nil {
				t.Fatal(err)
			}
		}
		says("before its end is waited for", http.StatusServiceUnavailable, "starting")
		ended := make(chan error, 1)
		go func() { ended <- p.until(ctx, io.Discard, "ready") }()
		synctest.Wait()
		says("started", http.StatusOK, "ok")
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("got %v, want a clean end", err)
		}
		says("stopping", http.StatusServiceUnavailable, "stopping")
	})
}
