-- rollback: decide that runs of a segment never happen.
-- KEYS  1 heads  2 plan of the segment  3 pending  4 refs  5 garbage
--       6… ids of the runs
-- ARGV  1 epoch  2 segment  3 m, the number of ids  4…3+m their names in the plan:
--       catalog (base64)|id
--       then the runs to keep: catalog (base64)|first version
-- Returns {'OK'}   {'IDS', names of ids, by line} call again with these   {'EPOCH'}
-- Invariant: only open runs are decided; what is decided stays so.
local find, match, sub = string.find, string.match, string.sub
local heads, plan_key, pending, refs, garbage = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local segment = ARGV[2]

local shard = redis.call('HGET', heads, '~epoch')
--#include work

local id_keys, keep, m = {}, {}, tonumber(ARGV[3])
for i = 1, m do id_keys[ARGV[3 + i]] = KEYS[5 + i] end
for i = 4 + m, #ARGV do keep[ARGV[i]] = true end
local function verdict(field, first)
  return keep[field .. '|' .. first] and 'o' or 'r'
end
--#include decide
redis.call('HSET', heads, '~epoch', marked)
return {'OK'}
