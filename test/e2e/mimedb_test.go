package e2e

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/internal/testenv/mimedb"
	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/events"
)

// request is the write of a revision.
func request(t *testing.T, rev mimedb.Revision) engine.WriteRequest {
	t.Helper()
	w := engine.WriteRequest{Catalog: "mime-db", Path: "/", Body: rev.Body}
	if err := w.MergeType.UnmarshalText([]byte(rev.Merge)); err != nil {
		t.Fatal(err)
	}
	return w
}

// replay writes all revisions over NATS and holds the document after each to
// its checksum. It gives the last document.
func replay(t *testing.T, url string) []byte {
	t.Helper()
	c, err := client.New(connect(t, url))
	if err != nil {
		t.Fatal(err)
	}
	var doc []byte
	for _, rev := range mimedb.History(t, "../..") {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		w, err := c.Write(ctx, request(t, rev))
		if err != nil {
			t.Fatalf("revision %d: %v", rev.N, err)
		}
		r, err := c.Read(ctx, engine.ReadRequest{Catalog: "mime-db"})
		if err != nil {
			t.Fatalf("read after revision %d: %v", rev.N, err)
		}
		cancel()
		if r.Version != w.Version {
			t.Fatalf("revision %d: read version %s, wrote %s", rev.N, r.Version, w.Version)
		}
		if got := mimedb.Checksum(t, r.Body); got != rev.SHA256 {
			t.Fatalf("revision %d: checksum %s, want %s", rev.N, got, rev.SHA256)
		}
		doc = r.Body
	}
	return doc
}

func readNow(t *testing.T, url string) []byte {
	t.Helper()
	c, err := client.New(connect(t, url))
	if err != nil {
		t.Fatal(err)
	}
	var doc []byte
	testenv.WaitFor(t, 20*time.Second, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		r, err := c.Read(ctx, engine.ReadRequest{Catalog: "mime-db"})
		doc = r.Body
		return err == nil
	})
	return doc
}

// foldedAll waits until no fold is to come of so many writes, one after the other: their
// events are published, with them the jobs that they made due, and no job is left. The
// snapshotter works on while a test has gone on to other things.
func foldedAll(t *testing.T, s *server, writes int) {
	t.Helper()
	js, err := jetstream.New(connect(t, s.url))
	if err != nil {
		t.Fatal(err)
	}
	testenv.WaitFor(t, 20*time.Second, func() bool {
		if metric(t, s.ops, "lake_relay_events_read_total") < float64(writes) {
			return false
		}
		jobs, err := js.Stream(t.Context(), events.Subjects{}.JobsStream())
		return err == nil && jobs.CachedInfo().State.Msgs == 0
	})
}

// A real document's history, replayed into `lake serve`: every revision, and
// after a restart the same document. Reads put nothing: a write puts its segment,
// the snapshotter two objects a fold.
func TestMimeDBServe(t *testing.T) {
	s := serve(t, t.TempDir())
	puts := func() float64 { return metric(t, s.ops, "lake_objects_requests_total", `op="put"`) }
	before := puts()
	doc := replay(t, s.url)
	revisions := len(mimedb.History(t, "../.."))
	foldedAll(t, s, revisions)
	folds := metric(t, s.ops, "lake_jobs_handled_total", `result="folded"`)
	if folds == 0 {
		t.Error("the snapshotter folded nothing")
	}
	all := puts()
	if want := before + float64(revisions) + 2*folds; all != want {
		t.Errorf("%d writes, a read after each and %v folds made %v puts, want %v", revisions, folds, all-before, want-before)
	}
	for range 50 {
		if !bytes.Equal(readNow(t, s.url), doc) {
			t.Fatal("a read differs")
		}
	}
	if got := puts(); got != all {
		t.Errorf("50 reads made %v puts", got-all)
	}
	s.Restart()
	if !bytes.Equal(readNow(t, s.url), doc) {
		t.Error("the document differs after a restart")
	}
}

// The same over the distributed form: redis-server, nats-server and versitygw,
// one ingest, two snapshotters, one reader, each a process.
func TestMimeDBDistributed(t *testing.T) {
	d := distributed(t, 0)
	doc := replay(t, d.nats.URL)
	snapshots := func() float64 {
		return metric(t, d.ops["snapshotter-1"], "lake_jobs_handled_total", `result="folded"`) + metric(t, d.ops["snapshotter-2"], "lake_jobs_handled_total", `result="folded"`)
	}
	testenv.WaitFor(t, 30*time.Second, func() bool { return snapshots() > 0 })
	t.Logf("snapshots by the snapshotters: %v", snapshots())
	if got := d.s3.CountBy("reader", "PUT"); got != d.probes {
		t.Errorf("the reader made %d PUTs beyond its start-up probe's %d", got-d.probes, d.probes)
	} else {
		t.Logf("PUTs by reads: %d", got-d.probes)
	}
	for _, p := range d.services {
		p.Restart()
	}
	d.cache.Restart() // it persists nothing: the cache is empty now
	d.redis.Restart()
	d.nats.Restart()
	if !bytes.Equal(readNow(t, d.nats.URL), doc) {
		t.Error("the document differs after everything was restarted")
	}
}
