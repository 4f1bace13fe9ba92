-- Shared by every transition: the clock, the stored state, epochs, and how a transition is recorded.
-- A script checks all that can fail before its first write, because Redis rolls nothing back.
local STATE, HISTORY, OUTBOX, EVENT_IDS, RATE_LIMIT = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local EVENT_ID, SCOPE, BY, REASON, DETAILS, SOURCE, IP_ADDRESS =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]

local ASKED_KILLS = 'circuit_breaker:asked_kills'
local HISTORY_KEPT, EVENT_IDS_KEPT, EVENT_IDS_SECONDS = 1000, 10000, 3600
local DAY = 86400000000
local LAST_SECOND = 253402300799 -- of the year 9999
local MAX_EPOCH = 9007199254740990
local QUIET_PERIOD = 300000000 -- microseconds from the reset, where the state does not say until when
local TRANSITIONS = {'TRIP', 'RESET', 'INITIALIZE', 'QUIET_PERIOD_END'}
local STORED = {OPEN = true, TRIPPED = true, QUIET_PERIOD = true}
local FIELDS = {
  'state', 'tripped_at', 'trip_reason', 'trip_details', 'tripped_by', 'last_trip_at', 'reset_at', 'reset_by',
  'reset_reason', 'quiet_until', 'ends_watched', 'trip_count_today', 'incident_id', 'epoch',
}
local KNOWN = {}
for _, name in ipairs(FIELDS) do KNOWN[name] = true end

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

-- Microseconds since 1970, exact up to 2^53 (the year 2255), as 2026-11-24T12:00:00.000000Z. The calendar is
-- Howard Hinnant's civil_from_days: cycles of 400 years that begin in March, so that the leap day comes last.
local function iso(microseconds)
  local seconds = math.floor(microseconds / 1000000)
  local days = math.floor(seconds / 86400)
  local rest = seconds - days * 86400
  local shifted = days + 719468
  local era = math.floor(shifted / 146097)
  local day_of_era = shifted - era * 146097
  local year_of_era = math.floor(
    (day_of_era - math.floor(day_of_era / 1460) + math.floor(day_of_era / 36524) - math.floor(day_of_era / 146096)) / 365)
  local day_of_year = day_of_era - (365 * year_of_era + math.floor(year_of_era / 4) - math.floor(year_of_era / 100))
  local month_from_march = math.floor((5 * day_of_year + 2) / 153)
  local day = day_of_year - math.floor((153 * month_from_march + 2) / 5) + 1
  local month = month_from_march < 10 and month_from_march + 3 or month_from_march - 9
  local year = year_of_era + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%06dZ', year, month, day, math.floor(rest / 3600),
    math.floor(rest / 60) % 60, rest % 60, microseconds - seconds * 1000000)
end

local function days_in_month(year, month)
  if month == 2 then
    return (year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0)) and 29 or 28
  end
  return (month == 4 or month == 6 or month == 9 or month == 11) and 30 or 31
end

local function days_since_1970(year, month, day)
  local shifted_year = month <= 2 and year - 1 or year
  local era = math.floor(shifted_year / 400)
  local year_of_era = shifted_year - era * 400
  local day_of_year = math.floor((153 * (month > 2 and month - 3 or month + 9) + 2) / 5) + day - 1
  return era * 146097 + year_of_era * 365 + math.floor(year_of_era / 4) - math.floor(year_of_era / 100) + day_of_year
    - 719468
end

local function zone_seconds(zone)
  if zone == 'Z' then return 0 end
  local sign, hours, minutes = string.match(zone, '^([+-])(%d%d):?(%d%d)$')
  if not sign or tonumber(hours) > 23 or tonumber(minutes) > 59 then return nil end
  return (sign == '-' and -1 or 1) * (tonumber(hours) * 3600 + tonumber(minutes) * 60)
end

-- The inverse of iso, for any zone; nil for what is no such time. state.py has the same grammar.
local function parse_time(text)
  if type(text) ~= 'string' then return nil end
  local year, month, day, hour, minute, second, rest =
    string.match(text, '^(%d%d%d%d)%-(%d%d)%-(%d%d)[T ](%d%d):(%d%d):(%d%d)(.*)$')
  if not year then return nil end
  year, month, day = tonumber(year), tonumber(month), tonumber(day)
  hour, minute, second = tonumber(hour), tonumber(minute), tonumber(second)
  local fraction, zone = string.match(rest, '^%.(%d+)(.+)$')
  if not fraction then fraction, zone = '', rest end
  local offset = zone_seconds(zone)
  if not offset or #fraction > 9 or year < 1 or month < 1 or month > 12 or day < 1 or day > days_in_month(year, month)
    or hour > 23 or minute > 59 or second > 59 then
    return nil
  end
  local seconds = days_since_1970(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - offset
  if seconds < 0 or seconds > LAST_SECOND then return nil end
  return seconds * 1000000 + tonumber(string.sub(fraction .. '000000', 1, 6))
end

local function quoted(plain) return '"' .. plain .. '"' end

local function whole(value)
  if type(value) == 'number' and value >= 0 and value <= MAX_EPOCH and value == math.floor(value) then return value end
  return nil
end

local function end_of_string(text, opening)
  local at = opening
  while true do
    at = string.find(text, '[\\"]', at + 1)
    if string.sub(text, at, at) == '"' then return at end
    at = at + 1
  end
end

-- The members of a valid JSON object as {name = text of its value} and the names in their order. Values stay text,
-- because decoding and encoding again would turn [] into {} and round long numbers.
local function members(text)
  local values, names = {}, {}
  local position, depth, name, start = string.find(text, '{', 1, true) + 1, 0, nil, nil
  while true do
    local at, _, mark = string.find(text, '(["%[%]{},:])', position)
    position = at + 1
    if mark == '"' then
      local closing = end_of_string(text, at)
      if not name then name = string.sub(text, at, closing) end
      position = closing + 1
    elseif mark == ':' then
      start = start or at + 1
    elseif depth == 0 and (mark == ',' or mark == '}') then
      if name then
        local plain = cjson.decode('[' .. name .. ']')[1]
        if values[plain] == nil then table.insert(names, plain) end
        values[plain] = string.match(string.sub(text, start, at - 1), '^%s*(.-)%s*$')
      end
      if mark == '}' then return values, names end
      name, start = nil, nil
    elseif mark == '[' or mark == '{' then
      depth = depth + 1
    elseif mark == ']' or mark == '}' then
      depth = depth - 1
    end
  end
end

-- When a quiet period ends; nil if that can't be told. What is left out is made up from the reset, as in state.py.
local function quiet_end(fields)
  if fields.quiet_until ~= nil and fields.quiet_until ~= cjson.null then return parse_time(fields.quiet_until) end
  local reset_at = parse_time(fields.reset_at)
  return reset_at and reset_at + QUIET_PERIOD
end

-- What is stored, judged as state.py does: `word` is the state in force now (MISSING and UNKNOWN included),
-- `stored` the one written there, `fields` the decoded object, `values` and `names` its text.
local function load_state()
  local state = {word = 'UNKNOWN', fields = {}, values = {}, names = {}}
  local kind = redis.call('TYPE', STATE).ok
  if kind == 'none' then state.word = 'MISSING' end
  if kind ~= 'string' then return state end
  local text = redis.call('GET', STATE)
  local decodes, fields = pcall(cjson.decode, text)
  if not decodes or type(fields) ~= 'table' or not string.find(text, '^%s*{') then return state end
  if not STORED[fields.state] then return state end
  local quiet_until = quiet_end(fields)
  if fields.state == 'QUIET_PERIOD' and not quiet_until then return state end
  state.stored, state.word, state.fields = fields.state, fields.state, fields
  state.values, state.names = members(text)
  -- One that is to be watched to its end goes on until its watch has written so: nobody watching is no end.
  local over = quiet_until and quiet_until <= now and fields.ends_watched ~= true
  if fields.state == 'QUIET_PERIOD' and over then state.word = 'OPEN' end
  return state
end

local function present(state, name)
  local value = state.values[name]
  return value ~= nil and value ~= 'null'
end

-- Writes the state with `changes` ({name = JSON text}, or false to drop a field); all else is kept as it was.
local function store(state, changes)
  local parts = {}
  local function add(name, value) table.insert(parts, cjson.encode(name) .. ': ' .. value) end
  for _, name in ipairs(FIELDS) do
    local value = changes[name]
    if value == nil and present(state, name) then value = state.values[name] end
    if value then add(name, value) end
  end
  for _, name in ipairs(state.names) do
    if not KNOWN[name] then add(name, state.values[name]) end
  end
  redis.call('SET', STATE, '{' .. table.concat(parts, ', ') .. '}')
end

-- One more than the highest epoch that state, history or outbox know; Unix milliseconds if none of them does,
-- so that a breaker that was flushed never counts through the same numbers again. An event's epoch is its last field.
local function next_epoch(state)
  local highest = whole(state.fields.epoch)
  local function consider(event)
    local epoch = whole(tonumber(string.match(event, '"epoch": (%d+)}$')))
    if epoch and (not highest or epoch > highest) then highest = epoch end
  end
  for _, event in ipairs(redis.call('ZREVRANGE', HISTORY, 0, 9)) do consider(event) end
  for _, entry in ipairs(redis.call('XREVRANGE', OUTBOX, '+', '-', 'COUNT', 1)) do consider(entry[2][2] or '') end
  return highest and highest + 1 or math.floor(now / 1000)
end

local function number(value) return string.format('%d', value) end

local function set_aside(key) redis.call('RENAME', key, key .. ':corrupt:' .. number(math.floor(now / 1000))) end

local function incident_of(state)
  local id = state.fields.incident_id
  if type(id) == 'string' and #id <= 64 and string.find(id, '^[%w%p ]+$') then return state.values.incident_id end
  return 'null'
end

local function record(transition, from, to, incident_id, epoch)
  local event = '{"event_id": ' .. quoted(EVENT_ID) .. ', "transition": ' .. quoted(transition) .. ', "scope": ' .. SCOPE
    .. ', "from_state": ' .. quoted(from) .. ', "to_state": ' .. quoted(to) .. ', "at": ' .. quoted(iso(now))
    .. ', "by": ' .. BY .. ', "reason": ' .. REASON .. ', "details": ' .. DETAILS .. ', "source": ' .. SOURCE
    .. ', "ip_address": ' .. IP_ADDRESS .. ', "incident_id": ' .. incident_id .. ', "epoch": ' .. number(epoch) .. '}'
  -- First, since it is the one write that can still fail: a stream may have been driven to its last id.
  local added = redis.pcall('XADD', OUTBOX, '*', 'event', event)
  if type(added) == 'table' and added.err then
    if transition == 'TRIP' then set_aside(OUTBOX) end
    redis.call('XADD', OUTBOX, '*', 'event', event)
  end
  redis.call('ZADD', HISTORY, string.format('%d.%06d', clock[1], clock[2]), event)
  redis.call('ZREMRANGEBYRANK', HISTORY, 0, -HISTORY_KEPT - 1)
  redis.call('ZADD', EVENT_IDS, clock[1], transition .. ' ' .. EVENT_ID)
  redis.call('ZREMRANGEBYSCORE', EVENT_IDS, '-inf', '(' .. (clock[1] - EVENT_IDS_SECONDS))
  redis.call('ZREMRANGEBYRANK', EVENT_IDS, 0, -EVENT_IDS_KEPT - 1)
  return event
end

local function reply(outcome, extra)
  local kind = redis.call('TYPE', STATE).ok
  return {outcome, kind, kind == 'string' and redis.call('GET', STATE) or '', clock[1], clock[2], extra or ''}
end

-- The first command that Redis's access rules forbid the caller, so that no transition stops half-way; or nil.
local function forbidden()
  local needed = {
    {'SET', STATE, ''}, {'ZADD', HISTORY, '0', ''}, {'ZREMRANGEBYRANK', HISTORY, '0', '0'},
    {'ZREVRANGE', HISTORY, '0', '0'}, {'XADD', OUTBOX, '*', 'event', ''}, {'XREVRANGE', OUTBOX, '+', '-'},
    {'ZADD', EVENT_IDS, '0', ''}, {'ZSCORE', EVENT_IDS, ''}, {'ZREMRANGEBYSCORE', EVENT_IDS, '0', '0'},
    {'ZREMRANGEBYRANK', EVENT_IDS, '0', '0'},
  }
  for _, command in ipairs(needed) do
    if not redis.acl_check_cmd(unpack(command)) then return command[1] .. ' ' .. command[2] end
  end
  return nil
end

local function wrong_types()
  local wrong = {}
  for key, wanted in pairs({[HISTORY] = 'zset', [OUTBOX] = 'stream', [EVENT_IDS] = 'zset'}) do
    local kind = redis.call('TYPE', key).ok
    if kind ~= 'none' and kind ~= wanted then table.insert(wrong, {key = key, kind = kind, wanted = wanted}) end
  end
  return wrong
end

-- REPEATED if this very transition has been recorded already, REUSED if its id belongs to another one.
local function seen_before(transition)
  for _, other in ipairs(TRANSITIONS) do
    if redis.call('ZSCORE', EVENT_IDS, other .. ' ' .. EVENT_ID) then
      return other == transition and 'REPEATED' or 'REUSED'
    end
  end
  return nil
end

-- Why a transition other than a trip can't go on, as a finished reply; nil if it can.
local function obstacle(transition)
  local command = forbidden()
  if command then return reply('FORBIDDEN', command) end
  local wrong = wrong_types()[1]
  if wrong then return reply('WRONG_TYPE', wrong.key .. ' holds a ' .. wrong.kind .. ', not a ' .. wrong.wanted) end
  local seen = seen_before(transition)
  return seen and reply(seen)
end

-- Halts trading, whatever the keys hold; the rules call it too. The id is used if this trip begins an incident.
local function trip(new_incident_id)
  local command = forbidden()
  if command then return reply('FORBIDDEN', command) end

  -- A trip must not fail because somebody wrote something else to a key; what was there is kept for inspection.
  for _, wrong in ipairs(wrong_types()) do
    set_aside(wrong.key)
  end

  local seen = seen_before('TRIP')
  if seen then return reply(seen) end

  local state = load_state()
  local epoch = next_epoch(state)
  local at = quoted(iso(now))
  local incident_id = 'null'
  if state.word == 'TRIPPED' or state.word == 'QUIET_PERIOD' then incident_id = incident_of(state) end
  if incident_id == 'null' then incident_id = quoted(new_incident_id) end

  local last = parse_time(state.fields.last_trip_at) or parse_time(state.fields.tripped_at)
  local today = last and math.floor(last / DAY) == math.floor(now / DAY)
  local count = (today and whole(state.fields.trip_count_today) or 0) + 1

  local changes = {
    state = '"TRIPPED"', last_trip_at = at, trip_count_today = number(count), incident_id = incident_id,
    epoch = number(epoch), quiet_until = false, ends_watched = false,
  }
  local explained = present(state, 'tripped_at') or present(state, 'trip_reason') or present(state, 'trip_details')
    or present(state, 'tripped_by')
  if state.word ~= 'TRIPPED' or not explained then
    changes.tripped_at, changes.trip_reason, changes.trip_details, changes.tripped_by = at, REASON, DETAILS, BY
  end

  local event = record('TRIP', state.word, 'TRIPPED', incident_id, epoch)
  store(state, changes)
  -- A kill switch that is confirmed stands here until its first sign of life. It is tripped, whether it can or not.
  if REASON == quoted('KILL_SWITCH') and string.find(DETAILS, '"closes": [', 1, true) then
    redis.pcall('HSET', ASKED_KILLS, EVENT_ID, event)
    redis.pcall('PEXPIRE', ASKED_KILLS, DAY / 1000)
  end
  return reply('DONE')
end
