package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// repeat measures the rounds and gives the median of each figure. headline is
// the one that whoever watches is told.
func (b *bench) repeat(ctx context.Context, what, headline string, once func(ctx context.Context) (Values, error)) (Values, error) {
	all := make([]Values, 0, b.Rounds)
	for i := range b.Rounds {
		v, err := once(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		b.say("%s, round %d of %d: %s = %s", what, i+1, b.Rounds, headline, number(v[headline]))
		all = append(all, v)
	}
	return median(all), nil
}

// others is how much of the machine other work had, as a row tells it.
func (v Values) others() float64 {
	if x, ok := v["others_cores"]; ok {
		return round(x)
	}
	return -1
}

// aside is the figures without those that have a place of their own in the row.
func (v Values) aside(but ...string) Values {
	out := Values{}
	for k, x := range v {
		out[k] = round(x)
	}
	delete(out, "others_cores")
	for _, k := range but {
		delete(out, k)
	}
	return out
}

// name is a catalog of this run: on a lake that others use, too, it meets
// nobody else's.
func newRun() func(i int) string {
	run := fmt.Sprintf("bench-%08x-", rand.Uint32())
	return func(i int) string {
		number := strconv.Itoa(i)
		return run + "000000"[min(len(number), 6):] + number
	}
}

// pad is a string of n bytes that does not compress to nothing.
func pad(r *rand.Rand, n int) string {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-_"
	var s strings.Builder
	for range n {
		s.WriteByte(letters[r.IntN(len(letters))])
	}
	return s.String()
}
