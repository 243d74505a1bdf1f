-- relocate: live runs stand in another segment now.
-- KEYS  1 heads  2 refs  3 garbage  4 pending  5…4+k live logs
-- ARGV  1 epoch  2 segment, '' to ask only  3 k  4…3+k catalogs (base64)
--       then five a run: number of its catalog (1…k), first version (fixed form),
--       segment where it stands, new offset, new length
-- Returns {'OK', a character a run: 1 when it stands in the segment (to ask: where
--       the call says), else 0}   {'EPOCH'}
-- Invariant: a run keeps its turn and all that is said of it but for the place;
-- the counts of segments and the bytes of heads follow.
local find, match, sub = string.find, string.match, string.sub
local heads, refs, garbage, pending = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local to, k = ARGV[2], tonumber(ARGV[3])

local h = redis.call('HMGET', heads, '~epoch', unpack(ARGV, 4, 3 + k))
local shard = h[1]
--#include work
--#include since
--#include upto
local out, grown, moved = {}, {}, 0
for i = 4 + k, #ARGV, 5 do
  local c, first, from, ok = tonumber(ARGV[i]), ARGV[i + 1], ARGV[i + 2], '0'
  -- A run of one ends where it begins; one of many is the first that ends above it.
  local log = KEYS[4 + c]
  local at = upto(log, first)
  local m = at > 0 and redis.call('LINDEX', log, at - 1)
  if m and sub(m, 1, 16) == first then at = at - 1 else m = redis.call('LINDEX', log, at) end
  if m and h[c + 1] and (match(m, '^%d+|run|%d+|(%d+)|') or sub(m, 1, 16)) == first then
    local kept, segment, len = match(m, '^(.*|)([^|]*)|%d+|(%d+)$')
    if to == '' then
      if segment == from then ok = '1' end
    elseif segment == to then
      ok = '1'
    elseif segment == from then
      ok = '1'
      moved = moved + 1
      redis.call('LSET', log, at, kept .. to .. '|' .. ARGV[i + 3] .. '|' .. ARGV[i + 4])
      grown[c] = (grown[c] or 0) + ARGV[i + 4] - len
      if redis.call('HINCRBY', refs, from, -1) == 0 and not redis.call('ZSCORE', pending, from) then
        redis.call('HDEL', refs, from)
        redis.call('ZADD', garbage, since, from)
      end
    end
  end
  out[#out + 1] = ok
end
if moved > 0 then
  local set = {'~epoch', marked}
  for c, by in pairs(grown) do
    local counts, bytes, open = match(h[c + 1], '^(%d+|%d+|%d+|%d+|)(%d+)(|.*)$', 69)
    set[#set + 1] = ARGV[3 + c]
    set[#set + 1] = sub(h[c + 1], 1, 68) .. counts .. (bytes + by) .. open
  end
  redis.call('HSET', heads, unpack(set))
  redis.call('HINCRBY', refs, to, moved)
  redis.call('ZREM', garbage, to)
end
return {'OK', table.concat(out)}
