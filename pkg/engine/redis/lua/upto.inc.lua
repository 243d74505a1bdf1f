-- Included by scripts that look for a version in a live log. Defines upto(log, v):
-- how many of its runs end at or below v (fixed form). What is looked for mostly
-- stands at one of the ends.
local function upto(log, v)
  local low, high = 0, redis.call('LLEN', log)
  local function below(i) return sub(redis.call('LINDEX', log, i), 1, 16) <= v end
  if high == 0 or not below(0) then return 0 end
  local step = 1
  while high > low do
    local i = math.max(high - step, low)
    if below(i) then
      low = i + 1
      break
    end
    high, step = i, 2 * step
  end
  while high > low do
    local i = math.floor((low + high) / 2)
    if below(i) then low = i + 1 else high = i end
  end
  return low
end
