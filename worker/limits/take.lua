-- Grants for calls that wait, as many of them, in order, as every limit lets through now.
-- KEYS: one hash per scope (an account, perhaps one model of it). ARGV[1]: JSON
--   {worker, lease_ms, burst_ms, late_ms,
--    scopes: [{per_minute: [4 x units, 0: none], places, held, settle: [4 x units], apart: bool}],
--    costs: [[4 x units], ...]}
-- Returns {granted, milliseconds until the next one may be worth asking for}.
local ask = cjson.decode(ARGV[1])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local scopes = {}
for i, key in ipairs(KEYS) do
  local told = ask.scopes[i]
  local state = {}
  local flat = redis.call('HGETALL', key)
  for n = 1, #flat, 2 do state[flat[n]] = flat[n + 1] end
  local scope = { each = {}, room = {}, due = {} }
  for unit = 1, 4 do
    local rate = told.per_minute[unit]
    if rate > 0 then
      local each = 60000000 / rate
      scope.each[unit] = each
      scope.room[unit] = math.max(ask.burst_ms * 1000, each + ask.late_ms * 1000)
      local due = tonumber(state['due' .. unit]) or now
      if told.apart then due = math.max(due, now + scope.room[unit]) end -- no burst on top of what it used meanwhile
      scope.due[unit] = due - told.settle[unit] * each
    end
  end
  if told.places > 0 then
    scope.free = told.places - told.held
    for field, value in pairs(state) do
      local worker = string.match(field, '^held:(.*)$')
      if worker and worker ~= ask.worker then
        local count, until_us = string.match(value, '^(%d+):(%d+)$')
        if tonumber(until_us) < now then
          redis.call('HDEL', key, field) -- its worker is gone: the places come back
        else
          scope.free = scope.free - tonumber(count)
        end
      end
    end
  end
  scopes[i] = scope
end
local granted, wait = 0, 0
for _, cost in ipairs(ask.costs) do
  for _, scope in ipairs(scopes) do
    for unit, each in pairs(scope.each) do
      local room = scope.room[unit]
      wait = math.max(wait, scope.due[unit] + math.min(cost[unit] * each, math.max(each, room / 2)) - now - room)
    end
    if scope.free and scope.free < 1 then wait = math.max(wait, 50000) end
  end
  if wait > 0 then break end
  for _, scope in ipairs(scopes) do
    for unit, each in pairs(scope.each) do
      scope.due[unit] = math.max(scope.due[unit], now) + cost[unit] * each
    end
    if scope.free then scope.free = scope.free - 1 end
  end
  granted = granted + 1
end
for i, key in ipairs(KEYS) do
  local told, scope = ask.scopes[i], scopes[i]
  for unit, due in pairs(scope.due) do redis.call('HSET', key, 'due' .. unit, string.format('%.0f', due)) end
  if told.places > 0 then
    local held = told.held + granted
    local mine = 'held:' .. ask.worker
    if held > 0 then
      redis.call('HSET', key, mine, string.format('%d:%.0f', held, now + ask.lease_ms * 1000))
    else
      redis.call('HDEL', key, mine)
    end
  end
  redis.call('PEXPIRE', key, 600000)
end
return { granted, math.ceil(wait / 1000) }
