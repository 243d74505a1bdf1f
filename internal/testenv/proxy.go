package testenv

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"
)

// CallerHeader names who sends a request, for Proxy's counts. A door's own name
// goes before it. It need not be signed.
const CallerHeader = "X-Lake-Test-Caller"

// Proxy stands in front of an S3 server, adds latency and counts. Signatures stay
// valid: the Host header passes as the client sent it.
type Proxy struct {
	S3Server // the target's, through the proxy

	tb      testing.TB
	handler http.Handler

	mu      sync.Mutex
	latency map[string]time.Duration // by method; "" is every other
	counts  map[call]int
}

type call struct{ method, caller string }

// S3Proxy starts a proxy in front of target. Each wrap is put around what came
// before it and sees every request after it was counted and delayed.
func S3Proxy(tb testing.TB, target *S3Server, wrap ...func(http.Handler) http.Handler) *Proxy {
	tb.Helper()
	to, err := url.Parse(target.Endpoint)
	if err != nil {
		tb.Fatalf("proxy to %s: %v", target.Endpoint, err)
	}
	transport := &http.Transport{
		MaxIdleConns: 2048, MaxIdleConnsPerHost: 2048,
		DisableCompression: true, // it would add a header of its own
	}
	tb.Cleanup(transport.CloseIdleConnections)
	p := &Proxy{S3Server: *target, tb: tb, latency: map[string]time.Duration{}, counts: map[call]int{}}
	p.handler = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host
		},
		Transport: transport,
		// A target that is down is what some tests are about: no noise, a plain 502.
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	for _, w := range wrap {
		p.handler = w(p.handler)
	}
	p.Endpoint = p.listen("")
	return p
}

// Door opens another port of the same proxy. What comes through it is counted
// under the caller's name: one door for each process under test.
func (p *Proxy) Door(caller string) *S3Server {
	s := p.S3Server
	s.Endpoint = p.listen(caller)
	return &s
}

func (p *Proxy) listen(caller string) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := caller
		if who == "" {
			who = r.Header.Get(CallerHeader)
		}
		if d := p.arrived(call{r.Method, who}); d > 0 {
			t := time.NewTimer(d)
			defer t.Stop()
			select {
			case <-t.C:
			case <-r.Context().Done():
				return
			}
		}
		p.handler.ServeHTTP(w, r)
	}))
	p.tb.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	return srv.URL
}

func (p *Proxy) arrived(c call) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts[c]++
	if d, ok := p.latency[c.method]; ok {
		return d
	}
	return p.latency[""]
}

// SetLatency delays every later request of a method before it is passed on; the
// method "" stands for all that have none of their own.
func (p *Proxy) SetLatency(method string, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.latency[method] = d
}

// Count is the number of requests by method, answered or not; "" counts all.
func (p *Proxy) Count(method string) int {
	return p.count(func(c call) bool { return method == "" || c.method == method })
}

// CountBy is Count for one caller: a door's name or a value of CallerHeader.
func (p *Proxy) CountBy(caller, method string) int {
	return p.count(func(c call) bool { return c.caller == caller && (method == "" || c.method == method) })
}

func (p *Proxy) count(match func(call) bool) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for c, k := range p.counts {
		if match(c) {
			n += k
		}
	}
	return n
}

// Reset sets all counts to zero.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.counts)
}
