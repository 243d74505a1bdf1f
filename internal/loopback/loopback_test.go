package loopback

import "testing"

// Servers listen where no outgoing connection takes their port while they are restarted.
func TestListenPorts(t *testing.T) {
	for _, c := range []struct{ low, high, from, to int }{
		{32_768, 60_999, 10_000, 32_000},
		{16_000, 65_535, 10_000, 16_000},
		{1_024, 60_999, 61_000, 65_536},
		{1_024, 65_535, 10_000, 32_000}, // there is no such place
	} {
		if from, to := listenPorts(c.low, c.high); from != c.from || to != c.to {
			t.Errorf("beside %d to %d: got %d to %d, want %d to %d", c.low, c.high, from, to, c.from, c.to)
		}
	}
}
