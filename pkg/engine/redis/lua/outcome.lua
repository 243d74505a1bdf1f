-- outcome: what is known of an idempotency id.
-- KEYS  1 heads  2 id
-- ARGV  1 epoch
-- Returns {'OK', its text; '' when it is not known or has expired}   {'EPOCH'}
-- Invariant: reads only.
local find, match, sub = string.find, string.match, string.sub
local heads, id = KEYS[1], KEYS[2]

local shard = redis.call('HGET', heads, '~epoch')
if not shard or find(shard, ARGV[1] .. '|open|', 1, true) ~= 1 then return {'EPOCH'} end
local v = redis.call('GET', id)
if not v then return {'OK', ''} end
local time = redis.call('TIME')
local expires = match(v, '^c|%d+|%d+|(%d+)|')
if expires and expires <= time[1] .. sub(1000000 + time[2], 2, 4) then return {'OK', ''} end
return {'OK', v}
