package redis

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/jsonlake/lake/pkg/engine"
)

// Every key name is made here and nowhere else; scripts get theirs in KEYS.
// p is the prefix, "lake" or "lake:<name>"; s is the shard, one hexadecimal
// digit, whose braces are the hash tag: all keys of a shard share a slot. <b64>
// is the catalog's name in standard base64, <seg> a segment's short form
// "1/1700000000-abcdefgh-1".
//
//	p:{s}:heads        HASH    <b64> → head of the catalog (format.go);
//	                           ~epoch → the shard's epoch: n|state|floor|mark|replid, state open,
//	                           opening, or openempty: opening, and emptied in this epoch;
//	                           ~events → 1 when commits, folds and restores write outbox entries
//	p:{s}:log:<b64>    LIST    the live log: its runs in their order (format.go)
//	p:{s}:snap:<b64>   ZSET    snap|{start}|{stop}|{doc bytes}|{pack bytes}, score = stop
//	p:{s}:plan:<seg>   STRING  what the segment reserved in this shard (format.go); the receipt
//	                           for ten minutes after the last of its runs was decided
//	p:{s}:pending      ZSET    segment with undecided runs → index time of its pre-commit, ms
//	p:{s}:refs         HASH    segment → its runs in the live logs of this shard
//	p:{s}:garbage      ZSET    segment without live runs here, or snap|<b64>|{start}|{stop} of a
//	                           dropped snapshot → since when, ms
//	p:{s}:outbox       STREAM  an entry a commit, fold or restore (format.go)
//	p:{s}:catalogs     ZSET    names of catalogs that have a committed run; score 0: by name
//	p:{s}:writers      ZSET    writer → index time of its last heartbeat, ms
//	p:{s}:id:<b64>:<id> STRING an idempotency id that a client gave (format.go); a receipt
//	                           for 24 hours after its run was committed
//	p:{s}:lease:<name> STRING  token of the holder, with its expiry
//	p:c:<key>          STRING  shared cache (cache.go)
//	lake.setting       STRING  shared configuration (setting.go)
//
// The epoch stands in a field of heads, not in a key of its own: one HMGET
// reads it together with the heads that it guards, and a shard cannot lose its
// heads and keep its epoch.
const settingKey = "lake.setting"

// shardKeys are the fixed keys of a shard, made once.
type shardKeys struct {
	prefix                                                                               string // "lake:{9}:"
	heads, pending, refs, garbage, outbox, catalogs, writers, log, snap, plan, lease, id string // the last five lack their tail
}

// Fields of heads that are no catalogs; "~" is not in the base64 alphabet.
const (
	epochField  = "~epoch"
	eventsField = "~events"
)

func prefix(name string) string {
	if name == "" {
		return "lake"
	}
	return "lake:" + name
}

// validateName holds the rules of a lake's name: it stands before the hash tag.
func validateName(name string) error {
	if len(name) > 64 || strings.ContainsAny(name, "{}:*?[]\\^ ") || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("%w: the lake's name %q has at most 64 bytes, no spaces and none of {}:*?[]\\^; choose another", engine.ErrInvalid, name)
	}
	return nil
}

func makeShardKeys(prefix string) (all [engine.Shards]shardKeys) {
	for s := range all {
		p := fmt.Sprintf("%s:{%x}:", prefix, s)
		all[s] = shardKeys{
			prefix: p, heads: p + "heads", pending: p + "pending", refs: p + "refs", garbage: p + "garbage", outbox: p + "outbox",
			catalogs: p + "catalogs", writers: p + "writers", log: p + "log:", snap: p + "snap:", plan: p + "plan:", lease: p + "lease:", id: p + "id:",
		}
	}
	return all
}

func (k *shardKeys) logOf(b64 string) string      { return k.log + b64 }
func (k *shardKeys) snapOf(b64 string) string     { return k.snap + b64 }
func (k *shardKeys) planOf(segment string) string { return k.plan + segment }
func (k *shardKeys) leaseOf(name string) string   { return k.lease + name }
func (k *shardKeys) idOf(b64, id string) string   { return k.id + b64 + ":" + id }
func cacheKey(prefix, key string) string          { return prefix + ":c:" + key }
func encodeName(catalog string) string            { return base64.StdEncoding.EncodeToString([]byte(catalog)) }
func decodeName(b64 string) (string, error) {
	b, err := base64.StdEncoding.DecodeString(b64)
	return string(b), err
}
