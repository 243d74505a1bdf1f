package redis

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/tinylib/msgp/msgp"
	"go.uber.org/goleak"

	"github.com/jsonlake/lake/internal/testenv"
	"github.com/jsonlake/lake/pkg/engine"
	"github.com/jsonlake/lake/pkg/engine/enginetest"
)

// names gives each index of a test run keys of its own.
var names atomic.Uint64

// open opens an index of its own on a server that others use too.
func open(tb testing.TB, url string) *Index {
	tb.Helper()
	x, err := OpenIndex(tb.Context(), Options{URL: url, Name: fmt.Sprintf("t%d", names.Add(1))})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := x.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return x
}

func TestIndex(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	enginetest.TestIndex(t, func(t *testing.T) enginetest.IndexUnderTest { return open(t, server.URL) })
}

// TestIndexCluster proves that every script keeps to one slot.
func TestIndexCluster(t *testing.T) {
	t.Parallel()
	cluster := testenv.RedisCluster(t, 3)
	url := "redis+cluster://" + strings.Join(cluster.Addrs, ",")
	enginetest.TestIndex(t, func(t *testing.T) enginetest.IndexUnderTest { return open(t, url) })
}

// TestIndexClock runs the suite with scripts whose TIME is set by the test.
func TestIndexClock(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	enginetest.TestIndex(t, func(t *testing.T) enginetest.IndexUnderTest {
		x := &stepped{Index: open(t, server.URL), t: t}
		x.clock.past = func(time.Time) time.Duration { return 0 }
		return x
	})
}

// TestIndexOfOneNode: a cluster of one node that is spoken to as a single server still wants
// the keys of a script in one slot.
func TestIndexOfOneNode(t *testing.T) {
	t.Parallel()
	x := open(t, "redis://"+testenv.RedisCluster(t, 1).Addrs[0])
	begin(t, x, 1)
	p := engine.PreCommit{Epoch: 1, Segment: engine.SegmentID{Epoch: 1, Unix: 1, Writer: "abcdefgh", N: 1}}
	for i := range 64 { // of every shard
		p.Runs = append(p.Runs, engine.Reserve{Catalog: fmt.Sprintf("catalog-%d", i), N: 1})
	}
	res, err := x.PreCommit(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range res.Runs {
		if r.Err != nil || r.State != engine.ReserveOK {
			t.Errorf("%s: got %+v, want it reserved", p.Runs[i].Catalog, r)
		}
	}
}

// TestIndexRetried runs the suite with every script run twice, one answer
// lost: what happens when a connection breaks and the client tries again.
func TestIndexRetried(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	enginetest.TestIndex(t, func(t *testing.T) enginetest.IndexUnderTest {
		x := &stepped{Index: open(t, server.URL), t: t}
		x.clock.past = func(time.Time) time.Duration { return 0 }
		x.work.AddHook(twice{x.Index})
		x.admin.AddHook(twice{x.Index})
		return x
	})
}

// twice sends everything twice and gives the second answer. But a pre-commit that is
// conditional, or bounded, is not told again why it was refused, only to try again: there
// the first answer stands.
type twice struct{ index *Index }

func (twice) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h twice) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		first, second := h.order(ctx, cmd)
		err, err2 := next(ctx, first), next(ctx, second)
		if second == cmd {
			err = err2
		}
		return err
	}
}

func (h twice) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		firsts, seconds := make([]redis.Cmder, len(cmds)), make([]redis.Cmder, len(cmds))
		for i, cmd := range cmds {
			firsts[i], seconds[i] = h.order(ctx, cmd)
		}
		return errors.Join(next(ctx, firsts), next(ctx, seconds)) // the commands keep theirs
	}
}

// order gives a command and a copy of it in the order in which to send them.
func (h twice) order(ctx context.Context, cmd redis.Cmder) (first, second redis.Cmder) {
	other := redis.NewCmd(ctx, cmd.Args()...)
	args := cmd.Args()
	if len(args) > 3 && args[1] == h.index.scripts.Load().precommit.sha {
		keys, err := strconv.Atoi(args[2].(string))
		if err != nil {
			panic(err)
		}
		for _, shard := range args[3+keys+2:] { // see lua/precommit.lua
			values := msgp.NewReader(strings.NewReader(*shard.(*string)))
			var read [7]any
			for i := range read {
				if read[i], err = values.ReadIntf(); err != nil {
					panic(err)
				}
			}
			if most, extras := read[4].(int64), read[6].(int64); most > 0 || extras > 0 {
				return cmd, other
			}
		}
	}
	return other, cmd
}

// stepped is an index with a clock that stands where it is put: its scripts are
// loaded anew with a constant in place of TIME.
type stepped struct {
	*Index
	t  *testing.T
	mu sync.Mutex
}

func (s *stepped) SetTime(now time.Time) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	constant := fmt.Sprintf("{'%d', '%d'}", now.Unix(), now.Nanosecond()/1000)
	edited, err := loadScripts(func(source string) string { return strings.ReplaceAll(source, "redis.call('TIME')", constant) })
	if err != nil {
		s.t.Fatal(err)
	}
	s.scripts.Store(edited)
	s.clock.seen.Store(nil)
	if err := s.load(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
