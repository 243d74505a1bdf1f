-- Included by the scripts that decide the open runs of a plan. Wants heads,
-- plan_key, pending, refs, garbage, segment, ms, id_keys (keys of ids by
-- "catalog|id") and verdict(field, first): the state that an open run gets, 'o' to
-- leave it open. Reservations without an open run leave their heads; the last
-- decision makes the plan a receipt. A run that is rolled back frees its id; when
-- that is not in id_keys, nothing is done and {'IDS', "catalog|id" by line} is
-- returned: call again with them.
--#include since
local plan = redis.call('GET', plan_key)
local entry = '@' .. segment .. ','
local function without(v) -- a head without the segment's reservation
  local at = find(v, entry, 69, true)
  if not at then return nil end
  return sub(v, 1, at - 14) .. sub(v, at + #entry)
end
if plan then
  local list, left, touched, changed, i = {}, {}, {}, false, 0
  local freed, missing = {}, {}
  for line in string.gmatch(sub(plan, find(plan, '\n', 1, true) + 1), '[^\n]+') do
    i = i + 1
    local state = sub(plan, i, i)
    if state == 'o' then
      local field, first, id = match(line, '^([^|]+)|%d+|(%d+)|?(.*)$')
      state = verdict(field, first)
      if state == 'r' and id ~= '' then
        id = field .. '|' .. id
        if id_keys[id] then freed[#freed + 1] = id_keys[id] else missing[#missing + 1] = id end
      end
      if state == 'o' then
        left[field] = true
      else
        changed = true
        touched[#touched + 1] = field
      end
    end
    list[i] = state
  end
  if #missing > 0 then return {'IDS', table.concat(missing, '\n')} end
  if changed then
    for _, key in ipairs(freed) do
      local v = redis.call('GET', key)
      if v and match(v, '^p|%d+|%d+|([^|]*)|') == segment then redis.call('DEL', key) end
    end
    local states = table.concat(list)
    if not find(states, 'o', 1, true) then
      -- First, because a server that is out of memory refuses a script whose first
      -- write may need some.
      redis.call('ZREM', pending, segment)
      redis.call('PEXPIRE', plan_key, 600000)
      if redis.call('HGET', refs, segment) == '0' then -- folded while it was undecided
        redis.call('HDEL', refs, segment)
        redis.call('ZADD', garbage, since, segment)
      end
    end
    redis.call('SETRANGE', plan_key, 0, states)
    local old, set, seen = redis.call('HMGET', heads, unpack(touched)), {}, {}
    for j, field in ipairs(touched) do
      if not left[field] and not seen[field] and old[j] then
        seen[field] = true
        local v = without(old[j])
        if v then
          set[#set + 1] = field
          set[#set + 1] = v
        end
      end
    end
    if #set > 0 then redis.call('HSET', heads, unpack(set)) end
  end
elseif redis.call('ZSCORE', pending, segment) then
  -- An undecided plan was deleted: nobody can tell its runs, none can be
  -- committed any more. Its reservations must not hold up their catalogs.
  local cursor = '0'
  repeat
    local page = redis.call('HSCAN', heads, cursor, 'COUNT', 1000)
    cursor = page[1]
    for j = 1, #page[2], 2 do
      local v = without(page[2][j + 1])
      if v then redis.call('HSET', heads, page[2][j], v) end
    end
  until cursor == '0'
  redis.call('ZREM', pending, segment)
end
