-- Shared by the rules, after the prelude: KEYS[6] the measurements, [7] what would have tripped, [8] what was refused,
-- [9] confirmations. ARGV[8] the incident id to use, [9] mode (on, dry or off), [10] confirmations wanted.
-- The measurement is recorded and judged in one script, so no error is counted twice and no trip comes late.
local MEASUREMENTS, WOULD_HAVE_TRIPPED, REFUSED, CONFIRMATIONS = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local INCIDENT_ID, MODE, WANTED = ARGV[8], ARGV[9], tonumber(ARGV[10])
local WOULD_HAVE_TRIPPED_KEPT = 1000
local FUTURE_TOLERANCE = 5000000 -- microseconds by which another host's clock may be ahead of Redis's

-- A measurement must not be lost because somebody wrote something else to its key.
local function expect_type(key, wanted)
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'none' and kind ~= wanted then
    redis.call('RENAME', key, key .. ':corrupt:' .. number(math.floor(now / 1000)))
  end
end
expect_type(WOULD_HAVE_TRIPPED, 'stream')
expect_type(REFUSED, 'hash')
expect_type(CONFIRMATIONS, 'hash')

-- Counts up a field, which holds the count and the id of the call that last counted: one that is sent again because
-- its answer was lost counts once.
local function count_up(key, field)
  local count, by = string.match(redis.call('HGET', key, field) or '', '^(%d+) (%S+)$')
  if by == EVENT_ID then return tonumber(count) end
  redis.call('HSET', key, field, number((tonumber(count) or 0) + 1) .. ' ' .. EVENT_ID)
  return (tonumber(count) or 0) + 1
end

-- {'name', 'value', …} as a JSON object whose values are all text.
local function details_of(pairs_of_text)
  local parts = {}
  for i = 1, #pairs_of_text, 2 do
    table.insert(parts, cjson.encode(pairs_of_text[i]) .. ': ' .. cjson.encode(pairs_of_text[i + 1]))
  end
  return '{' .. table.concat(parts, ', ') .. '}'
end

local function refuse(measurement, why)
  if not pcall(redis.call, 'HINCRBY', REFUSED, measurement, 1) then redis.call('HSET', REFUSED, measurement, 1) end
  return {'REFUSED', why}
end

-- What follows from one judged measurement: WITHIN, OFF, UNCONFIRMED, WOULD_TRIP, ALREADY_TRIPPED or TRIPPED.
local function conclude(rule, exceeded, details)
  if MODE == 'off' then return {'OFF', details} end
  if not exceeded then
    redis.call('HDEL', CONFIRMATIONS, rule)
    return {'WITHIN', details}
  end
  local count = count_up(CONFIRMATIONS, rule)
  if count < WANTED then return {'UNCONFIRMED', details} end
  if MODE == 'dry' then
    if count == WANTED then -- once for each time that the limit is passed, not for each measurement beyond it
      redis.call('XADD', WOULD_HAVE_TRIPPED, 'MAXLEN', WOULD_HAVE_TRIPPED_KEPT, '*', 'rule', rule, 'scope',
        cjson.decode('[' .. SCOPE .. ']')[1], 'at', iso(now), 'details', details)
    end
    return {'WOULD_TRIP', details}
  end
  if load_state().word == 'TRIPPED' then return {'ALREADY_TRIPPED', details} end
  REASON, DETAILS = quoted(rule), details
  local answer = trip(INCIDENT_ID)
  -- REPEATED: it tripped when it was sent before, its answer was lost, and somebody has reset the breaker since.
  if answer[1] ~= 'DONE' and answer[1] ~= 'REPEATED' then return {answer[1], answer[6]} end
  return {'TRIPPED', details}
end
