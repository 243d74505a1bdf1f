-- Included by scripts of a new epoch. Wants shard (the value of field ~epoch).
-- The shard must be fenced at epoch ARGV[1] on this server; when it is open
-- already, what comes late has been done before.
if not shard or find(shard, ARGV[1] .. '|open', 1, true) ~= 1 then return {'EPOCH'} end
local info = redis.call('INFO', 'replication')
if not find(info, 'role:master', 1, true)
  or not find(info, 'master_replid:' .. match(shard, '(%x+)$'), 1, true) then
  return {'EPOCH'}
end
if find(shard, ARGV[1] .. '|open|', 1, true) == 1 then return {'DONE'} end
