// Package disk keeps a lake in a directory of a local file system: objects as
// files, and the index in an embedded store (Pebble). It is what a lake in one
// process uses when nothing else is set up.
//
// # Objects
//
//	{dir}/wal/000001/1700000000-abcdefgh-00000001.seg    an object: key = path
//	{dir}/.tmp/{process}/LOCK                            held while the process has the bucket open
//	{dir}/.tmp/{process}/7                               an object that is being put
//
// A put is create-only, whole and durable:
//
//	1 write the bytes to a temporary file, fsync     what gets a name is on the disk
//	2 make missing directories, fsync their parents  once for each directory and process
//	3 link(2) to the name                            EEXIST → 5, then ErrExists
//	4 remove the temporary name
//	5 fsync the directory                            one for all puts that wait for it
//
// Several processes may have a bucket open. A process that died leaves
// temporary files, which the next OpenObjects removes; and perhaps names that
// were linked and never made durable: they are visible, so that OpenObjects
// writes out the file system before anybody counts on them. After a directory
// could not be synced no put is accepted any more: a second fsync would say
// "done" about pages that were dropped by the first. Keys come from
// the engine's layout; what would lead out of the directory is refused.
//
// Not for network file systems: they do not promise link(2), locks and
// fsync of directories.
//
// # Index
//
//	{dir}/LOCK      flock(2) of the process that has the index open
//	{dir}/ADDRESS   where that process serves the lake (SetAddress, Address)
//	{dir}/CLEAN     there while the index is closed, if it is whole
//	{dir}/store/    Pebble; keys.go and records.go have every key and value
//
// Sixteen shards, each under a lock of its own. An operation reads what it
// needs of its shard, decides, and writes one batch: all of it or nothing, also
// after a crash, and batches of all shards reach the disk in the order
// in which they were made. Memory holds what is bounded: a record a shard,
// segments in flight, leases, gates, heartbeats. Heads, runs, plans and ids stay
// on the disk behind a cache of a given size. Plans and idempotency ids have
// queues by the time at which they go; operations and heartbeats sweep them
// a step at a time.
//
// # What is durable
//
// The bucket is the truth, and what a commit is about stands in it already. So
// commits are not synced; a kill, and a power cut all the more, take the last of
// them away. What is left is the index as it was after some operation, with
// everything before it. What is synced: Fence, Open and SetEvents, Close, and
// everything so far whenever Garbage or Unused answer that an object may be
// deleted.
//
// CLEAN is made at the end of Close and removed, durably, before an open does
// anything; it names its own inode and is void in a copy of the directory, which
// may be older than the bucket. An index without it lacks an unknown number of operations: its
// shards are open in an epoch in which nobody may work (ShardEpoch.Same is
// false, every method answers ErrEpoch) until a new epoch fences them, restores
// what they lack from the bucket, and opens them. An index that was closed goes
// on in its epoch.
//
// A disk with less than Options.MinFreeBytes free refuses reservations. When
// it fails all the same, the index stops: every method answers ErrUnavailable
// with the cause, and the directory stays locked until the process ends. (A
// manifest that cannot be written ends the process: Pebble knows no other way.)
//
// Tried and left: a temporary file without a name (O_TMPFILE) and
// renameat2(2) in place of link(2): as fast as the portable way; one fsync
// for bytes and name together: ext4 would do, POSIX does not promise the order.
package disk
