-- garbage: what the shard does not need any more, and whose events are published.
-- KEYS  1 heads  2 garbage  3 outbox
-- ARGV  1 epoch  2 limit
-- Returns {'OK', members and times in turn}   {'EPOCH'}
-- Invariant: reads only. What became garbage when the outbox's oldest entry was
-- written, or later, is left out.
local heads, garbage, outbox = KEYS[1], KEYS[2], KEYS[3]

local shard = redis.call('HGET', heads, '~epoch')
if not shard or string.find(shard, ARGV[1] .. '|open|', 1, true) ~= 1 then return {'EPOCH'} end
local oldest, upto = redis.call('XRANGE', outbox, '-', '+', 'COUNT', 1), '+inf'
if oldest[1] then upto = '(' .. string.match(oldest[1][2][2], '^%d+') end
return {'OK', redis.call('ZRANGEBYSCORE', garbage, '-inf', upto, 'WITHSCORES', 'LIMIT', 0, ARGV[2])}
