-- commit: make planned runs visible, each catalog in its turn, in one shard or several.
-- KEYS  a shard after the other: heads, plan of the segment, pending, refs, catalogs,
--       outbox, then the live logs of the groups' catalogs, then the idempotency ids of
--       the runs that have one, in the order of the groups
-- ARGV  1 epoch  2 segment  3… a shard: values in MessagePack, one after the other:
--       number of its KEYS; names of the groups' catalogs, by line; g; the plan's lines
--       of the runs, in the order of the call; the same in the order of the groups, ''
--       when that is the same order; 1 when each group is one run of one delta without an
--       id, else 0; the g catalogs of the groups (base64)
--       then a group is the runs of one catalog, in order: when it is 0 runs, ids and
--       deltas; bytes, start of its outbox line, then the runs as the log has them, then a
--       pair an id: start and end of its receipt
-- Returns an answer a shard: {'OK', answers, plan}: answers '' when every group is
--       committed, else a line a group: 'c' committed; 'w' and a segment: an older
--       reservation is open; 'd' the head is lost; 'm' and the segment of the oldest
--       reservation: not all runs of the group are open and next in turn, the
--       plan tells
--       {'GONE'} there is no plan   {'EPOCH'}
-- Invariant: a group is committed whole or not at all, and only while the oldest
-- open reservation of its catalog is this segment's and its runs are the first
-- open ones there: a log only grows at its end, in version order.
local find, match, sub, rep, format, values = string.find, string.match, string.sub, string.rep, string.format, cmsgpack.unpack_limit
local segment = ARGV[2]
local turn = '@' .. segment .. ','
--#include asked

local function one(at, shard_args)
  local next_one, _, listed, g, lines, order, plain = values(shard_args, 6, 0)
  local heads, plan_key, pending, refs, catalogs, outbox = KEYS[at + 1], KEYS[at + 2], KEYS[at + 3], KEYS[at + 4], KEYS[at + 5], KEYS[at + 6]
  local fields = {values(shard_args, g, next_one)}
  next_one = fields[1]

  local h = redis.call('HMGET', heads, '~epoch', '~events', unpack(fields, 2, g + 1))
  local shard, events = h[1], h[2]
--#include inepoch

  local plan = redis.call('GET', plan_key)
  if not plan then return {'GONE'} end

  -- The usual call names the whole plan and all of it is open. Elsewhere lines
  -- are compared without the ids that may follow.
  local states = match(plan, '^%a+')
  local total, body = #states, find(plan, '\n', 1, true) + 1
  local whole = #plan - body + 1 == #lines and find(plan, lines, body, true) == body and not find(states, '[^o]')
  local open, number, next_line = {}, {}, nil
  if not whole then
    local i = 0
    for line in string.gmatch(sub(plan, body), '[^\n]+') do
      i = i + 1
      if sub(states, i, i) == 'o' then
        local c
        line, c = match(line, '^(([^|]+)|%d+|%d+)')
        local list = open[c]
        if list then list[#list + 1] = line else open[c] = {line} end
        number[line] = i
      end
    end
    if order == '' then order = lines end
    next_line = string.gmatch(order, '[^\n]+')
  end

  local answers, all, mixed = {}, true, false
  local set, written, done = {'~epoch', marked}, 0, {}
  local fresh, names
  local out = {ms}
  local key = at + 6 + g
  for i = 1, g do
    local runs, ids, count, size, event, run = 1, 0, 1, nil, nil, nil
    local all_runs, receipts
    if plain == 1 then
      next_one, size, event, run = values(shard_args, 3, next_one)
    else
      next_one, runs, ids, count, size, event = values(shard_args, 5, next_one)
      all_runs = {values(shard_args, runs, next_one)}
      next_one, run = all_runs[1], all_runs[runs + 1]
      if ids > 0 then
        receipts = {values(shard_args, 2 * ids, next_one)}
        next_one = receipts[1]
      end
    end
    local field = fields[i + 1]
    local v = h[i + 2]
    local fits, complete = true, true
    local mine
    if not whole then
      mine = {}
      local list = open[field] or {}
      for j = 1, runs do
        local line = match(next_line(), '^[^|]+|%d+|%d+')
        mine[j] = line
        if list[j] ~= line then fits = false end
      end
      complete = #list == runs
    end
    -- The reservations begin at from; the sizes of the snapshot end before upto.
    local doc, upto, live, deltas, bytes, from
    if v then doc, upto, live, deltas, bytes, from = match(v, '^(%d+)|%d+()|(%d+)|(%d+)|(%d+)|()', 69) end
    if not fits then
      answers[i], all, mixed = 'm' .. (from and match(v, '^%d+@([^,]*)', from) or ''), false, true
    elseif not v then
      answers[i], all = 'd', false
    elseif find(v, turn, from + 13, true) ~= from + 13 then
      answers[i], all = 'w' .. (match(v, '^%d+@([^,]*)', from) or ''), false
    else
      local last, prev = sub(run, 1, 16), sub(v, 18, 33)
      -- Once, and as integers: joining a number to a text formats it as a float.
      local counts = format('%d|%d', deltas + count, bytes + size)
      if complete then from = from + 13 + #turn end
      set[#set + 1] = field
      set[#set + 1] = sub(v, 1, 17) .. last .. sub(v, 34, upto - 1) .. format('|%d|', live + runs) .. counts .. '|' .. sub(v, from)
      if all_runs then
        redis.call('RPUSH', KEYS[at + 6 + i], unpack(all_runs, 2, runs + 1))
      else
        redis.call('RPUSH', KEYS[at + 6 + i], run)
      end
      if prev == '0000000000000000' then
        if not names then
          names, fresh = {}, {}
          for name in string.gmatch(listed, '[^\n]+') do names[#names + 1] = name end
        end
        fresh[#fresh + 1] = 0
        fresh[#fresh + 1] = names[i]
      end
      if events then
        out[#out + 1] = event .. '|' .. prev .. '|' .. counts .. '|' .. doc
      end
      for j = 1, ids do
        redis.call('SET', KEYS[key + j], receipts[2 * j] .. (ms + 86400000) .. receipts[2 * j + 1], 'PX', 86400000)
      end
      for j = 1, mine and runs or 0 do done[number[mine[j]]] = true end
      written = written + runs
      answers[i] = 'c'
    end
    key = key + ids
  end

  if written > 0 then
    redis.call('HSET', heads, unpack(set))
    redis.call('HINCRBY', refs, segment, written)
    if fresh then redis.call('ZADD', catalogs, unpack(fresh)) end
    if events then redis.call('XADD', outbox, '*', 'c', table.concat(out, '\n')) end
    if whole and written == total then
      states = rep('c', total)
    elseif whole then
      -- Some groups wait: find their lines. No group is partly committed.
      local state_of = {}
      for i = 1, g do state_of[fields[i + 1]] = answers[i] == 'c' and 'c' or 'o' end
      local list = {}
      for line in string.gmatch(lines, '[^\n]+') do list[#list + 1] = state_of[match(line, '^[^|]+')] end
      states = table.concat(list)
    else
      local list = {}
      for i = 1, total do list[i] = done[i] and 'c' or sub(states, i, i) end
      states = table.concat(list)
    end
    redis.call('SETRANGE', plan_key, 0, states)
    if not find(states, 'o', 1, true) then
      redis.call('PEXPIRE', plan_key, 600000)
      redis.call('ZREM', pending, segment)
    end
  end
  if all then return {'OK', '', ''} end
  return {'OK', table.concat(answers, '\n'), mixed and plan or ''}
end

--#include shards
