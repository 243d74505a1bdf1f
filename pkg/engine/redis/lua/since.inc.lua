-- Included where something becomes garbage. Wants shard and ms; gives since: now,
-- but never before the shard's mark, so that who knows a later mark knows of it.
local since = match(shard, '^%d+|%a+|%d+|(%d+)|')
if since < ms then since = ms end
