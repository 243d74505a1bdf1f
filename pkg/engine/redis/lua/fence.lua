-- fence: move the shard to a later epoch, state opening, on this server.
-- KEYS  1 heads  2 catalogs  3 pending  4 refs
-- ARGV  1 epoch
-- Returns {'OK'}   {'EPOCH'} it is at a later one, or this is a replica
--       {'REMAINS'} the shard has lost its epoch but not all of its data: purge
-- Invariant: epochs only grow. Data, floor and mark stay.
local heads, catalogs, pending, refs = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local epoch = ARGV[1]

local info = redis.call('INFO', 'replication')
local replid = string.match(info, 'master_replid:(%x+)')
if not replid or not string.find(info, 'role:master', 1, true) then return {'EPOCH'} end
local shard = redis.call('HGET', heads, '~epoch')
local floor, mark = '0', '0000000000000'
if shard then
  local n
  n, floor, mark = string.match(shard, '^(%d+)|%a+|(%d+)|(%d+)|')
  if n == epoch then return {'OK'} end
  -- Decimal numbers without leading zeros, of any size.
  if #n > #epoch or #n == #epoch and n > epoch then return {'EPOCH'} end
elseif redis.call('EXISTS', catalogs, pending, refs) > 0 or redis.call('HLEN', heads) > redis.call('HEXISTS', heads, '~events') then
  return {'REMAINS'}
end
redis.call('HSET', heads, '~epoch', epoch .. '|opening|' .. floor .. '|' .. mark .. '|' .. replid)
return {'OK'}
