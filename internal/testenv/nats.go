package testenv

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// NATSServer is a nats-server with JetStream inside the test's own process.
type NATSServer struct {
	URL    string         // nats://host:port; the same after Restart
	Server *server.Server // for nats.InProcessServer, and to look inside
	Dir    string         // JetStream's store

	tb   testing.TB
	opts *server.Options
}

// NATS starts an embedded nats-server with JetStream on files. Options may be
// changed before it starts: limits, users, TLS, streams' defaults.
func NATS(tb testing.TB, opts ...func(*server.Options)) *NATSServer {
	tb.Helper()
	s := &NATSServer{Dir: tb.TempDir(), tb: tb}
	s.opts = &server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT,
		JetStream: true, StoreDir: s.Dir, JetStreamMaxStore: 4 << 30, JetStreamMaxMemory: 256 << 20,
		MaxPayload: 8 << 20,
		NoSigs:     true, // else it would take the test's signals and end its process
		NoLog:      true, DisableJetStreamBanner: true,
	}
	for _, o := range opts {
		o(s.opts)
	}
	s.Start()
	tb.Cleanup(s.Stop)
	return s
}

// Start runs the server and waits until it takes connections.
func (s *NATSServer) Start() {
	s.tb.Helper()
	srv, err := server.NewServer(s.opts.Clone()) // it writes into its options
	if err != nil {
		s.tb.Fatalf("nats-server: %v", err)
	}
	s.Server = srv
	srv.Start()
	if !srv.ReadyForConnections(startTimeout) {
		srv.Shutdown()
		s.tb.Fatalf("nats-server takes no connections after %v", startTimeout)
	}
	if s.URL = srv.ClientURL(); !s.opts.DontListen {
		_, port, _ := strings.Cut(srv.Addr().String(), ":")
		if _, err := fmt.Sscan(port, &s.opts.Port); err != nil {
			s.tb.Fatalf("nats-server listens on %v: %v", srv.Addr(), err)
		}
	}
}

// Stop ends the server and waits for it; streams stay on disk. It may be called twice.
func (s *NATSServer) Stop() {
	s.Server.Shutdown()
	s.Server.WaitForShutdown()
}

// Restart is Stop, then Start with the same port and store.
func (s *NATSServer) Restart() {
	s.tb.Helper()
	s.Stop()
	s.Start()
}

// Connect returns a connection over TCP, closed with the test.
func (s *NATSServer) Connect(tb testing.TB, opts ...nats.Option) *nats.Conn {
	tb.Helper()
	return natsConnect(tb, s.URL, opts)
}

// NATSServerProcess is a nats-server with JetStream as a process of its own.
type NATSServerProcess struct {
	*Process
	URL     string // nats://host:port
	Monitor string // http://host:port of /healthz, /jsz, …
	Dir     string // JetStream's store
}

// NATSProcess starts a nats-server of the version this module is built with.
// extra is added to its configuration file. The program is what LAKE_NATS_SERVER
// names, else bin/nats-server, built from the module cache when it is not there.
func NATSProcess(tb testing.TB, extra ...string) *NATSServerProcess {
	tb.Helper()
	path := natsPath(tb)
	s := &NATSServerProcess{Dir: tb.TempDir()}
	conf := filepath.Join(tb.TempDir(), "nats.conf")
	retryPorts(tb, path, func() (*Process, error) {
		port, monitor := FreePort(tb), FreePort(tb)
		s.URL = fmt.Sprintf("nats://127.0.0.1:%d", port)
		s.Monitor = fmt.Sprintf("http://127.0.0.1:%d", monitor)
		text := fmt.Sprintf("listen: \"127.0.0.1:%d\"\nhttp: \"127.0.0.1:%d\"\nmax_payload: 8MB\njetstream { store_dir: %q, max_file_store: 4GB, max_memory_store: 256MB }\n%s\n",
			port, monitor, s.Dir, strings.Join(extra, "\n"))
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
		s.Process = newProcess(tb, path, []string{"-c", conf}, s.answers)
		return s.Process, s.start()
	})
	return s
}

// Connect returns a connection to the server, closed with the test.
func (s *NATSServerProcess) Connect(tb testing.TB, opts ...nats.Option) *nats.Conn {
	tb.Helper()
	return natsConnect(tb, s.URL, opts)
}

// answers asks for full health: JetStream is up and has recovered its streams.
func (s *NATSServerProcess) answers() error {
	return Healthy(context.Background(), s.Monitor+"/healthz")
}

func natsConnect(tb testing.TB, url string, opts []nats.Option) *nats.Conn {
	tb.Helper()
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		tb.Fatalf("connect to %s: %v", url, err)
	}
	tb.Cleanup(nc.Close)
	return nc
}

// natsPath finds or builds nats-server. A program of another version than the
// module's is built anew: distributions ship servers too old for Lake.
func natsPath(tb testing.TB) string {
	tb.Helper()
	path := tool(tb, "LAKE_NATS_SERVER", "nats-server")
	if path != "" && (os.Getenv("LAKE_NATS_SERVER") != "" || natsVersion(path) == server.VERSION) {
		return path
	}
	root, err := moduleRoot()
	if err != nil {
		missing(tb, "nats-server", "make tools")
	}
	if _, err := exec.LookPath("go"); err != nil {
		missing(tb, "nats-server", "make tools")
	}
	bin := filepath.Join(root, "bin", "nats-server")
	if err := os.MkdirAll(filepath.Dir(bin), 0o755); err != nil {
		tb.Fatal(err)
	}
	// Tests of several packages may build at once: each renames its own into place.
	tmp := fmt.Sprintf("%s.%d", bin, os.Getpid())
	defer os.Remove(tmp)
	build := exec.Command("go", "build", "-o", tmp, "github.com/nats-io/nats-server/v2")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		tb.Logf("build nats-server: %v\n%s", err, out)
		missing(tb, "nats-server", "make tools")
	}
	if err := os.Rename(tmp, bin); err != nil {
		tb.Fatal(err)
	}
	return bin
}

// natsVersion is what `nats-server --version` says, without its "nats-server: v".
func natsVersion(path string) string {
	out, err := exec.Command(path, "--version").Output()
	if err != nil {
		return ""
	}
	_, v, _ := strings.Cut(strings.TrimSpace(string(out)), ": v")
	return v
}
