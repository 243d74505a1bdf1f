-- lease: take, renew or release a lease.
-- KEYS  1 lease
-- ARGV  1 token  2 milliseconds; 0 releases
-- Returns {'OK', 1} when the token holds it (or held it until now), else {'OK', 0}
-- Invariant: one holder at a time; an expired lease has none. A lease that would last longer than
-- a new one is from before the clock was stepped back, perhaps by hours: it counts as expired.
local lease, token, ttl = KEYS[1], ARGV[1], ARGV[2]

local holder = redis.call('GET', lease)
if ttl == '0' then
  if holder ~= token then return {'OK', 0} end
  redis.call('DEL', lease)
  return {'OK', 1}
end
if holder and holder ~= token and redis.call('PTTL', lease) <= tonumber(ttl) then return {'OK', 0} end
redis.call('SET', lease, token, 'PX', ttl)
return {'OK', 1}
