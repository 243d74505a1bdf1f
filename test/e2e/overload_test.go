package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
)

// 128 MB of writes at once, by somebody who does not wait for answers, with the
// max_pending that deploy/nats/server.conf has: ingest stays connected and answers every
// one. What is acknowledged is there, what is refused is not.
func TestLargeBodiesAtOnce(t *testing.T) {
	d := distributed(t, 0, "max_pending: 256MB")
	const writes, size = 256, 512 << 10
	body := make([]byte, 0, size)
	body = append(body, `{"items":[`...)
	for i := 0; len(body) < size-100; i++ {
		body = fmt.Appendf(body, `{"n":%d,"text":"number %x"},`, i, i*2654435761)
	}
	body = append(body, `0]}`...)
	// The second time every connection and buffer has grown.
	for round := range 2 {
		name := func(i int) string { return fmt.Sprintf("large-%d-%d", round, i) }
		nc := connect(t, d.nats.URL)
		inbox := nc.NewInbox()
		answers := make(chan *nats.Msg, writes)
		if _, err := nc.ChanSubscribe(inbox+".*", answers); err != nil {
			t.Fatal(err)
		}
		for i := range writes {
			if err := nc.PublishRequest("lake.v1.write.("+name(i), fmt.Sprintf("%s.%d", inbox, i), body); err != nil {
				t.Fatal(err)
			}
		}
		status := make([]string, writes)
		deadline := time.After(time.Minute)
		for n := range writes {
			select {
			case m := <-answers:
				i, err := strconv.Atoi(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:])
				if err != nil || status[i] != "" {
					t.Fatalf("an answer to %s: %v, %q", m.Subject, err, status[i])
				}
				if status[i] = m.Header.Get("Nats-Service-Error-Code"); status[i] == "" && bytes.HasPrefix(m.Data, []byte(`{"version":"`)) {
					status[i] = "200"
				}
			case <-deadline:
				t.Errorf("%d of %d writes were answered within a minute; the server cut %d slow consumers", n, writes, slowConsumers(t, d.nats.Monitor))
				return
			}
		}
		c, err := client.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		counts := map[string]int{}
		for i, s := range status {
			counts[s]++
			_, err := c.Read(t.Context(), engine.ReadRequest{Catalog: name(i), Pointer: "/items/0"})
			switch {
			case s == "200" && err != nil:
				t.Errorf("acknowledged write %d: %v", i, err)
			case s == "429" && !errors.Is(err, engine.ErrNotFound):
				t.Errorf("refused write %d: got %v, want not found", i, err)
			}
		}
		c.Close()
		t.Logf("answers: %v", counts)
		if counts["200"]+counts["429"] != writes || counts["200"] == 0 {
			t.Errorf("got answers %v, want 200 and 429 only", counts)
		}
	}
	if n := slowConsumers(t, d.nats.Monitor); n != 0 {
		t.Errorf("the server cut %d slow consumers", n)
	}
}

// slowConsumers is how many connections a nats-server has cut for being slow.
func slowConsumers(t *testing.T, monitor string) int {
	t.Helper()
	var varz struct {
		SlowConsumers int `json:"slow_consumers"`
	}
	res, err := http.Get(monitor + "/varz")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&varz); err != nil {
		t.Fatal(err)
	}
	return varz.SlowConsumers
}
