package bench

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	goredis "github.com/redis/go-redis/v9"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/disk"
)

// Bare limits: what the parts can do at all, with the concurrency of the row
// they are compared with.

// bareNATS is request-reply between two connections of this program, over TCP.
func (b *bench) bareNATS(ctx context.Context, l *lab, inFlight, request, reply int) (*loaded, error) {
	do, done, err := requestReply(l, request, reply)
	if err != nil {
		return nil, err
	}
	defer done()
	return b.bareLoad(ctx, inFlight, do)
}

// besideNATS measures bare NATS, requests a second, for half its time before something and
// half its time after it, so that a machine that becomes slower or faster meanwhile does
// so to both.
func (b *bench) besideNATS(ctx context.Context, l *lab, inFlight, request, reply int, something func() error) (float64, error) {
	do, done, err := requestReply(l, request, reply)
	if err != nil {
		return 0, err
	}
	defer done()
	half := func() (float64, error) {
		load, err := sound(closed(ctx, inFlight, b.warmup()/2, b.bare()/2, do))
		if err != nil {
			return 0, fmt.Errorf("bare NATS: %w", err)
		}
		return load.perSecond(), nil
	}
	before, err := half()
	if err != nil {
		return 0, err
	}
	if err := something(); err != nil {
		return 0, err
	}
	after, err := half()
	return (before + after) / 2, err
}

func requestReply(l *lab, request, reply int) (do op, done func(), err error) {
	server, err := nats.Connect(l.nats, nats.Name("lake bench echo"))
	if err != nil {
		return nil, nil, fmt.Errorf("connect to %s: %w", l.nats, err)
	}
	asker, err := nats.Connect(l.nats, nats.Name("lake bench bare"))
	if err != nil {
		server.Close()
		return nil, nil, fmt.Errorf("connect to %s: %w", l.nats, err)
	}
	done = func() {
		asker.Close()
		server.Close()
	}
	subject := fmt.Sprintf("lakebench.%d", rand.Uint64())
	answer := bytes.Repeat([]byte("x"), reply)
	_, err = server.Subscribe(subject, func(m *nats.Msg) { _ = m.Respond(answer) })
	if err == nil {
		err = server.Flush()
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	question := bytes.Repeat([]byte("x"), request)
	return func(context.Context, int, int) (int, error) {
		_, err := asker.Request(subject, question, 10*time.Second)
		return 1, err
	}, done, nil
}

// bareLoad is a load of as long as a limit is measured.
func (b *bench) bareLoad(ctx context.Context, inFlight int, do op) (*loaded, error) {
	return sound(closed(ctx, inFlight, b.warmup(), b.bare(), do))
}

// readScript is a script that reads one key.
func readScript(ctx context.Context, c *goredis.Client) (op, error) {
	sha, err := c.ScriptLoad(ctx, `return redis.call('GET', KEYS[1])`).Result()
	if err != nil {
		return nil, err
	}
	key := []string{"lakebench"}
	return func(ctx context.Context, _, _ int) (int, error) {
		err := c.EvalSha(ctx, sha, key).Err()
		if err == goredis.Nil { //nolint:errorlint // go-redis returns it bare
			err = nil
		}
		return 1, err
	}, nil
}

func (b *bench) bareScript(ctx context.Context, c *goredis.Client, inFlight int) (*loaded, error) {
	do, err := readScript(ctx, c)
	if err != nil {
		return nil, err
	}
	return b.bareLoad(ctx, inFlight, do)
}

// smallPut is a create-only put of an object of a kilobyte.
func smallPut(o engine.Objects) op {
	body := bytes.Repeat([]byte("x"), 1024)
	run := rand.Uint64()
	return func(ctx context.Context, w, i int) (int, error) {
		return 1, o.Put(ctx, fmt.Sprintf("bench/%x/%d/%d", run, w, i), body)
	}
}

func (b *bench) barePut(ctx context.Context, o engine.Objects, inFlight int) (*loaded, error) {
	return b.bareLoad(ctx, inFlight, smallPut(o))
}

// bareInTurn is what a lone read cannot do without, or a lone write where there is a put,
// one after the other as it does them. Each part then meets servers that have slept
// meanwhile. Sizes are of NATS's request and reply, bytes.
func (b *bench) bareInTurn(ctx context.Context, l *lab, request, reply int, put op) (*loaded, error) {
	ask, done, err := requestReply(l, request, reply)
	if err != nil {
		return nil, err
	}
	defer done()
	script, err := readScript(ctx, l.redis)
	if err != nil {
		return nil, err
	}
	parts := []op{ask, script}
	if put != nil {
		parts = append(parts, put, script)
	}
	return b.bareLoad(ctx, 1, func(ctx context.Context, w, i int) (int, error) {
		for _, do := range parts {
			if _, err := do(ctx, w, i); err != nil {
				return 0, err
			}
		}
		return 1, nil
	})
}

// bareFilePut is the file store's own durable put, on the disk of the run.
func (b *bench) bareFilePut(ctx context.Context) (*loaded, error) {
	dir, err := b.temp("files")
	if err != nil {
		return nil, err
	}
	defer empty(dir)
	o, err := disk.OpenObjects(dir)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	return b.barePut(ctx, o, 1)
}

// bareAppend is an append of a kilobyte with a sync of the data.
func (b *bench) bareAppend(ctx context.Context) (*loaded, error) {
	dir, err := b.temp("append")
	if err != nil {
		return nil, err
	}
	defer empty(dir)
	f, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	line := bytes.Repeat([]byte("x"), 1024)
	return sound(closed(ctx, 1, b.warmup(), b.bare(), func(context.Context, int, int) (int, error) {
		if _, err := f.Write(line); err != nil {
			return 0, err
		}
		return 1, syncData(f)
	}))
}

// barePublish is JetStream's asynchronous publish to a stream on files, with a
// number of messages that are not acknowledged yet.
func (b *bench) barePublish(ctx context.Context, l *lab, inFlight, size int) (perSecond float64, err error) {
	nc, err := nats.Connect(l.nats, nats.Name("lake bench publish"))
	if err != nil {
		return 0, fmt.Errorf("connect to %s: %w", l.nats, err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(inFlight))
	if err != nil {
		return 0, err
	}
	subject := fmt.Sprintf("lakebench.%d", rand.Uint64())
	name := fmt.Sprintf("LAKEBENCH_%d", rand.Uint64())
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{subject}, MaxBytes: 256 << 20, Discard: jetstream.DiscardOld}); err != nil {
		return 0, fmt.Errorf("make a stream: %w", err)
	}
	defer func() { _ = js.DeleteStream(context.WithoutCancel(ctx), name) }()
	body := bytes.Repeat([]byte("x"), size)
	begin := time.Now()
	end := begin.Add(b.bare())
	n := 0
	for ; time.Now().Before(end) && ctx.Err() == nil; n++ {
		if _, err := js.PublishAsync(subject, body, jetstream.WithStallWait(10*time.Second)); err != nil {
			return 0, err
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(10 * time.Second):
		return 0, fmt.Errorf("messages were not acknowledged")
	}
	return float64(n) / time.Since(begin).Seconds(), nil
}

// sound refuses a load in which something failed.
func sound(l *loaded) (*loaded, error) {
	switch {
	case l.err != nil:
		return nil, fmt.Errorf("%d operations failed, the first: %w", l.failed, l.err)
	case l.calls == 0:
		return nil, fmt.Errorf("no operation ended in %v: give it more time (--duration)", l.took)
	}
	return l, nil
}
