package events

import (
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// slowConn takes a write when it is let.
type slowConn struct {
	net.Conn
	let  chan struct{}
	took []string
}

func (c *slowConn) Write(p []byte) (int, error) {
	<-c.let
	c.took = append(c.took, string(p))
	return len(p), nil
}

func (c *slowConn) SetWriteDeadline(time.Time) error { return nil }
func (c *slowConn) Close() error                     { return nil }

// A message alone is written by who has it; the first after a write of several is not,
// however long it has been, until one was alone again.
func TestTogetherAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		conn := &slowConn{let: make(chan struct{})}
		c := &together{Conn: conn, wake: make(chan struct{}, 1), done: make(chan struct{})}
		c.room.L = &c.mu
		go c.run()
		// write tells whether its caller was kept until the connection took it.
		write := func(text string) (kept bool) {
			returned := false
			go func() {
				if _, err := c.Write([]byte(text)); err != nil {
					t.Error(err)
				}
				returned = true
			}()
			synctest.Wait()
			return !returned
		}
		let := func() {
			conn.let <- struct{}{}
			synctest.Wait()
		}
		for _, step := range []struct {
			texts []string
			kept  bool // the first one
		}{{[]string{"a", "b", "c"}, true}, {[]string{"d"}, false}, {[]string{"e"}, true}, {[]string{"f", "g"}, true}, {[]string{"h"}, true}} {
			time.Sleep(time.Second)
			for i, text := range step.texts {
				if kept := write(text); kept != (step.kept && i == 0) {
					t.Errorf("%s of %v: its caller was kept: %v", text, step.texts, kept)
				}
			}
			let()
			if len(step.texts) > 1 { // the others together
				let()
			}
		}
		if want := []string{"a", "bc", "d", "e", "f", "g", "h"}; !slices.Equal(conn.took, want) {
			t.Errorf("got writes %q, want %q", conn.took, want)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}
