-- trim: take up to 1,000 folded runs out of a live log, what a fold of very many
-- runs or an adopted snapshot has left. Works in an open and in an opening
-- shard: folded runs are visible in neither.
-- KEYS  1 heads  2 live log  3 refs  4 garbage  5 pending
-- ARGV  1 epoch  2 catalog (base64)
-- Returns {'OK', more}: more '1' when some are left   {'EPOCH'}
-- Invariant: only runs at or below the latest snapshot's stop leave.
local find, match, sub = string.find, string.match, string.sub
local heads, log, refs, garbage, pending = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local field = ARGV[2]

local h = redis.call('HMGET', heads, '~epoch', field)
local shard, v = h[1], h[2]
if not shard or find(shard, ARGV[1] .. '|open', 1, true) ~= 1 then return {'EPOCH'} end
local info = redis.call('INFO', 'replication')
if not find(info, 'role:master', 1, true)
  or not find(info, 'master_replid:' .. match(shard, '(%x+)$'), 1, true) then
  return {'EPOCH'}
end
if not v then return {'OK', ''} end
local time = redis.call('TIME')
local ms = time[1] .. sub(1000000 + time[2], 2, 4)
--#include trim
local stop = sub(v, 52, 67)
v = trim(v, log, stop)
redis.call('HSET', heads, field, v)
return {'OK', upto(log, stop) > 0 and '1' or ''}
