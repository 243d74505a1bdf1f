-- precommit: reserve versions for the runs of a segment in this shard.
-- KEYS  1 heads  2 plan of the segment  3 pending  4 catalogs
-- ARGV  1 epoch  2 segment  3 names of the catalogs, by line  4 k
--       5…4+k catalogs (base64)
--       then a pair a run: number of its catalog (1…k), its deltas
-- Returns {'OK', TIME s, TIME us, plan, damaged}: a run that is not in the plan
--       is paced; damaged: catalogs (base64, by line) whose head is lost.
--       {'EPOCH'}
-- Invariant: versions of a catalog are given once, ascending, above floor; its
-- open reservations stand in the order in which they were given. A segment that
-- has a plan gets that plan again and nothing new.
local find, match, sub, format = string.find, string.match, string.sub, string.format
local heads, plan_key, pending, catalogs = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local segment, k = ARGV[2], tonumber(ARGV[4])

local h = redis.call('HMGET', heads, '~epoch', unpack(ARGV, 5, 4 + k))
local shard = h[1]
--#include work

local plan = redis.call('GET', plan_key)
if plan then return {'OK', time[1], time[2], plan, ''} end

-- A head that is missing though its catalog was written is damage: what was
-- given before is not known.
local damaged, lost = '', {}
local names
for c = 1, k do
  if not h[c + 1] then
    if not names then
      names = {}
      for name in string.gmatch(ARGV[3], '[^\n]+') do names[#names + 1] = name end
    end
    if redis.call('ZSCORE', catalogs, names[c]) then
      lost[c] = true
      damaged = damaged .. ARGV[4 + c] .. '\n'
    end
  end
end

-- base: no version at or below it. A catalog whose last version is further
-- ahead than one second has used up its ids and waits; time that steps back
-- makes none wait.
local now, low = tonumber(time[1]), tonumber(floor)
local base_sec, base_seq = now, 0
if low >= now then base_sec, base_seq = low, 999999 end
local ahead = math.max(now, low, tonumber(sub(mark, 1, -4))) + 1

local secs, seqs, texts, lines, n = {}, {}, {}, {}, 0
for i = 5 + k, #ARGV, 2 do
  local c, count = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  local sec, seq = secs[c], seqs[c]
  if not sec then
    local v = h[c + 1]
    if v then
      sec, seq = tonumber(sub(v, 1, 10)), tonumber(sub(v, 11, 16))
    else
      sec, seq = 0, 0
    end
  end
  if sec > ahead then lost[c] = true end -- later runs of the catalog wait too
  if not lost[c] then
    if sec < base_sec or sec == base_sec and seq < base_seq then sec, seq = base_sec, base_seq end
    seq = seq + 1
    if seq > 999999 then sec, seq = sec + 1, 1 end
    local first = format('%010d%06d', sec, seq)
    n = n + 1
    lines[n] = ARGV[4 + c] .. '|' .. ARGV[i + 1] .. '|' .. first
    if count == 1 then
      texts[c] = first
    else
      seq = seq + count - 1
      while seq > 999999 do sec, seq = sec + 1, seq - 999999 end
      texts[c] = format('%010d%06d', sec, seq)
    end
    secs[c], seqs[c] = sec, seq
  end
end
if n == 0 then return {'OK', time[1], time[2], '', damaged} end

local set, entry = {'~epoch', marked}, ms .. '@' .. segment .. ','
for c, last in pairs(texts) do
  local v = h[c + 1]
  set[#set + 1] = ARGV[4 + c]
  if v then
    set[#set + 1] = last .. sub(v, 17) .. entry
  else
    set[#set + 1] = last .. '|0000000000000000|0000000000000000|0000000000000000|0|0|0|0|0|' .. entry
  end
end
redis.call('HSET', heads, unpack(set))
plan = string.rep('o', n) .. '\n' .. table.concat(lines, '\n')
redis.call('SET', plan_key, plan)
redis.call('ZADD', pending, ms, segment)
return {'OK', time[1], time[2], plan, damaged}
