// Package redis adapts Redis to what a lake needs: engine.Index with its
// maintenance, outbox and leases, engine.Cache, and the shared configuration
// under lake.setting. It works with one server, Sentinel and Redis Cluster, from
// Redis 6.2 on.
//
// # Keys
//
// A lake has sixteen shards; a catalog belongs to the shard of the first digit
// of the MD5 of its name. The shard's digit is the hash tag of all its keys
// (keys.go), so a shard lives in one slot of a cluster, where a script works on one
// shard. What a catalog is at this moment (last reserved and last committed
// version, latest snapshot, counts, open reservations) is one field of the hash
// "heads"; its live log is a list, its snapshots are a sorted set. The layout of every
// text is in format.go.
//
// # Cost
//
// A run costs one element of a list. Everything else is paid once a segment and
// shard: PreCommit is one HMGET and one HSET for all heads, one SET of the plan,
// one ZADD; Commit is one HMGET and one HSET, an RPUSH a catalog, one SETRANGE of
// the plan, one HINCRBY, one XADD. Entries of the logs come ready-made from Go, because
// string work in Lua is what a script's time goes into, and what belongs to the runs of a
// shard comes as one text of MessagePack values, because each argument costs the server an
// object and a place in a table. On one server a script does several shards, up to 128 runs,
// and asks INFO and TIME once for all; in a cluster a script does one. All scripts of a call
// travel in one pipeline. Views of unchanged heads need no script: one HMGET
// a shard, shared by the readers that wait at that moment.
//
// # Scripts
//
// lua/*.lua, one file an operation; its header says what KEYS and ARGV hold,
// what it returns and which invariant it keeps. No script builds a key: all are
// in KEYS. No script calculates with versions as floating-point numbers
// (tostring(1700000000.000001) is 1700000000 in Redis): they are texts whose
// order is theirs, or two integers.
//
// # Idempotency
//
// The client repeats a script when a connection breaks, and the engine repeats
// calls whose outcome it does not know. Therefore every script finds out first
// whether it was there already:
//
//	precommit   the segment has a plan: that plan is the answer
//	commit      the plan says committed: the answer, nothing is written
//	rollback    only open runs are decided
//	fold        the snapshot is registered: nothing but a rest of trimming
//	restore     runs at or below their catalog's head are passed over, receipts of ids
//	            are put again
//	fence, open compare the epoch first
//
// An idempotency id is a key of its own: pending, without expiry, from the
// pre-commit on; the receipt for 24 hours from the commit on; gone with a
// roll-back. A pre-commit that comes twice gets its plan again; a run that was not
// reserved, for whatever reason, is told to try again unless its id is known.
//
// A plan stays, as the receipt, for ten minutes after its last decision; it does
// not expire before.
//
// # Which server
//
// Every script compares the shard's epoch, and every script that writes also
// compares the server's replication id (INFO inside the script) with the one
// recorded when the shard was fenced: a restarted server, a promoted replica or
// a restored backup has another one, however alike its data. Views do not ask
// again; their connections were admitted to the pool only after the server had
// said role:master and the recorded replication id (connect.go), and the
// heartbeat, which does ask, comes every second. Epochs, Fence, Restore, Resolve
// and Open use a second client without that condition.
//
// A server that does not know a script (NOSCRIPT) was started anew, or has a
// slot that was moved: the epochs and the replication id are compared again
// before scripts are loaded and the call is repeated.
//
// # Damage
//
// Redis must not evict (maxmemory-policy noeviction). A catalog whose head is
// missing although it was written, or whose live log does not have as many runs
// as its head counts, answers engine.ErrDamaged. A shard whose heads are missing
// as a whole has lost its epoch with them: it answers engine.ErrEpoch, and the
// fence of the next epoch empties what is left of it.
package redis
