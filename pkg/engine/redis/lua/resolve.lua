-- resolve: decide every open run of a segment while the shard is opening.
-- KEYS  1 heads  2 plan of the segment  3 pending  4 refs  5 garbage
-- ARGV  1 epoch  2 segment
-- Returns {'OK'}   {'DONE'} the shard is open already   {'EPOCH'}
-- Invariant: a run at or below its catalog's head was restored: committed. All
-- others never happened.
local find, match, sub = string.find, string.match, string.sub
local heads, plan_key, pending, refs, garbage = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local segment = ARGV[2]

local shard = redis.call('HGET', heads, '~epoch')
--#include opening
local time = redis.call('TIME')
local ms = time[1] .. sub(1000000 + time[2], 2, 4)

-- Runs are restored whole and heads end at runs: a head at or above the first
-- version of a run is at or above its last.
local function verdict(line, field)
  local v = redis.call('HGET', heads, field)
  return v and sub(v, 18, 33) >= match(line, '[^|]+$') and 'c' or 'r'
end
--#include decide
return {'OK'}
