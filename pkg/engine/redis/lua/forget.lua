-- forget: strike entries from the garbage.
-- KEYS  1 heads  2 garbage
-- ARGV  1 epoch  2… members
-- Returns {'OK'}   {'EPOCH'}
-- Invariant: nothing but the list of garbage changes.
local find, match, sub = string.find, string.match, string.sub
local heads, garbage = KEYS[1], KEYS[2]

local shard = redis.call('HGET', heads, '~epoch')
--#include work
redis.call('ZREM', garbage, unpack(ARGV, 2))
redis.call('HSET', heads, '~epoch', marked)
return {'OK'}
