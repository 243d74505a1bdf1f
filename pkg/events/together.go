package events

import (
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// WriteTogether is an option of a NATS connection on which many goroutines
// publish: what they publish at one moment leaves in one write to the socket. nats.go
// itself flushes as soon as its flusher gets a turn, while publishers wait for
// the lock that it holds: with 64 requests in flight that is a write a message, the
// dearest part of a small request. A message alone is written at once, by nats.go's
// flusher; one of many waits only until goroutines that could run have run. So does the first
// after such a write: where requests come and go together it is not alone for long.
//
// It is for connections over TCP, and takes the place of a dialer: not for one that has
// a nats.SetCustomDialer.
func WriteTogether(o *nats.Options) error {
	o.CustomDialer = &togetherDialer{o}
	return nil
}

// togetherDialer has the options as they are when all of them are given.
type togetherDialer struct{ options *nats.Options }

func (d *togetherDialer) Dial(network, address string) (net.Conn, error) {
	dialer := d.options.Dialer
	if dialer == nil {
		dialer = &net.Dialer{Timeout: d.options.Timeout}
	}
	nc, err := dialer.Dial(network, address)
	if err != nil {
		return nil, err
	}
	c := &together{Conn: nc, wake: make(chan struct{}, 1), done: make(chan struct{})}
	c.room.L = &c.mu
	go c.run()
	return c, nil
}

// together is a connection with a goroutine that writes. What Write has taken
// is lost when the connection breaks, as what the kernel has taken is; Close
// writes it first, if the other end takes it.
type together struct {
	net.Conn
	wake chan struct{} // holds one; to be told that there is something to write
	done chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex
	room    sync.Cond // of waiting, or err was set
	waiting []byte    // to be written next
	calls   int       // of Write that waiting is of
	several bool      // the last write was of more than one call
	asked   time.Time // when Write was called last
	writes  bool      // somebody writes, and will look at waiting again
	err     error     // of a write, for good
	closed  bool

	deadline time.Time // of writes; who writes has it
}

const (
	togetherMost    = 1 << 20                // bytes that may wait
	togetherLarge   = 32 << 10               // bytes that are worth a write of their own
	togetherPause   = 100 * time.Microsecond // after it a message is alone
	togetherTimeout = nats.DefaultFlusherTimeout
	closeTimeout    = time.Second // to write what waits
)

func (c *together) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.err == nil && len(c.waiting) >= togetherMost {
		c.room.Wait()
	}
	switch {
	case c.err != nil:
		return 0, c.err
	case c.closed:
		return 0, net.ErrClosed
	}
	now := time.Now()
	alone := !c.writes && (now.Sub(c.asked) > togetherPause && !c.several || len(p) >= togetherLarge)
	c.asked = now
	if !alone {
		c.waiting = append(c.waiting, p...)
		c.calls++
		c.poke()
		return len(p), nil
	}
	c.writes = true
	c.mu.Unlock()
	err := c.write(p, now)
	c.mu.Lock()
	c.writes = false
	if len(c.waiting) > 0 || c.closed {
		c.poke()
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// poke wakes the goroutine, unless somebody writes. The caller holds mu.
func (c *together) poke() {
	if !c.writes {
		c.writes = true
		c.wake <- struct{}{}
	}
}

func (c *together) run() {
	defer close(c.done)
	var spare []byte
	for range c.wake {
		for {
			runtime.Gosched() // whoever is about to publish comes along
			c.mu.Lock()
			out := c.waiting
			if len(out) == 0 || c.err != nil {
				c.writes = false
				over := c.closed
				c.mu.Unlock()
				if over {
					return
				}
				break
			}
			c.waiting = spare[:0]
			c.several, c.calls = c.calls > 1, 0
			c.room.Broadcast()
			c.mu.Unlock()
			_ = c.write(out, time.Now())
			if spare = out; cap(spare) > 4*togetherMost {
				spare = nil
			}
		}
	}
}

// write writes to the socket. An error ends the connection: part of what was taken is
// lost. NATS learns it by its reader too.
func (c *together) write(p []byte, now time.Time) error {
	if c.deadline.Sub(now) < togetherTimeout { // it costs a timer, so it is moved once a second
		c.deadline = now.Add(togetherTimeout + time.Second)
		_ = c.Conn.SetWriteDeadline(c.deadline)
	}
	_, err := c.Conn.Write(p)
	if err == nil {
		return nil
	}
	c.mu.Lock()
	c.err = err
	c.room.Broadcast()
	c.mu.Unlock()
	_ = c.Conn.Close()
	return err
}

func (c *together) Close() error {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		c.poke()
	}
	c.mu.Unlock()
	late := time.AfterFunc(closeTimeout, func() { _ = c.Conn.Close() })
	<-c.done
	late.Stop()
	return c.Conn.Close()
}

// SetDeadline is that of reads; writes have their own.
func (c *together) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetWriteDeadline does nothing: see run.
func (c *together) SetWriteDeadline(time.Time) error { return nil }
