-- rollback: decide that runs of a segment never happen.
-- KEYS  1 heads  2 plan of the segment  3 pending  4 refs  5 garbage
-- ARGV  1 epoch  2 segment  3… runs to keep: catalog (base64)|first version
-- Returns {'OK'}   {'EPOCH'}
-- Invariant: only open runs are decided; what is decided stays so.
local find, match, sub = string.find, string.match, string.sub
local heads, plan_key, pending, refs, garbage = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local segment = ARGV[2]

local shard = redis.call('HGET', heads, '~epoch')
--#include work

local keep = {}
for i = 3, #ARGV do keep[ARGV[i]] = true end
local function verdict(line, field)
  return keep[field .. '|' .. match(line, '[^|]+$')] and 'o' or 'r'
end
--#include decide
redis.call('HSET', heads, '~epoch', marked)
return {'OK'}
