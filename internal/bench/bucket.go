package bench

import (
	"context"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"time"
)

// door stands in front of an S3 server, makes PUTs slower.
// Signatures stay valid: the Host header passes as the client sent it.
type door struct {
	url        string
	putLatency atomic.Int64 // time.Duration
	server     *http.Server
	transport  *http.Transport
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
	d := &door{
		url:       "http://" + l.Addr().String(),
		transport: &http.Transport{MaxIdleConns: 4096, MaxIdleConnsPerHost: 4096, DisableCompression: true},
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host
		},
		Transport:    d.transport,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	d.server = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if wait := time.Duration(d.putLatency.Load()); wait > 0 && r.Method == http.MethodPut {
			if err := pause(r.Context(), wait); err != nil {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
		}
		proxy.ServeHTTP(w, r)
	})}
	go func() { _ = d.server.Serve(l) }() // ends with close
	return d, nil
}

func (d *door) close() {
	_ = d.server.Close()
	d.transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = d.server.Shutdown(ctx)
}
