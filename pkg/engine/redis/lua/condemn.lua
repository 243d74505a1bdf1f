-- condemn: take the epoch from a shard whose content cannot be trusted.
-- KEYS  1 heads
-- ARGV  1 epoch
-- Returns {'OK'}   {'EPOCH'}
-- Invariant: only a shard that is open in the epoch, on the server that was fenced.
local find, match, sub = string.find, string.match, string.sub
local heads = KEYS[1]

local shard = redis.call('HGET', heads, '~epoch')
if not shard then return {'OK'} end -- a repetition
--#include work
redis.call('HDEL', heads, '~epoch')
return {'OK'}
