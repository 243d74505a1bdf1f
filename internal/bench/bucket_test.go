package bench

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// The door hands on what passes, both ways, and holds the answers to PUTs alone, while the
// server has the request; close ends what it holds.
func TestDoor(t *testing.T) {
	t.Parallel()
	put := make(chan string, 16)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Method == "PUT" {
			put <- string(body)
		}
		_, _ = io.WriteString(w, r.Method+" "+r.Host+" ")
		_, _ = w.Write(body)
	}))
	defer server.Close()
	d, err := openDoor(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	large := strings.Repeat("body\r\n", 300_000)
	ask := func(ctx context.Context, method, body string) (string, time.Duration, error) {
		req, err := http.NewRequestWithContext(ctx, method, d.url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		res, err := client.Do(req)
		if err != nil {
			return "", 0, err
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		return string(text), time.Since(begin), err
	}
	const wait = 20 * time.Millisecond
	d.putLatency.Store(int64(wait))
	host := strings.TrimPrefix(d.url, "http://")
	for _, method := range []string{"PUT", "GET", "PUT", "POST"} { // all on one connection
		text, took, err := ask(t.Context(), method, large)
		if want := method + " " + host + " " + large; err != nil || text != want {
			t.Fatalf("%s: got %d bytes, %v, want %d", method, len(text), err, len(want))
		}
		if method == "PUT" && took < wait {
			t.Errorf("a PUT took %v, want at least %v", took, wait)
		}
	}
	d.putLatency.Store(int64(time.Hour))
	if text, _, err := ask(t.Context(), "GET", ""); err != nil || text != "GET "+host+" " {
		t.Errorf("a GET beside slow PUTs: got %q, %v", text, err)
	}
	ended := make(chan error)
	go func() {
		_, _, err := ask(t.Context(), "PUT", "held")
		ended <- err
	}()
	for got := range put {
		if got == "held" {
			break
		}
	}
	d.close()
	if err := <-ended; err == nil {
		t.Error("a PUT that was held when the door closed: no error")
	}
}
