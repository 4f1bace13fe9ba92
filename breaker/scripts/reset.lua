#!lua
-- Lets trading resume. ARGV[8]: quiet period in ms (0: none), [9]: ms until the next reset (0: no limit),
-- [10]: epoch of the state that is meant, or 'none' if it has none: whatever changed it since, a trip above all, is not
-- undone by a reset that was long on its way. [11]: expected incident id, or ''. [12]: '1' for a quiet period that only
-- its watch may end. With KEYS[6], the reset is made only while that key holds [13], and leaves [14] there: whoever it
-- was decided by decides it once.
local stop = obstacle('RESET')
if stop then return stop end
local TOKEN = KEYS[6]
for _, key in ipairs({RATE_LIMIT, TOKEN}) do
  if not redis.acl_check_cmd('SET', key, '') then return reply('FORBIDDEN', 'SET ' .. key) end
end

local state = load_state()
if state.word ~= 'TRIPPED' then return reply('NOT_TRIPPED', state.word) end
if whole(state.fields.epoch) ~= tonumber(ARGV[10]) then return reply('EPOCH_DIFFERS') end
if ARGV[11] ~= '' and state.fields.incident_id ~= ARGV[11] then return reply('INCIDENT_DIFFERS') end
if TOKEN and redis.call('GET', TOKEN) ~= ARGV[13] then return reply('TOKEN_SPENT') end
if redis.call('EXISTS', RATE_LIMIT) == 1 then
  return reply('RATE_LIMITED', tostring(redis.call('PTTL', RATE_LIMIT)))
end

local quiet, interval = tonumber(ARGV[8]), tonumber(ARGV[9])
local epoch = next_epoch(state)
local to = quiet > 0 and 'QUIET_PERIOD' or 'OPEN'

record('RESET', 'TRIPPED', to, incident_of(state), epoch)
store(state, {
  state = quoted(to), reset_at = quoted(iso(now)), reset_by = BY, reset_reason = REASON ~= '""' and REASON,
  quiet_until = quiet > 0 and quoted(iso(now + quiet * 1000)), ends_watched = quiet > 0 and ARGV[12] == '1' and 'true',
  epoch = number(epoch),
})
if TOKEN then redis.call('SET', TOKEN, ARGV[14], 'KEEPTTL') end
if interval > 0 then redis.call('SET', RATE_LIMIT, EVENT_ID, 'PX', ARGV[9]) end
return reply('DONE')
