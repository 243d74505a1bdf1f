package bench

import (
	"context"
	"fmt"
	"strings"

	goredis "github.com/redis/go-redis/v9"
)

// Usage is what the processes of a lake have asked of others since they
// started, by their own counters.
type Usage struct {
	Processes int     `json:"processes"`
	Writes    float64 `json:"writes"` // committed deltas
	Reads     float64 `json:"reads"`  // answered with a document

	Puts    float64 `json:"puts"`
	Lists   float64 `json:"lists"` // a listing is one, however many pages it had
	Deletes float64 `json:"deletes"`
	// Gets without the lease checks, which go on whatever is asked of a lake. Those
	// of processes that answer reads are ReadGets, the others are for writing and
	// folding.
	ReadGets    float64 `json:"read_gets"`
	WriteGets   float64 `json:"write_gets"`
	LeaseChecks float64 `json:"lease_checks"`
	BytesPut    float64 `json:"bytes_put"`
	BytesGot    float64 `json:"bytes_got"`

	Messages float64 `json:"jetstream_messages"` // events and snapshot jobs

	// Of the index, where its Redis was asked; commands since it started, those
	// within scripts included.
	RedisBytes    float64 `json:"redis_bytes,omitempty"`
	RedisCommands float64 `json:"redis_commands,omitempty"`
}

// UsageOf asks the operations ports of a lake's processes, and its index Redis
// unless redisURL is empty.
func UsageOf(ctx context.Context, ops []string, redisURL string) (Usage, error) {
	var u Usage
	for _, at := range ops {
		if !strings.Contains(at, "://") {
			at = "http://" + at
		}
		m, err := Scrape(ctx, strings.TrimSuffix(strings.TrimSuffix(at, "/"), "/metrics")+"/metrics")
		if err != nil {
			return u, fmt.Errorf("ask %s for its metrics: %w; --ops-listen of the process says where they are", at, err)
		}
		if _, ok := m["lake_objects_requests_total"]; !ok {
			return u, fmt.Errorf("%s has no metrics of a lake", at)
		}
		u.add(m)
	}
	if redisURL == "" {
		return u, nil
	}
	o, err := goredis.ParseURL(redisURL)
	if err != nil {
		return u, fmt.Errorf("the index's Redis: %w", err)
	}
	c := goredis.NewClient(o)
	defer c.Close()
	text, err := c.Info(ctx, "commandstats", "memory").Result()
	if err != nil {
		return u, fmt.Errorf("ask the index's Redis: %w", err)
	}
	info := ParseInfo(text)
	u.RedisBytes, u.RedisCommands = info["used_memory"], info["commands"]
	return u, nil
}

// add adds the metrics of one process.
func (u *Usage) add(m Values) {
	requests := func(op string) (n float64) {
		for _, result := range []string{"ok", "exists", "not_exist", "error"} { // one that was cancelled may not have been sent
			n += m[fmt.Sprintf(`lake_objects_requests_total{op=%q,result=%q}`, op, result)]
		}
		return n
	}
	u.Processes++
	u.Writes += m["lake_commit_deltas_total"]
	reads := m[`lake_service_requests_total{code="200",endpoint="read",service="reader"}`]
	u.Reads += reads
	u.Puts += requests("put")
	u.Lists += requests("list")
	u.Deletes += requests("delete")
	// The check asks for the object that a newer epoch would have.
	lease := m[`lake_objects_requests_total{op="get",result="not_exist"}`]
	u.LeaseChecks += lease
	gets := requests("get") - lease + requests("get_range")
	if reads > 0 {
		u.ReadGets += gets
	} else {
		u.WriteGets += gets
	}
	u.BytesPut += m[`lake_objects_bytes_total{op="put"}`]
	u.BytesGot += m[`lake_objects_bytes_total{op="get"}`] + m[`lake_objects_bytes_total{op="get_range"}`]
	u.Messages += m["lake_relay_events_published_total"] + m["lake_relay_jobs_published_total"] + m["lake_requeue_jobs_total"]
}

// Prices of a month's use, in one currency.
type Prices struct {
	MillionPuts float64 // PUT and LIST
	MillionGets float64
	GBMonth     float64 // of the bucket
	RedisGB     float64 // of the index's memory, a month
}

// BillLine is one line of a bill.
type BillLine struct {
	What   string  `json:"what"`
	Amount float64 `json:"amount"` // in Unit
	Unit   string  `json:"unit"`
	Per    float64 `json:"per_1000"` // of 1,000 writes or reads; 0 where it does not depend on them
	Cost   float64 `json:"cost"`
}

// leaseChecksAMonth of one process: one a second.
const leaseChecksAMonth = 30 * 24 * 3600

// Bill scales what was used to a month with so many writes and reads; 0 of both:
// as many as there were. Nothing of the bucket is taken as collected within the
// months that are kept, so what is stored is an upper bound.
func Bill(u Usage, p Prices, writes, reads, monthsKept float64) []BillLine {
	if writes == 0 && reads == 0 {
		writes, reads = u.Writes, u.Reads
	}
	per := func(n, of float64) float64 {
		if of == 0 {
			return 0
		}
		return 1000 * n / of
	}
	line := func(what, unit string, rate, count, price float64) BillLine {
		n := rate * count / 1000
		return BillLine{What: what, Unit: unit, Per: rate, Amount: n, Cost: n * price}
	}
	const million, gb = 1e6, 1e9
	lines := []BillLine{
		line("PUT, a write", "requests", per(u.Puts, u.Writes), writes, p.MillionPuts/million),
		line("GET, a write (folding)", "requests", per(u.WriteGets, u.Writes), writes, p.MillionGets/million),
		line("GET, a read", "requests", per(u.ReadGets, u.Reads), reads, p.MillionGets/million),
	}
	checks := float64(u.Processes) * leaseChecksAMonth
	lines = append(lines,
		// Start-ups list, and collections that found something; writes and reads do not.
		BillLine{What: "LIST, as counted", Unit: "requests", Amount: u.Lists, Cost: u.Lists * p.MillionPuts / million},
		BillLine{What: fmt.Sprintf("GET, lease checks of %d processes", u.Processes), Unit: "requests", Amount: checks, Cost: checks * p.MillionGets / million},
		line(fmt.Sprintf("stored, a write, kept for %g months", monthsKept), "GB", per(u.BytesPut, u.Writes)/gb, writes, p.GBMonth*monthsKept),
		line("JetStream messages, a write", "messages", per(u.Messages, u.Writes), writes, 0))
	if u.RedisBytes > 0 {
		lines = append(lines,
			line("Redis commands, a write", "commands", per(u.RedisCommands, u.Writes), writes, 0),
			BillLine{What: "Redis memory, as it is now", Unit: "GB", Amount: u.RedisBytes / gb, Cost: u.RedisBytes / gb * p.RedisGB})
	}
	return lines
}
