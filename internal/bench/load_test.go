package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// A stall counts for every request that was due meanwhile: half of a ten-second
// load that stands still for five seconds must show in the median's company, not
// as one slow request.
func TestOpenCountsFromTheSchedule(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		l := open(t.Context(), 100, 1, 0, 10*time.Second, func(context.Context, int, int) (int, error) {
			if rest := 5*time.Second - time.Since(begin); rest > 0 {
				time.Sleep(rest)
			}
			time.Sleep(time.Millisecond)
			return 1, nil
		})
		if l.calls != 1000 || l.err != nil {
			t.Fatalf("got %d calls, %v, want 1,000", l.calls, l.err)
		}
		for _, q := range []struct{ quantile, min, max float64 }{{25, 1, 2}, {75, 2400, 2600}, {99, 4800, 5000}} {
			if got := l.quantile(q.quantile); got < q.min || got > q.max {
				t.Errorf("p%v: got %v ms, want %v to %v", q.quantile, got, q.min, q.max)
			}
		}
	})
}

func TestClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := closed(t.Context(), 8, time.Second, 4*time.Second, func(context.Context, int, int) (int, error) {
			time.Sleep(10 * time.Millisecond)
			return 3, nil
		})
		// What begins before the end but ends at it does not count.
		if got, want := l.perSecond(), 8*100*3.0; math.Abs(got-want) > want/50 {
			t.Errorf("got %v/s, want about %v", got, want)
		}
		if p := l.p50(); p < 9.9 || p > 10.1 {
			t.Errorf("got a p50 of %v ms, want 10", p)
		}
	})
}

// What is slow for a while is slow for both.
func TestAlternately(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		slow := func(d time.Duration) op {
			return func(context.Context, int, int) (int, error) {
				if time.Since(begin) > 3*time.Second {
					time.Sleep(9 * d)
				}
				time.Sleep(d)
				return 1, nil
			}
		}
		a, b, err := alternately(t.Context(), time.Second, 4*time.Second, slow(10*time.Millisecond), slow(11*time.Millisecond))
		if err != nil || math.Abs(a-10) > 0.1 || math.Abs(b-11) > 0.1 {
			t.Errorf("got p50s of %v and %v ms, %v, want 10 and 11: most were before the slow time", a, b, err)
		}
		fails := errors.New("no")
		if _, _, err := alternately(t.Context(), 0, time.Second, slow(time.Millisecond), func(context.Context, int, int) (int, error) { return 0, fails }); !errors.Is(err, fails) {
			t.Errorf("got %v, want the error of the operation", err)
		}
	})
}

// Refusals are no failures; everything else is.
func TestFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		l := closed(t.Context(), 1, 0, time.Second, func(_ context.Context, _, i int) (int, error) {
			time.Sleep(100 * time.Millisecond)
			switch i {
			case 2:
				return 0, fmt.Errorf("%w: later", engine.ErrBusy)
			case 4:
				return 0, broken
			}
			return 1, nil
		})
		if l.refused != 1 || l.failed != 1 || !errors.Is(l.err, broken) {
			t.Errorf("got %d refused, %d failed, %v, want one each", l.refused, l.failed, l.err)
		}
		if _, err := sound(l); !errors.Is(err, broken) {
			t.Errorf("got %v, want that the load is not sound", err)
		}
	})
}
