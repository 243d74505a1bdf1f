-- Included at the end of scripts that do several shards. Wants values and one(at, args),
-- which does the shard whose KEYS come behind at others; args are its arguments, one text a
-- shard from ARGV[3] on, of which the first is the number of its KEYS.
local answers, at = {}, 0
for i = 3, #ARGV do
  answers[i - 2] = one(at, ARGV[i])
  local _, own = values(ARGV[i], 1, 0)
  at = at + own
end
return answers
