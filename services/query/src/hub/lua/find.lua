-- The connections of agents at replicas that live. KEYS: each agent's connections. ARGV: prefix of leases.
-- Answers five for each: the number of the agent among KEYS, the replica's address, whether it leaves, epoch, servers.
local found = {}
for number, key in ipairs(KEYS) do
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local lease = redis.call('GET', ARGV[1] .. all[i])
    if lease then
      local address, leaving = string.match(lease, '^(%S+) (%S+)')
      local epoch, servers = string.match(all[i + 1], '^%d+ (%S+) (%S+)')
      for _, word in ipairs({tostring(number), address, leaving, epoch, servers}) do found[#found + 1] = word end
    end
  end
end
return found
