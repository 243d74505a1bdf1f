-- receipts: put idempotency ids of committed runs back.
-- KEYS  1 heads  2… ids
-- ARGV  1 epoch  then three an id: when it expires (ms), start and end of its
--       receipt
-- Returns {'OK'}   {'DONE'} the shard is open already   {'EPOCH'}
-- Invariant: a committed run's receipt takes the place of whatever was known of
-- its id. What has expired is passed over.
local find, match, sub = string.find, string.match, string.sub
local heads = KEYS[1]

local shard = redis.call('HGET', heads, '~epoch')
--#include opening
local time = redis.call('TIME')
local ms = time[1] .. sub(1000000 + time[2], 2, 4)
for i = 2, #KEYS do
  local at = 3 * i - 4
  local left = ARGV[at] - ms
  if left > 0 then redis.call('SET', KEYS[i], ARGV[at + 1] .. ARGV[at] .. ARGV[at + 2], 'PX', left) end
end
return {'OK'}
