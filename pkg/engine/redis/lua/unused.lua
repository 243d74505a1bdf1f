-- unused: since when the shard does not need segments.
-- KEYS  1 heads  2 refs  3 pending  4 garbage  5 outbox
-- ARGV  1 epoch  2… segments
-- Returns {'OK', of each segment: x when it is needed, else the time (ms) since
--       when it is garbage, 0 when it is not known}   {'EPOCH'}
-- Invariant: reads only. A segment is needed while it has a live or an undecided
-- run here, or while an event of it may be in the outbox.
local heads, refs, pending, garbage, outbox = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]

local shard = redis.call('HGET', heads, '~epoch')
if not shard or string.find(shard, ARGV[1] .. '|open|', 1, true) ~= 1 then return {'EPOCH'} end
local oldest, from = redis.call('XRANGE', outbox, '-', '+', 'COUNT', 1), nil
if oldest[1] then from = tonumber(string.match(oldest[1][2][2], '^%d+')) end
local counts, out = redis.call('HMGET', refs, unpack(ARGV, 2)), {}
for i = 1, #ARGV - 1 do
  local since = redis.call('ZSCORE', garbage, ARGV[i + 1])
  -- A count below zero was lost: the segment may still be needed.
  if counts[i] and counts[i] ~= '0' or redis.call('ZSCORE', pending, ARGV[i + 1]) or since and from and tonumber(since) >= from then
    out[i] = 'x'
  else
    out[i] = since or '0'
  end
end
return {'OK', out}
