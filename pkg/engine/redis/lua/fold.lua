-- fold: register a snapshot by compare-and-set and shorten the live log.
-- KEYS  1 heads  2 live log  3 snapshots of the catalog  4 refs  5 garbage
--       6 pending  7 outbox  8 catalogs
-- ARGV  1 epoch  2 catalog (base64)  3 its name  4 start  5 stop (fixed form)
--       6 doc bytes  7 pack bytes  8 member of the snapshot
--       9 deltas in (start, stop], '' when not counted
--       10 what the members of all snapshots (start, stop] begin with
-- Returns {'OK', more}: more '1' when runs at or below stop are left, for trim
--       {'COUNT'} more runs than one script counts: count, and say so
--       {'TRIM'} an earlier fold has left runs: trim first
--       {'STALE'}   {'DAMAGED', what}   {'EPOCH'}
-- Invariant: snapshots of a catalog chain, start to stop, but for that of a purge,
-- whose start is its stop and which follows any; a stop is the last version of a run. The counts in the head are those of the live log.
local find, match, sub = string.find, string.match, string.sub
local heads, log, snaps, refs, garbage = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local pending, outbox, catalogs = KEYS[6], KEYS[7], KEYS[8]
local field, start, stop = ARGV[2], ARGV[4], ARGV[5]

local h = redis.call('HMGET', heads, '~epoch', '~events', field)
local shard, events, v = h[1], h[2], h[3]
--#include work
--#include trim

if not v then
  if redis.call('ZSCORE', catalogs, ARGV[3]) then return {'DAMAGED', 'its head is lost'} end
  return {'STALE'}
end
local latest = sub(v, 52, 67)
if latest >= stop then
  for _, m in ipairs(redis.call('ZRANGEBYSCORE', snaps, stop, stop)) do
    if find(m, ARGV[10], 1, true) == 1 then -- a repetition
      return {'OK', upto(log, latest) > 0 and '1' or ''}
    end
  end
  return {'STALE'}
end
local purge = start == stop
if not purge and latest ~= start or start > stop then return {'STALE'} end
local runs = upto(log, stop)
if runs == 0 or sub(redis.call('LINDEX', log, runs - 1), 1, 16) ~= stop then return {'STALE'} end
local lowest = redis.call('LINDEX', log, 0)
if sub(lowest, 1, 16) <= latest then return {'TRIM'} end
if runs > 1000 and ARGV[9] == '' then return {'COUNT'} end

local folded, left
v = sub(v, 1, 34) .. start .. '|' .. stop .. '|' .. ARGV[6] .. '|' .. ARGV[7] .. match(v, '^%d+|%d+(|.*)$', 69)
v, folded, left = trim(v, log, stop)
if ARGV[9] ~= '' then folded = ARGV[9] end
redis.call('ZADD', snaps, stop, ARGV[8])
redis.call('HSET', heads, '~epoch', marked, field, v)
if events then
  local first = match(lowest, '^%d+|run|%d+|(%d+)|') or sub(lowest, 1, 16)
  local deltas, bytes = match(v, '^%d+|%d+|%d+|(%d+)|(%d+)|', 69)
  redis.call('XADD', outbox, '*', purge and 'p' or 's', ms .. '\n' .. field .. '|' .. first .. '|' .. stop .. '|' .. folded .. '|' .. ARGV[6] .. '|||'
    .. (purge and '0000000000000000' or start) .. '|' .. deltas .. '|' .. bytes .. '|' .. ARGV[6])
end
return {'OK', left < runs and '1' or ''}
