-- precommit: reserve versions for the runs of a segment, in one shard or several.
-- KEYS  a shard after the other: heads, plan of the segment, pending, catalogs, then
--       the idempotency ids of the runs that have one
-- ARGV  1 epoch  2 segment  3… a shard: values in MessagePack, one after the other:
--       number of its KEYS; names of the catalogs, by line; k; r; most deltas of a live
--       log, 0 for any; 1 when the r runs are one delta of each catalog in order, else 0;
--       number of extras; the k catalogs (base64)
--       then, when it is 0, r pairs, a run: number of its catalog (1…k), its deltas
--       then five for every run that has an id or is conditional, ascending:
--       number of the run (1…r), id (escaped) or '', fingerprint (16 bytes),
--       expected head (fixed form) or '', gate (escaped) or ''
-- Returns an answer a shard: {'OK', TIME s, TIME us, plan, others}: others has a line
--       for each run that is not in the plan: number|P paced; |L live log too long;
--       |D|first|n committed before; |F|first|n in flight; |R id reused; |U|segment of the
--       oldest open reservation, undecided; |C|head conflict; |X the catalog's head is lost
--       {'EPOCH'}
-- Invariant: versions of a catalog are given once, ascending, above floor; its
-- open reservations stand in the order in which they were given. A segment that
-- has a plan gets that plan again and nothing new. An id is reserved once.
local find, match, sub, format, values = string.find, string.match, string.sub, string.format, cmsgpack.unpack_limit
local segment = ARGV[2]
--#include asked

local function one(at, shard_args)
  local from, own, listed, k, r, most, plain, x = values(shard_args, 7, 0)
  local heads, plan_key, pending, catalogs = KEYS[at + 1], KEYS[at + 2], KEYS[at + 3], KEYS[at + 4]
  local fields = {values(shard_args, k, from)}
  local pairs_of
  if plain == 0 then pairs_of = {values(shard_args, 2 * r, fields[1])} end

  local h = redis.call('HMGET', heads, '~epoch', unpack(fields, 2, k + 1))
  local shard = h[1]
--#include inepoch

  -- What is asked for beyond a version, by number of the run.
  local extras, ids
  local claims = {} -- ids that this call reserves, by key
  if x > 0 then
    extras = {}
    ids = own > 4 and redis.call('MGET', unpack(KEYS, at + 5, at + own)) or {}
    local key, next_one = 0, (pairs_of or fields)[1]
    for i = 1, x do
      local e, number, id = {}, nil, nil
      next_one, number, id, e.fingerprint, e.expect, e.gate = values(shard_args, 5, next_one)
      if id ~= '' then
        key = key + 1
        e.id, e.key = id, key
      end
      extras[number] = e
    end
  end
  -- What an id that is known answers, nil for one that is not.
  local function known(e)
    local v = e.key and (claims[KEYS[at + 4 + e.key]] or ids[e.key])
    if not v then return nil end
    local state, first, n, until_or_segment = match(v, '^(%a)|(%d+)|(%d+)|([^|]*)|')
    if state == 'c' and until_or_segment <= ms then return nil end
    if sub(v, -16) ~= e.fingerprint then return 'R' end
    return (state == 'c' and 'D|' or 'F|') .. first .. '|' .. n
  end

  local others = {}
  local plan = redis.call('GET', plan_key)
  if plan then
    local states, places = match(plan, '^(%a*)|?([%d,]*)\n')
    if places == '' and #states == r then return {'OK', time[1], time[2], plan, ''} end
    local has = {}
    for j in string.gmatch(places, '%d+') do has[tonumber(j)] = true end
    for j = 1, r do
      if not has[j] then
        local e = extras and extras[j]
        others[#others + 1] = j .. '|' .. (e and known(e) or 'P')
      end
    end
    return {'OK', time[1], time[2], plan, table.concat(others, '\n')}
  end

  -- A head that is missing though its catalog was written is damage: what was
  -- given before is not known.
  local stop, names = {}, nil -- stop: why nothing is reserved in a catalog any more
  for c = 1, k do
    if not h[c + 1] then
      if not names then
        names = {}
        for name in string.gmatch(listed, '[^\n]+') do names[#names + 1] = name end
      end
      if redis.call('ZSCORE', catalogs, names[c]) then stop[c] = 'X' end
    end
  end

  -- base: no version at or below it. A catalog whose last version is further
  -- ahead than one second, to the millisecond, has used up its ids and waits; time
  -- that steps back makes none wait.
  local now, low = tonumber(time[1]), tonumber(floor)
  local base_sec, base_seq = now, 0
  if low >= now then base_sec, base_seq = low, 999999 end
  local ahead = (math.max(tonumber(mark), low * 1000 + 999) + 1000) * 1000 + 999
  local entry = ms .. '@' .. segment .. ','

  local secs, seqs, texts, lines, places, n = {}, {}, {}, {}, {}, 0
  local gated, opened, claimed, full = {}, {}, nil, {}
  for j = 1, r do
    local c, count = j, 1
    if pairs_of then c, count = pairs_of[2 * j], pairs_of[2 * j + 1] end
    local v, sec, seq, why = h[c + 1], secs[c], seqs[c], stop[c]
    if not sec then
      if v then
        sec, seq = tonumber(sub(v, 1, 10)), tonumber(sub(v, 11, 16))
        -- The gate of a conditional write closes the head's text.
        local bang = find(v, '!', 69, true)
        if bang then
          local until_ms, token = match(v, '^(%d+)@(.*)$', bang + 1)
          v = sub(v, 1, bang - 1)
          h[c + 1] = v
          -- One with more than its second left is from before the clock was stepped back.
          if until_ms > ms and tonumber(until_ms) <= tonumber(ms) + 1000 then gated[c] = {until_ms, token} end
        end
        full[c] = most > 0 and tonumber(match(v, '^%d+|%d+|%d+|(%d+)|', 69)) > most
      else
        sec, seq = 0, 0
      end
      secs[c], seqs[c] = sec, seq
    end
    local e, gate = extras and extras[j], gated[c]
    if not why and e then why = known(e) end
    if not why and gate and gate[2] ~= (e and e.gate or '') then why = 'P' end
    if not why and e and e.expect ~= '' then
      if texts[c] or v and sub(v, -1) == ',' then
        if e.gate ~= '' then
          gate = {tostring(ms + 1000), e.gate, true}
          gated[c] = gate
        end
        why = 'U|' .. (v and match(v, '|%d+@([^,]*),', 69) or segment)
      elseif (v and sub(v, 18, 33) or '0000000000000000') ~= e.expect then
        why = 'C|' .. (v and sub(v, 18, 33) or '0000000000000000')
        if gate and gate[2] == e.gate then gated[c], opened[c] = nil, true end -- it has had its turn
      end
    end
    if not why and full[c] then why = 'L' end
    if not why and sec * 1000000 + seq > ahead then why = 'P' end
    if why then
      others[#others + 1] = j .. '|' .. why
    else
      if gate and e and gate[2] == e.gate then gated[c] = nil end
      if sec < base_sec or sec == base_sec and seq < base_seq then sec, seq = base_sec, base_seq end
      seq = seq + 1
      if seq > 999999 then sec, seq = sec + 1, 1 end
      local first = format('%010d%06d', sec, seq)
      n = n + 1
      local number = count == 1 and '1' or format('%d', count)
      local line = fields[c + 1] .. '|' .. number .. '|' .. first
      if e and e.id then
        line = line .. '|' .. e.id
        claimed = claimed or {}
        local value = 'p|' .. first .. '|' .. number .. '|' .. segment .. '|' .. e.fingerprint
        claimed[#claimed + 1] = KEYS[at + 4 + e.key]
        claimed[#claimed + 1] = value
        claims[KEYS[at + 4 + e.key]] = value
      end
      lines[n], places[n] = line, j
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

  local set = {'~epoch', marked}
  for c = 1, k do
    local last, gate, v = texts[c], gated[c], h[c + 1]
    if last or gate and gate[3] or opened[c] then
      set[#set + 1] = fields[c + 1]
      local suffix = gate and '!' .. gate[1] .. '@' .. gate[2] or ''
      if last then suffix = entry .. suffix end
      if v then
        set[#set + 1] = (last or sub(v, 1, 16)) .. sub(v, 17) .. suffix
      else
        set[#set + 1] = last .. '|0000000000000000|0000000000000000|0000000000000000|0|0|0|0|0|' .. suffix
      end
    end
  end
  redis.call('HSET', heads, unpack(set))
  if n == 0 then return {'OK', time[1], time[2], '', table.concat(others, '\n')} end
  plan = string.rep('o', n) .. (n < r and '|' .. table.concat(places, ',') or '') .. '\n' .. table.concat(lines, '\n')
  redis.call('SET', plan_key, plan)
  redis.call('ZADD', pending, ms, segment)
  if claimed then redis.call('MSET', unpack(claimed)) end
  return {'OK', time[1], time[2], plan, table.concat(others, '\n')}
end

--#include shards
