#!lua
-- Ends the quiet period early, or tidies up after one that ran out. ARGV[8]: the epoch that the watch began with;
-- any transition since then, a trip above all, has changed it. One that is to be watched to its end is ended by its
-- watch alone: KEYS[6] says who watches, [9] is who asks, [10] the ms without a sign of life after which a watch has
-- died, [11] the ms that it lasts. A watch is whole from its beginning: whoever takes over a dead one begins anew.
local stop = obstacle('QUIET_PERIOD_END')
if stop then return stop end

local state = load_state()
if whole(state.fields.epoch) ~= tonumber(ARGV[8]) then return reply('EPOCH_DIFFERS') end
if state.stored ~= 'QUIET_PERIOD' then return reply('NOT_QUIET') end

local function unwatched()
  if redis.call('TYPE', KEYS[6]).ok ~= 'hash' then return 'nobody has watched it' end
  local watch = redis.call('HMGET', KEYS[6], 'epoch', 'holder', 'began', 'seen')
  local began, seen, ms = tonumber(watch[3] or ''), tonumber(watch[4] or ''), math.floor(now / 1000)
  if watch[1] ~= ARGV[8] or watch[2] ~= ARGV[9] or not began or not seen then return 'somebody else watches it' end
  if ms - seen >= tonumber(ARGV[10]) then return 'its watch gives no sign of life' end
  local reset_at = parse_time(state.fields.reset_at)
  local period = reset_at and math.ceil((quiet_end(state.fields) - reset_at) / 1000) or tonumber(ARGV[11])
  if ms - began < math.min(period, tonumber(ARGV[11])) then return 'its watch is not over' end
  return nil
end
local why = state.fields.ends_watched == true and unwatched()
if why then return reply('UNWATCHED', why) end

local epoch = next_epoch(state)
record('QUIET_PERIOD_END', 'QUIET_PERIOD', 'OPEN', incident_of(state), epoch)
store(state, {state = '"OPEN"', quiet_until = false, ends_watched = false, epoch = number(epoch)})
return reply('DONE')
