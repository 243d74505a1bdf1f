-- segments: segments of the bucket that the shard does not need are garbage.
-- KEYS  1 heads  2 refs  3 pending  4 garbage
-- ARGV  1 epoch  2… segments
-- Returns {'OK'}   {'DONE'} the shard is open already   {'EPOCH'}
-- Invariant: what is garbage already keeps its time.
local find, match, sub = string.find, string.match, string.sub
local heads, refs, pending, garbage = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local shard = redis.call('HGET', heads, '~epoch')
--#include opening
local time = redis.call('TIME')
local ms = time[1] .. sub(1000000 + time[2], 2, 4)
--#include since
local counts = redis.call('HMGET', refs, unpack(ARGV, 2))
for i = 1, #ARGV - 1 do
  local segment = ARGV[i + 1]
  if (not counts[i] or counts[i] == '0') and not redis.call('ZSCORE', pending, segment) then
    redis.call('HDEL', refs, segment)
    redis.call('ZADD', garbage, 'NX', since, segment)
  end
end
return {'OK'}
