-- trimout: remove published entries from the outbox.
-- KEYS  1 heads  2 outbox
-- ARGV  1 epoch  2 id of the oldest entry to keep
-- Returns {'OK'}   {'EPOCH'}
-- Invariant: the stream stays when it is empty, so that its ids go on.
local heads, outbox = KEYS[1], KEYS[2]

local shard = redis.call('HGET', heads, '~epoch')
if not shard or string.find(shard, ARGV[1] .. '|open|', 1, true) ~= 1 then return {'EPOCH'} end
redis.call('XTRIM', outbox, 'MINID', '=', ARGV[2])
return {'OK'}
