package service_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jsonlake/lake/internal/service"
	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
)

// inProcess connects without a socket.
func (h *house) inProcess() *nats.Conn {
	h.t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(h.nats.Server), nats.ReconnectBufSize(-1))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(nc.Close)
	return nc
}

// BenchmarkService measures requests over an in-process NATS on the memory
// adapters, beside what NATS itself costs (a subscription that answers at once)
// and what the engine costs without NATS. "alone" is one request at a time: its
// latency; "many" is 64 at once: the throughput.
//
//	go test -run - -bench Service -benchmem ./internal/service
func BenchmarkService(b *testing.B) {
	h := newHouse(b, engine.Options{FoldWorkers: 1})
	c := service.Config{NATS: h.inProcess(), Metrics: h.metrics}
	in, err := service.NewIngest(c, h.engine)
	run(b, in, err)
	c.NATS = h.inProcess()
	re, err := service.NewReader(c, h.engine)
	run(b, re, err)
	answer := []byte(`{"version":"1700000000_1","first":"1700000000_1","count":1,"duplicate":false}`)
	bare := h.inProcess()
	if _, err := bare.QueueSubscribe("bare", "q", func(m *nats.Msg) { _ = m.Respond(answer) }); err != nil {
		b.Fatal(err)
	}
	if err := bare.Flush(); err != nil {
		b.Fatal(err)
	}
	l, err := client.New(h.inProcess())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(l.Close)
	asker := h.inProcess()

	delta := []byte(`{"name":"Alice","age":30,"city":"Zürich"}`)
	catalogs := make([]string, 64)
	for i := range catalogs {
		catalogs[i] = fmt.Sprintf("c%d", i)
	}
	document := []byte(`{"text":"` + strings.Repeat("a", 1000) + `"}`)
	if _, err := h.engine.Write(b.Context(), engine.WriteRequest{Catalog: "doc", Body: document}); err != nil {
		b.Fatal(err)
	}
	var n atomic.Int64
	catalog := func() string { return catalogs[n.Add(1)%64] }

	for _, bm := range []struct {
		name string
		do   func() error
	}{
		{"bare", func() error {
			_, err := asker.RequestWithContext(b.Context(), "bare", delta)
			return err
		}},
		{"write", func() error {
			_, err := l.Write(b.Context(), engine.WriteRequest{Catalog: catalog(), Path: "/profile", Body: delta})
			return err
		}},
		{"write-engine", func() error {
			_, err := h.engine.Write(b.Context(), engine.WriteRequest{Catalog: catalog(), Path: "/profile", Body: delta})
			return err
		}},
		{"read", func() error {
			_, err := l.Read(b.Context(), engine.ReadRequest{Catalog: "doc"})
			return err
		}},
		{"read-engine", func() error {
			_, err := h.engine.Read(b.Context(), engine.ReadRequest{Catalog: "doc"})
			return err
		}},
	} {
		b.Run(bm.name+"/alone", func(b *testing.B) {
			for b.Loop() {
				if err := bm.do(); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(bm.name+"/many", func(b *testing.B) {
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := bm.do(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkRefused measures what a 429 costs: 64 at once, beside a write that is
// committed and bare NATS (BenchmarkService).
//
//	go test -run - -bench 'Service/(bare|write)/many|Refused' ./internal/service
func BenchmarkRefused(b *testing.B) {
	h := newHouse(b, engine.Options{})
	g := newGate()
	c := service.Config{NATS: h.inProcess(), Metrics: h.metrics, Workers: 1, MaxWait: time.Nanosecond}
	in, err := service.NewIngest(c, g)
	run(b, in, err)
	asker := h.inProcess()
	worked := send(b, asker, "lake.v1.write.(users", `1`)
	enter(b, g)
	waiting := send(b, asker, "lake.v1.write.(users", `1`)
	testenv.WaitFor(b, patience, func() bool { return h.metric("lake_service_requests_in_flight", "endpoint=write") == 2 })
	delta := []byte(`{"name":"Alice","age":30,"city":"Zürich"}`)
	b.SetParallelism(32)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m, err := asker.RequestWithContext(b.Context(), "lake.v1.write.(users", delta)
			if err != nil || m.Header.Get("Nats-Service-Error-Code") != "429" {
				b.Errorf("got %v %v, want 429", m, err)
				return
			}
		}
	})
	b.StopTimer()
	close(g.leave)
	answer(b, worked)
	answer(b, waiting)
}
