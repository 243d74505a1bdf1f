-- abandon: segments that the shard does not need are garbage.
-- KEYS  1 heads  2 refs  3 pending  4 garbage
-- ARGV  1 epoch  2… segments
-- Returns {'OK'}   {'EPOCH'}
-- Invariant: what is needed stays, and what is garbage already keeps its time.
local find, match, sub = string.find, string.match, string.sub
local heads, refs, pending, garbage = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local shard = redis.call('HGET', heads, '~epoch')
--#include work
--#include since
--#include abandon
redis.call('HSET', heads, '~epoch', marked)
return {'OK'}
