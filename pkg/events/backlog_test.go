package events

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/jsonlake/lake/pkg/engine"
)

func backlogOf(o WatchOptions) *backlog {
	if o.Buffer == 0 {
		o.Buffer = 8
	}
	return newBacklog(&o)
}

// drained gives what waits: range, events in it, and up to where all is told.
func drained(q *backlog) (out []string) {
	for {
		n, found, _ := q.next()
		switch {
		case !found:
			return out
		case !n.some:
			out = append(out, fmt.Sprintf("lost %v over %v at %d", n.lost, n.over, n.at.seq))
		default:
			out = append(out, fmt.Sprintf("%s of %d, told %d", strings.Join(ranges([]Item{{Event: n.ev}}), ""), n.merged, n.told))
		}
	}
}

func TestBacklog(t *testing.T) {
	t.Parallel()
	each := func(catalog string, from, to int, seq uint64) func(*backlog) {
		return func(q *backlog) {
			for v := from; v < to; v++ {
				q.push(seq, span(catalog, v, v+1))
				seq++
			}
		}
	}
	for name, c := range map[string]struct {
		o    WatchOptions
		do   []func(*backlog)
		want []string
	}{
		"as published": {WatchOptions{}, []func(*backlog){each("a", 0, 2, 1), each("b", 0, 1, 3)},
			[]string{"a(0,1] of 1, told 1", "a(1,2] of 1, told 2", "b(0,1] of 1, told 3"}},
		"what is not wanted is passed": {WatchOptions{Prefix: "a"}, []func(*backlog){each("a", 0, 1, 1), each("b", 0, 5, 2)},
			[]string{"a(0,1] of 1, told 6"}},
		"conflated when full": {WatchOptions{}, []func(*backlog){each("a", 0, 4, 1), each("b", 0, 1, 5), each("a", 4, 8, 6), each("b", 1, 2, 10)},
			[]string{"a(0,8] of 8, told 4", "b(0,1] of 1, told 9", "b(1,2] of 1, told 10"}},
		"a catalog never gives up": {WatchOptions{Catalog: "a"}, []func(*backlog){each("a", 0, 1000, 1)},
			[]string{"a(0,993] of 993, told 993", "a(993,994] of 1, told 994", "a(994,995] of 1, told 995", "a(995,996] of 1, told 996",
				"a(996,997] of 1, told 997", "a(997,998] of 1, told 998", "a(998,999] of 1, told 999", "a(999,1000] of 1, told 1000"}},
		"gives up, and opens again": {WatchOptions{}, []func(*backlog){func(q *backlog) {
			for i := range 12 {
				q.push(uint64(i+1), span(catalogName(i), 0, 1))
			}
		}}, []string{"lost false over true at 12"}},
		"lost": {WatchOptions{}, []func(*backlog){each("a", 0, 3, 1), func(q *backlog) { q.reset(place{seq: 20}) }, each("a", 9, 10, 21)},
			[]string{"lost true over false at 20", "a(9,10] of 1, told 21"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q := backlogOf(c.o)
			for _, do := range c.do {
				do(q)
			}
			if got := drained(q); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
			if q.bytes != 0 || len(q.wait) != 0 {
				t.Errorf("%d bytes, %d events are left", q.bytes, len(q.wait))
			}
		})
	}
}

// Long authors fill it, too.
func TestBacklogBytes(t *testing.T) {
	t.Parallel()
	q := backlogOf(WatchOptions{Buffer: 1 << 20})
	author := strings.Repeat("x", 10<<10)
	for i := range 1000 {
		ev := span("a", i, i+1)
		ev.Author = author
		q.push(uint64(i+1), ev)
		if q.bytes > maxQueueBytes {
			t.Fatalf("%d bytes wait", q.bytes)
		}
	}
	got := drained(q)
	if last := got[len(got)-1]; !strings.HasPrefix(last, "a(999,1000]") {
		t.Errorf("the last is %s", last)
	}
}

func TestBacklogEnds(t *testing.T) {
	t.Parallel()
	q := backlogOf(WatchOptions{})
	q.push(1, span("a", 0, 1))
	q.close(engine.ErrClosed)
	if n, err := q.take(t.Context(), 0); err != nil || !n.some {
		t.Errorf("got %+v, %v, want what waits", n, err)
	}
	if _, err := q.take(t.Context(), 0); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("got %v, want the end", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := backlogOf(WatchOptions{}).take(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
