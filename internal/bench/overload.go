package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jsonlake/lake/pkg/client"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/events"
)

// overloadP99 is what the latency of an acknowledged write may come to, offered
// twice what is committed.
const overloadP99 = 500 // ms

// overloaded offers single writes at twice the rate at which they are committed
// when 1,024 are in flight. As many must be committed, soon, and the rest refused
// with 429 and without effect.
func (b *bench) overloaded(ctx context.Context) error {
	if err := b.ownLake(); err != nil {
		return err
	}
	form := Distributed
	if b.Form != "" {
		form = b.Form
	}
	l, c, err := b.serving(ctx, form, labOptions{})
	if err != nil {
		return err
	}
	defer l.stop()
	p, err := l.pump()
	if err != nil {
		return err
	}
	before, err := l.count(ctx)
	if err != nil {
		return err
	}
	lat := newHistogram()
	v, err := b.repeat(ctx, form, "kept", func(ctx context.Context) (Values, error) {
		// Peaks before and after, so that a change of the machine's between them
		// does not pass for one of the load.
		peak, err := p.inFlight(ctx, manyInFlight, b.warmup(), b.bare())
		if err != nil {
			return nil, err
		}
		mark := l.mark()
		var over *pumped
		_, err = b.profiled(ctx, l, "overload", func() (_ *loaded, err error) {
			if over, err = p.schedule(ctx, 2*peak.perSecond(), b.warmup(), b.Duration); err != nil {
				return nil, err
			}
			return &over.loaded, nil
		})
		if err != nil {
			return nil, err
		}
		v := l.mark().cores(mark)
		again, err := p.inFlight(ctx, manyInFlight, b.warmup(), b.bare())
		if err != nil {
			return nil, err
		}
		lat.add(over.hist)
		most := (peak.perSecond() + again.perSecond()) / 2
		maps.Copy(v, Values{
			"kept": over.perSecond() / most, "peak_per_s": most, "committed_per_s": over.perSecond(), "offered_per_s": over.offered, "peak_p99_ms": peak.quantile(99), "p99_ms": over.quantile(99),
			"refused_percent": 100 * float64(over.refused) / float64(over.asked), "refused_p99_ms": float64(over.no.merged().ValueAtQuantile(99)) / 1e6,
		})
		return v, nil
	})
	if err != nil {
		return err
	}
	checked, err := p.check(ctx, c)
	if err != nil {
		return err
	}
	said, err := l.checkCount(ctx, before, p.acked)
	if err != nil {
		return err
	}
	row := Row{Row: "Overload", What: "writes/s committed when twice the peak is offered, single writes on 1,000 catalogs", Form: form, Target: "≥ 0.9 × the peak at 1,024 in flight", Unit: "writes/s", Rounds: b.Rounds,
		Measured: v["committed_per_s"], Limit: v["peak_per_s"], LimitIs: "the peak", AtLeast: true, Bound: 0.9, Checked: checked + said, Latency: latencyOf(lat.merged()), Others: v.others(), Values: v.aside("committed_per_s", "peak_per_s")}
	row.Latency.PerSecond = round(v["offered_per_s"])
	b.emit(row)
	b.emit(Row{Row: "Overload p99", What: "p99 of the acknowledged, from when they were due", Form: form, Target: fmt.Sprintf("≤ %d ms", overloadP99), Unit: "ms", Rounds: b.Rounds, Measured: v["p99_ms"], Bound: overloadP99, Others: v.others()})
	return nil
}

// pump sends single writes as cheaply as can be, so that the load has the least
// share of the machine: no goroutine a request.
type pump struct {
	nc       *nats.Conn
	subjects []string
	catalog  func(i int) string
	inbox    string
	pad      string

	mu    sync.Mutex
	asked []ask   // by number, of all loads
	acked int64   // of all loads
	load  *pumped // the one that goes on
	more  chan struct{}
}

// ask is a request on its way, or its answer.
type ask struct {
	due    time.Time
	status int16 // 0: none yet
}

// pumped is what came of a load.
type pumped struct {
	loaded
	asked   int64 // of those that count
	offered float64
	no      *histogram // latencies of refusals
	begin   time.Time
	end     time.Time
	open    int // without an answer
	bad     map[int16]int
}

func (l *lab) pump() (*pump, error) {
	nc, err := l.connect(events.WriteTogether)
	if err != nil {
		return nil, err
	}
	p := &pump{nc: nc, catalog: newRun(), inbox: nc.NewInbox(), pad: pad(rand.New(rand.NewPCG(7, 8)), 100)}
	s := events.Subjects{Prefix: l.prefix}
	for i := range manyCatalogs {
		p.subjects = append(p.subjects, s.Write(p.catalog(i)))
	}
	sub, err := nc.Subscribe(p.inbox+".*", p.answer)
	if err != nil {
		return nil, err
	}
	return p, sub.SetPendingLimits(-1, -1)
}

// send sends the next write; its number is in its body.
func (p *pump) send(due time.Time) error {
	p.mu.Lock()
	n := len(p.asked)
	p.asked = append(p.asked, ask{due: due})
	p.load.open++
	if !due.Before(p.load.begin) && due.Before(p.load.end) {
		p.load.asked++
	}
	p.mu.Unlock()
	body := append(make([]byte, 0, 2*patchBytes), `{"n":`...)
	body = strconv.AppendInt(body, int64(n), 10)
	body = append(body, `,"pad":"`...)
	body = append(body, p.pad[:patchBytes-len(body)-2]...)
	body = append(body, `"}`...)
	return p.nc.PublishRequest(p.subjects[n%len(p.subjects)], p.inbox+"."+strconv.Itoa(n), body)
}

func (p *pump) answer(m *nats.Msg) {
	now := time.Now()
	n, err := strconv.Atoi(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:])
	if err != nil {
		return
	}
	status := int16(200)
	if s := m.Header.Get("Nats-Service-Error-Code"); s != "" {
		code, _ := strconv.ParseInt(s, 10, 16) // what it cannot read is 0, and no answer that counts
		status = int16(code)
	} else if s := m.Header.Get("Status"); s != "" {
		status = 503 // nobody there
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	a, l := &p.asked[n], p.load
	if a.status != 0 {
		l.bad[-1]++ // answered twice
		return
	}
	a.status = status
	l.open--
	counts := !a.due.Before(l.begin) && a.due.Before(l.end)
	switch {
	case status == 200:
		p.acked++
		if now.After(l.begin) && now.Before(l.end) {
			l.n++
		}
		if counts {
			l.hist.record(n, now.Sub(a.due))
		}
	case status == 429:
		if counts {
			l.refused++
			l.no.record(n, now.Sub(a.due))
		}
	default:
		l.bad[status]++
	}
	select {
	case p.more <- struct{}{}:
	default:
	}
}

func (p *pump) start(warmup, duration time.Duration) *pumped {
	begin := time.Now().Add(warmup)
	l := &pumped{loaded: loaded{hist: newHistogram(), took: duration}, no: newHistogram(), begin: begin, end: begin.Add(duration), bad: map[int16]int{}}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.load, p.more = l, make(chan struct{}, 1)
	return l
}

// finish waits for the answers that are out.
func (p *pump) finish(ctx context.Context, l *pumped) (*pumped, error) {
	limit := time.Now().Add(30 * time.Second)
	for {
		p.mu.Lock()
		open, n := l.open, l.n
		bad := fmt.Sprint(l.bad)
		fine := len(l.bad) == 0
		p.mu.Unlock()
		switch {
		case open > 0 && time.Now().Before(limit) && ctx.Err() == nil:
			time.Sleep(20 * time.Millisecond)
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case open > 0:
			return nil, fmt.Errorf("%d writes were not answered", open)
		case !fine:
			return nil, fmt.Errorf("writes were answered with neither 200 nor 429, by status: %s", bad)
		case n == 0:
			return nil, errors.New("nothing was committed within the time that counts: give it more (--duration)")
		default:
			return l, nil
		}
	}
}

// inFlight keeps a number of writes in flight. One that is refused is as good as answered.
func (p *pump) inFlight(ctx context.Context, many int, warmup, duration time.Duration) (*pumped, error) {
	l := p.start(warmup, duration)
	for now := time.Now(); now.Before(l.end) && ctx.Err() == nil; now = time.Now() {
		p.mu.Lock()
		free := many - l.open
		p.mu.Unlock()
		for range free {
			if err := p.send(now); err != nil {
				return nil, err
			}
		}
		if free > 0 {
			continue
		}
		select {
		case <-p.more:
		case <-time.After(10 * time.Millisecond):
		}
	}
	return p.finish(ctx, l)
}

// schedule sends writes as they are due, whatever has become of those before.
func (p *pump) schedule(ctx context.Context, perSecond float64, warmup, duration time.Duration) (*pumped, error) {
	l := p.start(warmup, duration)
	start := l.begin.Add(-warmup)
	for i := 0; ctx.Err() == nil; i++ {
		due := start.Add(time.Duration(float64(i) / perSecond * float64(time.Second)))
		if !due.Before(l.end) {
			break
		}
		if wait := time.Until(due); wait > 0 {
			time.Sleep(max(wait, time.Millisecond))
		}
		if err := p.send(due); err != nil {
			return nil, err
		}
	}
	l.offered = float64(l.asked) / duration.Seconds()
	return p.finish(ctx, l)
}

// check compares the histories of some catalogs with what was acknowledged:
// every acknowledged write is there once, and nothing that was refused.
func (p *pump) check(ctx context.Context, c *client.Client) (string, error) {
	const some = 20
	compared := 0
	for catalog := range some {
		var want int
		for n := catalog; n < len(p.asked); n += len(p.subjects) {
			if p.asked[n].status == 200 {
				want++
			}
		}
		got := map[int]bool{}
		req := engine.LogRequest{Catalog: p.catalog(catalog), Limit: 1000}
		for more := want > 0; more; {
			page, err := c.Log(ctx, req)
			if err != nil {
				return "", fmt.Errorf("the log of %s: %w", req.Catalog, err)
			}
			for _, e := range page.Items {
				var body struct{ N int }
				if err := json.Unmarshal(e.Body, &body); err != nil {
					return "", fmt.Errorf("the log of %s: %w", req.Catalog, err)
				}
				if got[body.N] {
					return "", fmt.Errorf("WRONG HISTORY: write %d is in that of %s twice", body.N, req.Catalog)
				}
				if body.N < 0 || body.N >= len(p.asked) || p.asked[body.N].status != 200 {
					return "", fmt.Errorf("WRONG HISTORY: write %d is in that of %s and was refused", body.N, req.Catalog)
				}
				got[body.N] = true
			}
			if more = page.Next != nil; more {
				req.After = *page.Next
			}
		}
		if len(got) != want {
			return "", fmt.Errorf("WRONG HISTORY: that of %s has %d writes, %d were acknowledged", req.Catalog, len(got), want)
		}
		compared += want
	}
	return fmt.Sprintf("%s acknowledged writes; the histories of %d catalogs have each of their %d once and none that was refused", thousands(p.acked), some, compared), nil
}
