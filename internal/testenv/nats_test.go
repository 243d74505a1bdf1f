package testenv

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func putKV(t *testing.T, nc *nats.Conn) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "s.a", []byte("x")); err != nil {
		t.Fatal(err)
	}
}

func wantOneMessage(t *testing.T, nc *nats.Conn) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	if got := s.CachedInfo().State.Msgs; got != 1 {
		t.Errorf("messages: got %d, want 1", got)
	}
}

func TestNATS(t *testing.T) {
	t.Parallel()
	s := NATS(t, func(o *server.Options) { o.MaxPayload = 1 << 20 })
	nc := s.Connect(t)
	if got := nc.MaxPayload(); got != 1<<20 {
		t.Errorf("max payload: got %d, want the option's", got)
	}
	putKV(t, nc)

	url, before := s.URL, s.Server
	s.Restart()
	if s.URL != url || s.Server == before {
		t.Errorf("after a restart: %s, want %s and another server", s.URL, url)
	}
	wantOneMessage(t, s.Connect(t))

	in, err := nats.Connect("", nats.InProcessServer(s.Server))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	wantOneMessage(t, in)
	s.Stop() // the test's end stops it once more
}

func TestNATSProcess(t *testing.T) {
	t.Parallel()
	s := NATSProcess(t, "max_connections: 100")
	nc := s.Connect(t)
	if got := nc.ConnectedServerVersion(); got != server.VERSION {
		t.Errorf("version: got %s, want %s", got, server.VERSION)
	}
	putKV(t, nc)
	s.Kill()
	s.Start()
	wantOneMessage(t, s.Connect(t))
	WaitFor(t, 30*time.Second, nc.IsConnected) // the first connection came back by itself
}

func TestNATSProcessFromEnvironment(t *testing.T) {
	built := natsPath(t)
	link := filepath.Join(t.TempDir(), "a-nats-server")
	if err := os.Symlink(built, link); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LAKE_NATS_SERVER", link)
	if got := natsPath(t); got != link {
		t.Errorf("got %s, want %s", got, link)
	}
	if got := natsVersion(built); got != server.VERSION {
		t.Errorf("version of %s: got %q, want %q", built, got, server.VERSION)
	}
}
