-- Shared by the rules, after the prelude: KEYS[6] the measurements, [7] what would have tripped, [8] what was refused,
-- [9] confirmations, [10] what each rule last heard, [11] the warnings of every scope. ARGV[8] the incident id to use,
-- [9] mode (on, dry or off), [10] confirmations wanted.
-- The measurement is recorded and judged in one script, so no error is counted twice and no trip comes late.
local MEASUREMENTS, WOULD_HAVE_TRIPPED, REFUSED, CONFIRMATIONS = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local JUDGED, WARNINGS = KEYS[10], KEYS[11]
local INCIDENT_ID, MODE, WANTED = ARGV[8], ARGV[9], tonumber(ARGV[10])
local WOULD_HAVE_TRIPPED_KEPT, WARNINGS_KEPT = 1000, 1000
local WARN_AT, RELEASED_BELOW = {50, 80}, 10 -- percent of the limit; by so much less a warning is over
local MOST_SHARE = 1000000 -- of a limit, where it is 0 above all
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
expect_type(JUDGED, 'hash')
expect_type(WARNINGS, 'stream')

local function scope_name() return cjson.decode('[' .. SCOPE .. ']')[1] end

-- Which rule the next judgement is of, where one script judges by several.
local function judge_by(mode, wanted) MODE, WANTED = mode, tonumber(wanted) end

-- How much of its limit a measurement takes.
local function share_of(measured, limit)
  if measured <= 0 then return 0 end
  return limit > 0 and math.min(measured / limit, MOST_SHARE) or MOST_SHARE
end

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

-- Refusals are counted, and those in a row too, with when the row began: one that goes on is an alarm.
local function refuse(measurement, why)
  if not pcall(redis.call, 'HINCRBY', REFUSED, measurement, 1) then redis.call('HSET', REFUSED, measurement, 1) end
  local row = measurement .. ' in a row'
  local count, began = string.match(redis.call('HGET', REFUSED, row) or '', '^(%d+) (%d+) ')
  redis.call('HSET', REFUSED, row, string.format('%d %d %s', (tonumber(count) or 0) + 1, tonumber(began) or now, why))
  return {'REFUSED', why, measurement}
end

local function accepted(measurement) redis.call('HDEL', REFUSED, measurement .. ' in a row') end

-- Keeps what the rule has heard, and warns once when it takes more of its limit than a warning's share. What has been
-- warned of is warned of anew after it has been well below: then the warning is over, told as one of 0 percent. What trips
-- is told as a trip. Where one process has the rule off, another one's warning stands.
local function note(rule, exceeded, share, details)
  local before = tonumber(string.match(redis.call('HGET', JUDGED, rule) or '', '^%d+ %S+ (%d+) ') or '') or 0
  local level = 0
  for _, percent in ipairs(WARN_AT) do
    local held = before >= percent and percent - RELEASED_BELOW or percent
    if share * 100 >= held then level = percent end
  end
  if MODE == 'off' then level = before end
  if (level > before and not (exceeded and MODE == 'on')) or (level == 0 and before > 0) then
    redis.call('XADD', WARNINGS, 'MAXLEN', '~', WARNINGS_KEPT, '*', 'rule', rule, 'scope', scope_name(), 'percent',
      number(level), 'at', iso(now), 'details', details)
  end
  redis.call('HSET', JUDGED, rule, string.format('%d %.6f %d %s %s', now, share, level, MODE, details))
end

-- What follows from one judged measurement: WITHIN, OFF, UNCONFIRMED, WOULD_TRIP, ALREADY_TRIPPED or TRIPPED.
local function conclude(rule, exceeded, share, details)
  note(rule, exceeded, share, details)
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
        scope_name(), 'at', iso(now), 'details', details)
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

local RANK = {OFF = 0, WITHIN = 1, UNCONFIRMED = 2, WOULD_TRIP = 3, ALREADY_TRIPPED = 4} -- what else there is is graver
local function graver(one, other) return (RANK[other[1]] or 5) > (RANK[one[1]] or 5) and other or one end
