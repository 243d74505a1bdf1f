-- drop: end the registration of old snapshots.
-- KEYS  1 heads  2 snapshots of the catalog  3 garbage
-- ARGV  1 epoch  2 catalog (base64)  3 stop below which they go (fixed form)
--       4 limit
-- Returns {'OK', how many are left to go}   {'EPOCH'}
-- Invariant: the latest snapshot stays. That of a purge is no garbage.
local find, match, sub = string.find, string.match, string.sub
local heads, snaps, garbage = KEYS[1], KEYS[2], KEYS[3]

local h = redis.call('HMGET', heads, '~epoch', ARGV[2])
local shard, v = h[1], h[2]
--#include work
--#include since
if not v then return {'OK', 0} end
local before = sub(v, 52, 67)
if ARGV[3] < before then before = ARGV[3] end
local list = redis.call('ZRANGEBYSCORE', snaps, '-inf', '(' .. before, 'LIMIT', 0, ARGV[4])
for _, m in ipairs(list) do
  local start, stop = match(m, '^snap|([^|]+)|([^|]+)|')
  if start ~= stop then redis.call('ZADD', garbage, since, 'snap|' .. ARGV[2] .. '|' .. start .. '|' .. stop) end
  redis.call('ZREM', snaps, m)
end
redis.call('HSET', heads, '~epoch', marked)
return {'OK', redis.call('ZCOUNT', snaps, '-inf', '(' .. before)}
