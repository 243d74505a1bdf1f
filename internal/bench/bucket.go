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

// door stands in front of an S3 server and makes PUTs slower. It hands bytes on as they
// come, in one goroutine a direction, and takes no more of the machine than that: a
// request begins where something comes from a client, and one that begins with "PUT "
// waits first. (S3's clients have one request under way on a connection.)
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
	d.serving.Go(func() {
		_, _ = io.Copy(in, out)
		_ = in.Close() // ends the loop below
	})
	buf := make([]byte, 256<<10)
	for {
		n, err := in.Read(buf)
		if err != nil {
			return
		}
		if wait := time.Duration(d.putLatency.Load()); wait > 0 && bytes.HasPrefix(buf[:n], []byte("PUT ")) {
			if pause(d.ctx, wait) != nil {
				return
			}
		}
		if _, err := out.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (d *door) close() {
	d.cancel()
	_ = d.listener.Close()
	d.serving.Wait()
}
