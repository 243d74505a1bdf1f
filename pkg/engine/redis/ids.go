package redis

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jsonlake/lake/pkg/engine"
)

// receipt is the text of a committed id but for its expiry, which the script
// puts between the two.
func receipt(first engine.Version, n int, fingerprint [16]byte) (start, end string) {
	return "c|" + fixed(first) + "|" + strconv.Itoa(n) + "|", "|" + string(fingerprint[:])
}

// parseID reads the text of an id.
func parseID(text string) (s engine.IDState, err error) {
	f := strings.SplitN(text, "|", 5)
	if len(f) != 5 || len(f[4]) != len(s.Fingerprint) {
		return s, fmt.Errorf("%q is not the text of an id", text)
	}
	p := parser{}
	s.First, s.N = p.version(f[1]), int(p.int(f[2]))
	copy(s.Fingerprint[:], f[4])
	switch {
	case p.err != nil:
		return engine.IDState{}, fmt.Errorf("%q is not the text of an id: %w", text, p.err)
	case f[0] == "p":
		s.State = engine.IDPending
	case f[0] == "c":
		s.State = engine.IDCommitted
	default:
		return engine.IDState{}, fmt.Errorf("%q is not the text of an id", text)
	}
	return s, nil
}

// Outcome tells what is known of an idempotency id.
func (x *Index) Outcome(ctx context.Context, epoch uint64, catalog, id string) (engine.IDState, error) {
	if id == "" {
		return engine.IDState{}, nil
	}
	shard := engine.Shard(catalog)
	k := &x.keys[shard]
	c := &call{
		script: x.scripts.Load().outcome, shard: shard, keys: []string{k.heads, k.idOf(encodeName(catalog), id)},
		args: []any{strconv.FormatUint(epoch, 10)},
	}
	x.run(ctx, x.work, []*call{c})
	if c.err != nil || c.text(0) == "" {
		return engine.IDState{}, c.err
	}
	s, err := parseID(c.text(0))
	if err != nil {
		return engine.IDState{}, damage(catalog, err.Error())
	}
	return s, nil
}

// receipts puts ids back in the order of the list.
func (x *Index) receipts(ctx context.Context, shard int, n uint64, ids []engine.RestoreID) error {
	k := &x.keys[shard]
	c := &call{script: x.scripts.Load().receipts, shard: shard, keys: []string{k.heads}, args: []any{strconv.FormatUint(n, 10)}}
	for _, id := range ids {
		start, end := receipt(id.First, id.N, id.Fingerprint)
		c.keys = append(c.keys, k.idOf(encodeName(id.Catalog), id.ID))
		c.args = append(c.args, fmt.Sprintf("%013d", max(id.Expires.UnixMilli(), 0)), start, end)
	}
	x.run(ctx, x.admin, []*call{c})
	return c.err
}
