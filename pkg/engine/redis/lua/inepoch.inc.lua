-- Included by scripts that change a shard in its epoch, behind asked. Wants shard (the
-- value of field ~epoch); gives floor, mark and marked (~epoch with the mark moved).
-- The shard must be open in epoch ARGV[1], on the server that was fenced.
if not shard or find(shard, ARGV[1] .. '|open|', 1, true) ~= 1 then return {'EPOCH'} end
local floor, mark, replid = match(shard, '|(%d+)|(%d+)|(%x+)$')
if not find(info, 'role:master', 1, true) or not find(info, 'master_replid:' .. replid, 1, true) then
  return {'EPOCH'}
end
if ms > mark then mark = ms end
local marked = ARGV[1] .. '|open|' .. floor .. '|' .. mark .. '|' .. replid
