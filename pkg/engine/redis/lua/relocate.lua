-- relocate: live runs stand in another segment now.
-- KEYS  1 heads  2 refs  3 garbage  4 pending  5…4+k live logs
-- ARGV  1 epoch  2 segment, '' to ask only  3 k  4…3+k catalogs (base64)
--       then six a run: number of its catalog (1…k), first version (fixed form),
--       the same as members have it, segment where it stands, new offset, new length
-- Returns {'OK', a character a run: 1 when it stands in the segment (to ask: where
--       the call says), else 0}   {'EPOCH'}
-- Invariant: a run keeps its score and all that its member says but for the place;
-- the counts of segments and the bytes of heads follow.
local find, match, sub = string.find, string.match, string.sub
local heads, refs, garbage, pending = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local to, k = ARGV[2], tonumber(ARGV[3])

local h = redis.call('HMGET', heads, '~epoch', unpack(ARGV, 4, 3 + k))
local shard = h[1]
--#include work
--#include since
local out, grown, moved = {}, {}, 0
for i = 4 + k, #ARGV, 6 do
  local c, from, ok = tonumber(ARGV[i]), ARGV[i + 3], '0'
  local at = redis.call('ZRANGEBYSCORE', KEYS[4 + c], ARGV[i + 1], '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  local m = at[1]
  if m and h[c + 1] and (match(m, '^run|%d+|([^|]+)|') or match(m, '|([^|]+)|[^|]*|%d+|%d+$')) == ARGV[i + 2] then
    local kept, segment, len = match(m, '^(.*|)([^|]*)|%d+|(%d+)$')
    if to == '' then
      if segment == from then ok = '1' end
    elseif segment == to then
      ok = '1'
    elseif segment == from then
      ok = '1'
      moved = moved + 1
      redis.call('ZREM', KEYS[4 + c], m)
      redis.call('ZADD', KEYS[4 + c], at[2], kept .. to .. '|' .. ARGV[i + 4] .. '|' .. ARGV[i + 5])
      grown[c] = (grown[c] or 0) + ARGV[i + 5] - len
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
