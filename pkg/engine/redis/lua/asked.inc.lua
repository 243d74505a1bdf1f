-- Included by scripts that change shards. Gives info (INFO replication), time (TIME)
-- and ms (TIME in milliseconds, 13 digits), asked once however many shards a call has.
local info = redis.call('INFO', 'replication')
local time = redis.call('TIME')
local ms = time[1] .. sub(1000000 + time[2], 2, 4)
