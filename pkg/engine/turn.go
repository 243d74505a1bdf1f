package engine

import (
	"context"
	"fmt"
	"runtime"
)

// Large bodies are checked a few at a time. Go's scheduler gives every goroutine
// that computes its ten milliseconds in turn: with a hundred of them, whoever reads
// the network gets one turn a second, and the server in front of it gives it up for
// slow. Those that wait for their turn here do not compute.
type turns chan struct{}

// largeBody is the size from which checking a body is worth a turn, bytes: about
// a tenth of a millisecond of work.
const largeBody = 32 << 10

func newTurns() turns { return make(turns, max(1, runtime.GOMAXPROCS(0)/2)) }

// checked is newRun in its turn.
func (e *Engine) checked(ctx context.Context, req *BatchRequest) (*run, error) {
	size := len(req.Lines)
	for i := range req.Deltas {
		size += len(req.Deltas[i].Body)
	}
	if size < largeBody {
		return e.newRun(*req)
	}
	select {
	case e.turns <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", errNoTurn, ctx.Err())
	}
	defer func() { <-e.turns }()
	return e.newRun(*req)
}
