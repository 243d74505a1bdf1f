package redis

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jsonlake/lake/pkg/engine"
)

// View is one moment of a catalog. When the caller has a version already, the
// head is looked at first, together with those that other readers ask for: an
// unchanged head needs no script.
func (x *Index) View(ctx context.Context, epoch uint64, catalog string, after engine.Version) (engine.View, error) {
	if !after.Valid() {
		return engine.View{}, fmt.Errorf("%w: view of %q after %s", engine.ErrInvalid, catalog, after)
	}
	shard, b64, have := engine.Shard(catalog), encodeName(catalog), fixed(after)
	if now, fresh := x.clock.now(); fresh && !after.IsZero() {
		epochText, headText, err := x.views[shard%len(x.views)].ask(ctx, shard, b64)
		if err == nil {
			err = openIn(epochText, epoch, shard)
		}
		if err != nil {
			return engine.View{}, fmt.Errorf("view of %q: %w", catalog, err)
		}
		if headField(headText) == have {
			return x.view(catalog, headText, now)
		}
	}
	k := &x.keys[shard]
	c := &call{
		script: x.scripts.Load().view, shard: shard, keys: []string{k.heads, k.logOf(b64), k.catalogs},
		args: []any{strconv.FormatUint(epoch, 10), b64, catalog, have},
	}
	x.run(ctx, x.work, []*call{c})
	switch {
	case c.err != nil:
		return engine.View{}, fmt.Errorf("view of %q: %w", catalog, c.err)
	case c.status == "DAMAGED":
		return engine.View{}, damage(catalog, c.text(0))
	}
	now, err := x.clock.saw(c.text(0), c.text(1))
	if err != nil {
		return engine.View{}, fmt.Errorf("view of %q: %w", catalog, err)
	}
	if c.text(2) == "" {
		return engine.View{Now: now}, nil
	}
	v, err := x.view(catalog, c.text(2), now)
	if err != nil {
		return engine.View{}, err
	}
	if entries := c.texts(3); len(entries) > 0 {
		v.Runs = make([]engine.Run, len(entries))
		for i, entry := range entries {
			if v.Runs[i], err = parseRun(entry); err != nil {
				return engine.View{}, damage(catalog, err.Error())
			}
		}
	}
	return v, nil
}

func (x *Index) view(catalog, headText string, now time.Time) (engine.View, error) {
	h, err := parseHead(headText)
	if err != nil {
		return engine.View{}, damage(catalog, err.Error())
	}
	return engine.View{Head: h.head, Snapshot: h.snapshot, Deltas: h.deltas, Bytes: h.bytes, Pending: h.pending, PendingSince: h.since, Now: now}, nil
}

// TellHead looks at the head together with those that other readers ask for.
func (x *Index) TellHead(epoch uint64, catalog string, at engine.Version, f func(unchanged, pending bool)) bool {
	if at.IsZero() || !at.Valid() {
		return false
	}
	shard := engine.Shard(catalog)
	return x.views[shard%len(x.views)].join(shard, encodeName(catalog), func(epochText, headText string, err error) {
		var have [fixedLen]byte
		if err != nil || !opensIn(epochText, epoch) || headField(headText) != string(appendFixed(have[:0], at)) {
			f(false, false)
			return
		}
		pending, ok := headPending(headText)
		f(ok, pending)
	})
}

// openIn is nil when the epoch field says that the shard is open in the epoch.
func openIn(text string, epoch uint64, shard int) error {
	if !opensIn(text, epoch) {
		return fmt.Errorf("shard %x: %w", shard, engine.ErrEpoch)
	}
	return nil
}

func opensIn(text string, epoch uint64) bool {
	var b [20]byte
	n, state, _ := strings.Cut(text, "|")
	return n == string(strconv.AppendUint(b[:0], epoch, 10)) && strings.HasPrefix(state, "open|")
}
