-- view: one moment of a catalog.
-- KEYS  1 heads  2 live log of the catalog  3 catalogs
-- ARGV  1 epoch  2 catalog (base64)  3 its name  4 version that the caller has
-- Returns {'OK', TIME s, TIME us, head, runs above both the
--       snapshot and what the caller has}; head is '' when never written
--       {'DAMAGED', what}   {'EPOCH'}
-- Invariant: reads only. The live log must have as many runs as the head says.
local find, match, sub = string.find, string.match, string.sub
local heads, log, catalogs = KEYS[1], KEYS[2], KEYS[3]

local h = redis.call('HMGET', heads, '~epoch', ARGV[2])
local shard, v = h[1], h[2]
if not shard or find(shard, ARGV[1] .. '|open|', 1, true) ~= 1 then return {'EPOCH'} end
local time = redis.call('TIME')
--#include upto
if not v then
  if redis.call('ZSCORE', catalogs, ARGV[3]) then return {'DAMAGED', 'its head is lost'} end
  return {'OK', time[1], time[2], '', {}}
end
local head, stop, from = sub(v, 18, 33), sub(v, 52, 67), ARGV[4]
if from < stop then from = stop end
if from >= head then return {'OK', time[1], time[2], v, {}} end
local runs = match(v, '^%d+|%d+|(%d+)', 69)
if redis.call('LLEN', log) ~= tonumber(runs) then
  return {'DAMAGED', 'its live log does not have the ' .. runs .. ' runs that its head counts'}
end
return {'OK', time[1], time[2], v, redis.call('LRANGE', log, upto(log, from), -1)}
