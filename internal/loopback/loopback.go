// Package loopback finds ports for servers that are started on this machine.
package loopback

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
)

// FreePort returns a loopback TCP port that nobody listens on, outside the range
// from which the system takes the ports of outgoing connections, as far as that leaves
// room. It is not reserved: start a server that finds it taken again on another. The
// error is that a hundred ports were taken.
func FreePort() (int, error) {
	from, to := listenPorts(outgoingPorts())
	for range 100 {
		port := from + rand.IntN(to-from)
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("no free loopback port between %d and %d", from, to)
}

// listenPorts are the ports, from ≤ port < to, to listen on beside outgoing ones.
func listenPorts(low, high int) (from, to int) {
	const first, last, few = 10_000, 65_535, 1_000
	switch {
	case low-first >= few:
		return first, min(low, 32_000)
	case last-high >= few:
		return high + 1, last + 1
	default:
		return first, 32_000
	}
}

// outgoingPorts is the range of ports of outgoing connections; Linux's usual one where
// the system does not tell.
func outgoingPorts() (low, high int) {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(string(b), &low, &high)
	}
	if err != nil {
		return 32_768, 60_999
	}
	return low, high
}
