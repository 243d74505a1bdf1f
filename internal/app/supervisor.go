package app

import (
	"context"
	"fmt"

	"github.com/rs/zerolog"
)

// supervisor runs the parts of a process and stops them in the reverse order of
// their start: what was started last (the doors) stops first, what everything
// stands on (connections, the index) last.
type supervisor struct {
	log    zerolog.Logger
	parts  []*part
	failed chan error
}

type part struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{} // nil: nothing runs, cancel closes it
}

func newSupervisor(log zerolog.Logger) *supervisor {
	return &supervisor{log: log, failed: make(chan error, 1)}
}

// run starts a part that works until its context ends. One that ends before
// takes the process down.
func (s *supervisor) run(ctx context.Context, name string, work func(context.Context) error) {
	// Parts end one after the other, when stop comes to them, not all at once
	// with the process's context.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p := &part{name: name, cancel: cancel, done: make(chan struct{})}
	s.parts = append(s.parts, p)
	go func() {
		defer close(p.done)
		err := work(ctx)
		if ctx.Err() == nil {
			if err == nil {
				err = fmt.Errorf("ended by itself")
			}
			select {
			case s.failed <- fmt.Errorf("%s: %w", name, err):
			default:
			}
			return
		}
		if err != nil {
			s.log.Warn().Err(err).Str("part", name).Msg("part stopped with an error")
		}
	}()
}

// cleanup has close called in its turn at the stop.
func (s *supervisor) cleanup(name string, close func() error) {
	p := &part{name: name}
	p.cancel = func() {
		if err := close(); err != nil {
			s.log.Warn().Err(err).Str("part", name).Msg("part closed with an error")
		}
	}
	s.parts = append(s.parts, p)
}

// wait returns when ctx ends (nil) or a part fails.
func (s *supervisor) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.failed:
		return err
	}
}

// stop ends the parts, the latest first.
func (s *supervisor) stop() {
	for i := len(s.parts) - 1; i >= 0; i-- {
		p := s.parts[i]
		p.cancel()
		if p.done != nil {
			<-p.done
		}
	}
	s.parts = nil
}
