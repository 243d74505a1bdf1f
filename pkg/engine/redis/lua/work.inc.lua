-- Included by scripts that change a shard in its epoch. Wants shard (the value
-- of field ~epoch); gives floor, mark, time (TIME), ms (TIME in milliseconds,
-- 13 digits) and marked (~epoch with the mark moved).
-- The shard must be open in epoch ARGV[1], on the server that was fenced.
if not shard or find(shard, ARGV[1] .. '|open|', 1, true) ~= 1 then return {'EPOCH'} end
local floor, mark, replid = match(shard, '|(%d+)|(%d+)|(%x+)$')
local info = redis.call('INFO', 'replication')
if not find(info, 'role:master', 1, true) or not find(info, 'master_replid:' .. replid, 1, true) then
  return {'EPOCH'}
end
local time = redis.call('TIME')
local ms = time[1] .. sub(1000000 + time[2], 2, 4)
if ms > mark then mark = ms end
local marked = ARGV[1] .. '|open|' .. floor .. '|' .. mark .. '|' .. replid
