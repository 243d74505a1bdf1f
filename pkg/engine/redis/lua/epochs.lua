-- epochs: what the shard believes, and which server this is. Works in any state.
-- KEYS  1 heads  2 catalogs
-- ARGV  none
-- Returns {'OK', ~epoch or '', role, replid, number of catalogs}
-- Invariant: reads only.
local heads, catalogs = KEYS[1], KEYS[2]

local info = redis.call('INFO', 'replication')
return {'OK', redis.call('HGET', heads, '~epoch') or '', string.match(info, 'role:(%a+)') or '',
  string.match(info, 'master_replid:(%x+)') or '', redis.call('ZCARD', catalogs)}
