-- Which of these agents was connected last. KEYS: when each was seen.
-- Answers the agent's number among KEYS and the time in seconds; nothing if none was ever seen.
local all, last = redis.call('MGET', unpack(KEYS)), nil
for number, seen in ipairs(all) do
  if seen and (not last or tonumber(seen) > tonumber(all[last])) then last = number end
end
if not last then return {} end
return {last, tonumber(all[last])}
