package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestReproducible runs histories twice and holds everything that happened in the
// one against the other: who asked for what and when, what came of it, what was
// drawn for it. All of them must be the same: what a failing seed does not do again
// cannot be looked into.
func TestReproducible(t *testing.T) {
	from := *first
	if from == 0 {
		from = rand.Uint64N(1 << 40)
	}
	n := min(max(*seeds/3, 10), 700)
	same := 0
	for i := range n {
		seed := from + uint64(i)
		a, b := traced(t, seed), traced(t, seed)
		if slices.Equal(a, b) {
			same++
			continue
		}
		t.Errorf("seed %d is not reproducible: %s", seed, difference(a, b))
	}
	t.Logf("%d of %d histories, from seed %d, were the same twice", same, n, from)
}

// TestReproducibleCrashPoints does the same with a few crash points of each scenario.
func TestReproducibleCrashPoints(t *testing.T) {
	n, same := 0, 0
	for _, s := range scenarios {
		for _, how := range []string{"before", "after", "late"} {
			at := 1 + rand.IntN(30)
			again := func() (lines []string) {
				s.history(t, how, at, func(line string) { lines = append(lines, line) })
				return lines
			}
			n++
			if a, b := again(), again(); slices.Equal(a, b) {
				same++
			} else {
				t.Errorf("crash point %s/%s/%d is not reproducible: %s", s.name, how, at, difference(a, b))
			}
		}
	}
	t.Logf("%d of %d crash points were the same twice", same, n)
}

func traced(t *testing.T, seed uint64) (lines []string) {
	history(t, seed, kindOf(seed), "", func(line string) { lines = append(lines, line) })
	return lines
}

// difference shows where two traces part.
func difference(a, b []string) string {
	i := 0
	for i < min(len(a), len(b)) && a[i] == b[i] {
		i++
	}
	show := func(lines []string, to int) string {
		return strings.Join(lines[min(max(i, to-4), len(lines)):min(to, len(lines))], "\n    ")
	}
	return fmt.Sprintf("line %d of %d and %d, after\n    %s\n  the first time\n    %s\n  the second time\n    %s",
		i+1, len(a), len(b), strings.Join(a[max(0, i-6):i], "\n    "), show(a, i+4), show(b, i+4))
}
