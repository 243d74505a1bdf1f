-- empty: remove what an opening shard knows. Its catalogs first, a page at a time,
-- then the rest.
-- KEYS  1 heads  2 catalogs  3 pending  4 refs  5 garbage  6 outbox
--       7… live logs and snapshots of a page of catalogs
-- ARGV  1 epoch  2 '1' on the last call  3… names of the page's catalogs
-- Returns {'OK'}   {'DONE'} the shard is open already, or was emptied in this epoch
--       {'EPOCH'}
-- Invariant: the epoch and the switch of events stay; state opening becomes
-- openempty, so that what comes late does not remove what was restored.
-- Reservations were rolled back before.
local find, match, sub = string.find, string.match, string.sub
local heads, catalogs, outbox = KEYS[1], KEYS[2], KEYS[6]

local h = redis.call('HMGET', heads, '~epoch', '~events')
local shard = h[1]
--#include opening
if find(shard, '|openempty|', 1, true) then return {'DONE'} end
if #KEYS > 6 then redis.call('UNLINK', unpack(KEYS, 7)) end
if #ARGV > 2 then redis.call('ZREM', catalogs, unpack(ARGV, 3)) end
if ARGV[2] == '1' then
  redis.call('UNLINK', unpack(KEYS, 1, 5))
  redis.call('XTRIM', outbox, 'MAXLEN', '=', 0)
  redis.call('HSET', heads, '~epoch', (string.gsub(shard, '|opening|', '|openempty|', 1)))
  if h[2] then redis.call('HSET', heads, '~events', h[2]) end
end
return {'OK'}
