-- Takes a connection out of the directory, if it is the one that is there for this replica.
-- KEYS: the agent's connections, when it was seen, that it is expected back.
-- ARGV: replica, connection, seconds that it is kept when it was seen, milliseconds that it is expected for.
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held and string.match(held, '^%d+') == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
redis.call('SET', KEYS[2], redis.call('TIME')[1], 'EX', ARGV[3])
if tonumber(ARGV[4]) > 0 then redis.call('SET', KEYS[3], 1, 'PX', ARGV[4]) end
return 1
