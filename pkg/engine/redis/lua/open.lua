-- open: open a fenced shard.
-- KEYS  1 heads
-- ARGV  1 epoch  2 floor, seconds
-- Returns {'OK'}   {'DONE'} it is open already   {'EPOCH'}
-- Invariant: no version will be given at or below the second floor; floors only
-- grow.
local find, match = string.find, string.match
local heads = KEYS[1]

local shard = redis.call('HGET', heads, '~epoch')
--#include opening
local floor, rest = match(shard, '^%d+|%a+|(%d+)(|.*)$')
if tonumber(ARGV[2]) > tonumber(floor) then floor = ARGV[2] end
redis.call('HSET', heads, '~epoch', ARGV[1] .. '|open|' .. floor .. rest)
return {'OK'}
