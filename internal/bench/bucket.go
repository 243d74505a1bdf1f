package bench

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// door stands in front of an S3 server and makes a PUT take a time, as a store elsewhere
// does: the server has the request at once, and its answer is held until that time has
// passed since the request came; where the server takes longer it is not held. It hands
// bytes on as they come, in one goroutine a direction, and takes no more of the machine
// than that: a request begins where something comes from a client, one of those that are
// slow with "PUT ". (S3's clients have one request under way on a connection.)
type door struct {
	url        string
	target     string
	putLatency atomic.Int64 // time.Duration
	listener   net.Listener
	ctx        context.Context
	cancel     context.CancelFunc
	serving    sync.WaitGroup
}

func openDoor(target string) (*door, error) {
	to, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &door{url: "http://" + l.Addr().String(), target: to.Host, listener: l}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.serving.Go(d.accept)
	return d, nil
}

func (d *door) accept() {
	for {
		in, err := d.listener.Accept()
		if err != nil {
			return // closed
		}
		d.serving.Go(func() { d.serve(in) })
	}
}

// serve hands on what comes over a connection, until either side ends it.
func (d *door) serve(in net.Conn) {
	defer in.Close()
	out, err := new(net.Dialer).DialContext(d.ctx, "tcp", d.target)
	if err != nil {
		return // the client sees its connection closed, and tries again
	}
	defer out.Close()
	stop := context.AfterFunc(d.ctx, func() {
		_ = in.Close()
		_ = out.Close()
	})
	defer stop()
	begin := time.Now()
	var due atomic.Int64 // time since begin, before which no answer goes on
	d.serving.Go(func() {
		_ = handOn(in, out, func([]byte) error {
			if left := time.Duration(due.Load()) - time.Since(begin); left > 0 {
				return pause(d.ctx, left)
			}
			return nil
		})
		_ = in.Close() // ends the loop below
	})
	_ = handOn(out, in, func(b []byte) error {
		if wait := d.putLatency.Load(); wait > 0 && bytes.HasPrefix(b, []byte("PUT ")) {
			due.Store(int64(time.Since(begin)) + wait)
		}
		return nil
	})
}

// handOn writes what it reads, each time after before, until one of the three fails.
func handOn(to io.Writer, from io.Reader, before func([]byte) error) error {
	buf := make([]byte, 256<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return err
		}
		if err := before(buf[:n]); err != nil {
			return err
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return err
		}
	}
}

func (d *door) close() {
	d.cancel()
	_ = d.listener.Close()
	d.serving.Wait()
}
