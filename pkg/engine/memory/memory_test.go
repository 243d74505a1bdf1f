package memory_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/enginetest"
	"github.com/jsonlake/lake/pkg/engine/memory"
)

// stepped is an index whose clock the suite sets; nil: the real one.
type stepped struct {
	*memory.Index
	at atomic.Pointer[time.Time]
}

func (s *stepped) SetTime(t time.Time) { s.at.Store(&t) }

func (s *stepped) now() time.Time {
	if t := s.at.Load(); t != nil {
		return *t
	}
	return time.Now()
}

func TestIndex(t *testing.T) {
	t.Parallel()
	enginetest.TestIndex(t, func(t *testing.T) enginetest.IndexUnderTest {
		s := &stepped{}
		s.Index = memory.NewIndex(memory.Options{Clock: s.now})
		t.Cleanup(func() { _ = s.Close() })
		return s
	})
}

func TestObjects(t *testing.T) {
	t.Parallel()
	enginetest.TestObjects(t, func(*testing.T) engine.Objects { return memory.NewObjects() })
}
