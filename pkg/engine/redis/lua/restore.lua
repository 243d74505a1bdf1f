-- restore: put runs of sealed segments back that lie above their catalogs' heads.
-- KEYS  1 heads  2 refs  3 garbage  4 catalogs  5 outbox  6…5+k live logs
-- ARGV  1 epoch  2 names of the catalogs, by line  3 k  4…3+k catalogs (base64)
--       then nine a run: number of its catalog (1…k), first, last (fixed form),
--       deltas, bytes, segment, its entry of the log, start of its outbox line, the version
--       before it if it shall have an event although it is passed over, else ''
-- Returns {'OK'}   {'DONE'} the shard is open already   {'EPOCH'}
-- Invariant: what the shard holds is passed over; runs come ascending by version
-- in each catalog.
local find, match, sub = string.find, string.match, string.sub
local heads, refs, garbage, catalogs, outbox = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local k = tonumber(ARGV[3])

local h = redis.call('HMGET', heads, '~epoch', '~events', unpack(ARGV, 4, 3 + k))
local shard, events = h[1], h[2]
--#include opening
local time = redis.call('TIME')
local ms = time[1] .. sub(1000000 + time[2], 2, 4)

local cats, changed, fresh, names = {}, {}, {}, nil
local segments, counts, out = {}, {}, {ms}
for i = 4 + k, #ARGV, 9 do
  local c, first, last, segment = tonumber(ARGV[i]), ARGV[i + 1], ARGV[i + 2], ARGV[i + 5]
  local cat = cats[c]
  if not cat then
    local v = h[c + 2] or '0000000000000000|0000000000000000|0000000000000000|0000000000000000|0|0|0|0|0|'
    cat = {last = sub(v, 1, 16), head = sub(v, 18, 33), snap = sub(v, 34, 67)}
    cat.doc, cat.pack, cat.runs, cat.deltas, cat.bytes, cat.open = match(v, '^(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|(.*)$', 69)
    cats[c] = cat
  end
  if first > cat.head then
    redis.call('RPUSH', KEYS[5 + c], ARGV[i + 6])
    if cat.head == '0000000000000000' then
      if not names then
        names = {}
        for name in string.gmatch(ARGV[2], '[^\n]+') do names[#names + 1] = name end
      end
      fresh[#fresh + 1] = 0
      fresh[#fresh + 1] = names[c]
    end
    cat.runs, cat.deltas, cat.bytes = cat.runs + 1, cat.deltas + ARGV[i + 3], cat.bytes + ARGV[i + 4]
    if events then
      out[#out + 1] = ARGV[i + 7] .. '|' .. cat.head .. '|' .. cat.deltas .. '|' .. cat.bytes .. '|' .. cat.doc
    end
    cat.head = last
    if cat.last < last then cat.last = last end
    changed[c] = true
    if not counts[segment] then
      segments[#segments + 1] = segment
      counts[segment] = 0
    end
    counts[segment] = counts[segment] + 1
  elseif events and ARGV[i + 8] ~= '' then
    out[#out + 1] = ARGV[i + 7] .. '|' .. ARGV[i + 8] .. '|0|0|0'
  end
end
if #out > 1 then redis.call('XADD', outbox, '*', 'c', table.concat(out, '\n')) end
local set = {}
for c in pairs(changed) do
  local cat = cats[c]
  set[#set + 1] = ARGV[3 + c]
  set[#set + 1] = cat.last .. '|' .. cat.head .. cat.snap .. '|' .. cat.doc .. '|' .. cat.pack .. '|' .. cat.runs .. '|' .. cat.deltas .. '|'
    .. cat.bytes .. '|' .. cat.open
end
if #set == 0 then return {'OK'} end
redis.call('HSET', heads, unpack(set))
for _, segment in ipairs(segments) do redis.call('HINCRBY', refs, segment, counts[segment]) end
redis.call('ZREM', garbage, unpack(segments))
if #fresh > 0 then redis.call('ZADD', catalogs, unpack(fresh)) end
return {'OK'}
