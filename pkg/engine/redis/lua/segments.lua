-- segments: segments of the bucket that the shard does not need are garbage.
-- KEYS  1 heads  2 refs  3 pending  4 garbage
-- ARGV  1 epoch  2… segments
-- Returns {'OK'}   {'DONE'} the shard is open already   {'EPOCH'}
-- Invariant: what is garbage already keeps its time.
local find, match, sub = string.find, string.match, string.sub
local heads, refs, pending, garbage = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local shard = redis.call('HGET', heads, '~epoch')
--#include opening
local time = redis.call('TIME')
local ms = time[1] .. sub(1000000 + time[2], 2, 4)
--#include since
--#include abandon
return {'OK'}
