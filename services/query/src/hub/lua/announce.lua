-- Writes a connection into the directory, if none of a newer epoch is there, nor a later one of the same replica.
-- KEYS: the agent's connections, when it was seen. ARGV: prefix of leases, replica, connection, epoch, servers, seconds that both are kept.
-- Answers: what became of it, then the addresses of replicas whose connections are older and are out of the directory now.
if redis.call('EXISTS', ARGV[1] .. ARGV[2]) == 0 then return {'no lease'} end
local own = redis.call('HGET', KEYS[1], ARGV[2])
if own and tonumber(string.match(own, '^%d+')) > tonumber(ARGV[3]) then return {'stale'} end
local all, gone, older = redis.call('HGETALL', KEYS[1]), {}, {'taken'}
for i = 1, #all, 2 do
  local replica, epoch = all[i], string.match(all[i + 1], '^%d+ (%S+)')
  local lease = redis.call('GET', ARGV[1] .. replica)
  if not lease then
    gone[#gone + 1] = replica
  elseif epoch > ARGV[4] then
    return {'older'}
  elseif epoch < ARGV[4] and replica ~= ARGV[2] then
    gone[#gone + 1] = replica
    older[#older + 1] = string.match(lease, '^%S+')
  end
end
for _, replica in ipairs(gone) do redis.call('HDEL', KEYS[1], replica) end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. ARGV[5])
redis.call('EXPIRE', KEYS[1], ARGV[6])
redis.call('SET', KEYS[2], redis.call('TIME')[1], 'EX', ARGV[6])
return older
