-- The breakers of all targets, shared by the fleet: what a worker has seen goes in, what is not closed comes out.
-- KEYS[1]: a hash, target -> JSON {s: state, g, b: counts, pg, pb: of the half window before, w: its start, o: times opened,
-- u: until, p: who probes, r: start of the ramp}; times in milliseconds of Redis. ARGV[1]: JSON
--   {worker, volume, ratio, window_ms, open_ms, longest_ms, lease_ms, step_ms, steps, idle_ms,
--    seen: {target: {good, bad, probe: want|hold|good|bad|drop, reset: bool, ask: bool}}}
-- A door is dropped when it is closed and nothing of its window is left, or when nobody has wanted to probe it for idle_ms.
-- Returns JSON: {target: {state, wait_ms, since_ms, mine}} of all that are not closed, and of those asked for.
local ask = cjson.decode(ARGV[1])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local doors, changed = {}, {}
local flat = redis.call('HGETALL', KEYS[1])
for n = 1, #flat, 2 do doors[flat[n]] = cjson.decode(flat[n + 1]) end

local function open(door)
  door.s = 'open'
  door.o = door.o + 1
  door.u = now + math.min(ask.longest_ms, ask.open_ms * 2 ^ (door.o - 1))
  door.g, door.b, door.pg, door.pb, door.p = 0, 0, 0, 0, ''
end

local told = {}
for target, seen in pairs(ask.seen) do
  local door = doors[target]
  if not door and (seen.good > 0 or seen.bad > 0 or seen.reset) then
    door = { s = 'closed', g = 0, b = 0, pg = 0, pb = 0, w = now, o = 0, u = 0, p = '', r = 0 }
    doors[target] = door
  end
  if seen.ask or seen.reset then told[target] = true end
  if door then
    changed[target] = true
    if seen.reset then
      door.s, door.o, door.g, door.b, door.pg, door.pb = 'closed', 0, 0, 0, 0, 0
    end
    if door.s == 'ramp' and now - door.r >= ask.step_ms * (ask.steps - 1) then door.s, door.o = 'closed', 0 end
    local half = ask.window_ms / 2
    if now - door.w >= 2 * half then
      door.pg, door.pb, door.g, door.b, door.w = 0, 0, 0, 0, now
    elseif now - door.w >= half then
      door.pg, door.pb, door.g, door.b, door.w = door.g, door.b, 0, 0, door.w + half
    end
    if door.s == 'closed' or door.s == 'ramp' then
      door.g, door.b = door.g + seen.good, door.b + seen.bad
      local bad, all = door.b + door.pb, door.b + door.pb + door.g + door.pg
      if seen.bad > 0 and all >= ask.volume and bad >= ask.ratio * all then open(door) end
    else
      local mine = door.s == 'probing' and door.p == ask.worker
      if seen.probe == 'good' and mine then
        door.s, door.r, door.p, door.w = 'ramp', now, '', now
      elseif seen.probe == 'bad' and mine then
        open(door)
      elseif seen.probe == 'drop' and mine then
        door.s, door.u, door.p = 'open', now, ''
      elseif seen.probe == 'hold' and mine then
        door.u = now + ask.lease_ms
      elseif seen.probe == 'want' and now >= door.u then -- nobody's turn, or a prober's lease has run out
        door.s, door.p, door.u = 'probing', ask.worker, now + ask.lease_ms
      end
    end
  end
end
local out, any = {}, false
for target, door in pairs(doors) do
  local gone
  if door.s == 'closed' then gone = now - door.w >= ask.window_ms
  else gone = door.s ~= 'ramp' and now - door.u >= ask.idle_ms end
  if gone then
    redis.call('HDEL', KEYS[1], target)
  elseif door.s ~= 'closed' or told[target] then
    any = true
    local wait = door.u - now
    out[target] = { door.s, wait > 0 and wait or 0, now - door.r, door.p == ask.worker }
  end
  if changed[target] and not gone then redis.call('HSET', KEYS[1], target, cjson.encode(door)) end
end
redis.call('PEXPIRE', KEYS[1], 600000)
return any and cjson.encode(out) or '{}'
