-- Says that a replica lives. KEYS: its lease, the list of replicas. ARGV: address and whether it leaves (1 or 0), milliseconds, replica.
-- Answers whether it was known to live, and how many do that do not leave.
local known = redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2], 'GET')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if string.match(ARGV[1], ' (%d)$') == '1' then
  redis.call('ZREM', KEYS[2], ARGV[3])
else
  redis.call('ZADD', KEYS[2], string.format('%d', now), ARGV[3])
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%d', now - ARGV[2]))
redis.call('PEXPIRE', KEYS[2], string.format('%d', ARGV[2] * 4))
return {known and 1 or 0, redis.call('ZCARD', KEYS[2])}
