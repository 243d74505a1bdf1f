-- Included where segments that the shard does not need become garbage. Wants refs,
-- pending, garbage, since and the segments in ARGV[2…]. What is garbage already keeps
-- its time.
local counts = redis.call('HMGET', refs, unpack(ARGV, 2))
for i = 1, #ARGV - 1 do
  local segment = ARGV[i + 1]
  if (not counts[i] or counts[i] == '0') and not redis.call('ZSCORE', pending, segment) then
    redis.call('HDEL', refs, segment)
    redis.call('ZADD', garbage, 'NX', since, segment)
  end
end
