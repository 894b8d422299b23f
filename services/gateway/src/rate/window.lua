-- The windows of window.rs, in Redis. `decide` looks at all keys and then counts in all or in none of them.
-- keys[i] has four arguments: 'log', 'ring' or 'short', units, microseconds (a multiple of 60), cost (1 to units).
-- The answer: 1 or 0, then for each key its remaining units (-1: it refuses) and microseconds as in window.rs.
--
-- A ring is the head (8), then the total, the current sub-bucket and 60 past ones with 4 bytes each, or 2 in a short one. While the
-- head stays, only what is before the past ones changes.
-- A log is a base time (8) and, for each admission, microseconds since the base (4) and its cost (2).

local RING = {front = '>I8I4I4', past = '>' .. string.rep('I4', 60), place = 17}
local SHORT = {front = '>I8I2I2', past = '>' .. string.rep('I2', 60), place = 13}

local function look_ring(form, now, key, units, micros, cost)
  local width = micros / 60
  local index = math.floor(now / width)
  local bytes = redis.call('GET', key)
  local head, total, current, past = index, 0, 0, nil
  if bytes then
    head, total, current = struct.unpack(form.front, bytes)
    if index > head + 60 or head > index + 60 then
      bytes, head, total, current = nil, index, 0, 0
    end
  end
  local function load()
    if past then return end
    if bytes then
      past = {struct.unpack(form.past, bytes, form.place)}
      past[61] = nil
    else
      past = {}
      for slot = 1, 60 do past[slot] = 0 end
    end
  end
  local same = bytes and head >= index
  while head < index do
    load()
    local slot = head % 60 + 1
    total = total - past[slot]
    past[slot] = current
    current = 0
    head = head + 1
  end
  if total + cost <= units then
    local restored = (head + 61) * width - now
    local function write()
      local front = struct.pack(form.front, head, total + cost, current + cost)
      if same then
        redis.call('SETRANGE', key, 0, front)
      else
        load()
        local ttl = math.ceil(restored / 1000) + 10
        redis.call('SET', key, front .. struct.pack(form.past, unpack(past)), 'PX', ttl)
      end
    end
    return units - total - cost, restored, write
  end
  load()
  local missing = total + cost - units
  for age = 0, 59 do
    missing = missing - past[(head + age) % 60 + 1]
    if missing <= 0 then return -1, (head + age + 1) * width - now end
  end
  return -1, (head + 61) * width - now
end

local function look_log(_, clock, key, units, micros, cost)
  local bytes = redis.call('GET', key)
  local now, times, costs, used = clock, {}, {}, 0
  if bytes then
    local base, count = struct.unpack('>I8', bytes), (#bytes - 8) / 6
    local newest = base + struct.unpack('>I4', bytes, 9 + (count - 1) * 6)
    if newest <= now + micros then
      now = math.max(now, newest)
      for entry = 0, count - 1 do
        local since, units_of = struct.unpack('>I4I2', bytes, 9 + entry * 6)
        if base + since + micros > now then
          times[#times + 1], costs[#costs + 1] = base + since, units_of
          used = used + units_of
        end
      end
    end
  end
  if used + cost <= units then
    local restored = now + micros - clock
    local function write()
      times[#times + 1], costs[#costs + 1] = now, cost
      local parts = {struct.pack('>I8', times[1])}
      for entry = 1, #times do
        parts[#parts + 1] = struct.pack('>I4I2', times[entry] - times[1], costs[entry])
      end
      redis.call('SET', key, table.concat(parts), 'PX', math.ceil(restored / 1000) + 10)
    end
    return units - used - cost, restored, write
  end
  local missing, ready = used + cost - units, now
  for entry = 1, #times do
    ready = times[entry]
    missing = missing - costs[entry]
    if missing <= 0 then break end
  end
  return -1, ready + micros - clock
end

local function decide(now, keys, arguments)
  local answer, writes = {1}, {}
  for place, key in ipairs(keys) do
    local at = place * 4 - 3
    local kind = arguments[at]
    local look = kind == 'log' and look_log or look_ring
    local form = kind == 'short' and SHORT or RING
    local units, micros, cost = tonumber(arguments[at + 1]), tonumber(arguments[at + 2]), tonumber(arguments[at + 3])
    local remaining, time, write = look(form, now, key, units, micros, cost)
    answer[#answer + 1], answer[#answer + 2] = remaining, time
    if write then writes[#writes + 1] = write else answer[1] = 0 end
  end
  if answer[1] == 1 then
    for _, write in ipairs(writes) do write() end
  end
  return answer
end
