-- resolve: decide every open run of a segment while the shard is opening.
-- KEYS  1 heads  2 plan of the segment  3 pending  4 refs  5 garbage
--       6… ids of the runs
-- ARGV  1 epoch  2 segment  3 m, the number of ids  4…3+m their names in the plan:
--       catalog (base64)|id
--       then the runs that a seal holds: catalog (base64)|first version
-- Returns {'OK'}   {'DONE'} the shard is open already
--       {'IDS', names of ids, by line} call again with these   {'EPOCH'}
-- Invariant: what a seal holds was restored: committed. All else never happened.
local find, match, sub = string.find, string.match, string.sub
local heads, plan_key, pending, refs, garbage = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local segment = ARGV[2]

local shard = redis.call('HGET', heads, '~epoch')
--#include opening
local time = redis.call('TIME')
local ms = time[1] .. sub(1000000 + time[2], 2, 4)

local id_keys, sealed, m = {}, {}, tonumber(ARGV[3])
for i = 1, m do id_keys[ARGV[3 + i]] = KEYS[5 + i] end
for i = 4 + m, #ARGV do sealed[ARGV[i]] = true end
local function verdict(field, first)
  return sealed[field .. '|' .. first] and 'c' or 'r'
end
--#include decide
return {'OK'}
