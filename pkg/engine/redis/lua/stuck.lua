-- stuck: the undecided segments of the shard and the heartbeats of writers.
-- KEYS  1 heads  2 pending  3 writers
-- ARGV  1 epoch
-- Returns {'OK', TIME s, TIME us, {segment, ms, …}, {writer, ms, …}}   {'EPOCH'}
-- Invariant: reads only.
local heads, pending, writers = KEYS[1], KEYS[2], KEYS[3]

local shard = redis.call('HGET', heads, '~epoch')
if not shard or string.find(shard, ARGV[1] .. '|open|', 1, true) ~= 1 then return {'EPOCH'} end
local time = redis.call('TIME')
local segments = redis.call('ZRANGE', pending, 0, -1, 'WITHSCORES')
if #segments == 0 then return {'OK', time[1], time[2], {}, {}} end
return {'OK', time[1], time[2], segments, redis.call('ZRANGE', writers, 0, -1, 'WITHSCORES')}
