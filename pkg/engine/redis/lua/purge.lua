-- purge: remove what is left of a shard that has lost its epoch; the bucket has
-- it all. Its catalogs first, a page at a time, then the rest.
-- KEYS  1 heads  2 catalogs  3 pending  4 refs  5 garbage
--       6… live logs and snapshots of a page of catalogs, plans
-- ARGV  1 '1' on the last call  2… names of the page's catalogs
-- Returns {'OK'}   {'DONE'} the shard has an epoch: nothing is removed
-- Invariant: nothing of a fenced shard is removed.
local heads, catalogs = KEYS[1], KEYS[2]

if redis.call('HEXISTS', heads, '~epoch') == 1 then return {'DONE'} end
if #KEYS > 5 then redis.call('UNLINK', unpack(KEYS, 6)) end
if #ARGV > 1 then redis.call('ZREM', catalogs, unpack(ARGV, 2)) end
if ARGV[1] == '1' then
  local events = redis.call('HGET', heads, '~events')
  redis.call('UNLINK', unpack(KEYS, 1, 5))
  if events then redis.call('HSET', heads, '~events', events) end
end
return {'OK'}
