-- adopt: register snapshots found in the bucket that lie above what the shard has.
-- KEYS  1 heads  2 refs  3 garbage  4 pending  5 catalogs
--       then a pair a catalog: live log, snapshots
-- ARGV  1 epoch  2 names of the catalogs, by line  3 k  4…3+k catalogs (base64)
--       then six a snapshot: number of its catalog (1…k), start, stop (fixed
--       form), doc bytes, pack bytes, member
-- Returns {'OK', catalogs (base64, by line) that still have runs to trim}
--       {'DONE'} the shard is open already   {'EPOCH'}
-- Invariant: a catalog's latest snapshot only moves on; its head and its last
-- version are never below it.
local find, match, sub = string.find, string.match, string.sub
local heads, refs, garbage, pending, catalogs = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local k = tonumber(ARGV[3])

local h = redis.call('HMGET', heads, '~epoch', unpack(ARGV, 4, 3 + k))
local shard = h[1]
--#include opening
local time = redis.call('TIME')
local ms = time[1] .. sub(1000000 + time[2], 2, 4)
--#include trim

local changed, fresh, names = {}, {}, nil
for i = 4 + k, #ARGV, 6 do
  local c, start, stop = tonumber(ARGV[i]), ARGV[i + 1], ARGV[i + 2]
  local v = h[c + 1] or '0000000000000000|0000000000000000|0000000000000000|0000000000000000|0|0|0|0|0|'
  if stop > sub(v, 52, 67) then
    redis.call('ZADD', KEYS[5 + 2 * c], stop, ARGV[i + 5])
    local last, head = sub(v, 1, 16), sub(v, 18, 33)
    if head == '0000000000000000' then
      if not names then
        names = {}
        for name in string.gmatch(ARGV[2], '[^\n]+') do names[#names + 1] = name end
      end
      fresh[#fresh + 1] = 0
      fresh[#fresh + 1] = names[c]
    end
    if last < stop then last = stop end
    if head < stop then head = stop end
    h[c + 1] = last .. '|' .. head .. '|' .. start .. '|' .. stop .. '|' .. ARGV[i + 3] .. '|' .. ARGV[i + 4] .. match(v, '^%d+|%d+(|.*)$', 69)
    changed[c] = true
  end
end
local set, more = {}, ''
for c in pairs(changed) do
  local v, log = h[c + 1], KEYS[4 + 2 * c]
  if match(v, '^%d+|%d+|(%d+)', 69) ~= '0' then
    local stop = sub(v, 52, 67)
    v = trim(v, log, stop)
    if upto(log, stop) > 0 then more = more .. ARGV[3 + c] .. '\n' end
  end
  set[#set + 1] = ARGV[3 + c]
  set[#set + 1] = v
end
if #set > 0 then redis.call('HSET', heads, unpack(set)) end
if #fresh > 0 then redis.call('ZADD', catalogs, unpack(fresh)) end
return {'OK', more}
