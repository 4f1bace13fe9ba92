#!lua
-- Ends the quiet period early, or tidies up after one that ran out. ARGV[8]: the epoch that the watch began with;
-- any transition since then, a trip above all, has changed it.
local stop = obstacle('QUIET_PERIOD_END')
if stop then return stop end

local state = load_state()
if whole(state.fields.epoch) ~= tonumber(ARGV[8]) then return reply('EPOCH_DIFFERS') end
if state.stored ~= 'QUIET_PERIOD' then return reply('NOT_QUIET') end

local epoch = next_epoch(state)
record('QUIET_PERIOD_END', 'QUIET_PERIOD', 'OPEN', incident_of(state), epoch)
store(state, {state = '"OPEN"', quiet_until = false, epoch = number(epoch)})
return reply('DONE')
