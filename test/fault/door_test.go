package fault

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"github.com/jsonlake/lake/internal/testenv"
)

// door is a toxiproxy between one process and one server: what the process is
// told is the server's address. It may be used by several goroutines.
type door struct {
	tb     testing.TB
	name   string
	listen string // host:port; the same for good

	mu       sync.Mutex
	upstream string
	proxy    *toxiproxy.Proxy
}

var toxiproxies = toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())

func newDoor(tb testing.TB, name, upstream string) *door {
	tb.Helper()
	d := &door{tb: tb, name: name, upstream: upstream}
	// Below the ports of outgoing connections, which could take it while the door
	// is closed for a moment.
	for {
		d.listen = fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(tb))
		if err := d.open(); err == nil {
			break
		} else if !errors.Is(err, syscall.EADDRINUSE) {
			tb.Fatalf("open door %s: %v", name, err)
		}
	}
	tb.Cleanup(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.proxy.Stop()
	})
	return d
}

func (d *door) open() error {
	d.proxy = toxiproxy.NewProxy(toxiproxies, d.name, d.listen, d.upstream)
	return d.proxy.Start()
}

// toxic is one of toxiproxy's faults. Stream is upstream (requests) or
// downstream (answers).
type toxic struct {
	Type       string         `json:"type"`
	Stream     string         `json:"stream"`
	Attributes map[string]any `json:"attributes"`
}

// poison adds a toxic to all connections, open ones and later ones.
func (d *door) poison(t toxic) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, err := json.Marshal(t)
	if err != nil {
		d.tb.Errorf("door %s: %v", d.name, err)
		return
	}
	if _, err := d.proxy.Toxics.AddToxicJson(strings.NewReader(string(b))); err != nil {
		d.tb.Errorf("door %s: add %s: %v", d.name, b, err)
	}
}

// heal takes all toxics away. It closes all connections and begins anew, because
// toxiproxy may drop bytes in the midst of a stream when a toxic is removed from
// a live connection, which no network does.
func (d *door) heal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reopen()
}

// lead leads the door to another server; connections to the old one are closed.
func (d *door) lead(upstream string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.upstream = upstream
	d.reopen()
}

// reopen tries again while the port is in use: a process that is just being started
// holds a copy of this one's sockets, also of those that are closed here, until it
// runs its own program.
func (d *door) reopen() {
	d.proxy.Stop()
	var err error
	if !wait(5*time.Second, func() bool {
		err = d.open()
		return !errors.Is(err, syscall.EADDRINUSE)
	}) || err != nil {
		d.tb.Errorf("open door %s again: %v", d.name, err)
	}
}

// shedder answers S3 requests with 503 while it is told to: one in every so many,
// before the store sees them or after the store has done them.
type shedder struct {
	before, after atomic.Int64 // one in so many; 0: none
	n, shed       atomic.Int64
}

func (s *shedder) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := s.n.Add(1)
		if every := s.before.Load(); every > 0 && n%every == 0 {
			s.refuse(w)
			return
		}
		if every := s.after.Load(); every > 0 && n%every == 0 {
			next.ServeHTTP(&discard{header: http.Header{}}, r)
			s.refuse(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *shedder) refuse(w http.ResponseWriter) {
	s.shed.Add(1)
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = w.Write([]byte(`<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>`))
}

// discard takes an answer that nobody gets.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
