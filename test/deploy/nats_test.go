package deploy

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jsonlake/lake/internal/testenv"
)

// The shipped configuration starts a server. Only addresses and the store's
// place are the test's own.
func TestNATSConfiguration(t *testing.T) {
	t.Parallel()
	o := natsOptions(t)
	if o.MaxPayload != 8<<20 {
		t.Errorf("max_payload: got %d, want %d", o.MaxPayload, 8<<20)
	}
	if !o.JetStream || o.StoreDir != "/data/jetstream" {
		t.Errorf("JetStream: got %v in %q, want it in /data/jetstream", o.JetStream, o.StoreDir)
	}
	if !o.SyncAlways {
		t.Error("sync_interval: got other than always; a single server has no other durability")
	}
	if o.Port != 4222 || o.HTTPPort != 8222 {
		t.Errorf("ports: got %d and %d, want 4222 and 8222", o.Port, o.HTTPPort)
	}
	s := startNATS(t, o)
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if nc.MaxPayload() != 8<<20 {
		t.Errorf("a client is told a max_payload of %d, want %d", nc.MaxPayload(), 8<<20)
	}
	// Streams of Lake's kinds can be made, and a message of the full size fits.
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []jetstream.StreamConfig{
		{Name: "WRITES", Subjects: []string{"w.>"}, Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew, MaxBytes: 1 << 30},
		{Name: "EVENTS", Subjects: []string{"e.>"}, Compression: jetstream.S2Compression, MaxBytes: 1 << 30, PersistMode: jetstream.AsyncPersistMode},
		{Name: "JOBS", Subjects: []string{"j.>"}, Retention: jetstream.WorkQueuePolicy, MaxMsgsPerSubject: 1, PersistMode: jetstream.AsyncPersistMode},
	} {
		if _, err := js.CreateStream(t.Context(), c); err != nil {
			t.Errorf("create stream %s: %v", c.Name, err)
		}
	}
	if _, err := js.Publish(t.Context(), "w.x", make([]byte, 8<<20-1024)); err != nil {
		t.Errorf("publish of almost 8 MiB: %v", err)
	}
	// What the container's health check asks.
	if err := testenv.Healthy(t.Context(), "http://"+s.MonitorAddr().String()+"/healthz?js-enabled-only=true"); err != nil {
		t.Error(err)
	}
}

// natsOptions reads the shipped configuration as nats-server does.
func natsOptions(t *testing.T) *server.Options {
	t.Helper()
	o, err := server.ProcessConfigFile(shipped("nats", "server.conf"))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func startNATS(t *testing.T, o *server.Options) *server.Server {
	t.Helper()
	o.Host, o.Port, o.HTTPHost, o.HTTPPort = "127.0.0.1", server.RANDOM_PORT, "127.0.0.1", server.RANDOM_PORT
	o.StoreDir, o.NoSigs, o.NoLog = t.TempDir(), true, true
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("nats-server takes no connections")
	}
	return s
}
