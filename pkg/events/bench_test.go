package events

import (
	"context"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jsonlake/lake/internal/testenv"
)

// Fan-out: one event a time is published to watchers of the same feed; an
// operation is one event heard by all of them.
func BenchmarkWatch(b *testing.B) {
	for _, watchers := range []int{1, 100} {
		b.Run(fmt.Sprintf("watchers=%d", watchers), func(b *testing.B) {
			js := natsOf(b, testenv.NATS(b), Config{})
			f := NewFeed(js, &book{}, Subjects{})
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			heard := make(chan error, watchers)
			for range watchers {
				go func() {
					for item, err := range f.Watch(ctx, WatchOptions{Buffer: 1 << 20}) {
						if err != nil {
							heard <- err
							return
						}
						if item.Version == versionOf(b.N) {
							heard <- nil
							return
						}
					}
				}()
			}
			testenv.WaitFor(b, patience, func() bool { return f.watching() == watchers })
			b.ResetTimer()
			for i := range b.N {
				m, err := eventMessage(Subjects{}, span("users", i, i+1))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := js.PublishMsgAsync(m.msg, jetstream.WithRetryAttempts(0)); err != nil {
					b.Fatal(err)
				}
			}
			<-js.PublishAsyncComplete()
			for range watchers {
				if err := <-heard; err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*watchers)/b.Elapsed().Seconds(), "heard/s")
		})
	}
}
