#!lua flags=allow-oom
-- Halts trading, whatever the keys hold. ARGV[8]: the incident id to use if this trip begins an incident.
local command = forbidden()
if command then return reply('FORBIDDEN', command) end

-- A trip must not fail because somebody wrote something else to a key; what was there is kept for inspection.
for _, wrong in ipairs(wrong_types()) do
  redis.call('RENAME', wrong.key, wrong.key .. ':corrupt:' .. number(math.floor(now / 1000)))
end

local seen = seen_before('TRIP')
if seen then return reply(seen) end

local state = load_state()
local epoch = next_epoch(state)
local at = quoted(iso(now))
local incident_id = 'null'
if state.word == 'TRIPPED' or state.word == 'QUIET_PERIOD' then incident_id = incident_of(state) end
if incident_id == 'null' then incident_id = quoted(ARGV[8]) end

local last = parse_time(state.fields.last_trip_at) or parse_time(state.fields.tripped_at)
local today = last and math.floor(last / DAY) == math.floor(now / DAY)
local count = (today and whole(state.fields.trip_count_today) or 0) + 1

local changes = {
  state = '"TRIPPED"', last_trip_at = at, trip_count_today = number(count), incident_id = incident_id,
  epoch = number(epoch), quiet_until = false,
}
local explained = present(state, 'tripped_at') or present(state, 'trip_reason') or present(state, 'trip_details')
  or present(state, 'tripped_by')
if state.word ~= 'TRIPPED' or not explained then
  changes.tripped_at, changes.trip_reason, changes.trip_details, changes.tripped_by = at, REASON, DETAILS, BY
end

record('TRIP', state.word, 'TRIPPED', incident_id, epoch)
store(state, changes)
return reply('DONE')
