-- heartbeat: a writer lives; the shard's mark moves.
-- KEYS  1 heads  2 writers
-- ARGV  1 epoch  2 writer
-- Returns {'OK', TIME s, TIME us}   {'EPOCH'}
-- Invariant: a writer that was silent for an hour is forgotten.
local find, match, sub = string.find, string.match, string.sub
local heads, writers = KEYS[1], KEYS[2]

local shard = redis.call('HGET', heads, '~epoch')
--#include work

redis.call('HSET', heads, '~epoch', marked)
redis.call('ZADD', writers, ms, ARGV[2])
redis.call('ZREMRANGEBYSCORE', writers, '-inf', '(' .. (time[1] - 3600) .. '000')
return {'OK', time[1], time[2]}
