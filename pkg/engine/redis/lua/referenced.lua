-- referenced: which segments have a live or an undecided run in the shard.
-- KEYS  1 heads  2 refs  3 pending
-- ARGV  1 epoch  2… segments
-- Returns {'OK', a character a segment: 1 or 0}   {'EPOCH'}
-- Invariant: reads only.
local heads, refs, pending = KEYS[1], KEYS[2], KEYS[3]

local shard = redis.call('HGET', heads, '~epoch')
if not shard or string.find(shard, ARGV[1] .. '|open|', 1, true) ~= 1 then return {'EPOCH'} end
local counts, out = redis.call('HMGET', refs, unpack(ARGV, 2)), {}
for i = 1, #ARGV - 1 do
  -- A count below zero was lost: the segment may still be needed.
  local needed = counts[i] and counts[i] ~= '0' or redis.call('ZSCORE', pending, ARGV[i + 1])
  out[i] = needed and '1' or '0'
end
return {'OK', table.concat(out)}
