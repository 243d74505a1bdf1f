-- read: one reading command, if the shard is in the epoch and state asked for.
-- KEYS  1 heads  2 the key that is read
-- ARGV  1 epoch  2 state: open, or opening (then on the server that was fenced)
--       3 command  4… its arguments behind the key
-- Returns {'OK', its answer; false when there is none}   {'DONE'} open instead of
--       opening   {'EPOCH'}
-- Invariant: reads only.
local find, match = string.find, string.match
local heads, key = KEYS[1], KEYS[2]

local shard = redis.call('HGET', heads, '~epoch')
if ARGV[2] == 'opening' then
--#include opening
elseif not shard or find(shard, ARGV[1] .. '|open|', 1, true) ~= 1 then
  return {'EPOCH'}
end
return {'OK', redis.call(ARGV[3], key, unpack(ARGV, 4))}
