#!lua
-- Creates the state where there is none. ARGV[8]: '1' to overwrite garbage or an OPEN state with a fresh one.
-- It never overwrites TRIPPED or a running quiet period: that would be a reset without a reset's rules.
local stop = obstacle('INITIALIZE')
if stop then return stop end

local state = load_state()
local force = ARGV[8] == '1'
if state.word == 'TRIPPED' or state.word == 'QUIET_PERIOD' then return reply(force and 'IN_FORCE' or 'UNCHANGED') end
if state.word == 'OPEN' and not force then return reply('UNCHANGED') end
if state.word == 'UNKNOWN' and not force then return reply('GARBAGE') end

local epoch = next_epoch(state)
if force then epoch = math.max(epoch, math.floor(now / 1000)) end
record('INITIALIZE', state.word, 'OPEN', 'null', epoch)
store({values = {}, names = {}}, {state = '"OPEN"', epoch = number(epoch)})
return reply('DONE')
