package events_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/events"
)

// togetherPair is such a connection and its other end.
func togetherPair(t *testing.T) (c, peer net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	o := nats.GetDefaultOptions()
	if err := events.WriteTogether(&o); err != nil {
		t.Fatal(err)
	}
	if c, err = o.CustomDialer.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if peer, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(); _ = peer.Close() })
	return c, peer
}

// Nothing that was written is lost, doubled or out of its writer's order, also when the
// connection is closed right after, and when the other end is slow.
func TestTogether(t *testing.T) {
	t.Parallel()
	const writers, each, size = 8, 200, 4096
	c, peer := togetherPair(t)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			p := make([]byte, size)
			for i := range each {
				binary.BigEndian.PutUint32(p, uint32(w))
				binary.BigEndian.PutUint32(p[4:], uint32(i))
				if n, err := c.Write(p); n != size || err != nil {
					t.Errorf("write: %d, %v", n, err)
					return
				}
			}
		})
	}
	got := make(chan []byte)
	go func() {
		time.Sleep(50 * time.Millisecond) // more is written than may wait
		b, err := io.ReadAll(peer)
		if err != nil {
			t.Errorf("read: %v", err)
		}
		got <- b
	}()
	wg.Wait()
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	b := <-got
	if len(b) != writers*each*size {
		t.Fatalf("got %d bytes, want %d", len(b), writers*each*size)
	}
	var next [writers]uint32
	for p := range slices.Chunk(b, size) {
		w, i := binary.BigEndian.Uint32(p), binary.BigEndian.Uint32(p[4:])
		if i != next[w] {
			t.Fatalf("writer %d: got %d, want %d", w, i, next[w])
		}
		next[w]++
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: got %v", err)
	}
}

// A connection that breaks is told of, to those who wait for room too.
func TestTogetherBroken(t *testing.T) {
	t.Parallel()
	c, peer := togetherPair(t)
	failed := make(chan error)
	go func() {
		for {
			if _, err := c.Write(make([]byte, 64<<10)); err != nil {
				failed <- err
				return
			}
		}
	}()
	time.Sleep(20 * time.Millisecond) // nobody reads: it waits
	_ = peer.Close()
	select {
	case <-failed:
	case <-time.After(20 * time.Second):
		t.Fatal("the writer still waits")
	}
	if _, err := c.Write([]byte("x")); err == nil {
		t.Error("no error on a broken connection")
	}
}

// NATS loses nothing on it: what was published before a flush, or a close, comes.
func TestTogetherUnderNATS(t *testing.T) {
	t.Parallel()
	s := testenv.NATS(t)
	listener := s.Connect(t)
	sub, err := listener.SubscribeSync("a")
	if err == nil {
		err = listener.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(s.URL, events.WriteTogether)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	const n = 1000
	for range n {
		if err := nc.Publish("a", make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	nc.Close()
	for i := range n {
		if _, err := sub.NextMsg(20 * time.Second); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
	}
}
