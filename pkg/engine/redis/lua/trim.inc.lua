-- Included by scripts that shorten a live log. Defines trim(v, log, stop): at
-- most 1,000 runs at or below stop leave the log; gives the head with the new
-- counts, the deltas and the number of runs that left. Wants refs, garbage,
-- pending and ms. A segment whose last run leaves becomes garbage, unless runs
-- of it are undecided: then its count stays at zero until they are.
--#include since
--#include upto
local function trim(v, log, stop)
  local n = math.min(upto(log, stop), 1000)
  if n == 0 then return v, 0, 0 end
  local deltas, bytes, segments, counts = 0, 0, {}, {}
  for _, m in ipairs(redis.call('LRANGE', log, 0, n - 1)) do
    local segment, len = match(m, '|([^|]*)|%d+|(%d+)$')
    deltas = deltas + (match(m, '^%d+|run|(%d+)|') or 1)
    bytes = bytes + len
    if not counts[segment] then
      segments[#segments + 1] = segment
      counts[segment] = 0
    end
    counts[segment] = counts[segment] + 1
  end
  redis.call('LTRIM', log, n, -1)
  for _, segment in ipairs(segments) do
    -- Below zero the count was lost: better kept for ever than deleted too early.
    if redis.call('HINCRBY', refs, segment, -counts[segment]) == 0 and not redis.call('ZSCORE', pending, segment) then
      redis.call('HDEL', refs, segment)
      redis.call('ZADD', garbage, since, segment)
    end
  end
  local runs, live, size, open = match(v, '^%d+|%d+|(%d+)|(%d+)|(%d+)|(.*)$', 69)
  local upto = select(2, find(v, '^%d+|%d+|', 69))
  v = sub(v, 1, upto) .. (runs - n) .. '|' .. (live - deltas) .. '|' .. (size - bytes) .. '|' .. open
  return v, deltas, n
end
